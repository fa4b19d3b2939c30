"""The clock: stock SimPy in one order with plain calls, and alarms that leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import simpy

from simlib.world.clock import CALL, Alarm, Clock


def test_stock_processes_and_calls_share_one_order() -> None:
    clock, events = Clock(), []

    def process() -> Iterator[simpy.Event]:
        yield clock.timeout(1)
        events.append(("process", clock.now))
        yield clock.timeout(1) | clock.timeout(5)
        events.append(("process", clock.now))

    clock.process(process())
    clock.call(0, lambda: clock.call(1, lambda: events.append(("call", clock.now))))
    clock.call(1.5, lambda: events.append(("call", clock.now)))
    clock.run(until=3)
    assert events == [("process", 1), ("call", 1), ("call", 1.5), ("process", 2)]
    assert clock.now == 3


def test_an_alarm_rings_when_it_was_last_set_for() -> None:
    clock, rings = Clock(), []
    alarm = Alarm(clock, lambda: rings.append(clock.now))
    alarm.set(0.1)
    alarm.stop()
    alarm.set(5)
    clock.call(1, lambda: alarm.set(10))  # later
    clock.call(20, lambda: alarm.set(10))
    clock.call(21, lambda: alarm.set(2))  # sooner than its entry comes
    clock.call(30, lambda: alarm.set(1))
    clock.call(30.5, alarm.stop)
    clock.run()
    assert rings == [11, 23]


def test_an_alarm_that_is_set_again_and_again_has_one_entry() -> None:
    clock = Clock()
    alarm = Alarm(clock, lambda: None)
    for at in range(1000):
        clock.call(at, lambda: alarm.set(10_000))
    clock.run(until=1000)
    assert sum(kind is CALL for _, kind, *_ in clock._queue) == 1
