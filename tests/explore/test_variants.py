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
from tests.explore.test_symmetry import MODELS, changes, reachable, stored

SIDES = {SOURCE: "source", DESTINATION: "destination"}
NEW_FIELD = "a field that the class does not have"


def unusual(endpoint: Any, side: int) -> bool:
    """Another channel is there before main. Most runs come to the same state in the usual order, too, so that only the
    bit tells the two apart; and channels of one kind are treated alike."""
    names = endpoint.agreed if side == SOURCE else [name for name, _ in endpoint.bound_channels()]
    return "main" not in names and any(name.startswith("multifd") for name in names)


def varied(model: Model, side: int, place: str) -> Model:
    """The model with an endpoint that stores a bit at a place in that order."""

    usual = type(model.setup.source() if side == SOURCE else model.setup.destination())
    return replace(model.playing(_variant(usual, side, place)), compatible=False)


def _variant(usual: type, side: int, place: str) -> type:
    def handle(self: Any, input: i.Input) -> list[i.Output]:
        if self.deaf:
            return []
        try:
            outputs = usual.handle(self, input)  # type: ignore[attr-defined]
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ):  # by what stands in the field
            self.deaf = True  # by what stands in the field
            return []
        if self.bit_is is None and unusual(self, side):
            self.bit_is = _store(self, place)
        return outputs  # type: ignore[no-any-return]

    reasons = {**usual.NON_STATE, "bit_is": "it only tells the test"}  # type: ignore[attr-defined]
    fields = {"handle": handle, "bit_is": None, "deaf": False, "NON_STATE": reasons}
    return type(usual.__name__, (usual,), fields)


def _store(endpoint: Any, place: str) -> Any:
    """What stands there now, with the bit; None where there is no such place yet."""
    if place == NEW_FIELD:
        endpoint.bit = 1
        return 1
    other = next((changed for at, changed in changes(endpoint) if at.partition(".")[2] == place), None)
    if other is None:
        return None
    vars(endpoint).update(vars(other) | {"_out": endpoint._out})
    return _at(endpoint, place)


def _at(endpoint: Any, place: str) -> Any:
    if place == NEW_FIELD:
        return getattr(endpoint, "bit", None)
    return next((value for at, value in stored(endpoint) if at.partition(".")[2] == place), None)


def goes_wrong(side: int, place: str) -> Property:
    """The bit is still there in the end, long after all else has forgotten the order of events."""

    def check(system: System, state: State, final: bool) -> str:
        endpoint = system.endpoint(state, side)
        bit_is = getattr(endpoint, "bit_is", None)
        return "the bit is set" if bit_is is not None and _at(endpoint, place) == bit_is else ""

    return Property("the bit", check, "final")


def places(name: str, side: int) -> list[str]:
    """Every place where an endpoint of a model can hold a bit, at some moment."""
    system = System(MODELS[name])
    names: dict[str, None] = {NEW_FIELD: None}
    for state in reachable(system):
        for at, _ in changes(system.endpoint(state, side)):
            names.setdefault(at.partition(".")[2])
    return [place for place in names if place != "finished"]  # who has ended hears nothing anyway


def cases() -> Iterator[Any]:
    for name, side in (("v2", SOURCE), ("v2", DESTINATION), ("v1 11.1", DESTINATION)):
        every = places(name, side)
        fast = {NEW_FIELD, *random.Random(f"{name} {side}").sample(every, 4)}
        for place in every:
            marks = () if place in fast else (pytest.mark.slow,)
            yield pytest.param(name, side, place, id=f"{name}, {SIDES[side]}, {place}", marks=marks)


@pytest.mark.parametrize(("name", "side", "place"), list(cases()))
def test_a_bit_that_is_stored_anywhere_is_seen_by_both_searches(name: str, side: int, place: str) -> None:
    model, properties = varied(MODELS[name], side, place), (goes_wrong(side, place),)
    plain, reduced = (search(model, plain=p, properties=properties) for p in (True, False))
    assert plain.complete and reduced.complete
    assert set(plain.endings) == set(reduced.endings)
    if _of_its_own(name, side, place):
        pytest.skip("the endpoint sets this bit itself sooner or later: both orders end in equal states")
    assert set(plain.violations) == set(reduced.violations)
    assert place != NEW_FIELD or "the bit" in reduced.violations


def _of_its_own(name: str, side: int, place: str) -> bool:
    """Whether the place holds a flag that an unchanged endpoint sets, too."""
    return any(at == place and value is True for at, value in _every(name, side))


def _every(name: str, side: int) -> Iterator[tuple[str, Any]]:
    system = System(MODELS[name])
    for state in reachable(system):
        yield from ((at.partition(".")[2], value) for at, value in stored(system.endpoint(state, side)))


def test_some_of_these_variants_do_go_wrong() -> None:
    """Else the test above would hold for searches that see nothing. Elsewhere the bit is overwritten before the end."""
    tried = places("v2", DESTINATION)[:12]
    wrong = [
        search(varied(MODELS["v2"], DESTINATION, place), properties=(goes_wrong(DESTINATION, place),)).violations
        for place in tried
    ]
    assert sum("the bit" in violations for violations in wrong) >= 3
