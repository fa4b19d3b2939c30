"""The same endpoints on real sockets and real TLS."""

from .run import run, unsupported_reason

__all__ = ["run", "unsupported_reason"]
