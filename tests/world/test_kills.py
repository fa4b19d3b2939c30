"""A process that dies: whenever it does, on whichever side, both runners report the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simlib import world
from simlib.case.files import find
from simlib.case.scenario import Fault, Scenario
from simlib.live.run import run as on_sockets

RUNNERS = {"world": world.run, "sockets": on_sockets}
MOMENTS = {
    "before": Fault("kill", before_start=True),
    "by time": Fault("kill", at_s=0.02),
    "by byte": Fault("kill", after_mib=8),
}
CASES = [(runner, protocol) for runner in RUNNERS for protocol in ("v1", "v2")]


def matched(fault: Fault) -> Scenario:
    return find("matched").vary(faults=(fault,))


@pytest.mark.parametrize(("runner", "protocol"), CASES)
def test_a_destination_that_is_dead_before_the_start_refuses_the_connection(runner: str, protocol: str) -> None:
    row = RUNNERS[runner](matched(MOMENTS["before"]), protocol=protocol).row
    assert (row.outcome, row.source_status, row.destination_status, row.guest_at) == (
        "failed",
        "failed",
        "gone",
        "source",
    )
    assert "Connection refused" in row.source_text


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("runner", "protocol"), CASES)
def test_a_killed_source_takes_its_guest_along_and_leaves_nothing_paused(
    runner: str, protocol: str, moment: str
) -> None:
    row = RUNNERS[runner](matched(replace(MOMENTS[moment], side="source")), protocol=protocol).row
    assert (row.outcome, row.source_status, row.guest_at) == ("gone", "gone", "nowhere")


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize("mib", [0, 1, 8, 63])
def test_a_source_that_is_killed_by_byte_has_sent_so_many_and_no_more(protocol: str, mib: int) -> None:
    result = world.run(matched(Fault("kill", side="source", after_mib=mib)), protocol=protocol)
    sent = sum(len(p.data) + p.fill for p in result.trace.packets if p.from_source)
    killed_s = next(s.time_s for s in result.trace.steps if s.text == "process is killed")
    assert sent >= mib << 20
    assert all(s.time_s <= killed_s for s in result.trace.steps if s.side == "source")


def test_a_source_that_dies_after_its_guest_has_arrived_does_not_undo_that() -> None:
    row = world.run(matched(Fault("kill", side="source", at_s=30.0)), protocol="v2").row
    assert (row.outcome, row.guest_at, row.source_status) == ("migrated", "destination", "gone")


@pytest.mark.parametrize("manager", ["naive", "libvirt"])
def test_no_manager_resumes_a_guest_whose_process_is_gone(manager: str) -> None:
    row = world.run(matched(Fault("kill", side="source", at_s=0.02)), protocol="v1", manager=manager).row
    assert (row.outcome, row.guest_at) == ("gone", "nowhere")
