"""The live handshake over the kernel's own TCP, with real latency or a real rate between two network namespaces."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest

from simlib import world
from simlib.case.scenario import GuestFacts, Link, Scenario, Side
from tests.live.namespaces import DESTINATION, missing, namespaces, rate_limited

Path = Callable[[], AbstractContextManager[tuple[list[str], list[str]]]]
SIMLIB = [sys.executable, "-m", "simlib"]


def connected(source: list[str], destination: list[str], channels: int, ram_mib: int) -> dict[str, Any]:
    """What `simlib connect` reports of a migration to `simlib serve`, each run behind its side's command."""
    address = f"tcp:{DESTINATION}:4444"
    size = ["--channels", str(channels), "--ram-mib", str(ram_mib)]
    with subprocess.Popen([*destination, *SIMLIB, "serve", address], stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None and "listening on" in server.stderr.readline()
            command = [*source, *SIMLIB, "connect", address, *size, "--json"]
            client = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            report: dict[str, Any] = json.loads(client.stdout)
            assert server.wait(20) == 0
        finally:
            server.kill()
    assert report["status"] == "completed", report
    return report


def measured(
    figure: Callable[[list[dict[str, Any]]], float], enough: float, path: Path, channels: int, ram_mib: int
) -> float:
    """`figure` of a migration's steps: the least of at most three, since a busy machine only ever adds to it."""
    least = float("inf")
    for _ in range(3):
        with path() as (source, destination):
            least = min(least, figure(connected(source, destination, channels, ram_mib)["steps"]))
        if least < enough:
            break
    return least


def require_namespaces(subject: str) -> None:
    why = missing()
    if why:
        pytest.skip(f"{why}, so nothing was tested over the kernel's own {subject}")


def far(channels: int, ram_mib: int, link: Link) -> Scenario:
    parameters: dict[str, int | str] = {"multifd-channels": channels} if channels else {}
    side = Side(capabilities=("multifd",) * bool(channels), parameters=parameters)
    guest = GuestFacts(ram_mib=ram_mib)
    return Scenario(name="far", title="far", source=side, destination=side, link=link, guest=guest)


def to_ready_ms(steps: list[dict[str, Any]]) -> float:
    at_s = [s["time_s"] for s in steps if (s["side"], s["kind"]) == ("source", "state")]
    return float(at_s[1] - at_s[0]) * 1e3


@pytest.mark.slow
@pytest.mark.parametrize("channels", [0, 4])
def test_over_real_latency_it_takes_the_round_trips_that_the_world_says(channels: int) -> None:
    require_namespaces("latency")
    simulated = world.run(far(channels, 1, Link(delay_ms=50.0)), protocol="v2").trace.steps
    simulated_ms = to_ready_ms([s._asdict() for s in simulated])
    real_ms = measured(to_ready_ms, simulated_ms + 100, partial(namespaces, 50.0), channels, 1)
    assert simulated_ms > 290
    assert simulated_ms <= real_ms < simulated_ms + 100


def moving_s(steps: list[dict[str, Any]]) -> float:
    """From the first guest memory until the source knows that all has arrived."""
    at_s = [s["time_s"] for s in steps if s["side"] == "source" and s["text"].startswith(("QEVM", "LOADED"))]
    return float(at_s[-1] - at_s[0])


@pytest.mark.slow
@pytest.mark.parametrize("rate_mib_s", [24, 72])
@pytest.mark.parametrize("channels", [1, 4, 8])
def test_connections_share_a_link_s_rate_as_the_kernel_s_do_behind_a_token_bucket(
    channels: int, rate_mib_s: int
) -> None:
    require_namespaces("rate")
    ram_mib = 2 * rate_mib_s
    link = Link(delay_ms=0.05, rate_mib_s=rate_mib_s)
    simulated = world.run(far(channels, ram_mib, link), protocol="v2").trace.steps
    simulated_s = moving_s([s._asdict() for s in simulated])
    real_s = measured(moving_s, 1.1 * simulated_s, partial(rate_limited, rate_mib_s), channels, ram_mib)
    assert real_s == pytest.approx(simulated_s, rel=0.1)
