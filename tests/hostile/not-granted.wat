(import "gatepost:policy/state@0.1.0" "delete" (func $delete (param i32 i32 i32)))
(func $misbehave (call $delete (i32.const 2048) (i32.const 1) (i32.const 1024)))
