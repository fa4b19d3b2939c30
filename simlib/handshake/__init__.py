"""The protocol engine: source and destination of a migration, without any input or output of their own.

    outputs = endpoint.handle(input)

`v1` is today's stream, `v2` the bidirectional handshake; they know nothing of each other. `detect` and `variants`
see both.
Standard library only; no clock, socket, random number or thread. Fields hold values that are replaced and never
mutated, so that `copy.copy(endpoint)` is a fork and `endpoint.key()` can be hashed.
"""
