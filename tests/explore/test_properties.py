"""Properties: one's own are checked like the lab's, and the lab's do not take a rival's guest for the source's."""

from __future__ import annotations

import pytest

from simlib.case.endpoints import Case
from simlib.case.files import find
from simlib.explore import PROPERTIES, Faults, Model, Property, System, search
from simlib.explore.state import SOURCE, State

NOTHING = Faults()


def model(faults: Faults = NOTHING, rival: bool = False) -> Model:
    return Model(Case(find("matched"), "v2", "10.0"), faults, rival=rival, compatible=not rival)


def never_active(system: System, state: State, final: bool) -> str:
    return "the source is active" if system.endpoint(state, SOURCE).status == "active" else ""


def test_a_property_of_one_s_own_is_checked_in_states_that_are_not_final() -> None:
    violations = search(model(), properties=[Property("never active", never_active)]).violations
    assert list(violations) == ["never active"]


def test_a_property_of_final_states_is_not_checked_in_others() -> None:
    assert not search(model(), properties=[Property("never active", never_active, "final")]).violations


def test_a_property_that_is_checked_at_an_unknown_time_is_refused() -> None:
    with pytest.raises(ValueError, match="write 'always' or 'final'"):
        Property("never active", never_active, "often")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "faults",
    [
        Faults(orders=("cancel",)),
        Faults(cuts=1),
        pytest.param(Faults(losses=1), marks=pytest.mark.slow),
        pytest.param(Faults(orders=("deadline",), losses=1), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_rival_s_guest_is_not_taken_for_the_source_s(faults: Faults) -> None:
    result = search(model(faults, rival=True), properties=PROPERTIES)
    assert result.complete
    assert not result.violations
