"""One direction of a link: its rate, shared by all connections that have something to send.

Connections with a backlog share the rate equally, byte by byte (generalised processor sharing in virtual time, Parekh
and Gallager 1993). A message of at most one burst, with none of its own connection's bytes before it, leaves at once
and the backlogs wait for it: as Linux's default queue, fq_codel, treats sparse flows (RFC 8290, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from heapq import heappop, heappush
from itertools import count

from .clock import Alarm, Clock

BURST_BYTES = 64 << 10  # the largest segment that a Linux socket hands to the queue at once (GSO)
Leaves = Callable[[float, float], object]


class SharedRate:
    """`flow` identifies a connection. `leaves(began_s, left_s)` is called with the times at which a message's last
    burst begins to leave and has left: at once for a single burst, else when that has happened.

    >>> clock, left = Clock(), []
    >>> link = SharedRate(clock, bytes_s=1e6)
    >>> for flow in ("a", "b"):
    ...     link.send(flow, 1_000_000, lambda began_s, left_s: left.append(left_s))
    >>> clock.run()
    >>> left
    [2.0, 2.0]
    """

    def __init__(self, clock: Clock, bytes_s: float) -> None:
        self.clock, self.bytes_s = clock, bytes_s
        self.alarm = Alarm(clock, self._next_leaves)
        self.waiting: list[tuple[float, int, Hashable, Leaves]] = []  # heap, by the virtual time at which each is due
        self.order = count()
        self.last: dict[Hashable, tuple[float, int]] = {}  # flows with a backlog: when their last message is due
        self.virtual_bytes = 0.0  # virtual time: what each flow with a backlog has been served so far
        self.counted_s = 0.0  # up to here
        self.burst_s = 0.0  # when the latest burst has left

    def send(self, flow: Hashable, size: int, leaves: Leaves) -> None:
        """Send `size` bytes behind those of the same flow."""
        if size <= BURST_BYTES and flow not in self.last:
            self._burst(size, leaves)
            return
        self._count()
        before = self.last[flow][0] if flow in self.last else self.virtual_bytes
        due, number = self.last[flow] = before + size, next(self.order)
        heappush(self.waiting, (due, number, flow, leaves))
        self._arm()

    def when_left(self, flow: Hashable, size: int, call: Callable[[], object]) -> None:
        """Call when at most `size` bytes of the flow have yet to leave; never from within this call."""
        self._count()
        due = self.last[flow][0] - size if flow in self.last else 0.0
        if due > self.virtual_bytes:
            heappush(self.waiting, (due, next(self.order), flow, lambda *_: call()))
            self._arm()
        else:
            self.clock.call(self.burst_s - size / self.bytes_s - self.clock._now, call)

    def _burst(self, size: int, leaves: Leaves) -> None:
        began_s = max(self.clock._now, self.burst_s)
        self.burst_s = began_s + size / self.bytes_s
        if self.last:
            self._count()
            self.counted_s = self.burst_s  # meanwhile no backlog is served
            self._arm()
        leaves(began_s, self.burst_s)

    def _count(self) -> None:
        now_s = self.clock._now
        if now_s > self.counted_s:
            if self.last:
                self.virtual_bytes += (now_s - self.counted_s) * self.bytes_s / len(self.last)
            self.counted_s = now_s

    def _arm(self) -> None:
        rest = max(self.waiting[0][0] - self.virtual_bytes, 0.0)
        self.alarm.set(self.counted_s - self.clock._now + rest * len(self.last) / self.bytes_s)

    def _next_leaves(self) -> None:
        due, number, flow, leaves = heappop(self.waiting)
        self.counted_s, self.virtual_bytes = self.clock._now, due
        if self.last[flow] == (due, number):
            del self.last[flow]
        if self.waiting:
            self._arm()
        leaves(self.clock._now, self.clock._now)
