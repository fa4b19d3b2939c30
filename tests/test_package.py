"""The wheel, in an environment of its own: data included, and nothing of the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")


def call(*command: str | Path, folder: Path) -> str:
    """What a command prints; it sees no module of the checkout."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run([*map(str, command)], cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    where = ("--python", sys.executable, "--out-dir", folder, ROOT)
    call(UV, "build", "--wheel", "--no-build-isolation", "--offline", *where, folder=folder)
    (path,) = folder.glob("*.whl")
    return path


def installed(wheel: Path, extras: str, folder: Path) -> Path:
    """An empty environment with the wheel; what it needs comes from uv's cache, which setting up has filled."""
    call(UV, "venv", "--quiet", "--python", sys.executable, folder / "env", folder=folder)
    call(
        UV,
        "pip",
        "install",
        "--quiet",
        "--offline",
        "--python",
        folder / "env/bin/python",
        f"{wheel}{extras}",
        "-c",
        ROOT / "requirements.lock",
        folder=folder,
    )
    return folder / "env/bin/simlib"


@pytest.mark.slow
def test_the_wheel_alone_compares_runs_and_explores(wheel: Path, tmp_path: Path) -> None:
    simlib = installed(wheel, "", tmp_path)
    assert "simpy" in call(UV, "pip", "list", "--python", tmp_path / "env/bin/python", folder=tmp_path)
    assert "pandas" not in call(UV, "pip", "list", "--python", tmp_path / "env/bin/python", folder=tmp_path)
    compared = json.loads(call(simlib, "compare", "matched", "--json", folder=tmp_path))
    assert {row["outcome"] for row in compared["rows"]} == {"migrated"}
    run = json.loads(call(simlib, "run", "device_only_at_source", "--protocol", "v2", "--json", folder=tmp_path))
    assert run["row"]["outcome"] == "refused"
    assert json.loads(call(simlib, "explore", "matched", "--json", folder=tmp_path))["complete"]
    assert "matched_multifd" in call(simlib, "list", folder=tmp_path)


@pytest.mark.slow
def test_with_its_extras_it_serves_connects_and_judges_a_guest(wheel: Path, tmp_path: Path) -> None:
    simlib = installed(wheel, "[live,qemu]", tmp_path)
    profile = f"{ROOT}/data/profiles/qemu-10.0.json#pc-q35-7.2"
    assert "yes" in call(simlib, "qemu", "preflight", profile, profile, folder=tmp_path)
    address = f"unix:{tmp_path}/lab"
    with subprocess.Popen(
        [simlib, "serve", address, "--json"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as serving:
        while not (tmp_path / "lab").exists():
            assert serving.poll() is None
        report = json.loads(call(simlib, "connect", address, "--json", folder=tmp_path))
        assert report["status"] == "completed"
        assert json.loads(serving.communicate(timeout=30)[0])["status"] == "completed"
