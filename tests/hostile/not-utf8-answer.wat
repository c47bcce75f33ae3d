(func $misbehave
  (global.set $answer (i32.const 1024))
  (i32.store8 (i32.const 1024) (i32.const 2))
  (i32.store16 (i32.const 1028) (i32.const 550))
  (i32.store (i32.const 1040) (i32.const 2048))
  (i32.store (i32.const 1044) (i32.const 2))
  (i32.store16 (i32.const 2048) (i32.const 0xfec3)))
