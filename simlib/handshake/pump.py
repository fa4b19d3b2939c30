"""Two endpoints alone: no clock, no link, no guest. What the protocol engine is, in one screen of code."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import NamedTuple

from . import interface as i
from .endpoint import Endpoint

ANSWERS: dict[type[i.Output], i.Input] = {
    i.StopGuest: i.GuestStopped(),
    i.Apply: i.Applied(),
    i.Load: i.Loaded(),
    i.RunGuest: i.GuestRunning(),
    i.WatchFaults: i.PageFault("pc.ram", 0, 4096),
}


class Heard(NamedTuple):
    """One input of one side, and all that it led to there."""

    side: str
    input: i.Input
    outputs: tuple[i.Output, ...]


def pump(
    source: Endpoint, destination: Endpoint, ram_bytes: int = 1 << 20, limit: int = 100_000, until: str = ""
) -> list[Heard]:
    """Deliver at once, and in order, whatever two endpoints send to each other, until neither has anything to send.

    Args:
        source, destination: fresh endpoints, as `handshake.v2.source.Source` and `destination.Destination`.
        ram_bytes: the guest's memory; it never writes to it again.
        limit: inputs after which it ends anyway.
        until: a status of the source at which it ends.

    Returns:
        Every input with its outputs, in order.

    >>> from simlib.case.endpoints import Case
    >>> from simlib.case.scenario import Scenario
    >>> case = Case(Scenario(name="pumped"), "v2", "10.0")
    >>> source, destination = case.source(), case.destination()
    >>> heard = pump(source, destination)
    >>> source.status, destination.status
    ('completed', 'completed')
    """
    line = _Line(source, destination, ram_bytes)
    heard: list[Heard] = []
    while line.waiting and len(heard) < limit and (not until or source.status != until):
        side, input = line.waiting.popleft()
        if side == "destination" and not line.reaches_destination(input):
            continue
        if side == "destination" and isinstance(input, (i.Opened, i.Received)):
            input = replace(input, conn=line.numbers[input.conn])
        outputs = tuple((source if side == "source" else destination).handle(input))
        heard.append(Heard(side, input, outputs))
        if side == "destination":
            line.knock_again()
        for output in outputs:
            line.carry_out(side, output)
    return heard


class _Line:
    """What is on its way. Inputs of the link have the source's number of their connection."""

    def __init__(self, source: Endpoint, destination: Endpoint, ram_bytes: int) -> None:
        self.destination, self.ram_bytes = destination, ram_bytes
        self.waiting: deque[tuple[str, i.Input]] = deque([("destination", i.Start()), ("source", i.Start())])
        self.accepted: list[int] = []  # the source's connections, in the order in which the destination took them
        self.numbers: dict[int, int] = {}  # and what the destination calls each
        self.early: dict[int, list[i.Input]] = {}  # what came for those that it has yet to take
        self.not_accepted: list[i.Input] = []  # connections that wait in its listening socket

    def reaches_destination(self, input: i.Input) -> bool:
        """Whether the destination takes it now: a connection waits until it accepts, and data until then."""
        if isinstance(input, i.Opened):
            if not self.destination.accepting:
                self.not_accepted.append(input)
                return False
            self.numbers[input.conn] = len(self.accepted)
            self.accepted.append(input.conn)
            self.waiting.extendleft(("destination", data) for data in reversed(self.early.pop(input.conn, [])))
        elif isinstance(input, i.Received) and input.conn not in self.numbers:
            self.early.setdefault(input.conn, []).append(input)
            return False
        return True

    def knock_again(self) -> None:
        """The destination has changed: it may accept now."""
        if self.not_accepted and self.destination.accepting:
            self.waiting.extend(("destination", opened) for opened in self.not_accepted)
            self.not_accepted = []

    def carry_out(self, side: str, output: i.Output) -> None:
        if isinstance(output, i.Open):
            self.waiting += [("source", i.Opened(output.conn)), ("destination", i.Opened(output.conn))]
        elif isinstance(output, i.Send):
            conn = output.conn if side == "source" else self.accepted[output.conn]
            other = "destination" if side == "source" else "source"
            self.waiting += [(other, i.Received(conn, output.data, output.fill)), (side, i.Drained(output.conn))]
        elif isinstance(output, i.CollectRam):
            self.waiting.append((side, i.RamCollected(self.ram_bytes if output.first else 0, not output.first)))
        elif type(output) in ANSWERS:
            self.waiting.append((side, ANSWERS[type(output)]))
