;; The session's handle, given where a mailbox is due.
(import "gatepost:policy/types@0.1.0" "[method]mailbox.domain" (func $domain (param i32 i32)))
(func $misbehave (call $domain (global.get $session) (i32.const 2048)))
