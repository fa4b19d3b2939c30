"""What a search asks of v1's endpoints: taken apart and put together again they are the same, in whatever order."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.buffer import Buffer
from simlib.handshake.endpoint import Decomposition
from simlib.handshake.machine import Settings
from simlib.handshake.v1.channels import Connection
from simlib.handshake.v1.destination import Destination
from simlib.handshake.v1.source import Source
from simlib.handshake.v1.states import Kind
from tests.handshake.builders import FEW, QUICK

CHANNELS = ("main", "multifd[0]", "multifd[1]")
NUMBERS = st.integers(-1, 3)
TUPLES = st.lists(NUMBERS, max_size=3, unique=True).map(lambda numbers: tuple(sorted(numbers)))
SOURCES = st.fixed_dictionaries(
    {
        "channels": st.integers(1, 3).map(lambda n: CHANNELS[:n]),
        "ready": TUPLES,
        "undrained": TUPLES,
        "broken": st.lists(
            st.tuples(NUMBERS, st.sampled_from(("reset", "pipe"))), max_size=2, unique_by=lambda b: b[0]
        ).map(lambda broken: tuple(sorted(broken))),
    }
)
CONNECTIONS = st.builds(
    Connection,
    st.sampled_from(sorted(set(Kind) - {Kind.CLOSED})),
    st.sampled_from((Buffer(), Buffer(b"Q"))),
    number=st.integers(-1, 1),
)
DESTINATIONS = st.fixed_dictionaries(
    {"connections": st.lists(CONNECTIONS, min_size=1, max_size=3).map(tuple), "held_by": st.none() | NUMBERS}
)
Fields = dict[str, object]
# values that no field of CONNECTIONS has
OTHER: dict[str, Any] = {"kind": Kind.CLOSED, "buffer": Buffer(b"R"), "ended": "reset", "number": 2, "left": 1}


def with_fields(endpoint: Source | Destination, fields: Fields) -> Source | Destination:
    vars(endpoint).update(fields)
    return endpoint


def connections_of(fields: Fields) -> tuple[Connection, ...]:
    connections = fields["connections"]
    assert isinstance(connections, tuple)
    return connections


def apart(endpoint: Source | Destination, fields: Fields) -> Decomposition:
    return with_fields(endpoint, fields).decomposition()


@QUICK
@given(SOURCES, st.sampled_from(("channels", "ready", "undrained", "broken", "")), NUMBERS)
def test_two_sources_that_are_taken_apart_alike_are_alike(one: Fields, name: str, number: int) -> None:
    """They differ in one fact."""
    facts = one.get(name, ())
    assert isinstance(facts, tuple)
    more = {"channels": "preempt", "broken": (number, "again")}.get(name, number)
    other = {**one, name: (*facts, more)} if name else {**one}
    parts = [apart(Source(Settings()), fields) for fields in (one, other)]
    assert (parts[0] == parts[1]) == (name == "")
    assert set(parts[0].fields) == set(one)


@QUICK
@given(DESTINATIONS, st.sampled_from(("kind", "buffer", "ended", "number", "left", "")), st.none() | NUMBERS)
def test_two_destinations_that_are_taken_apart_alike_are_alike(one: Fields, name: str, held_by: int | None) -> None:
    """They differ in one field of their last connection, and in which one holds the main loop up."""
    *rest, last = connections_of(one)
    changed = last._replace(**({name: OTHER[name]} if name else {}))
    other: Fields = {"connections": (*rest, changed), "held_by": held_by}
    parts = [apart(Destination(Settings()), fields) for fields in (one, other)]
    assert (parts[0] == parts[1]) == (one == other)
    assert set(parts[0].fields) == set(one)


@QUICK
@given(SOURCES, st.integers(0, 2), st.sampled_from(("ready", "undrained", "broken")))
def test_what_is_known_of_one_of_a_source_s_connections_says_nothing_of_the_others(
    fields: Fields, conn: int, name: str
) -> None:
    fields = {**fields, "channels": CHANNELS}
    numbers = fields[name]
    assert isinstance(numbers, tuple)
    changed = {**fields, name: (*numbers, (conn, "again") if name == "broken" else conn)}
    before, after = apart(Source(Settings()), fields), apart(Source(Settings()), changed)
    assert [c for c in range(3) if before.per_connection[c] != after.per_connection[c]] == [conn]
    assert before.shared == after.shared


@FEW
@given(DESTINATIONS, st.data())
def test_which_of_a_destination_s_connections_holds_it_up_is_known_of_that_one_alone(
    fields: Fields, data: st.DataObject
) -> None:
    numbers = st.integers(0, len(connections_of(fields)) - 1)
    one, other = data.draw(numbers), data.draw(numbers)
    parts = [apart(Destination(Settings()), {**fields, "held_by": conn}) for conn in (one, other)]
    differing = [c for c in parts[0].per_connection if parts[0].per_connection[c] != parts[1].per_connection[c]]
    assert differing == sorted({one, other} if one != other else ())
    assert parts[0].shared == parts[1].shared


@FEW
@given(SOURCES, st.permutations(range(3)))
def test_a_source_s_connections_are_taken_apart_each_for_itself(fields: Fields, order: list[int]) -> None:
    """Numbered in another order, each of them is described as before."""
    fields = {**fields, "channels": CHANNELS}
    renumbered: Fields = {"channels": tuple(CHANNELS[order.index(c)] for c in range(3))}
    for name in ("ready", "undrained"):
        numbers = fields[name]
        assert isinstance(numbers, tuple)
        renumbered[name] = tuple(order[c] if 0 <= c < 3 else c for c in numbers)
    broken = fields["broken"]
    assert isinstance(broken, tuple)
    renumbered["broken"] = tuple((order[c] if 0 <= c < 3 else c, text) for c, text in broken)
    before, after = apart(Source(Settings()), fields), apart(Source(Settings()), renumbered)
    assert {c: after.per_connection[order[c]] for c in range(3)} == before.per_connection
    assert after.shared == before.shared


@FEW
@given(st.lists(CONNECTIONS, max_size=4))
def test_a_destination_s_channels_are_the_connections_that_it_has_identified(connections: list[Connection]) -> None:
    endpoint = Destination(Settings())
    endpoint.connections = tuple(connections)
    expected = []
    for conn, connection in enumerate(connections):
        if connection.kind == Kind.MULTIFD:
            expected.append((f"multifd[{connection.number}]", conn))
        elif connection.kind in (Kind.MAIN, Kind.PREEMPT):
            expected.append((str(connection.kind), conn))
    assert endpoint.bound_channels() == tuple(expected)


def test_both_sides_speak_v1_and_have_no_handshake() -> None:
    for endpoint in (Source(Settings()), Destination(Settings())):
        assert (endpoint.speaks, endpoint.handshakes, endpoint.authenticates) == ("v1", False, False)
