;; A guest with every hook. Each says "pass", but for the one whose number stands at AT, which does what `$misbehave` of a way does. The ways are the other
;; files of this folder; one is put in place of WAY.
;;
;; The numbers: hooks in the order of the list below, then 12 for configure, 13 for the start function, 14 for cabi_realloc, and 15 for cabi_realloc
;; once the guest is configured.
(module
  (import "gatepost:policy/types@0.1.0" "[resource-drop]session" (func $drop-session (param i32)))
  (import "gatepost:policy/types@0.1.0" "[resource-drop]mailbox" (func $drop-mailbox (param i32)))
  (import "gatepost:policy/login@0.1.0" "[resource-drop]attempt" (func $drop-attempt (param i32)))
  (import "gatepost:policy/messages@0.1.0" "[resource-drop]message" (func $drop-message (param i32)))

  (;WAY;)

  ;; Answers stand in the first page, which is zeros: pass, no action, no reason. What comes in is put behind it.
  (memory (export "memory") 2)
  (global $answer (mut i32) (i32.const 0))
  (global $free (mut i32) (i32.const 65536))
  (global $session (mut i32) (i32.const 0))
  (global $configured (mut i32) (i32.const 0))

  (func $in (param $number i32)
    (if (i32.eq (local.get $number) (i32.const (;AT;) -1)) (then (call $misbehave))))

  ;; What comes in with one call is small, and is forgotten with it.
  (func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (call $in (i32.const 14))
    (if (global.get $configured) (then (call $in (i32.const 15))))
    (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (local.get $at))

  (func $hook (param $number i32) (param $handle i32) (result i32)
    (global.set $session (local.get $handle))
    (call $in (local.get $number))
    (call $drop-session (local.get $handle))
    (global.set $free (i32.const 65536))
    (global.get $answer))

  (func (export "gatepost:policy/lifecycle@0.1.0#configure") (param i32 i32) (result i32)
    (call $in (i32.const 12))
    (global.set $configured (i32.const 1))
    (i32.const 0))
  (func $start (call $in (i32.const 13)))
  (start $start)

  (func (export "gatepost:policy/on-connect@0.1.0#on-connect") (param i32) (result i32)
    (call $hook (i32.const 0) (local.get 0)))
  (func (export "gatepost:policy/on-ehlo@0.1.0#on-ehlo") (param i32 i32 i32) (result i32)
    (call $hook (i32.const 1) (local.get 0)))
  (func (export "gatepost:policy/on-auth@0.1.0#on-auth") (param i32 i32) (result i32)
    (call $drop-attempt (local.get 1))
    (call $hook (i32.const 2) (local.get 0)))
  (func (export "gatepost:policy/on-mail@0.1.0#on-mail") (param i32 i32) (result i32)
    (call $drop-mailbox (local.get 1))
    (call $hook (i32.const 3) (local.get 0)))
  (func (export "gatepost:policy/on-rcpt@0.1.0#on-rcpt") (param i32 i32 i32 i32 i32 i32) (result i32)
    (call $drop-mailbox (local.get 1))
    (call $hook (i32.const 4) (local.get 0)))
  (func (export "gatepost:policy/on-data@0.1.0#on-data") (param i32) (result i32)
    (call $hook (i32.const 5) (local.get 0)))
  (func (export "gatepost:policy/on-message@0.1.0#on-message") (param i32 i32) (result i32)
    (call $drop-message (local.get 1))
    (call $hook (i32.const 6) (local.get 0)))
  (func (export "gatepost:policy/on-route@0.1.0#on-route")
    (param i32 i32 i32 i32 i32 i32 i32 i64 i32 i64 i32 i32) (result i32)
    (call $hook (i32.const 8) (local.get 0)))
  ;; Its parameters are too many: they come in memory, the session first.
  (func (export "gatepost:policy/on-delivery@0.1.0#on-delivery") (param i32) (result i32)
    (call $hook (i32.const 9) (i32.load (local.get 0))))
  (func (export "gatepost:policy/on-queued@0.1.0#on-queued")
    (param i32 i32 i32 i32 i32 i32 i32 i64 i32 i64 i32 i32)
    (drop (call $hook (i32.const 7) (local.get 0))))
  (func (export "gatepost:policy/on-result@0.1.0#on-result") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)
    (drop (call $hook (i32.const 10) (local.get 0))))
  (func (export "gatepost:policy/on-disconnect@0.1.0#on-disconnect") (param i32)
    (drop (call $hook (i32.const 11) (local.get 0)))))
