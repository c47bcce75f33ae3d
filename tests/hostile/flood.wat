;; A thousand lines; then it answers as it should.
(import "gatepost:policy/log@0.1.0" "log" (func $log (param i32 i32 i32)))
(func $misbehave (local $count i32)
  (loop
    (call $log (i32.const 1) (i32.const 2048) (i32.const 10))
    (local.set $count (i32.add (local.get $count) (i32.const 1)))
    (br_if 0 (i32.lt_u (local.get $count) (i32.const 1000)))))
(data (i32.const 2048) "said again")
