"""What holds in every order of events, and the shortest story of what does not.

State counts are pinned by data/results/ordering.md: a changed one means a changed protocol, and is read before it is
rewritten (`make results`). v2 has few states because nothing that only one side knows of one connection multiplies
the rest, and because like channels are exchangeable: they grow with the ways to spread n channels over what a channel
can be doing, not with its power.
"""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import pytest

from simlib import world
from simlib.case.files import dumps, load
from simlib.explore import Faults, Model, Search, search
from simlib.explore.detection import detects, pairs
from simlib.explore.models import SearchCase, cases, v1_cases, v1_mismatches, v2, variant_cases
from simlib.explore.mutants import Mutant, mutants
from simlib.explore.report import Line, models_table, mutants_table, page, search_cases, search_mutants
from simlib.explore.story import as_scenario, replay, to_the_end

ORDERING = Path(__file__).resolve().parents[2] / "data" / "results" / "ordering.md"
CASES = cases()


def named(value: object) -> str:
    return getattr(value, "name", "") or getattr(value, "rule", "")


PAGE = ORDERING.read_text(encoding="utf-8").splitlines()
STATES = {name[2:]: states for name, states in (row.split(" | ")[:2] for row in PAGE if row.count(" | ") == 3)}


def large(case: SearchCase) -> bool:
    repeats = "8 multifd" in case.name and case.name not in ("v1 7.2, 8 multifd", "v2, 8 multifd")
    return repeats or int(STATES.get(case.name, "0").replace(",", "")) > 10_000


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * large(c)) for c in CASES], ids=named)
def test_a_model_breaks_what_it_is_said_to_break_and_nothing_else(case: SearchCase) -> None:
    result = search(case.model)
    assert result.complete
    assert set(result.violations) == set(case.breaks)
    assert models_table([Line(case, result)])[-1] in PAGE


@pytest.mark.parametrize("mutant", mutants(), ids=named)
def test_without_a_rule_its_property_notices(mutant: Mutant) -> None:
    assert search(mutant.model).violations == {}
    result = search(mutant.mutated(), stop_at=mutant.killed_by)
    assert mutants_table([(mutant, result)])[-1] in PAGE


@pytest.mark.slow
def test_the_page_of_results_is_what_is_found() -> None:
    assert page(list(search_cases()), list(search_mutants())) == ORDERING.read_text(encoding="utf-8")


# --- the reductions -------------------------------------------------------------------------------------------------
# Of these the plain search has more than 400,000 states (v1 10.0 with 4 channels: more than 1,500,000 in four minutes).
TOO_LARGE = ("4 multifd", "8 multifd", "duplicate and cut", "2 multifd, buffers")
QUICK = ("v1 7.2", "v1 10.0", "(a)", "(d)", "v2, 0", "v2, inline", "v2, postcopy", "v2, echo", "v2, adaptive")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=[] if c.name.startswith(QUICK) and not large(c) else [pytest.mark.slow])
        for c in CASES
        if not any(words in c.name for words in TOO_LARGE)
    ],
    ids=named,
)
def test_the_reductions_change_no_verdict_and_no_ending(case: SearchCase) -> None:
    plain, reduced = search(case.model, plain=True), search(case.model)
    assert plain.complete and reduced.complete and reduced.states <= 2 * plain.states
    assert set(plain.violations) == set(reduced.violations) and set(plain.endings) == set(reduced.endings)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", mutants(), ids=named)
def test_a_mutant_that_the_plain_search_kills_the_reduced_one_kills_as_soon(mutant: Mutant) -> None:
    plain, reduced = (search(mutant.mutated(), plain=p, stop_at=mutant.killed_by) for p in (True, False))
    shortest, violation = plain.violations[mutant.killed_by], reduced.violations[mutant.killed_by]
    assert shortest.text.split()[0] == violation.text.split()[0] and len(shortest.path) <= len(violation.path)


def test_a_faulty_v2_link_is_the_same_plain_and_reduced() -> None:
    for faults in (Faults(cuts=1), Faults(losses=1), Faults(intruders=("garbage", "replay"))):
        plain, reduced = (search(v2("v2", 0, faults), plain=p) for p in (True, False))
        assert plain.complete and not plain.violations and not reduced.violations
        assert set(plain.endings) == set(reduced.endings)


# --- stories --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", [*v1_cases(), *v1_mismatches(), *variant_cases()], ids=named)
def test_each_counterexample_ends_the_same_way_in_the_simulated_world(case: SearchCase, tmp_path: Path) -> None:
    for violation in search(case.model).violations.values():
        path = to_the_end(case.model, violation.path)
        expected = replay(case.model, path)[1]
        file = tmp_path / "story.toml"
        file.write_text(dumps(as_scenario(case.model, path, "story", violation.text)), encoding="utf-8")
        row = world.run(load(file), protocol=case.model.setup.protocol).row
        ended = row.source_status if row.source_status in ("completed", "failed", "cancelled") else "waits"
        at = row.guest_at.replace("nowhere", "paused")
        assert (ended, at) == (expected.source, expected.guest_at), violation.name


def test_the_shortest_story_of_7_2_is_one_swap() -> None:
    case = next(c for c in CASES if c.name == "v1 7.2, 1 multifd")
    violation = search(case.model).violations["S6 same channels"]
    assert violation.text == "multifd[0] is taken for main" and len(violation.path) == 2


# --- what a search says of itself -----------------------------------------------------------------------------------
def test_a_search_that_is_cut_short_says_so() -> None:
    result = search(v2("v2", 1, Faults(cuts=1)), limit=500)
    assert not result.complete and result.states <= 500


def test_a_livelock_is_a_cycle_and_is_found() -> None:
    explorer = Search(v2("v2", 0))
    explorer.run()
    explorer.targets[explorer.first[5]] = 1
    explorer._check_cycles()
    assert "L2 no livelock" in explorer.result.violations


def test_nobody_can_tell_a_pipe_from_a_slow_path_and_two_strategies_need_not() -> None:
    assert all(p.same for p in pairs())
    assert detects("d'") == ("v1", "v2")


def test_a_cut_after_go_leaves_the_source_uncertain_and_one_guest_at_most() -> None:
    result = search(v2("v2", 0, Faults(cuts=1)))
    assert {at for status, at in result.endings if status == "uncertain"} == {"paused", "destination"}
    assert {at for status, at in result.endings if status == "failed"} == {"source"}


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "states"), [(3, 44579), (5, 104023), (6, 147996), (7, 203531), (8, 272174)])
def test_v2_holds_with_a_stranger_a_duplicate_and_a_cut_at_any_moment(channels: int, states: int) -> None:
    """1, 2 and 4 channels are among the models above."""
    model: Model = replace(v2("v2", channels), faults=Faults(cuts=1, intruders=("garbage", "replay")))
    result = search(model)
    assert result.complete and result.violations == {} and result.states == states
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 << 20  # KiB
