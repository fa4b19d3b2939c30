"""A lab for the QEMU live-migration handshake: one scenario, one engine, one trace.

`simlib.handshake` is the protocol engine (v1, today's stream, and v2, a bidirectional handshake), `simlib.world` runs
it in a simulated world, `simlib.scenario` says what to run and `simlib.trace` what happened. Importing this package
imports nothing else.
"""

__version__ = "0.1.0"
