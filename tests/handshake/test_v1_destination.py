"""What v1's destination waits for, whichever of its threads is late."""

from __future__ import annotations

import pytest

from simlib.case.files import find
from simlib.case.scenario import Fault, Scenario
from simlib.handshake.versions import BEHAVIOURS
from simlib.world import run

VERSIONS = [".".join(map(str, b.since)) for b in BEHAVIOURS]
PREEMPT_VERSIONS = ["7.2", *(v for v in VERSIONS if v not in ("5.2", "6.1"))]  # the capability came with 7.1


def assert_migrates(scenario: Scenario, version: str, at_least_s: float) -> None:
    row = run(scenario, protocol="v1", version=version).row
    assert (row.outcome, row.guest_at) == ("migrated", "destination")
    assert row.time_to_outcome_s is not None and row.time_to_outcome_s > at_least_s


@pytest.mark.parametrize("version", VERSIONS)
def test_a_postcopy_completes_only_when_the_devices_are_loaded_however_early_its_memory_is_there(version: str) -> None:
    assert_migrates(find("matched_postcopy").vary(guest__load_ms=10_000.0), version, 10)


@pytest.mark.parametrize("version", PREEMPT_VERSIONS)
def test_a_postcopy_waits_for_a_preempt_channel_that_is_late(version: str) -> None:
    late = Fault("delay-accept", connection="preempt", for_s=5.0)
    assert_migrates(find("matched_preempt").vary(faults=(late,)), version, 5)
