"""Variants of the endpoints that store one bit somewhere when events come in an unusual order, and go wrong by it: the
plain and the reduced search must both see that, wherever the bit stands.

The places are found by introspection: every field of every object that an endpoint holds, but those that are declared
to be random or no state, and a field that the class does not have.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from simlib.explore import Model, search
from simlib.explore.properties import Property
from simlib.explore.state import DESTINATION, SOURCE, State
from simlib.explore.system import System
from simlib.handshake import interface as i
from tests.explore.test_symmetry import MODELS, changes, reachable

SIDES = {SOURCE: "source", DESTINATION: "destination"}
NEW_FIELD = "a field that the class does not have"


def unusual(endpoint: Any, side: int, input: i.Input) -> bool:
    """An order of events that some runs have and others do not; it treats channels of one kind alike."""
    if not isinstance(input, i.Opened):
        return False
    if side == SOURCE:  # main is connected after another channel
        names = endpoint.channels
        return input.conn < len(names) and names[input.conn] == "main" and input.conn > 0
    links = getattr(endpoint, "links", None)
    if links is not None:  # somebody has yet to say who it is
        return sum(link.kind == "new" for link in links.values()) > 1
    return len(endpoint.connections) > 1


def varied(model: Model, side: int, place: str) -> Model:
    """The model with an endpoint that stores a bit at a place in that order."""

    usual = type(model.setup.source() if side == SOURCE else model.setup.destination())
    return replace(model.playing(_variant(usual, side, place)), compatible=False)


def _variant(usual: type, side: int, place: str) -> type:
    def handle(self: Any, input: i.Input) -> list[i.Output]:
        if self.marked:  # it hears nothing any more
            return []
        outputs = usual.handle(self, input)  # type: ignore[attr-defined]
        if unusual(self, side, input):
            self.marked = True
            if place == NEW_FIELD:
                self.bit = 1
            else:
                other = next((changed for at, changed in changes(self) if at.partition(".")[2] == place), None)
                self.marked = other is not None
                vars(self).update(vars(other) if other is not None else {})
                self._out = []
        return outputs

    fields = {"handle": handle, "marked": False, "NON_STATE": {**usual.NON_STATE, "marked": "it only tells the test"}}  # type: ignore[attr-defined]
    return type(usual.__name__, (usual,), fields)


def goes_wrong(side: int) -> Property:
    def check(system: System, state: State, final: bool) -> str:
        return "the bit is set" if getattr(system.endpoint(state, side), "marked", False) else ""

    return Property("the bit", check)


def places(name: str, side: int) -> list[str]:
    """Every place where an endpoint of a model can hold a bit, at some moment."""
    system = System(MODELS[name])
    found: dict[str, None] = {NEW_FIELD: None}
    for state in reachable(system):
        for at, _ in changes(system.endpoint(state, side)):
            found.setdefault(at.partition(".")[2])
    return [place for place in found if place != "finished"]  # who has ended hears nothing anyway


def cases() -> Iterator[Any]:
    for name, side in (("v2", SOURCE), ("v2", DESTINATION), ("v1 7.2", DESTINATION)):
        every = places(name, side)
        fast = {NEW_FIELD, *random.Random(f"{name} {side}").sample(every, 4)}
        for place in every:
            marks = () if place in fast else (pytest.mark.slow,)
            yield pytest.param(name, side, place, id=f"{name}, {SIDES[side]}, {place}", marks=marks)


@pytest.mark.parametrize(("name", "side", "place"), list(cases()))
def test_a_bit_that_is_stored_anywhere_is_seen_by_both_searches(name: str, side: int, place: str) -> None:
    model, properties = varied(MODELS[name], side, place), (goes_wrong(side),)
    plain, reduced = (search(model, plain=p, properties=properties) for p in (True, False))
    assert plain.complete and reduced.complete
    assert set(plain.violations) == set(reduced.violations)


def test_most_of_these_variants_do_go_wrong() -> None:
    """Else the test above would hold for searches that see nothing."""
    tried = places("v2", DESTINATION)[:12]
    models = [varied(MODELS["v2"], DESTINATION, place) for place in tried]
    wrong = [search(model, properties=(goes_wrong(DESTINATION),)).violations for model in models]
    assert sum("the bit" in violations for violations in wrong) > len(tried) / 2
