"""The pump loses, repeats and reorders nothing between two endpoints, and its record is what happened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake import interface as i
from simlib.handshake.endpoint import BaseEndpoint
from simlib.handshake.machine import Settings
from simlib.handshake.names import Status
from simlib.handshake.pump import Heard, pump
from simlib.handshake.v1.destination import Destination
from simlib.handshake.v1.source import Source
from tests.handshake.builders import QUICK, expanded, sent, small

VERSIONS = ("7.2", "8.2", "10.0", "11.1", "11.2")
V1 = [(), ("return-path",), ("multifd",), ("multifd", "return-path"), ("postcopy-ram",)]
V1_SETTINGS = st.builds(
    lambda version, capabilities, channels: small(*capabilities, version=version, channels=channels),
    st.sampled_from(VERSIONS),
    st.sampled_from(V1),
    st.integers(1, 4),
)
CONNECTIONS = 4
LETTERS = [bytes([letter]) for letter in b"abcdefgh"]


class Scripted(BaseEndpoint):
    """Gives these outputs at the start and at each connection; accepts one connection more whenever bytes come."""

    def __init__(
        self, at_start: Sequence[i.Output] = (), at_opened: Sequence[i.Output] = (), accepts: int = 99
    ) -> None:
        super().__init__(Settings())
        self.at_start, self.at_opened, self.accepts = at_start, at_opened, accepts
        self.inputs: list[i.Input] = []

    @property
    def accepting(self) -> bool:
        return sum(isinstance(input, i.Opened) for input in self.inputs) < self.accepts

    def handle(self, input: i.Input) -> list[i.Output]:
        self.inputs.append(input)
        if isinstance(input, i.Received):
            self.accepts += 1
        if isinstance(input, i.Opened):
            return [*self.at_opened]
        return [*self.at_start] if isinstance(input, i.Start) else []

    def received(self) -> dict[int, bytes]:
        """All bytes that came, by connection."""
        result: dict[int, bytes] = {}
        for input in self.inputs:
            if isinstance(input, i.Received):
                result[input.conn] = result.get(input.conn, b"") + input.data + bytes(input.fill)
        return result


def replay(heard: Iterable[Heard], side: str, fresh: BaseEndpoint) -> bool:
    """Whether another endpoint does the same at the same inputs."""
    steps = [h for h in heard if h.side == side]
    return [fresh.handle(h.input) for h in steps] == [[*h.outputs] for h in steps]


# --- v1 -------------------------------------------------------------------------------------------------------------
@QUICK
@given(V1_SETTINGS, st.integers(0, 1 << 20))
def test_two_sides_with_the_same_settings_complete_with_all_of_the_guest_s_memory(ours: Settings, pages: int) -> None:
    source, destination = Source(ours), Destination(ours)
    ram_bytes = pages * 4096 * 12  # as much on each of one to four channels
    pump(source, destination, ram_bytes)
    assert (source.status, destination.status) == (Status.COMPLETED, Status.COMPLETED)
    assert destination.ram_bytes == ram_bytes


@QUICK
@given(V1_SETTINGS)
def test_the_record_has_every_input_with_what_it_led_to(ours: Settings) -> None:
    heard = pump(Source(ours), Destination(ours))
    assert replay(heard, "source", Source(ours)) and replay(heard, "destination", Destination(ours))
    assert {h.side for h in heard} == {"source", "destination"}


def test_the_destination_starts_first() -> None:
    heard = pump(Source(Settings()), Destination(Settings()))
    assert [(h.side, h.input) for h in heard[:2]] == [("destination", i.Start()), ("source", i.Start())]


@pytest.mark.parametrize("status", ["setup", "active", "device"])
def test_it_ends_when_the_source_has_the_status_that_was_asked_for_and_not_before(status: str) -> None:
    source = Source(small("return-path"))
    heard = pump(source, Destination(small()), until=status)
    assert source.status == status and heard[-1].side == "source"
    entered = [o.status for h in heard for o in h.outputs if h.side == "source" and isinstance(o, i.Entered)]
    assert entered[-1] == status and entered.count(Status(status)) == 1


@QUICK
@given(st.integers(0, 12))
def test_it_ends_after_so_many_inputs(limit: int) -> None:
    """Of a migration that takes more."""
    assert len(pump(Source(Settings()), Destination(Settings()), limit=limit)) == limit


def test_memory_comes_in_the_first_pass_alone_and_then_the_rest_fits() -> None:
    heard = pump(Source(Settings()), Destination(Settings()), ram_bytes=12288)
    assert [h.input for h in heard if isinstance(h.input, i.RamCollected)] == [
        i.RamCollected(12288, False),
        i.RamCollected(0, True),
        i.RamCollected(0, True),
    ]


# --- any endpoints --------------------------------------------------------------------------------------------------
@QUICK
@given(
    st.lists(st.tuples(st.integers(0, CONNECTIONS - 1), st.sampled_from(LETTERS), st.integers(0, 3)), max_size=12),
    st.integers(1, CONNECTIONS),
)
def test_bytes_arrive_once_and_in_order_even_on_a_connection_that_is_accepted_later(
    pieces: list[tuple[int, bytes, int]], accepts: int
) -> None:
    opens = [i.Open(conn, f"channel {conn}") for conn in range(CONNECTIONS)]
    sends = [i.Send(*piece) for piece in pieces]
    source, destination = Scripted([*opens, *sends]), Scripted(accepts=accepts)
    pump(source, destination)
    taken = 0
    while taken < min(CONNECTIONS, accepts + sum(conn < taken for conn, _, _ in pieces)):
        taken += 1
    expected = {conn: expanded(sent(sends, conn)) for conn in range(taken)}
    assert [input for input in destination.inputs if isinstance(input, i.Opened)] == [*map(i.Opened, range(taken))]
    assert destination.received() == {conn: data for conn, data in expected.items() if data}
    assert source.inputs.count(i.Drained(0)) == sum(conn == 0 for conn, _, _ in pieces)


@QUICK
@given(st.permutations(range(CONNECTIONS)))
def test_the_destination_numbers_connections_in_the_order_in_which_it_accepts_them(order: list[int]) -> None:
    """And what it sends on one comes on the source's own."""
    opens = [i.Open(conn, "") for conn in order]
    answers = [i.Send(0, b"first")]
    source = Scripted([*opens, *(i.Send(conn, bytes([conn])) for conn in order)])
    destination = Scripted(at_opened=answers)
    pump(source, destination)
    assert destination.received() == {number: bytes([conn]) for number, conn in enumerate(order)}
    assert source.received() == {order[0]: b"first" * CONNECTIONS}
    assert [input for input in source.inputs if isinstance(input, i.Opened)] == [i.Opened(conn) for conn in order]
    assert destination.inputs.count(i.Drained(0)) == CONNECTIONS


def test_a_connection_that_nobody_accepts_gets_nothing_and_the_pump_ends() -> None:
    destination = Scripted(accepts=0)
    pump(Scripted([i.Open(0, "main"), i.Send(0, b"QEVM")]), destination)
    assert destination.inputs == [i.Start()]


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (i.StopGuest(), i.GuestStopped()),
        (i.RunGuest(), i.GuestRunning()),
        (i.Apply(()), i.Applied()),
        (i.Load(7), i.Loaded()),
        (i.CollectRam(first=True), i.RamCollected(5, False)),
        (i.CollectRam(last=True), i.RamCollected(0, True)),
        (i.CollectRam(), i.RamCollected(0, True)),
    ],
)
def test_a_side_s_guest_answers_that_side_at_once(asked: i.Output, answer: i.Input) -> None:
    source, destination = Scripted([asked]), Scripted()
    pump(source, destination, ram_bytes=5)
    assert source.inputs == [i.Start(), answer] and destination.inputs == [i.Start()]
    source, destination = Scripted(), Scripted([asked])
    pump(source, destination, ram_bytes=5)
    assert source.inputs == [i.Start()] and destination.inputs == [i.Start(), answer]


def test_reports_ask_for_nothing() -> None:
    reports: list[i.Output] = [i.Said(0, "QEVM"), i.Heard(0, "EOF"), i.Entered(Status.SETUP), i.Printed("")]
    source = Scripted(reports)
    assert pump(source, Scripted()) == [
        Heard("destination", i.Start(), ()),
        Heard("source", i.Start(), tuple(reports)),
    ]
