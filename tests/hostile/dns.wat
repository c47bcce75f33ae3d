;; Asks for the address of "a.test", and answers when it knows.
(import "gatepost:policy/dns@0.1.0" "lookup" (func $lookup (param i32 i32 i32)))
(func $misbehave (call $lookup (i32.const 2048) (i32.const 1) (i32.const 1024)))
(data (i32.const 2048) "\10\08\00\00\06\00\00\00\00\00\00\00\00\00\00\00a.test")
