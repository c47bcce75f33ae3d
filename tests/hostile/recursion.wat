(func $misbehave (call $misbehave))
