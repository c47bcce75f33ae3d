;; It gives the session back, and asks it for something afterwards.
(import "gatepost:policy/types@0.1.0" "[method]session.recipient-count" (func $recipient-count (param i32) (result i32)))
(func $misbehave
  (call $drop-session (global.get $session))
  (drop (call $recipient-count (global.get $session))))
