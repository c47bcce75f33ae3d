;; A hook is declined in a hook; or, while it is configured, one that there is not.
(import "gatepost:policy/hooks@0.1.0" "decline" (func $decline (param i32 i32)))
(func $misbehave (call $decline (i32.const 0) (i32.const 4)))
