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

CALL = float(NORMAL)  # as urgent as any event; the queue's entries of this very object are no Events, but calls


class Clock(simpy.Environment):
    """Calls come in the order of their moments, and at one moment in the order in which they were asked for."""

    def call(self, delay_s: float, call: Callable[[], object]) -> None:
        at_s = self._now + delay_s if delay_s > 0 else self._now
        heappush(self._queue, (at_s, CALL, next(self._eid), call))  # type: ignore[misc]

    def call_at(self, at_s: float, call: Callable[[], object]) -> None:
        heappush(self._queue, (at_s, CALL, next(self._eid), call))  # type: ignore[misc]

    def step(self) -> None:
        """The calls that come before the next Event, and that Event."""
        queue: list[tuple[float, float, int, Any]] = self._queue  # type: ignore[assignment]
        while queue and queue[0][1] is CALL:
            self._now, _, _, call = heappop(queue)
            call()
        super().step()


class Alarm:
    """A timer by its name: one entry of the queue, armed anew only when it comes too early. Setting and stopping it
    cost the same however long it is set for; only who sets it for sooner leaves an entry that does nothing."""

    __slots__ = ("armed_s", "clock", "due_s", "ring")

    def __init__(self, clock: Clock, ring: Callable[[], object]) -> None:
        self.clock, self.ring = clock, ring
        self.due_s: float | None = None  # None: stopped
        self.armed_s: float | None = None  # when its entry comes: not later than it is due

    def set(self, delay_s: float) -> None:
        """It rings then, and not when it was set for before."""
        self.due_s = due_s = self.clock._now + delay_s
        if self.armed_s is None or self.armed_s > due_s:
            self._arm(due_s)

    def stop(self) -> None:
        self.due_s = None

    def _arm(self, due_s: float) -> None:
        self.armed_s = due_s
        self.clock.call_at(due_s, self._comes)

    def _comes(self) -> None:
        if self.armed_s != self.clock._now:
            return  # it was set for sooner since
        self.armed_s = None
        if self.due_s is None:
            return
        if self.due_s > self.clock._now:
            self._arm(self.due_s)
        else:
            self.due_s = None
            self.ring()
