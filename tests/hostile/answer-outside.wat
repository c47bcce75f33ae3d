;; The answer is said to be where the guest has no memory.
(func $misbehave (global.set $answer (i32.const 0x7ffffff0)))
