;; A list of 2^31 actions.
(func $misbehave
  (global.set $answer (i32.const 1024))
  (i32.store (i32.const 1048) (i32.const 65536))
  (i32.store (i32.const 1052) (i32.const 0x80000000)))
