"""The bidirectional handshake, as specified in `data/vectors/SPEC.md`."""
