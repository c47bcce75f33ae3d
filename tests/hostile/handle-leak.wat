;; Asks for connections, and drops none of them.
(import "gatepost:policy/endpoint@0.1.0" "connect" (func $connect (param i32 i32 i32)))
(func $misbehave
  (i32.store8 (i32.const 2048) (i32.const 0x65)) ;; "e"
  (loop
    (call $connect (i32.const 2048) (i32.const 1) (i32.const 1024))
    (br_if 0 (i32.eqz (i32.load8_u (i32.const 1024)))))
  unreachable)
