(component (import "gatepost:policy/weather@0.1.0" (instance (export "now" (func (result string))))))
