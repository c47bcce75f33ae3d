;; An interface that the host has, with a function that it has not.
(component (import "gatepost:policy/clock@0.1.0" (instance (export "tomorrow" (func (result u64))))))
