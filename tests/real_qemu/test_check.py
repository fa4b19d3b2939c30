"""The simulated v1 is QEMU's v1: every scenario that two real QEMUs can play ends in the world as it ends there."""

from __future__ import annotations

import asyncio
import json

import pytest

from simlib import world
from simlib.checks import pair
from simlib.endpoints import Setup
from simlib.profiles import DATA
from simlib.real_qemu.check import KNOWN, Cell, Checker, left_out, work
from simlib.real_qemu.guest import BASE, PAGE, wrong_pages
from simlib.real_qemu.run import play
from simlib.scenario import Scenario, find, load_all

from .situations import pairs, situation

VERSIONS = {"7.2": "", "10.0": ""}  # those that CI has; what is not here is left out loudly
CELLS = [c for c in work(load_all(), VERSIONS, ("v1", "v2")) if not left_out(c[0], c[2])]
FIRST = ("matched", "device_only_at_source", "order_multifd_first", "stranger_multifd", "cut_midway", "exec_cat",
         "destination_killed", "tls_only_at_source", "machine_type_differs", "ram_size_differs")  # fmt: skip


RACES = {
    17: pytest.mark.xfail(strict=False, reason="a guest of 1 MiB may be sent whole before 7.2's threads meet the other "
                          "compression, and then hangs: the world's threads read at once"),
}  # fmt: skip


def agrees(scenario: Scenario, version: str, protocol: str, qemus: dict[str, str]) -> None:
    cell = Checker(world.run, qemus, repeats=1).cell((scenario, version, protocol))
    assert not cell.left_out, cell.left_out
    known = KNOWN.get((scenario.name, protocol), "")
    assert cell.agrees or known, cell


@pytest.mark.parametrize(("scenario", "version", "protocol"), [c for c in CELLS if c[0].name in FIRST],
                         ids=lambda x: x if isinstance(x, str) else x.name)  # fmt: skip
def test_real_qemu_ends_as_the_simulated_one(
    scenario: Scenario, version: str, protocol: str, qemus: dict[str, str]
) -> None:
    agrees(scenario, version, protocol, qemus)


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "version", "protocol"), [c for c in CELLS if c[0].name not in FIRST],
                         ids=lambda x: x if isinstance(x, str) else x.name)  # fmt: skip
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


@pytest.mark.parametrize("recorded", ["qemu-check", "qemu-versions"])
def test_there_are_many_cells_and_few_differ_each_for_a_reason_that_is_known(recorded: str) -> None:
    cells = [c for c in json.loads((DATA / f"results/{recorded}.json").read_text()) if not c["left_out"]]
    differ = [c for c in cells if not c["agrees"]]
    assert len(CELLS) >= 60 and len(cells) >= 300 and len(differ) <= len(cells) // 50
    assert all(c["reason"] == KNOWN[c["scenario"], c["protocol"]] for c in differ)
    assert len(KNOWN) <= 8


def test_the_tap_reads_what_the_world_says_on_the_return_path(qemus: dict[str, str]) -> None:
    scenario = find("device_only_at_source_return_path")
    for version in ("7.2", "10.0"):
        told = asyncio.run(play(Setup(scenario, "v1", version), qemus)).trace
        simulated = world.run(scenario, protocol="v1", version=version).trace
        ours, theirs = (
            [s.text for s in trace.steps if s.side == "destination" and s.kind == "say"] for trace in (told, simulated)
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
