"""A real guest that goes by postcopy with v2: its devices, LOADED, GO, RUNNING, and then its memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from simlib.case.scenario import Scenario
from simlib.handshake.interface import SwitchToPostcopy
from simlib.real_qemu.migrate import MigrationRequest, until_finished
from tests.real_qemu.conftest import Pair, needs
from tests.real_qemu.test_migrate import PAIRS, Two, breaks, go, until

SLOW = Scenario(name="slow").vary(link__rate_mib_s=20.0)
WAYS = {"ram": ("postcopy-ram",), "preempt": ("postcopy-ram", "postcopy-preempt")}
PHASES = ("source QEMU is active", "guest is sent but for its memory", "devices are loaded", "hears RUNNING")


async def switched(pair: Pair, capabilities: tuple[str, ...]) -> Any:
    """The source's agent, told to switch while memory moves."""
    await pair.through(SLOW)
    agent = await pair.agent(wish=MigrationRequest(capabilities=capabilities))
    await asyncio.wait_for(until(pair, "source QEMU is active"), 20)
    agent.feed(SwitchToPostcopy())
    return agent


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "versions", [PAIRS[0], *(pytest.param(p, marks=pytest.mark.slow) for p in PAIRS[1:])], ids=">".join
)
def test_a_guest_runs_there_before_its_memory_has_come_and_arrives_whole(
    two: Two, versions: tuple[str, str], way: str
) -> None:
    async def work() -> None:
        async with two(versions) as pair:
            agent = await switched(pair, WAYS[way])
            try:
                end = await asyncio.wait_for(until_finished(agent), 90)
            except TimeoutError:
                pytest.fail(f"it has not ended after 90 s:\n{pair.trace}")
            assert end is not None and end.status == "completed", str(pair.trace)
            assert await pair.arrived_whole()
            lines = [f"{s.side} {s.text}" for s in pair.trace.steps if s.kind in ("say", "guest", "state")]
            order = (
                "source guest has stopped",
                "destination LOADED",
                "source GO",
                "destination guest runs here",
                "destination RUNNING",
                "destination all of its memory is here",
                "source completed",
            )
            assert sorted(order, key=lines.index) == list(order) and lines.count("destination LOADED") == 2

    go(work())


@pytest.mark.parametrize("phase", [p if p == PHASES[1] else pytest.param(p, marks=pytest.mark.slow) for p in PHASES])
@pytest.mark.parametrize("what", ["the connection", "the destination QEMU", "the source's agent"])
@pytest.mark.parametrize("versions", PAIRS[:2], ids=">".join)
def test_whatever_breaks_it_never_runs_in_two_places_and_what_can_be_known_is_told(
    two: Two, versions: tuple[str, str], what: str, phase: str
) -> None:
    """From the switch on 7.2 and 10.0 take no guest back ("the source machine is not recoverable", migration.c): where
    nothing of the destination is left, such a guest stands still at the source."""

    async def work() -> None:
        async with two(versions) as pair:
            agent = await switched(pair, WAYS["ram"])
            await asyncio.wait_for(until(pair, phase), 20)
            breaks(pair, agent, what)
            for _ in range(60):
                here, there = await pair.running()
                assert not (here and there), str(pair.trace)
                await asyncio.sleep(0.05)
            if what != "the source's agent":
                end = await asyncio.wait_for(until_finished(agent), 20)
                assert end is not None and end.errors, str(pair.trace)
                assert end.status in ("failed", "uncertain", "postcopy-paused"), str(pair.trace)
                assert end.status == "failed" or any(s.text == "GO" for s in pair.trace.steps)
            if there:
                assert any(s.text == "guest runs here" for s in pair.trace.steps)
            elif here:
                assert await pair.counts_on(pair.source)

    go(work())


@pytest.mark.slow
@pytest.mark.parametrize("what", ["the connection", "the destination QEMU"])
def test_since_10_2_a_guest_comes_back_until_its_devices_are_loaded(two: Two, what: str) -> None:
    """postcopy-device (migration.c): the source QEMU gives its guest up only when the other has the whole package."""
    needs("11.1")

    async def work() -> None:
        async with two(("11.1", "11.1")) as pair:
            agent = await switched(pair, WAYS["ram"])
            await asyncio.wait_for(until(pair, "source QEMU is postcopy-device"), 20)
            breaks(pair, agent, what)
            end = await asyncio.wait_for(until_finished(agent), 20)
            assert end is not None and end.status == "failed" and end.errors, str(pair.trace)
            await asyncio.wait_for(until(pair, "guest runs on here"), 20)
            assert (await pair.running()) == (True, False) and await pair.counts_on(pair.source)

    go(work())
