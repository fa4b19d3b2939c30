"""Today's migration: no handshake. A stream that is sent, and rules by which each QEMU version guesses which
incoming connection is which."""
