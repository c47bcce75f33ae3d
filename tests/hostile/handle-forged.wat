;; A handle that nobody gave it.
(import "gatepost:policy/types@0.1.0" "[method]session.recipient-count" (func $recipient-count (param i32) (result i32)))
(func $misbehave (drop (call $recipient-count (i32.const 4711))))
