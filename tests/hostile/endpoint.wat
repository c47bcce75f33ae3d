;; Asks an endpoint over HTTP, and whenever it hears that the time for that is over, once more.
(import "gatepost:policy/endpoint@0.1.0" "http" (func $http (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
(func $misbehave
  (loop $again
    (call $http (i32.const 2048) (i32.const 1) (i32.const 2049) (i32.const 3) (i32.const 2052) (i32.const 1)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1024))
    (br $again)))
(data (i32.const 2048) "eGET/")
