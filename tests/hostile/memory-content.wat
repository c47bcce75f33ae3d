;; It gets no more, and is content with that: its answer is right.
(func $misbehave (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))))
