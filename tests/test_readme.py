"""The README shows what is: its commands work, its numbers are those that the commands print, its links lead on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from simlib import compare, world
from simlib.outcome import OUTCOMES
from simlib.scenario import load_all

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.partition("#")[0].strip() for block in BLOCKS for line in block.splitlines()]


def test_every_make_target_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {c.split()[1] for c in COMMANDS if c.startswith("make ")} <= targets


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("simlib ")])
def test_every_simlib_command_shown_works(command: str, tmp_path: Path) -> None:
    words = [str(tmp_path) if w.startswith("build/") else w for w in command.split()[1:]]
    assert subprocess.run([sys.executable, "-m", "simlib", *words], capture_output=True).returncode == 0


def test_the_numbers_are_those_of_the_table_and_so_is_the_picture() -> None:
    rows = [
        world.run(j.scenario, protocol=j.protocol, version=j.version, manager=j.manager, seed=1).row
        for j in compare.jobs(load_all())
    ]
    for line in compare.summary(rows):
        assert line in README, "run `make results` and copy the printed lines into README.md"
    committed = (ROOT / "data/results/outcomes.svg").read_text(encoding="utf-8")
    assert committed == compare.matrix_svg(rows), "run `make results`"


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_every_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_every_outcome_is_explained() -> None:
    assert all(f"| {name} |" in README for name in OUTCOMES)


def test_ci_runs_the_command_that_the_readme_names() -> None:
    ci = (ROOT / ".ci/run").read_text()
    assert "make test" in ci and "make compare" in ci
