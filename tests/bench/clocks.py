"""Item 2: the clock under the world against others on one exchange: two endpoints, so many messages in turn, a one-way
delay of 1, and a timer of `limit` armed for every message and stopped by its answer. With a `limit` of 10,000 that many
stale timers would be waiting where nobody takes them away.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator
from functools import partial
from typing import Any

import simpy

from simlib.world.clock import Alarm, Clock

from .measure import Line, over, rounds

STALE = (30, 10_000)
LENGTH = {30: 2_000, 10_000: 20_000}  # messages a run: more than there may be stale timers


class Player:
    """One endpoint on our clock."""

    def __init__(self, clock: Clock, limit: float) -> None:
        self.clock, self.limit, self.left = clock, limit, 0
        self.alarm = Alarm(clock, self.late)
        self.peer = self

    def hears(self) -> None:
        self.alarm.stop()
        if self.left:
            self.left -= 1
            self.clock.call(1, self.peer.hears)
            self.alarm.set(self.limit)

    def late(self) -> None:
        raise AssertionError("no answer")


def ours(count: int, limit: float) -> None:
    clock = Clock()
    one, other = Player(clock, limit), Player(clock, limit)
    one.peer, other.peer = other, one
    one.left = other.left = count // 2
    one.hears()
    clock.run(until=count + 2)
    assert one.left == other.left == 0


def idiomatic(count: int, limit: float, env: simpy.Environment | None = None) -> None:
    """As SimPy's documentation has it: a Store, a process for each message on its way, and any_of with a timeout."""
    env = env or simpy.Environment()
    inboxes = simpy.Store(env), simpy.Store(env)

    def cable(to: int, message: int) -> Iterator[simpy.Event]:
        yield env.timeout(1)
        yield inboxes[to].put(message)

    def player(me: int) -> Iterator[Any]:
        for n in range(count // 2):
            if me == 0 or n:
                env.process(cable(1 - me, n))
            got = inboxes[me].get()
            came = yield got | env.timeout(limit)
            assert got in came
        if me == 1:
            env.process(cable(0, count))

    env.process(player(1))
    done = env.process(player(0))
    env.run(until=done)


def raw_heap(count: int, limit: float) -> None:
    """The floor in Python: a heap of callbacks, a stopped timer left in it."""
    queue: list[list[Any]] = []
    number = 0
    timers: list[list[Any] | None] = [None, None]
    now = 0.0

    def at(delay: float, call: Any, to: int) -> list[Any]:
        nonlocal number
        number += 1
        entry = [now + delay, number, call, to]
        heapq.heappush(queue, entry)
        return entry

    def late(_: int) -> None:
        raise AssertionError("no answer")

    left = count

    def hears(me: int) -> None:
        nonlocal left
        timer = timers[me]
        if timer is not None:
            timer[2] = None
        if left:
            left -= 1
            at(1, hears, 1 - me)
            timers[me] = at(limit, late, me)

    hears(0)
    while left and queue:
        now, _, call, to = heapq.heappop(queue)
        if call is not None:
            call(to)


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio without waiting: when nothing is ready the clock jumps to the next timer."""

    now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now_s = max(self.now_s, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def on_asyncio(count: int, limit: float) -> None:
    loop = VirtualLoop()

    async def play() -> None:
        inboxes: tuple[asyncio.Queue[int], ...] = (asyncio.Queue(), asyncio.Queue())

        async def player(me: int) -> None:
            for n in range(count // 2):
                if me == 0 or n:
                    loop.call_later(1, inboxes[1 - me].put_nowait, n)
                async with asyncio.timeout(limit):
                    await inboxes[me].get()
            if me == 1:
                loop.call_later(1, inboxes[0].put_nowait, count)

        await asyncio.gather(player(0), player(1))

    try:
        loop.run_until_complete(play())
    finally:
        loop.close()


def lines(times: int) -> Iterator[Line]:
    for limit in STALE:
        count = LENGTH[limit]
        samples = rounds(
            {
                "ours": partial(ours, count, limit),
                "idiomatic": partial(idiomatic, count, limit),
                "heap": partial(raw_heap, count, limit),
                "asyncio": partial(on_asyncio, count, limit),
                "hosted": lambda c=count, t=limit: idiomatic(c, t, Clock()),
            },
            times,
        )  # type: ignore[misc]
        what = f"messages a second, {limit:,} stale timers: our clock"
        goal = (8, 18) if limit == STALE[0] else (None, None)
        yield Line(2, what, "idiomatic SimPy", over(samples, "idiomatic", "ours"), *goal, more_is_better=True)
        yield Line(2, what, "a raw heap", over(samples, "heap", "ours"), more_is_better=True)
        yield Line(2, what, "asyncio on a virtual clock", over(samples, "asyncio", "ours"), more_is_better=True)
        yield Line(
            2,
            f"the idiomatic SimPy model, {limit:,} stale timers, unchanged on our clock",
            "on SimPy's own",
            over(samples, "idiomatic", "hosted"),
            more_is_better=True,
        )
    count = LENGTH[STALE[1]]
    samples = rounds({"few": partial(ours, count, STALE[0]), "many": partial(ours, count, STALE[1])}, times)
    yield Line(2, "our clock's cost with 10,000 stale timers", "with 30", over(samples, "many", "few"), 1.10, 1.0)
