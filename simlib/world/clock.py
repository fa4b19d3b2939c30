"""SimPy's environment, whose queue also holds plain calls and alarms: no Event, callback list or process for each
message. Stock SimPy processes, timeouts and conditions run in it unchanged, in one order with the calls.

    clock = Clock()
    clock.call(0.5, arrive)          # once, and nothing to call off
    guard = Alarm(clock, ring)       # set and stopped as often as one likes
    guard.set(10.0)
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import simpy
from simpy.events import NORMAL


class Call:
    """An entry of the queue that is no Event."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def off(self) -> None:
        """Its moment passes and nothing happens."""
        self.call = _nothing


def _nothing() -> None:
    pass


class Clock(simpy.Environment):
    """Calls come in the order of their moments, and at one moment in the order in which they were asked for."""

    def call(self, delay_s: float, call: Callable[[], object]) -> Call:
        return self.call_at(self._now + (delay_s if delay_s > 0 else 0.0), call)

    def call_at(self, at_s: float, call: Callable[[], object]) -> Call:
        entry = Call(call)
        heappush(self._queue, (at_s, NORMAL, next(self._eid), entry))  # type: ignore[misc]
        return entry

    def step(self) -> None:
        """The calls that come before the next Event, and that Event."""
        queue: list[tuple[float, int, int, Any]] = self._queue  # type: ignore[assignment]
        while queue and type(queue[0][3]) is Call:
            self._now, _, _, entry = heappop(queue)
            entry.call()
        super().step()


class Alarm:
    """A timer by its name: one entry of the queue, armed anew only when it comes too early. Setting and stopping it
    cost the same however long it is set for, and leave nothing behind."""

    __slots__ = ("armed", "clock", "due_s", "ring")

    def __init__(self, clock: Clock, ring: Callable[[], object]) -> None:
        self.clock, self.ring = clock, ring
        self.due_s: float | None = None  # None: stopped
        self.armed: tuple[float, Call] | None = None  # its entry, not later than it is due

    def set(self, delay_s: float) -> None:
        """It rings then, and not when it was set for before."""
        self.due_s = self.clock._now + delay_s
        if self.armed is not None and self.armed[0] > self.due_s:
            self.armed[1].off()
            self.armed = None
        if self.armed is None:
            self._arm(self.due_s)

    def stop(self) -> None:
        self.due_s = None

    def _arm(self, due_s: float) -> None:
        self.armed = due_s, self.clock.call_at(due_s, self._comes)

    def _comes(self) -> None:
        self.armed = None
        if self.due_s is None:
            return
        if self.due_s > self.clock.now:
            self._arm(self.due_s)
        else:
            self.due_s = None
            self.ring()
