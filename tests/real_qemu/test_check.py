"""The simulated v1 is QEMU's v1: every scenario that two real QEMUs can play ends in the world as it ends there."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from simlib import world
from simlib.case.checks import pair
from simlib.case.endpoints import Case
from simlib.case.files import find, load_all
from simlib.case.profiles import DATA
from simlib.case.scenario import Scenario
from simlib.cli import qemu as command
from simlib.real_qemu import check as checking
from simlib.real_qemu.check import KNOWN, Cell, Checker, Work, left_out, work
from simlib.real_qemu.guest import BASE, PAGE, wrong_pages
from simlib.real_qemu.monitor import QemuError, Unavailable
from simlib.real_qemu.run import play

from .situations import pairs, situation

VERSIONS = {"7.2": "", "10.0": ""}  # those that CI has; what is not here is left out loudly
CELLS = [c for c in work(load_all(), VERSIONS, ("v1", "v2")) if not left_out(c[0], c[2])]
FIRST = (
    "matched",
    "device_only_at_source",
    "order_multifd_first",
    "stranger_multifd",
    "cut_midway",
    "exec_cat",
    "destination_killed",
    "tls_only_at_source",
    "machine_type_differs",
    "ram_size_differs",
)


RACES = {
    17: pytest.mark.xfail(
        strict=False,
        reason="a guest of 1 MiB may be sent whole before 7.2's threads meet the other "
        "compression, and then hangs: the world's threads read at once",
    )
}


# How else real QEMU ends, for each reason that is known: all that was ever measured.
OTHERWISE = {
    checking.RELAYED: {("refused", "source", "specific")},
    checking.ZERO_WINDOW: {("hung", "source", "none")},
    checking.SLICE: {("failed", "source", "generic")},
    checking.CANCEL: {("hung", "source", "none")},
    checking.UNUSED_POSTCOPY: {("corrupted", "destination", "none")},
}


def agrees(scenario: Scenario, version: str, protocol: str, qemus: dict[str, str]) -> None:
    cell = Checker(world.run, qemus, repeats=1).cell((scenario, version, protocol))
    assert not (cell.left_out or cell.error), cell
    known = OTHERWISE.get(KNOWN.get((scenario.name, protocol), ""), set())
    assert set(cell.real) <= {*cell.simulated, *known} and cell.real, cell


@pytest.mark.parametrize(
    ("scenario", "version", "protocol"),
    [c for c in CELLS if c[0].name in FIRST],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_real_qemu_ends_as_the_simulated_one(
    scenario: Scenario, version: str, protocol: str, qemus: dict[str, str]
) -> None:
    agrees(scenario, version, protocol, qemus)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "version", "protocol"),
    [c for c in CELLS if c[0].name not in FIRST],
    ids=lambda x: x if isinstance(x, str) else x.name,
)
def test_real_qemu_ends_as_the_simulated_one_everywhere_else(
    scenario: Scenario, version: str, protocol: str, qemus: dict[str, str]
) -> None:
    agrees(scenario, version, protocol, qemus)


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(n, marks=RACES.get(n, ())) for n in range(1, 31)])
def test_a_situation_that_nobody_wrote_down_ends_as_in_the_world(number: int, qemus: dict[str, str]) -> None:
    agrees(*situation(number, pairs(VERSIONS)), qemus)


def test_a_cell_of_which_nothing_ran_does_not_agree() -> None:
    assert not Cell("matched", "7.2", "v1", (), (), "", "", None, 0).agrees


def raising(error: Exception, name: str) -> Any:
    """`play`, as the world plays it but for one scenario."""

    async def played(setup: Case, _: dict[str, str]) -> Any:
        if setup.scenario.name == name:
            raise error
        return world.run(setup.scenario, protocol=setup.protocol, version=setup.version, seed=setup.seed)

    return played


@pytest.mark.parametrize(
    "error",
    [
        struct.error("unpack_from requires a buffer"),
        ConnectionResetError(104, "reset"),
        QemuError("it is\nblocked"),
        OSError(28, "No space left on device"),
        AssertionError(),
        KeyError("status"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_cell_in_which_anything_is_raised_is_a_row_of_its_own_kind_and_the_rest_runs(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checking, "play", raising(error, "matched"))
    monkeypatch.setattr(checking, "ProcessPoolExecutor", ThreadPoolExecutor)
    monkeypatch.setattr(command, "needed", lambda _: {"10.0": "qemu"})
    options = Namespace(
        scenario=["matched", "device_only_at_source"],
        binary=[],
        protocol=None,
        qemu=["10.0"],
        repeats=1,
        captures=None,
        jobs=2,
        out=tmp_path / "table.txt",
        json=False,
    )
    assert command.check(options) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines[1:3]] == [
        ["matched", "v1", "10.0", "ERROR"],
        ["device_only_at_source", "v1", "10.0", "yes"],
    ]
    assert lines[-1].endswith("1 agree, 0 differ; 0 could not be run; 1 ended with an error") and len(lines) == 5
    broken, good = json.loads((tmp_path / "table.json").read_text())
    assert broken["error"] and not broken["left_out"] and not broken["agrees"] and good["agrees"]


def test_a_qemu_that_can_not_be_run_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "play", raising(Unavailable("QEMU 7.2 is not here"), "matched"))
    cell = Checker(world.run, {}, 1).cell((find("matched"), "7.2", "v1"))
    assert (cell.left_out, cell.error) == ("QEMU 7.2 is not here", "")


class Dying(Checker):
    def cell(self, work: Work) -> Cell:
        os._exit(1)


def test_a_process_of_the_check_that_dies_is_told_in_every_row_that_is_missing() -> None:
    cells = [(find("matched"), "7.2", "v1"), (find("exec_cat"), "7.2", "v1")]
    assert [c.scenario for c in checking.check(Dying(world.run, {}), cells) if "killed" in c.error] == [
        "matched",
        "exec_cat",
    ]


@pytest.mark.parametrize("recorded", ["qemu-check", "qemu-versions"])
def test_there_are_many_cells_and_few_differ_each_for_a_reason_that_is_known(recorded: str) -> None:
    cells = [c for c in json.loads((DATA / f"results/{recorded}.json").read_text()) if not c["left_out"]]
    differ = [c for c in cells if not c["agrees"]]
    assert len(CELLS) >= 60 and len(cells) >= 300 and len(differ) <= len(cells) // 50
    assert all(c["reason"] == KNOWN[c["scenario"], c["protocol"]] for c in differ)
    assert all({*map(tuple, c["real"])} <= {*map(tuple, c["simulated"])} | OTHERWISE[c["reason"]] for c in differ)
    assert len(KNOWN) <= 8


def test_the_tap_reads_what_the_world_says_on_the_return_path(qemus: dict[str, str]) -> None:
    scenario = find("device_only_at_source_return_path")
    for version in ("7.2", "10.0"):
        real = asyncio.run(play(Case(scenario, "v1", version), qemus)).trace
        simulated = world.run(scenario, protocol="v1", version=version).trace
        ours, theirs = (
            [s.text for s in trace.steps if s.side == "destination" and s.kind == "say"] for trace in (real, simulated)
        )
        # SHUT 1 may be lost in the reset behind it, in QEMU as in the world (over seeds)
        assert ours in (theirs, theirs[:-1]) and ours[0] == "PONG 1", (pair(version), ours, theirs)


def test_the_guest_s_memory_shows_a_page_that_is_missing_old_or_torn() -> None:
    def page(number: int, counter: int) -> bytes:
        return (
            counter.to_bytes(4, "little") + (counter ^ (BASE + number * PAGE)).to_bytes(4, "little") + bytes(PAGE - 8)
        )

    good = b"".join(page(n, (9, 9, 8, 8, 1, 1)[n]) for n in range(6))  # four pages rewritten, up to the second
    assert wrong_pages(good, 4 * PAGE) == []
    for number, bad in ((1, bytes(PAGE)), (3, page(3, 7)), (5, page(5, 2)), (0, page(1, 9)), (4, bytes(PAGE))):
        assert number in wrong_pages(good[: number * PAGE] + bad + good[(number + 1) * PAGE :], 4 * PAGE)
