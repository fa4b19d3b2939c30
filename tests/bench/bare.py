"""The anchor of the simulated world: the same two endpoints, handing each other bytes in a loop without a clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from simlib.case.scenario import Scenario, Side
from simlib.handshake import interface as i
from simlib.handshake.v1.destination import Destination as V1Destination
from simlib.handshake.v1.source import Source as V1Source
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.destination import Destination as V2Destination
from simlib.handshake.v2.frames import Limits
from simlib.handshake.v2.source import Source as V2Source

VERSION = "10.0"
ANSWERS = {i.StopGuest: i.GuestStopped, i.Apply: i.Applied, i.Load: i.Loaded, i.RunGuest: i.GuestRunning}


def scenario(channels: int) -> Scenario:
    """Matched sides of the profile's 47 devices, with latencies drawn by seed."""
    side = Side(capabilities=("multifd",), parameters={"multifd-channels": channels}) if channels else Side()
    base = Scenario(name="bench", title="bench", source=side, destination=side)
    return base.vary(link__delay_law="lognormal", link__jitter_ms=0.02)


def pair(protocol: str, channels: int, machine: Any = None) -> Callable[[], tuple[Any, Any]]:
    """What makes fresh endpoints; another `machine` for both sides, if given."""
    matched = scenario(channels)
    ours, theirs = matched.settings(True, VERSION), matched.settings(False, VERSION)
    if machine is not None:
        ours, theirs = replace(ours, machine=machine), replace(theirs, machine=machine)
    if protocol == "v1":
        return lambda: (V1Source(ours), V1Destination(theirs))
    limits = Limits(channels=max(channels, 64))
    here, there = SessionConfig(bytes(32), limits=limits), SessionConfig(bytes(range(32)), limits=limits)
    return lambda: (V2Source(ours, here), V2Destination(theirs, there))


class Pump:
    """Every message delivered at once and in order."""

    def __init__(self, source: Any, destination: Any) -> None:
        self.source, self.destination = source, destination
        self.todo: deque[tuple[bool, i.Input]] = deque([(False, i.Start()), (True, i.Start())])
        self.accepted: list[int] = []  # the source's connections in the order in which the destination took them
        self.numbers: dict[int, int] = {}  # and what the destination calls each
        self.early: dict[int, list[i.Input]] = {}  # what came for those that it has yet to take

    def run(self, until: str = "completed") -> None:
        """Until the source's status is that; `completed` means both sides, to their last input."""
        while self.todo and (until == "completed" or self.source.status != until):
            at_source, input = self.todo.popleft()
            if not at_source:
                translated = self._at_destination(input)
                if translated is None:
                    continue
                input = translated
            for out in (self.source if at_source else self.destination).handle(input):
                self._does(at_source, out)
        assert self.source.status == until, self.source.finished

    def _at_destination(self, input: i.Input) -> i.Input | None:
        """The input with the destination's own number of the connection; None while it has not taken that."""
        if isinstance(input, i.Opened):
            if not self.destination.accepting:
                self.todo.append((False, input))
                return None
            self.numbers[input.conn] = len(self.accepted)
            self.accepted.append(input.conn)
            self.todo.extendleft((False, r) for r in reversed(self.early.pop(input.conn, [])))
            return i.Opened(len(self.accepted) - 1)
        if isinstance(input, i.Received):
            if input.conn not in self.numbers:
                self.early.setdefault(input.conn, []).append(input)
                return None
            return i.Received(self.numbers[input.conn], input.data, input.fill)
        return input

    def _does(self, at_source: bool, out: i.Output) -> None:
        if isinstance(out, i.Open):
            self.todo += [(True, i.Opened(out.conn)), (False, i.Opened(out.conn))]
        elif isinstance(out, i.Send):
            peer = out.conn if at_source else self.accepted[out.conn]
            received = i.Received(peer, out.data, out.fill)
            self.todo += [(not at_source, received), (at_source, i.Drained(out.conn))]
        elif isinstance(out, i.CollectRam):
            self.todo.append((True, i.RamCollected(1 << 26 if out.first else 0, not out.first)))
        elif type(out) in ANSWERS:
            self.todo.append((at_source, ANSWERS[type(out)]()))


def pump(source: Any, destination: Any, until: str = "completed") -> None:
    Pump(source, destination).run(until)
