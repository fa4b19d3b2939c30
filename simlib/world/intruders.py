"""Those who connect without being asked."""

from __future__ import annotations

from ..case.intruders import Intruder
from .net import End
from .world import World


class IntruderConnection:
    """An intruder's one connection to the destination."""

    def __init__(self, world: World, intruder: Intruder, number: int, at_s: float) -> None:
        self.world, self.intruder = world, intruder
        self.name = f"intruder[{number}]"
        if at_s > 0:
            world.env.call(at_s, self._connect)
        else:
            self._connect()  # before the source does

    def _connect(self) -> None:
        self.world.net.connect(self.name, self, self.world.destination, self._connected)

    def _connected(self, end: End, error: str) -> None:
        if error:
            self._note(error)
            return
        intruder, net = self.intruder, self.world.net
        if intruder.payload:
            self._note(f"says {intruder.name}")
            net.send(end, intruder.payload, 0)
        elif intruder.leaves_after_s == 0:
            self._note("connects and leaves")
        else:
            self._note("connects and is silent")
        if intruder.leaves_after_s == 0:
            net.close(end)
        elif intruder.leaves:
            self.world.env.call(intruder.leaves_after_s, lambda: self._leave(end))

    def _leave(self, end: End) -> None:
        if end.open and not end.dead:
            self._note("leaves")
            self.world.net.close(end)

    def _note(self, text: str) -> None:
        self.world.trace.note(self.world.env.now, "intruder", "link", self.name, text)

    def arrived(self, end: End, data: bytes, fill: int) -> None:
        self._note(f"hears {len(data)} bytes")

    def ended(self, end: End) -> None:
        self._note("is shown the door")

    def broken(self, end: End, why: str) -> None:
        self._note(f"is thrown out: {why}")

    def drained(self, end: End) -> None:
        """Its payload is on its way."""
