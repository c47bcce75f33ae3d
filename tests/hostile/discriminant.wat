;; A decision that there is not.
(func $misbehave
  (global.set $answer (i32.const 1024))
  (i32.store8 (i32.const 1024) (i32.const 200)))
