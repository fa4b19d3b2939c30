"""Those who connect without being asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..scenario import Fault
from ..strangers import WORDS
from .net import End

if TYPE_CHECKING:
    from .run import World


class Stranger:
    """One connection to the destination at a moment, saying one thing."""

    def __init__(self, world: World, fault: Fault, number: int) -> None:
        self.world, self.fault = world, fault
        self.name = f"stranger[{number}]"
        if fault.at_s > 0:
            world.env.call(fault.at_s, self._connect)
        else:
            self._connect()  # before the source does

    def _connect(self) -> None:
        self.world.net.connect(self.name, self, self.world.destination, self._connected)

    def _connected(self, end: End, error: str) -> None:
        if error:
            self._note(error)
            return
        said = WORDS[self.fault.says]
        if self.fault.says == "scan":
            self._note("connects and leaves")
            self.world.net.close(end)
        elif said:
            self._note(f"says {self.fault.says}")
            self.world.net.send(end, said, 0)
        else:
            self._note("connects and is silent")

    def _note(self, text: str) -> None:
        self.world.trace.note(self.world.env.now, "stranger", "link", self.name, text)

    def arrived(self, end: End, data: bytes, fill: int) -> None:
        self._note(f"hears {len(data)} bytes")

    def ended(self, end: End) -> None:
        self._note("is shown the door")

    def broken(self, end: End, why: str) -> None:
        self._note(f"is thrown out: {why}")

    def drained(self, end: End) -> None:
        """What it said is on its way."""
