(import "gatepost:policy/log@0.1.0" "log" (func $log (param i32 i32 i32)))
(func $misbehave
  (i32.store16 (i32.const 2048) (i32.const 0xfec3))
  (call $log (i32.const 1) (i32.const 2048) (i32.const 2)))
