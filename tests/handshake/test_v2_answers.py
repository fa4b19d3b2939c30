"""What rows and searches ask of v2's endpoints: each side's own view, from each moment on, and taken apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from simlib.handshake import interface as i
from simlib.handshake import stream
from simlib.handshake.v2 import frames
from simlib.handshake.v2.answers import Nonce
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.source import Source
from tests.handshake.builders import HERE, THERE, Talk, main_stream, outputs, sent, small

MULTIFD = small("multifd")


def ready() -> Talk:
    """After READY of a migration with multifd: main is connection 1, its lanes are 2 and 3."""
    return Talk(MULTIFD).until(destination="ready")


# --- what was negotiated --------------------------------------------------------------------------------------------
def test_a_source_knows_session_features_and_key_from_accept_on_and_a_destination_from_start_on() -> None:
    talk = Talk(MULTIFD).until(source="agreed")
    ours = talk.source.negotiated()
    assert set(ours) == {"session", "features", "extensions", "key"} and talk.destination.negotiated() == {}
    assert dict(ours["features"]) == {"final-ack": (), "multifd": (("channels", 2), ("compression", "none"))}  # type: ignore[call-overload]
    talk.until(destination="started")
    assert talk.destination.negotiated() == ours and ours["extensions"] == ()
    assert talk.until().destination.negotiated() == talk.source.negotiated() == ours


def test_before_that_nothing_was_negotiated() -> None:
    talk = Talk().until(source="offered")
    assert talk.source.negotiated() == talk.destination.negotiated() == {}
    assert not talk.source.sends_guest() and not talk.destination.unready() and not talk.destination.occupied()


def test_an_accept_that_was_not_believed_leaves_no_key() -> None:
    talk = Talk().until(source="offered")
    talk.until(destination="accepted")
    side, received = next((s, r) for s, r in talk.waiting if s is talk.source and isinstance(r, i.Received))
    assert isinstance(received, i.Received)
    outputs(side, replace(received, data=received.data.replace(b'"final-ack":{}', b'"final-ack":[]', 1)))
    assert talk.source.finished is not None and talk.source.finished.errors[0].code == "agreement-mismatch"
    assert "key" not in talk.source.negotiated() and "session" in talk.source.negotiated()


def test_another_psk_is_another_key_on_the_two_sides() -> None:
    talk = Talk(here=replace(HERE, psk=b"p" * 32), there=replace(THERE, psk=b"q" * 32)).until(source="agreed")
    assert talk.key != talk.destination.key_bytes
    same = Talk(here=replace(HERE, psk=b"p" * 32), there=replace(THERE, psk=b"p" * 32)).until(source="agreed")
    assert same.key == same.destination.key_bytes


# --- where a side is ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("state", "unready", "occupied"),
    [("listening", False, ""), ("accepted", True, "accepted"), ("started", True, "started"), ("ready", False, "ready")],
)
def test_a_destination_is_unready_from_accept_to_ready_and_occupied_by_its_state(
    state: str, unready: bool, occupied: str
) -> None:
    destination = Talk(MULTIFD).until(destination=state).destination
    assert (destination.unready(), destination.occupied()) == (unready, occupied)


@pytest.mark.parametrize(("begun", "occupied"), [(False, ""), (True, "")])
def test_one_that_has_begun_to_load_or_listens_again_blocks_nobody(begun: bool, occupied: str) -> None:
    destination = ready().destination
    outputs(destination, *([i.Received(1, stream.header(MULTIFD))] if begun else []))
    assert destination.occupied() == "ready"
    outputs(destination, i.Ended(0))
    assert destination.occupied() == occupied and (destination.finished is not None) == begun


def test_a_source_sends_its_guest_from_ready_on() -> None:
    talk = Talk().until(source="agreed")
    assert not talk.source.sends_guest()
    assert talk.until(source="ready").source.sends_guest()


def test_a_source_that_hears_its_own_nonce_hears_itself() -> None:
    source = Source(small(), HERE)
    assert not source.hears_itself()
    outputs(source, i.Start(), i.Opened(0))
    ours = source.links[0].nonce
    other = source.fork()
    outputs(source, i.Received(0, frames.preface(frames.RESPONDER, ours)))
    outputs(other, i.Received(0, frames.preface(frames.RESPONDER, bytes(16))))
    assert source.hears_itself() and not other.hears_itself()


def test_memory_is_counted_on_main_and_on_each_lane() -> None:
    destination = ready().destination
    outputs(destination, i.Received(2, stream.multifd_packet(1, "none", 4096), 4096))
    outputs(destination, i.Received(3, stream.multifd_packet(1, "none", 8192), 8000))
    outputs(destination, *(i.Received(1, data, fill) for data, fill in main_stream(MULTIFD, [4096])[:2]))
    assert destination.ram_bytes == 4096 + 8000 + 4096


def test_channels_are_bound_in_the_order_in_which_they_have_proved_themselves() -> None:
    talk = ready()
    assert talk.destination.bound_channels() == (("main", 1), ("multifd[0]", 2), ("multifd[1]", 3))
    assert (talk.source.speaks, talk.source.authenticates, talk.source.handshakes) == ("v2", True, True)


# --- taken apart ----------------------------------------------------------------------------------------------------
def changed(side: Source | Destination, fields: dict[str, Any]) -> tuple[set[object], bool]:
    """Connections whose description changes with these fields, and whether what is shared does."""
    before, other = side.decomposition(), side.fork()
    vars(other).update(fields)
    after = other.decomposition()
    assert set(before.fields) <= set(vars(side)) and before.fields == after.fields
    keys = set(before.per_connection) | set(after.per_connection)
    differing = {c for c in keys if before.per_connection.get(c) != after.per_connection.get(c)}
    return differing, before.shared != after.shared


@pytest.mark.parametrize(
    ("fields", "connections", "shared"),
    [
        ({"agreed": ("main", "multifd[0]")}, {3}, False),
        ({"agreed": ("main", "multifd[0]", "multifd[1]", "x")}, set(), True),
        ({"agreed": ("main", "main", "multifd[0]", "multifd[1]")}, {1}, False),
        ({"undrained": (2, 3)}, {1, 2, 3}, False),
        ({"undrained": (1, 9)}, set(), True),
        ({"channels": ("control", "main", "multifd[1]", "multifd[0]")}, {2, 3}, False),
        ({"channels": ("control", "main", "multifd[0]", "multifd[1]", "x")}, set(), True),
        ({"channels": ("control", "main", "multifd[0]")}, {3}, True),
    ],
)
def test_a_fact_of_one_connection_of_a_source_is_known_of_that_one_alone(
    fields: dict[str, Any], connections: set[int], shared: bool
) -> None:
    source = Talk(MULTIFD).until(source="ready").source
    assert source.undrained == (1,) and changed(source, {}) == (set(), False)
    assert changed(source, fields) == (connections, shared)
    parts = source.decomposition()
    assert parts.fields == ("links", "channels", "agreed", "undrained")
    assert [c for c, facts in parts.per_connection.items() if facts[0]] == [0], "control"
    link = source.links[2]._replace(kind="other")
    links = source.links.fork()
    links[2] = link
    assert changed(source, {"links": links}) == ({2}, False)


def test_a_fact_of_one_connection_of_a_destination_is_known_of_that_one_alone() -> None:
    destination = ready().destination
    bound = destination.bound
    parts = destination.decomposition()
    assert parts.fields == ("links", "control", "bound", "lanes")
    assert [c for c, facts in parts.per_connection.items() if facts[0]] == [0]
    assert parts.per_connection[1][2][0] == (("main", Nonce(bound[0][2])),)
    assert changed(destination, {"control": 1}) == ({0, 1}, False)
    assert changed(destination, {"control": 9}) == ({0}, True)
    assert changed(destination, {"bound": bound[1:]}) == ({1}, False)
    assert changed(destination, {"bound": (*bound, ("x", 9, "00"))}) == (set(), True)
    lanes = destination.lanes.fork()
    lanes[2] = lanes[2].add(b"x")
    assert changed(destination, {"lanes": lanes}) == ({2}, False)
    lanes = destination.lanes.fork()
    lanes[9] = lanes[2]
    assert changed(destination, {"lanes": lanes}) == (set(), True)
    assert changed(destination, {"main_bytes": 1}) == (set(), True), "a property looks at all memory together"


def test_a_stranger_to_a_destination_is_a_connection_of_its_own() -> None:
    destination = ready().destination
    fork = destination.fork()
    assert sent(outputs(fork, i.Opened(9))) == []
    assert set(fork.decomposition().per_connection) - set(destination.decomposition().per_connection) == {9}
