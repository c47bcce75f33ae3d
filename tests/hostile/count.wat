;; Counts "n", and so tells when the metrics were brought up to date.
(import "gatepost:policy/metrics@0.1.0" "count" (func $count (param i32 i32 i64)))
(func $misbehave (call $count (i32.const 2048) (i32.const 1) (i64.const 1)))
(data (i32.const 2048) "n")
