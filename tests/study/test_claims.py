"""Every claim is decided by a run, and the committed page has what the run gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simlib import world
from simlib.case.scenario import Scenario, Side

pytest.importorskip("numpy")
from simlib.study import claims, detection, experiments
from simlib.study.registry import CLAIMS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "data" / "results" / "claims.md").read_text(encoding="utf-8")
MISSION = ("P1", "P2", "P3", "P4", "P4b", "P5-growth", "P5-strong", "P6", "P7", "P8", "D1", "D2", "D3", "D4")


def test_every_claim_of_the_thread_has_an_experiment() -> None:
    assert tuple(CLAIMS) == MISSION


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "P8" else n for n in MISSION])
def test_the_committed_pages_have_the_verdict_and_the_numbers_of_today(name: str) -> None:
    decided = list(claims.decide(world.run, {name: CLAIMS[name]}))
    assert claims.as_page(decided).splitlines()[-1] in PAGE, "run `make claims`"
    assert claims.as_summary(decided).splitlines()[3] in README, "run `make claims`"
    verdict = decided[0][1]
    assert verdict.command.startswith(("simlib ", "python ")) and verdict.numbers


@pytest.mark.slow
@pytest.mark.parametrize("name", MISSION)
def test_larger_grids_come_to_the_same_verdict(name: str) -> None:
    small, large = (next(claims.decide(world.run, {name: CLAIMS[name]}, full))[1] for full in (False, True))
    assert claims.verdict_text(small) == claims.verdict_text(large)


def test_a_claim_is_told_as_json_and_an_unknown_one_is_named() -> None:
    run = [sys.executable, "-m", "simlib", "claims"]
    report = json.loads(subprocess.run([*run, "D3", "--json"], capture_output=True, text=True, check=True).stdout)
    assert [t["claim"] for t in report] == ["D3"] and report[0]["verdict"] in claims.VERDICTS
    wrong = subprocess.run([*run, "P9"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "P5-strong" in wrong.stderr


def test_the_summary_is_put_between_its_markers_alone() -> None:
    page = f"above\n{claims.BEGIN}\nold\n{claims.END}\nbelow\n"
    assert claims.with_summary(page, f"{claims.BEGIN}\nnew\n{claims.END}") == page.replace("old", "new")
    with pytest.raises(ValueError, match="no markers"):
        claims.with_summary("nothing", "")


class Liar:
    """A runner whose v2 does what one of its rules forbids."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def __call__(self, scenario: Scenario, **named: Any) -> Any:
        from dataclasses import replace

        result = world.run(scenario, **named)
        if named["protocol"] == "v2":
            result.row = replace(result.row, **self.changes)
        return result


@pytest.mark.parametrize(
    ("decide", "changes"),
    [
        (experiments.nothing_set_there, {"outcome": "hung"}),
        (experiments.fails_with_a_reason, {"error_codes": "", "source_status": "failed", "outcome": "failed"}),
        (experiments.newer_source_skips, {"outcome": "failed"}),
        (experiments.newer_destination_understands, {"outcome": "failed"}),
        (detection.told_by_the_manager, {"outcome": "lost"}),
        (detection.no_destination_to_ask, {"outcome": "lost"}),
    ],
    ids=["P2", "P4", "P6", "P7", "D3", "D1"],
)
def test_a_claim_whose_runs_say_otherwise_is_refuted(decide: Any, changes: dict[str, Any]) -> None:
    assert decide(claims.ExperimentContext(Liar(**changes))).verdict == "refuted"


def test_round_trips_that_grow_with_channels_refute_p1() -> None:
    def run(scenario: Scenario, **named: Any) -> Any:
        result = world.run(scenario, **named)
        trips = 3 + scenario.source.parameters.get("multifd-channels", 0) / 64
        result.row = type(result.row)(**{**result.row.as_dict(), "round_trips": trips})
        return result

    assert experiments.one_phase(claims.ExperimentContext(run)).verdict == "refuted"


@pytest.mark.parametrize("name", ["compress", "xbzrle", "x-ignore-shared"])
def test_what_the_agreement_leaves_out_is_not_on_the_wire(name: str) -> None:
    odd = Scenario(name="odd", title="odd", source=Side(capabilities=(name,)))
    assert world.run(odd, protocol="v2", version="7.2").row.outcome == "migrated"
