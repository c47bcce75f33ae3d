;; A line of the log that is said to have 2 GiB.
(import "gatepost:policy/log@0.1.0" "log" (func $log (param i32 i32 i32)))
(func $misbehave (call $log (i32.const 1) (i32.const 65536) (i32.const 0x80000000)))
