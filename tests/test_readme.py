"""The README shows what is: its commands work, its numbers are those that the commands print, its links lead on."""

from __future__ import annotations

import re
import socket
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


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("simlib ") and "tcp:" not in c])
def test_every_simlib_command_shown_works(command: str, tmp_path: Path) -> None:
    words = [str(tmp_path / Path(w).name) if w.startswith("build/") else w for w in command.split()[1:]]
    assert subprocess.run([sys.executable, "-m", "simlib", *words], capture_output=True).returncode == 0


def test_the_two_real_sides_do_what_is_said() -> None:
    serve, refused, migrates = (c.split()[1:] for c in COMMANDS if "tcp:" in c)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    command = [sys.executable, "-m", "simlib"]

    def given(words: list[str]) -> list[str]:
        return command + [w.replace("4444", port) for w in words]

    with subprocess.Popen(given(serve), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None and "listening" in server.stderr.readline()
        first = subprocess.run(given(refused), capture_output=True, text=True, timeout=60)
        second = subprocess.run(given(migrates), capture_output=True, text=True, timeout=60)
        server.communicate(timeout=60)
    assert (first.returncode, second.returncode, server.returncode) == (1, 0, 0) and "virtio-rng" in first.stdout


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
