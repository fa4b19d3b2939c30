"""Two endpoints alone: no clock, no link, no guest. What the protocol engine is, in one screen of code."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from . import interface as i
from .endpoint import Endpoint

ANSWERS: dict[type, Any] = {
    i.StopGuest: i.GuestStopped(),
    i.Apply: i.Applied(),
    i.Load: i.Loaded(),
    i.RunGuest: i.GuestRunning(),
}


class Heard(NamedTuple):
    """One input of one side, and all that it led to there."""

    side: str
    input: i.Input
    outputs: tuple[i.Output, ...]


def pump(source: Endpoint, destination: Endpoint, ram_bytes: int = 1 << 20, limit: int = 100_000) -> list[Heard]:
    """Deliver at once, and in order, whatever two endpoints say to each other, until neither has anything to say.

    Args:
        source, destination: fresh endpoints, as `handshake.v2.source.Source` and `destination.Destination`.
        ram_bytes: the guest's memory; it never writes to it again.
        limit: inputs after which it ends anyway.

    Returns:
        Every input with its outputs, in order.

    >>> from simlib.case.endpoints import Case
    >>> from simlib.case.scenario import Scenario
    >>> setup = Case(Scenario(name="pumped"), "v2", "10.0")
    >>> source, destination = setup.source(), setup.destination()
    >>> heard = pump(source, destination)
    >>> source.status, destination.status
    ('completed', 'completed')
    """
    sides = {"source": source, "destination": destination}
    waiting: deque[tuple[str, i.Input]] = deque([("destination", i.Start()), ("source", i.Start())])
    opened: list[int] = []  # the source's connections, in the order in which the destination took them
    heard: list[Heard] = []
    while waiting and len(heard) < limit:
        side, input = waiting.popleft()
        outputs = tuple(sides[side].handle(input))
        heard.append(Heard(side, input, outputs))
        other = "destination" if side == "source" else "source"
        for output in outputs:
            if isinstance(output, i.Open):
                waiting += [("source", i.Opened(output.conn)), ("destination", i.Opened(len(opened)))]
                opened.append(output.conn)
            elif isinstance(output, i.Send):
                conn = opened.index(output.conn) if side == "source" else opened[output.conn]
                waiting += [(other, i.Received(conn, output.data, output.fill)), (side, i.Drained(output.conn))]
            elif isinstance(output, i.CollectRam):
                size_bytes = ram_bytes if output.first else 0
                waiting.append((side, i.RamCollected(size_bytes, not output.first)))
            elif type(output) in ANSWERS:
                waiting.append((side, ANSWERS[type(output)]))
    return heard
