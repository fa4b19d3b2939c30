"""What a run reports: every step in one list with one clock, and what can be made of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple


class Step(NamedTuple):
    """One thing that happened. `kind`: say, hear, state, print, link, guest, management, end."""

    time_s: float
    side: str  # source, destination, intruder, link, manager
    kind: str
    connection: str
    text: str


class Packet(NamedTuple):
    """Bytes as they left a side; `connection` counts in order of opening."""

    time_s: float
    connection: int
    from_source: bool
    kind: str
    data: bytes = b""
    fill: int = 0


@dataclass(slots=True)
class Trace:
    """The steps of one run, in order of time."""

    title: str = ""
    steps: list[Step] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)

    def note(self, time_s: float, side: str, kind: str, connection: str, text: str) -> None:
        self.steps.append(tuple.__new__(Step, (time_s, side, kind, connection, text)))  # half the time of Step()

    def keep(self, packet: Packet) -> None:
        """Add a packet that a real link carried."""
        self.packets.append(packet)

    def keep_secret(self, line: bytes) -> None:
        """A line of TLS's key log; of use where packets go to a file."""

    def __str__(self) -> str:
        """The run as text, one step a line."""
        return "\n".join([self.title] * bool(self.title) + [self.line(s) for s in self.steps])

    @staticmethod
    def line(step: Step) -> str:
        """One step as text."""
        word = {"say": "says ", "hear": "hears ", "state": "is ", "print": "prints ", "end": "ends: "}.get(
            step.kind, ""
        )
        place = f" [{step.connection}]" if step.connection else ""
        return f"{step.time_s * 1e3:12.3f} ms  {step.side:<11} {word}{step.text}{place}"

    def story(self) -> tuple[tuple[str, ...], ...]:
        """The messages sent and received on each connection, and the states of each side: equal for equal events,
        whatever the clock and the runner."""
        events: dict[str, list[str]] = {}
        for s in self.steps:
            if s.kind in ("say", "hear"):
                events.setdefault(f"{s.side} on {s.connection}", []).append(f"{s.kind} {s.text}")
            elif s.kind in ("state", "end", "print"):
                events.setdefault(s.side, []).append(f"{s.kind} {s.text}")
        return tuple((name, *lines) for name, lines in sorted(events.items()))

    def digest(self) -> str:
        """SHA-256 of the steps with times in whole nanoseconds: equal for equal runs, on any machine."""
        digest = hashlib.sha256()
        for at in range(0, len(self.steps), 500):  # one text of all would not fit the processor's cache
            some = self.steps[at : at + 500]
            lines = [f"{round(s.time_s * 1e9)} {s.side} {s.kind} {s.connection} {s.text}" for s in some]
            digest.update(("\n" * bool(at) + "\n".join(lines)).encode())
        return digest.hexdigest()

    def rows(self) -> list[dict[str, object]]:
        """One row for each step, for a table."""
        return [
            {"time_s": s.time_s, "side": s.side, "kind": s.kind, "connection": s.connection, "text": s.text}
            for s in self.steps
        ]
