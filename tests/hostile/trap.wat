(func $misbehave unreachable)
