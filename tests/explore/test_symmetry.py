"""The search's key holds every field that is not declared to be random or no state, so that no bit can hide from it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from simlib.case.endpoints import Case
from simlib.explore import Faults, Model, search
from simlib.explore.models import scenario, side, v2
from simlib.explore.models import v1 as v1_model
from simlib.explore.state import DESTINATION, SOURCE, State
from simlib.explore.system import System
from simlib.handshake.endpoint import ConnectionTable, declared, state_fields
from simlib.handshake.endpoint import State as Held
from simlib.handshake.names import Name
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.messages import ChannelOpen, Go

MODELS = {
    "v2": v2("v2", 1),
    "v2, postcopy": Model(Case(scenario("p", side(0, "postcopy-ram")), "v2", "10.0"), Faults(orders=("postcopy",))),
    "v1 7.2": v1_model("v1", "7.2", side(1)),
    "v1 11.1": v1_model("v1", "11.1", side(1, "return-path")),
}

CONFIGURATION = ("settings", "own_settings", "identity", "rules", "stances")  # large, and part of the key as a whole


def changes(value: Any) -> Iterator[tuple[str, Any]]:
    """The value with one bit more, in each place of it that is not declared; and where that was."""
    cls = type(value)
    if isinstance(value, Held):
        for name in state_fields(cls, tuple(vars(value))):
            if name not in declared(cls, "RANDOM") and name not in CONFIGURATION:
                for at, changed in changes(getattr(value, name)):
                    other = value.fork()
                    setattr(other, name, changed)
                    yield f"{cls.__name__}.{name}{at}", other
    elif isinstance(value, ConnectionTable):
        for key, inner in value.items():
            for at, changed in changes(inner):
                other = value.fork()
                other[key] = changed
                yield f"[{key}]{at}", other
    elif hasattr(value, "_fields") or is_dataclass(value):
        skipped = {*declared(cls, "RANDOM"), *declared(cls, "NON_STATE")}
        for name in getattr(value, "_fields", ()) or [f.name for f in fields(value)]:
            for at, changed in () if name in skipped else changes(getattr(value, name)):
                copy = value._replace if hasattr(value, "_fields") else lambda v=value, **values: replace(v, **values)
                yield f".{name}{at}", copy(**{name: changed})
    elif isinstance(value, tuple):
        yield from changed_items(value)
    elif value is None or isinstance(value, bool | int | str | bytes):
        yield "", changed_atom(value)


def changed_items(value: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """A tuple with one item more, and with each item changed."""
    if len({type(inner) for inner in value}) == 1:
        yield "[more]", (*value, value[-1])
    for n, inner in enumerate(value):
        for at, changed in changes(inner):
            yield f"[{n}]{at}", (*value[:n], changed, *value[n + 1 :])


def changed_atom(value: bool | int | str | bytes | None) -> Any:
    """Another value of the same kind."""
    if value is None:
        return 99
    if isinstance(value, bool):
        return not value
    if isinstance(value, Name):
        members = list(type(value))
        return members[(members.index(value) + 1) % len(members)]
    return value + 1 if isinstance(value, int) else value + type(value)("x" if isinstance(value, str) else b"x")


def stored(value: Any) -> Iterator[tuple[str, Any]]:
    """What stands in each place where `changes` puts a bit."""
    cls = type(value)
    if isinstance(value, Held):
        for name in state_fields(cls, tuple(vars(value))):
            if name not in declared(cls, "RANDOM") and name not in CONFIGURATION:
                yield from ((f"{cls.__name__}.{name}{at}", v) for at, v in stored(getattr(value, name)))
    elif isinstance(value, ConnectionTable):
        for key, inner in value.items():
            yield from ((f"[{key}]{at}", v) for at, v in stored(inner))
    elif hasattr(value, "_fields") or is_dataclass(value):
        skipped = {*declared(cls, "RANDOM"), *declared(cls, "NON_STATE")}
        for name in getattr(value, "_fields", ()) or [f.name for f in fields(value)]:
            if name not in skipped:
                yield from ((f".{name}{at}", v) for at, v in stored(getattr(value, name)))
    elif isinstance(value, tuple) and value:
        yield "[more]", value
        for n, inner in enumerate(value):
            yield from ((f"[{n}]{at}", v) for at, v in stored(inner))
    else:
        yield "", value


def reachable(system: System) -> list[State]:
    """One state for each endpoint that the reduced search of a system meets."""
    first: dict[int, State] = {}
    keys, waiting = set(), deque([system.initial()])
    while waiting:
        state = waiting.popleft()
        key = system.canonical.key(state)
        if key in keys:
            continue
        keys.add(key)
        for number in state.ends:
            first.setdefault(number, state)
        actions = list(system.actions(state))
        alone = next(([a] for a in actions if system.is_local_step(state, a)), actions)
        waiting.extend(system.step(state, action) for action in alone)
    return list(dict.fromkeys(first.values()))


@pytest.mark.parametrize("name", MODELS)
def test_a_bit_in_any_field_that_is_not_declared_changes_the_key(name: str) -> None:
    system = System(MODELS[name])
    places = set()
    for state in reachable(system)[::5]:
        key = system.canonical.key(state)
        for at in (SOURCE, DESTINATION):
            for place, changed in changes(system.endpoint(state, at)):
                if re.fullmatch(r"Destination\.bound\[\d+\]\[2\]", place):
                    continue  # the peer's nonce, which is random
                ends = list(state.ends)
                ends[at] = system.intern(at, changed)
                assert system.canonical.key(state._replace(ends=tuple(ends))) != key, place
                places.add(place)
    assert len(places) > 40


@pytest.mark.parametrize("name", ["v2", "v1 7.2"])
def test_a_field_that_is_declared_to_be_no_state_changes_no_output(name: str) -> None:
    """Every action from every state does the same, whatever stands in such a field."""
    system = System(MODELS[name])
    for state in reachable(system):
        for at in (SOURCE, DESTINATION):
            for action in system.actions(state):
                if system.acting_side(state, action) == at:
                    before = system.endpoint(state, at)
                    for other in without_state(before):
                        assert outputs(system, state, at, other, action) == outputs(system, state, at, before, action)


def without_state(endpoint: Any) -> Iterator[Any]:
    """The endpoint with something else in each field that is no state, its own or of what it holds."""
    other = endpoint.fork()
    other._out = [object()]
    yield other
    if hasattr(endpoint, "links"):
        other = endpoint.fork()
        for conn, link in endpoint.links.items():
            other.links[conn] = link._replace(reader=link.reader._replace(spent_bytes=link.reader.spent_bytes + 7))
        yield other


def outputs(system: System, state: State, at: int, endpoint: Any, action: Any) -> tuple[Any, ...]:
    """What an endpoint in this state's place says to an action."""
    connection = state.connections[action[1]] if action[0] in ("connect", "accept", "deliver") else None
    if action[0] == "guest":
        input = system.inputs[state.pending_replies[action[1]][1]]
    elif action[0] == "deliver" and connection is not None:
        number = (connection.there if at == DESTINATION else connection.back)[0]
        input = replace(system.inputs[number], conn=connection.accepted if at == DESTINATION else connection.number)
    else:
        return ()
    return tuple(endpoint.fork().handle(input))


class HiddenInLink(Destination):
    """Keeps one bit of the past in a field of a connection that means something else, and misbehaves by it."""

    def _channel_open(self, conn: int, opening: ChannelOpen) -> None:
        early = self.state == "started" and self.applied
        super()._channel_open(conn, opening)
        if conn in self.links and early:
            link = self.links[conn]
            self._set(conn, reader=link.reader._replace(ignored=link.reader.ignored + 1))

    def _go(self, conn: int, go: Go) -> None:
        if not any(link.reader.ignored > 1 for link in self.links.values()):
            super()._go(conn, go)


class NewField(Destination):
    """The same in a field of its own."""

    early = False

    def _channel_open(self, conn: int, opening: ChannelOpen) -> None:
        self.early = self.early or (self.state == "started" and self.applied)
        super()._channel_open(conn, opening)

    def _go(self, conn: int, go: Go) -> None:
        if not self.early:
            super()._go(conn, go)


@pytest.mark.parametrize("variant", [HiddenInLink, NewField])
@pytest.mark.parametrize("channels", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_both_searches_find_what_depends_on_a_hidden_bit(variant: type, channels: int) -> None:
    model = v2("v2", channels).playing(variant)
    plain, reduced = search(model, plain=True), search(model)
    assert set(plain.violations) == set(reduced.violations) == {"L1 no deadlock"}
