(func $misbehave (loop (br 0)))
