;; A hook of another type than the host's.
(component
  (core module $m (func (export "f")))
  (core instance $i (instantiate $m))
  (func $f (canon lift (core func $i "f")))
  (instance $hook (export "on-connect" (func $f)))
  (export "gatepost:policy/on-connect@0.1.0" (instance $hook)))
