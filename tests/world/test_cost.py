"""What the handshake costs, and that a run is a function of its scenario and seed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simlib.case.files import load_all
from simlib.case.scenario import (
    Link,
    Scenario,
    Side,
)
from simlib.world import run
from tests.bench.peers import pythons

ROOT = Path(__file__).resolve().parents[2]
DELAYS_MS = (0.05, 0.5, 5, 50, 250)  # one way: round trips of 0.1 to 500 ms


def scenario(channels: int, delay_ms: float, transport: str = "tcp") -> Scenario:
    side = Side(capabilities=("multifd",), parameters={"multifd-channels": channels}) if channels else Side()
    return Scenario(
        name="cost",
        title="cost",
        source=side,
        destination=side,
        link=Link(transport=transport, delay_ms=delay_ms, rate_mib_s=10000),
    )


@pytest.mark.parametrize("delay_ms", DELAYS_MS)
@pytest.mark.parametrize("channels", [0, 1, 2, 8, 16, 64])
def test_v2_costs_three_round_trips_with_any_number_of_connections(channels: int, delay_ms: float) -> None:
    row = run(scenario(channels, delay_ms), protocol="v2", version="10.0").row
    assert (row.outcome, row.round_trips) == ("migrated", 3)


def test_v2_costs_two_round_trips_with_one_connection() -> None:
    row = run(scenario(0, Link.delay_ms, "exec-socat"), protocol="v2", version="10.0").row
    assert (row.outcome, row.round_trips) == ("migrated", 2)


@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
@pytest.mark.parametrize("delay_ms", DELAYS_MS)
def test_v1_costs_none_and_one_more_with_multifd_on_new_versions(version: str, delay_ms: float) -> None:
    assert run(scenario(0, delay_ms), version=version).row.round_trips == 0
    assert run(scenario(8, delay_ms), version=version).row.round_trips == 1


@pytest.mark.parametrize("channels", [0, 16])
def test_no_guest_byte_leaves_before_ready(channels: int) -> None:
    result = run(scenario(channels, 5), protocol="v2", version="10.0")
    ready_s = next(s.time_s for s in result.trace.steps if s.side == "source" and s.text == "READY")
    first = min(p.time_s for p in result.trace.packets if p.fill)
    assert first >= ready_s
    assert not any(p.fill for p in result.trace.packets if p.time_s < ready_s)


def test_time_to_the_first_guest_byte_is_the_round_trips_and_the_time_to_apply() -> None:
    for delay_ms in DELAYS_MS:
        row = run(scenario(8, delay_ms), protocol="v2", version="10.0").row
        connect_and_three = 4 * 2 * delay_ms / 1e3
        assert row.time_to_first_guest_byte_s is not None
        assert connect_and_three <= row.time_to_first_guest_byte_s <= connect_and_three + 0.002


def test_same_seed_same_trace_and_other_seeds_differ() -> None:
    lossy = next(s for s in load_all() if s.name == "lossy_path")
    one = [run(lossy, protocol=p, seed=seed).trace.digest() for p in ("v1", "v2") for seed in (1, 1, 2)]
    assert one[0] == one[1] != one[2] and one[3] == one[4] != one[5]


def test_a_trace_does_not_depend_on_the_process() -> None:
    code = (
        "from simlib.case.files import find; from simlib.world import run; "
        "print(run(find('stranger_multifd'), protocol='v2', seed=7).trace.digest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(digests) == 1


DIGESTS = """
from hashlib import sha256
from simlib.record.compare import jobs
from simlib.case.files import load_all
from simlib.world import run
traces = (run(j.scenario, protocol=j.protocol, version=j.version, manager=j.manager, seed=s).trace
          for j in jobs(load_all()) for s in (1, 2))
print(sha256("".join(t.digest() for t in traces).encode()).hexdigest())
"""


@pytest.mark.slow
def test_a_trace_does_not_depend_on_the_version_of_python(tmp_path: Path) -> None:
    """Every scenario; the browser's test holds it for WebAssembly."""
    for name in ("simpy", "tomli_w"):
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        (tmp_path / name).symlink_to(Path(spec.origin).parent)  # pure Python both, so that any version reads them
    digests = {}
    for python in (sys.executable, *pythons()):
        ran = subprocess.run(
            ["env", "-C", tmp_path, python, "-c", DIGESTS],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        )
        digests[python] = ran.stdout + ran.stderr
    assert set(digests.values()) == {digests[sys.executable]} and len(digests[sys.executable].strip()) == 64
    if len(digests) < 3:
        pytest.skip(f"ONLY {', '.join(digests)} HERE, so traces of Python 3.12 to 3.14 were not compared")
