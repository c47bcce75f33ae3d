;; The session is the host's; the guest drops it twice, of which the first is right.
(func $misbehave (call $drop-session (global.get $session)))
