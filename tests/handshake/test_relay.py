"""Endpoints that carry another's stream (agents beside QEMUs): every order in which what they are told may come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from simlib.handshake import interface as i
from simlib.handshake.machine import Machine, Settings
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.source import Source

SETTINGS = Settings(machine=Machine(), capabilities=("postcopy-ram",))
# What each QEMU tells its agent, in its own order. The two see the same stream, so nothing orders them but the wire.
TOLD: dict[bool, tuple[list[i.Input], list[i.Input]]] = {
    False: ([i.GuestMoved()], [i.Loaded()]),
    True: ([i.GuestMoved(postcopy=True), i.GuestMoved()], [i.Loaded(postcopy=True), i.Loaded()]),
}


class Pair:
    """Both endpoints, and the control connection's messages in flight; a value that can be forked."""

    def __init__(self, postcopy: bool) -> None:
        self.sides: list[Any] = [
            Source(SETTINGS, SessionConfig(relays=True)),
            Destination(SETTINGS, SessionConfig(bytes(range(32)), relays=True)),
        ]
        self.wires: list[list[tuple[int, bytes]]] = [[], []]  # on the way from each
        self.reports = [list(reports) for reports in TOLD[postcopy]]
        self.asked: list[set[str]] = [set(), set()]
        self.said_go = self.ran = False
        self.tell(1, i.Start())
        self.tell(0, i.Start())

    def fork(self) -> Pair:
        other = object.__new__(Pair)
        vars(other).update(vars(self))
        other.sides = [s.fork() for s in self.sides]
        other.wires, other.reports, other.asked = (
            [x.copy() for x in values] for values in (self.wires, self.reports, self.asked)
        )
        return other

    def key(self) -> Any:
        counts = tuple(map(len, self.reports))
        return *(s.key() for s in self.sides), *(tuple(w) for w in self.wires), counts, self.said_go, self.ran

    def tell(self, side: int, input: i.Input) -> None:
        for out in self.sides[side].handle(input):
            self.asked[side].add(type(out).__name__)
            if isinstance(out, i.Open):  # connections are never late here: what comes after READY is looked at
                self.tell(0, i.Opened(out.conn))
                self.tell(1, i.Opened(out.conn))
            elif isinstance(out, i.Send):
                self.wires[side].append((out.conn, out.data))
            elif isinstance(out, i.Apply):
                self.tell(1, i.Applied())
            elif isinstance(out, i.RunGuest):
                assert self.said_go
                self.ran = True
                self.tell(1, i.GuestRunning())
            elif isinstance(out, i.Said) and out.text == "GO":
                self.said_go = True
            elif isinstance(out, i.Finished):  # and takes the connections from its QEMU
                assert out.status != "completed" or not self.reports[side]

    def deliver(self) -> None:
        """One message that is under way, the source's first."""
        side = 0 if self.wires[0] else 1
        self.tell(1 - side, i.Received(*self.wires[side].pop(0)))

    def next(self) -> Iterator[Pair]:
        """Each thing that may come now: a message, or a QEMU's word."""
        for side in (0, 1):
            if self.wires[side]:
                after = self.fork()
                after.tell(1 - side, i.Received(*after.wires[side].pop(0)))
                yield after
            if self.reports[side] and "MoveGuest" in self.asked[side]:
                after = self.fork()
                after.tell(side, after.reports[side].pop(0))
                yield after


def ends(start: Pair) -> list[Pair]:
    endings, seen, todo = [], set(), [start]
    while todo:
        pair = todo.pop()
        if pair.key() in seen:
            continue
        seen.add(pair.key())
        more = list(pair.next())
        endings += [] if more else [pair]
        todo += more
    assert len(seen) > 10
    return endings


@pytest.mark.parametrize("postcopy", [False, True])
def test_in_every_order_both_sides_complete_and_the_guest_runs_on_go_alone(postcopy: bool) -> None:
    endings = ends(Pair(postcopy))
    assert endings
    for pair in endings:
        assert [s.finished and s.finished.status for s in pair.sides] == ["completed"] * 2
        assert pair.ran and not any(pair.reports)


def test_go_waits_until_both_qemus_have_said_that_the_devices_are_over_there() -> None:
    start = Pair(True)
    while any(start.wires):  # to READY
        start.deliver()
    for first in (0, 1):
        pair = start.fork()
        pair.tell(first, pair.reports[first].pop(0))
        while any(pair.wires):
            pair.deliver()
        assert not pair.said_go


@pytest.mark.parametrize("switched", ["before", "after"])
def test_the_guest_is_switched_once_it_moves_whenever_that_was_asked_for(switched: str) -> None:
    pair = Pair(True)
    while any(pair.wires):
        if switched == "before" and pair.sides[0].state == "agreed":
            pair.tell(0, i.SwitchToPostcopy())
            assert "SwitchGuest" not in pair.asked[0]
        pair.deliver()
    if switched == "after":
        assert "SwitchGuest" not in pair.asked[0]
        pair.tell(0, i.SwitchToPostcopy())
    assert "SwitchGuest" in pair.asked[0]


def test_memory_that_will_not_come_any_more_is_told_by_both_sides() -> None:
    pair = Pair(True)
    while pair.sides[0].status != "postcopy-active":
        pair = next(p for p in pair.next() if len(p.reports[0]) and len(p.reports[1]))
    pair.tell(0, i.GuestMoved("Channel error: Input/output error"))
    pair.tell(1, i.Loaded("its migration is postcopy-paused"))
    assert [s.finished.status for s in pair.sides] == ["postcopy-paused"] * 2


def test_the_destination_s_reason_is_reported_although_the_source_s_qemu_has_failed_first() -> None:
    pair = Pair(False)
    while any(pair.wires):
        pair.deliver()
    pair.tell(1, i.Loaded("virtio-net: Invalid argument"))  # its ERROR is on the way
    pair.tell(0, i.GuestMoved("Sibling indicated error 1"))
    assert pair.sides[0].finished is None
    while any(pair.wires):
        pair.deliver()
    end = pair.sides[0].finished
    assert end is not None and end.errors[0].code == "needs-restart"
    assert "virtio-net: Invalid argument" in f"{end.errors[0].text} {end.errors[0].destination}"
