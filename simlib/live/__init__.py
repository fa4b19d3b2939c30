"""The same endpoints on real sockets and real TLS."""

from .run import inexpressible, run

__all__ = ["inexpressible", "run"]
