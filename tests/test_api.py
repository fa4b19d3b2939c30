"""The public names of the package: few, imported when they are used, each with an example that is run here."""

from __future__ import annotations

import asyncio
import doctest
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import simlib as lab
from simlib.record.outcome import Row

WITH_EXAMPLES = (
    "api",
    "case.delays",
    "case.effects",
    "case.faults",
    "case.intruders",
    "case.profiles",
    "case.protocols",
    "handshake.pump",
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_docstrings_are_true(name: str) -> None:
    result = doctest.testmod(import_module(f"simlib.{name}"), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted and not result.failed


@pytest.mark.parametrize("name", [n for n in lab.__all__ if n != "__version__"])
def test_a_public_name_has_a_docstring_and_stays_what_it_is_when_all_modules_are_loaded(name: str) -> None:
    import_module("simlib.__main__"), import_module("simlib.record.compare"), import_module("simlib.case.scenario")
    assert callable(getattr(lab, name)) and getattr(lab, name).__doc__
    assert name in dir(lab)


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import simlib; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {n for n in done.stdout.split() if n.startswith("simlib")} == {"simlib"}


def test_a_run_has_its_outcome_its_row_and_tables() -> None:
    result = lab.run("matched_multifd", "v2", version="10.0")
    assert result.outcome == result.row.outcome == "migrated"
    assert {"HELLO", "OFFER", "ACCEPT", "READY", "GO", "RUNNING"} <= set(result.messages.text)
    assert set(result.steps.side) >= {"source", "destination"}
    assert (result.packets.fill.sum(), result.packets.data.map(len).min()) > (0, -1)


@pytest.mark.parametrize("ending", [".svg", ".html", ".txt", ".json", ".pcapng"])
def test_a_run_is_saved_as_what_the_name_of_the_file_says(ending: str, tmp_path: Path) -> None:
    path = lab.run("matched", "v2").save(tmp_path / f"run{ending}")
    data = path.read_bytes()
    assert len(data) > 500
    if ending == ".json":
        assert json.loads(data)["row"]["outcome"] == "migrated"


def test_another_ending_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"known are '\.svg'"):
        lab.run("matched", "v2").save(tmp_path / "run.docx")
    assert not list(tmp_path.iterdir())


def test_real_sockets_work_where_an_event_loop_is_running_as_in_a_notebook() -> None:
    async def cell() -> Row:
        return lab.run("matched", "v2", on="sockets").row

    assert asyncio.run(cell()).outcome == "migrated"


def test_a_row_says_what_was_spoken_and_whether_that_was_right() -> None:
    old = lab.scenario("matched").vary(destination__knows_v2=False, destination__accept="v1")
    spoken = {p: lab.run("matched", p).row for p in ("v1", "v2")} | {"refused": lab.run(old, "v2").row}
    assert [(r.spoken, r.spoken_right) for r in spoken.values()] == [("v1", True), ("v2", True), ("", None)]
    slow = lab.run("detect_slow_path", "b").row  # its answer comes too late
    assert (slow.spoken, slow.spoken_right) == ("v1>v2", False)


def test_an_interrupted_sweep_keeps_its_rows_and_the_same_call_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "rows.parquet"
    table = lab.sweep("matched", {"guest.ram-mib": [1, 2]}, protocols=["v2"], versions=["10.0"], out=out, workers=1)
    again = lab.sweep("matched", {"guest.ram-mib": [1, 2]}, protocols=["v2"], versions=["10.0"], out=out, workers=1)
    assert table.equals(again) and out.exists()
