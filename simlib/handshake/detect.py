"""The only file that knows both versions: who chooses between them, and how.

`Adaptive` is the destination that reads eight bytes and needs no clock, because the source always speaks first.
"""

from __future__ import annotations

from typing import Any

from . import v1, v2
from .interface import Drop, Entered, Finished, Input, Opened, Output, Printed, Received, Start
from .machine import Settings
from .stream import MAGIC, MULTIFD_MAGIC
from .v1.destination import Destination as V1Destination
from .v2.destination import Destination as V2Destination
from .v2.frames import INITIATOR
from .v2.messages import Identity

__all__ = ["Adaptive", "v1", "v2"]


class Adaptive:
    """A destination told `accept: v2-or-v1`. Until the first bytes have come it keeps what it is told, in order."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.settings, self.identity = settings, identity
        self.chosen: V1Destination | V2Destination | None = None
        self.told: tuple[Input, ...] = ()
        self.first: tuple[bytes, ...] = ()  # of each connection
        self.refused: tuple[int, ...] = ()
        self.listening = False

    @property
    def status(self) -> str:
        return self.chosen.status if self.chosen else "setup" if self.listening else "none"

    @property
    def ram_bytes(self) -> int:
        return self.chosen.ram_bytes if self.chosen else 0

    @property
    def finished(self) -> Finished | None:
        return self.chosen.finished if self.chosen else None

    @property
    def accepting(self) -> bool:
        return self.chosen.accepting if self.chosen else self.listening

    @property
    def blocked(self) -> Any:
        return self.chosen.blocked if self.chosen else None

    def handle(self, input: Input) -> list[Output]:
        if self.chosen is not None:
            return self.chosen.handle(input)
        self.told = (*self.told, input)
        if isinstance(input, Start):
            self.listening = True
            return [Entered("setup")]
        if isinstance(input, Opened):
            self.first = (*self.first, b"")
        elif isinstance(input, Received) and input.conn not in self.refused:
            found = self.first[input.conn] + input.data[:8]
            self.first = (*self.first[: input.conn], found, *self.first[input.conn + 1 :])
            return self._look(input.conn, found[:8])
        return []

    def _look(self, conn: int, found: bytes) -> list[Output]:
        if found == INITIATOR:
            self.chosen = V2Destination(self.settings, self.identity)
        elif found[:4] in (MAGIC, MULTIFD_MAGIC):
            self.chosen = V1Destination(self.settings)
        elif found == INITIATOR[: len(found)] or len(found) < 4:
            return []
        else:
            self.refused = (*self.refused, conn)
            return [Printed(f"neither v1 nor v2: {found.hex(' ')}"), Drop(conn, unread=True)]
        told, self.told = self.told, ()
        return [output for input in told for output in self.chosen.handle(input)]
