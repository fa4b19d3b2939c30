"""The live handshake over the kernel's own TCP, with real latency between two network namespaces."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from simlib import world
from simlib.scenario import Link, Scenario, Side
from tests.live.namespaces import DESTINATION, missing, namespaces

SIMLIB = [sys.executable, "-m", "simlib"]


def over_latency(delay_ms: float, channels: int) -> dict[str, Any]:
    """What `simlib connect` tells of a handshake with `simlib serve` on the other side of the relay."""
    with namespaces(delay_ms) as (source, destination):
        address = f"tcp:{DESTINATION}:4444"
        with subprocess.Popen([*destination, *SIMLIB, "serve", address], stderr=subprocess.PIPE, text=True) as server:
            try:
                assert server.stderr is not None and "listening on" in server.stderr.readline()
                told = subprocess.run(
                    [*source, *SIMLIB, "connect", address, "--channels", str(channels), "--ram-mib", "1", "--json"],
                    capture_output=True, text=True, timeout=60, check=False,
                )  # fmt: skip
                found: dict[str, Any] = json.loads(told.stdout)
                assert server.wait(20) == 0
            finally:
                server.kill()
    return found


def to_ready_ms(steps: list[dict[str, Any]]) -> float:
    at_s = [s["time_s"] for s in steps if (s["side"], s["kind"]) == ("source", "state")]
    return float(at_s[1] - at_s[0]) * 1e3


@pytest.mark.slow
@pytest.mark.parametrize("channels", [0, 4])
def test_over_real_latency_it_takes_the_round_trips_that_the_world_says(channels: int) -> None:
    why = missing()
    if why:
        pytest.skip(f"{why}, so nothing was tested over the kernel's own latency")
    side = Side(
        capabilities=("multifd",) * bool(channels), parameters={"multifd-channels": channels} if channels else {}
    )
    scenario = Scenario(name="far", title="far", source=side, destination=side, link=Link(delay_ms=50.0))
    told = world.run(scenario, protocol="v2").trace.steps
    simulated_ms = to_ready_ms([s._asdict() for s in told])
    found = over_latency(50.0, channels)
    assert found["status"] == "completed", found
    round_trips = simulated_ms / 100
    assert round_trips > 2.9
    assert round_trips <= to_ready_ms(found["steps"]) / 100 < round_trips + 1, (simulated_ms, found["steps"])
