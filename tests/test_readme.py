"""The README and the pages that it leads to: commands work, numbers are those that commands print, links lead on."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

from simlib import world
from simlib.case import scenario
from simlib.case.files import find, load_all
from simlib.record import compare
from simlib.record.outcome import OUTCOMES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PLACES = (
    "data/profiles",
    "data/results",
    "data/scenarios",
    "data/sweeps",
    "notebooks",
    "simlib/live",
    "simlib/real_qemu",
)
PAGES = [ROOT / "README.md", *(page for place in PLACES for page in sorted((ROOT / place).glob("*.md")))]
BLOCKS = {page: re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL) for page in PAGES}
COMMANDS = [
    line.partition(" #")[0].strip() for blocks in BLOCKS.values() for block in blocks for line in block.splitlines()
]
PARTS = (
    scenario.Scenario,
    scenario.Side,
    scenario.Link,
    scenario.GuestFacts,
    scenario.Management,
    scenario.Fault,
    scenario.Timing,
)


def test_the_readme_is_short() -> None:
    assert len(README.encode()) <= 8000


def test_every_make_target_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {c.split()[1] for c in COMMANDS if c.startswith("make ")} <= targets


def test_every_block_that_starts_a_process_stops_it() -> None:
    for blocks in BLOCKS.values():
        for block in blocks:
            started = re.findall(r" & (\w+)=\$!$", block, re.MULTILINE)
            assert len(started) == len(re.findall(r" &(?: |$)", block, re.MULTILINE))
            assert not started or block.rstrip().splitlines()[-1].split()[1:] == [f"${name}" for name in started]


@pytest.mark.parametrize(
    "command",
    dict.fromkeys(c for c in COMMANDS if c.startswith("simlib ") and not re.search("tcp:|build/(vm|here)", c)),
)
def test_every_simlib_command_shown_works(command: str, tmp_path: Path) -> None:
    words = [str(tmp_path / Path(w).name) if w.startswith("build/") else w for w in command.split()[1:]]
    assert subprocess.run([sys.executable, "-m", "simlib", *words], capture_output=True).returncode == 0


@pytest.mark.slow
def test_the_commands_about_a_guest_of_your_own_work_in_their_order(tmp_path: Path) -> None:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("NO qemu-system-x86_64 HERE, so the README's commands about a real guest were not tried")
    start, *rest = (c.replace("build/vm", f"{tmp_path}/vm").split() for c in COMMANDS if "build/vm" in c)
    with subprocess.Popen(start[: start.index("&")]) as guest:
        try:
            while not (tmp_path / "vm.qmp").exists():
                assert guest.poll() is None
                time.sleep(0.01)
            runs = [subprocess.run([sys.executable, "-m", *c], capture_output=True, text=True, cwd=ROOT) for c in rest]
        finally:
            guest.kill()
    assert [f.returncode for f in runs] == [0, 0, 1, 0, 0, 0], [f.stderr for f in runs]
    assert "virtio-rng" in runs[2].stdout and "maybe" in runs[4].stdout


def test_the_two_real_sides_do_what_is_said() -> None:
    serve, refused, migrates = (c.split()[1:] for c in COMMANDS if "tcp:" in c)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    command = [sys.executable, "-m", "simlib"]

    def with_port(words: list[str]) -> list[str]:
        return command + [w.replace("4444", port) for w in words]

    with subprocess.Popen(with_port(serve), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None and "listening" in server.stderr.readline()
        first = subprocess.run(with_port(refused), capture_output=True, text=True, timeout=60)
        second = subprocess.run(with_port(migrates), capture_output=True, text=True, timeout=60)
        server.communicate(timeout=60)
    assert (first.returncode, second.returncode, server.returncode) == (1, 0, 0) and "virtio-rng" in first.stdout


def test_a_real_guest_moves_as_it_is_said(tmp_path: Path) -> None:
    block = next(b for blocks in BLOCKS.values() for b in blocks if "simlib qemu migrate" in b)
    programs = re.findall(r"^(\S*qemu-system-x86_64)", block, re.MULTILINE)
    if missing := [p for p in programs if shutil.which(p, path=f"{os.environ['PATH']}:{ROOT}") is None]:
        pytest.skip(f"{missing[0]} IS NOT HERE, so the README's migration was not tested; `make qemu` brings it")
    wait = f"while ! [ -S {tmp_path}/here.qmp -a -S {tmp_path}/there.qmp ]; do sleep 0.1; done\n"
    script = block.replace("build/here", f"{tmp_path}/here").replace("build/there", f"{tmp_path}/there")
    script = script.replace("simlib qemu", wait + f"{sys.executable} -m simlib qemu")
    done = subprocess.run(["bash", "-c", f"set -e\n{script}"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "completed" in done.stdout, (done.stdout, done.stderr)


def test_what_real_qemu_did_is_what_was_recorded() -> None:
    last = (ROOT / "data/results/qemu-check.txt").read_text(encoding="utf-8").splitlines()[-1]
    assert last in README, "run `make qemu-check` and copy its last line into README.md"


def test_the_numbers_are_those_of_the_table_and_so_are_the_pictures() -> None:
    rows = [
        world.run(j.scenario, protocol=j.protocol, version=j.version, manager=j.manager, seed=1).row
        for j in compare.jobs(load_all())
    ]
    table, _, _ = "\n".join(compare.summary(rows)).partition("\n\n")
    assert table in README, "run `make results` and copy the printed table into README.md"
    pictures = {"outcomes": compare.matrix_svg(rows)}
    for protocol in ("v1", "v2"):
        result = world.run(find("device_only_at_source"), protocol=protocol, version="7.2")
        pictures[f"device_only_at_source.{protocol}"] = result._repr_svg_()
    for name, picture in pictures.items():
        assert (ROOT / f"data/results/{name}.svg").read_text(encoding="utf-8") == picture, "run `make results`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    links = set(re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")))
    assert [link for link in links if not link.startswith("https://") and not (page.parent / link).exists()] == []


def test_every_outcome_and_every_key_of_a_scenario_is_explained() -> None:
    page = (ROOT / "data/scenarios/README.md").read_text(encoding="utf-8")
    assert [name for name in OUTCOMES if f"| {name} |" not in page] == []
    keys = {f.name.replace("_", "-") for part in PARTS for f in fields(part)} - {"source", "destination", "link"}
    assert [key for key in keys if f"`{key}`" not in page and f"[{key}]" not in page] == []


def test_ci_runs_the_command_that_the_readme_names() -> None:
    ci = (ROOT / ".ci/run").read_text()
    assert "make test" in ci and "make compare" in ci
