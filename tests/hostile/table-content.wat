;; A table that may have twenty entries, and is asked for more again and again; the answer is right.
(table $table 10 20 funcref)
(func $misbehave (local $count i32)
  (loop
    (drop (table.grow $table (ref.null func) (i32.const 1000)))
    (local.set $count (i32.add (local.get $count) (i32.const 1)))
    (br_if 0 (i32.lt_u (local.get $count) (i32.const 100)))))
