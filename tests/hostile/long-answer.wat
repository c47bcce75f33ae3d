;; A reply whose text is said to have 2 GiB.
(func $misbehave
  (global.set $answer (i32.const 1024))
  (i32.store8 (i32.const 1024) (i32.const 2))    ;; reject
  (i32.store16 (i32.const 1028) (i32.const 550)) ;; code
  (i32.store (i32.const 1040) (i32.const 65536)) ;; the text
  (i32.store (i32.const 1044) (i32.const 0x80000000)))
