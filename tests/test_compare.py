"""The table of `simlib compare`: what may stand in it, and that each claim has its scenarios."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest

from simlib.case.files import load_all
from simlib.record.compare import finish, jobs, run_all
from simlib.record.outcome import BAD, COLUMNS, Row
from simlib.world import run

CLAIMS = ("P1", "P2", "P3", "P4", "P5-growth", "P5-strong", "P6", "P7", "P8", "D1", "D2", "D3", "D4")


@cache
def rows() -> tuple[Row, ...]:
    return tuple(
        run(j.scenario, protocol=j.protocol, version=j.version, manager=j.manager, seed=1).row for j in jobs(load_all())
    )


def test_v2_never_hangs_loses_corrupts_or_misleads() -> None:
    assert [r for r in rows() if r.protocol == "v2" and r.outcome in BAD and not r.lied] == []


def test_every_v2_failure_reaches_the_source_with_a_code() -> None:
    silent = [r for r in rows() if r.protocol == "v2" and r.outcome in ("refused", "failed", "uncertain")]
    assert [r for r in silent if not r.error_codes and r.source_status != "rejected"] == []


def test_v1_shows_each_of_its_known_ways_to_fail() -> None:
    assert {"hung", "lost", "misconfigured", "corrupted", "failed"} <= {r.outcome for r in rows() if r.protocol == "v1"}


def test_a_libvirt_like_manager_saves_the_guest_that_a_naive_one_loses() -> None:
    lost = [r for r in rows() if r.outcome == "lost" and r.protocol == "v1"]
    assert {r.guest_at for r in lost if r.manager == "naive"} == {"nowhere"}
    assert "nowhere" not in {r.guest_at for r in lost if r.manager == "libvirt"}


def test_every_picture_and_trace_that_the_page_names_was_written(tmp_path: Path) -> None:
    chosen = [s for s in load_all() if "d'" in s.protocols]
    outcomes = list(run_all(run, jobs(chosen), tmp_path, 1))
    finish(outcomes, chosen, tmp_path, "")
    named = re.findall("(?:src|href)='([^']*/[^']*)'", (tmp_path / "index.html").read_text(encoding="utf-8"))
    assert named and [n for n in named if not (tmp_path / unquote(n)).exists()] == []


@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_v2_is_as_good_on_other_seeds(seed: int) -> None:
    for job in jobs(load_all()):
        if job.protocol == "v2" and not job.scenario.management.lies:
            row = run(job.scenario, protocol="v2", version=job.version, manager=job.manager, seed=seed).row
            assert row.outcome not in BAD, row


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_has_a_scenario(claim: str) -> None:
    assert any(claim in s.claims for s in load_all())


def test_columns_are_those_that_readers_rely_on() -> None:
    assert COLUMNS[:17] == (
        "scenario",
        "protocol",
        "manager",
        "source_version",
        "destination_version",
        "seed",
        "outcome",
        "source_status",
        "destination_status",
        "guest_at",
        "reason_at_source",
        "error_codes",
        "time_to_outcome_s",
        "time_to_first_guest_byte_s",
        "round_trips",
        "guest_bytes_sent",
        "downtime_s",
    )
