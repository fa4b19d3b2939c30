"""The anchor of the simulated world: the same two endpoints, handing each other bytes in a loop without a clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from simlib.case.scenario import Scenario, Side
from simlib.handshake.pump import pump as deliver
from simlib.handshake.v1.destination import Destination as V1Destination
from simlib.handshake.v1.source import Source as V1Source
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.destination import Destination as V2Destination
from simlib.handshake.v2.frames import Limits
from simlib.handshake.v2.source import Source as V2Source

VERSION = "10.0"


def scenario(channels: int) -> Scenario:
    """Matched sides of the profile's 47 devices, with latencies drawn by seed."""
    side = Side(capabilities=("multifd",), parameters={"multifd-channels": channels}) if channels else Side()
    base = Scenario(name="bench", title="bench", source=side, destination=side)
    return base.vary(link__delay_law="lognormal", link__jitter_ms=0.02)


def pair(protocol: str, channels: int, machine: Any = None) -> Callable[[], tuple[Any, Any]]:
    """What makes fresh endpoints; another `machine` for both sides, if given."""
    matched = scenario(channels)
    ours, theirs = matched.settings(True, VERSION), matched.settings(False, VERSION)
    if machine is not None:
        ours, theirs = replace(ours, machine=machine), replace(theirs, machine=machine)
    if protocol == "v1":
        return lambda: (V1Source(ours), V1Destination(theirs))
    limits = Limits(channels=max(channels, 64))
    here, there = SessionConfig(bytes(32), limits=limits), SessionConfig(bytes(range(32)), limits=limits)
    return lambda: (V2Source(ours, here), V2Destination(theirs, there))


def pump(source: Any, destination: Any, until: str = "completed") -> None:
    """Until the source's status is that; `completed` means both sides, to their last input."""
    deliver(source, destination, ram_bytes=1 << 26, until="" if until == "completed" else until)
    assert source.status == until, source.finished
