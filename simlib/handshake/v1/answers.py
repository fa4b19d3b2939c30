"""What rows and searches ask of v1's endpoints (`endpoint.Answers`), apart from what these do."""

from __future__ import annotations

from ..endpoint import BaseEndpoint, Decomposition
from .channels import Connection
from .states import Kind


class SourceAnswers(BaseEndpoint):
    """The answers of a source, from the fields of its subclass."""

    speaks, handshakes = "v1", False
    channels: tuple[str, ...]
    ready: tuple[int, ...]
    undrained: tuple[int, ...]
    broken: tuple[tuple[int, str], ...]

    def decomposition(self) -> Decomposition:
        """Of each connection: what it was opened for, and whether it is ready, undrained or broken."""
        names, known = self.channels, (self.ready, self.undrained)
        local = {
            c: (name, *(k.count(c) for k in known), tuple(text for conn, text in self.broken if conn == c))
            for c, name in enumerate(names)
        }
        shared = (
            *(tuple(c for c in k if not 0 <= c < len(names)) for k in known),
            tuple(b for b in self.broken if not 0 <= b[0] < len(names)),
        )
        return Decomposition(("channels", "ready", "undrained", "broken"), shared, local)


class DestinationAnswers(BaseEndpoint):
    """Those of a destination."""

    speaks, handshakes = "v1", False
    connections: tuple[Connection, ...]
    held_by: int | None

    def bound_channels(self) -> tuple[tuple[str, int], ...]:
        """The connections that have been identified, each with the channel that it is taken for."""
        return tuple(
            (f"multifd[{c.number}]" if c.kind == Kind.MULTIFD else c.kind, conn)
            for conn, c in enumerate(self.connections)
            if c.kind in (Kind.MAIN, Kind.MULTIFD, Kind.PREEMPT)
        )

    def decomposition(self) -> Decomposition:
        """Of each connection: what it is taken for, what was read of it, and whether the main loop waits for it."""
        held_by, local = self.held_by, {}
        for c, connection in enumerate(self.connections):
            number = f"multifd[{connection.number}]" if connection.number >= 0 else ""
            local[c] = (c == held_by, connection._replace(number=-1), number)
        elsewhere = held_by is None or not 0 <= held_by < len(self.connections)
        return Decomposition(("connections", "held_by"), held_by if elsewhere else "a connection", local)
