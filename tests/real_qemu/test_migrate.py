"""v2 beside real QEMUs: whole guests arrive, what does not fit is refused before a guest byte moves, and whatever
breaks on the way the guest runs in exactly one place, or waits in exactly one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from simlib.case.endpoints import Case
from simlib.case.registry import INTRUDERS
from simlib.case.scenario import Fault, Scenario, Side
from simlib.live.address import intrude
from simlib.real_qemu.machine import whole
from simlib.real_qemu.migrate import MigrationRequest, until_finished
from simlib.real_qemu.run import play
from tests.real_qemu.conftest import HERE, needs

PAIRS = (("7.2", "7.2"), ("10.0", "10.0"), ("7.2", "10.0"), ("10.0", "7.2"))
Two = Callable[..., Any]


def go(work: Any) -> None:
    asyncio.run(work)


@pytest.mark.parametrize("channels", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 4, 8, 16))])
@pytest.mark.parametrize("versions", PAIRS, ids=">".join)
def test_a_busy_guest_arrives_whole(two: Two, versions: tuple[str, str], channels: int) -> None:
    async def work() -> None:
        async with two(versions) as pair:
            end = await pair.migrate(wish=MigrationRequest(channels))
            assert end.status == "completed", (end, str(pair.trace))
            assert await pair.arrived_whole()

    go(work())


RNG, NET, E1000 = (f"pc-i440fx-7.2+{d}" for d in ("virtio-rng", "virtio-net", "e1000"))
# name: source, destination, what the agents wish, the error that the source must be told: code, item, both values
MISMATCHES: dict[str, tuple[Side, Side, MigrationRequest, MigrationRequest, tuple[str, str, str, str]]] = {
    "device": (
        Side(machine=RNG),
        Side(),
        MigrationRequest(),
        MigrationRequest(),
        ("device-unknown", "virtio-rng", "1", ""),
    ),
    "nic model": (
        Side(machine=NET),
        Side(machine=E1000),
        MigrationRequest(),
        MigrationRequest(),
        ("device-unknown", "virtio-net", "11", ""),
    ),
    "serial": (
        Side(machine="pc-i440fx-7.2+isa-serial"),
        Side(),
        MigrationRequest(),
        MigrationRequest(),
        ("device-unknown", "serial", "3", ""),
    ),
    "machine": (
        Side(machine="pc-q35-7.2"),
        Side(),
        MigrationRequest(),
        MigrationRequest(),
        ("machine-type", "machine", "pc-q35-7.2", "pc-i440fx-7.2"),
    ),
    "machine version": (
        Side(),
        Side(machine_type="pc-i440fx-6.2"),
        MigrationRequest(),
        MigrationRequest(),
        ("machine-type", "machine", "pc-i440fx-7.2", "pc-i440fx-6.2"),
    ),
    "memory": (
        Side(memory_mib=128),
        Side(memory_mib=256),
        MigrationRequest(),
        MigrationRequest(),
        ("ram-size", "pc.ram", str(128 << 20), str(256 << 20)),
    ),
    "vcpus": (
        Side(machine="pc-i440fx-7.2+smp2"),
        Side(),
        MigrationRequest(),
        MigrationRequest(),
        ("device-instance", "cpu", "1", ""),
    ),
    "feature": (
        Side(),
        Side(),
        MigrationRequest(2, require=("multifd",)),
        MigrationRequest(forbid=("multifd",)),
        ("feature-required", "feature[multifd]", "require", "forbid"),
    ),
    "doubt": (
        Side(),
        Side(machine=RNG),
        MigrationRequest(on_maybe="reject"),
        MigrationRequest(),
        ("device-extra", "virtio-rng", "", "1"),
    ),
    "session": (
        Side(),
        Side(),
        MigrationRequest(session="monday"),
        MigrationRequest(session="tuesday"),
        ("wrong-session", "session", "monday", "tuesday"),
    ),
}

PLAIN, SERIAL, Q35 = Side(), Side(machine="pc-i440fx-7.2+isa-serial"), Side(machine="pc-q35-7.2")
GPU, SET = Side(machine="pc-q35-7.2+virtio-gpu"), Side(machine="pc-q35-7.2+virtio-set")
# The same with other machines: source, destination, and the error that the source must be told
MORE: dict[str, tuple[Side, Side, tuple[str, str, str, str]]] = {
    "nic": (Side(machine=NET), PLAIN, ("device-unknown", "virtio-net", "11", "")),
    "old nic": (Side(machine=E1000), PLAIN, ("device-unknown", "e1000", "", "")),
    "nic model, the other way": (Side(machine=E1000), Side(machine=NET), ("device-unknown", "e1000", "", "")),
    "rng for nic": (Side(machine=RNG), Side(machine=NET), ("device-unknown", "virtio-rng", "1", "")),
    "nic for rng": (Side(machine=NET), Side(machine=RNG), ("device-unknown", "virtio-net", "11", "")),
    "serial for rng": (SERIAL, Side(machine=RNG), ("device-unknown", "serial", "3", "")),
    "rng and less memory": (Side(machine=RNG), Side(memory_mib=64), ("device-unknown", "virtio-rng", "1", "")),
    "gpu": (GPU, Q35, ("device-unknown", "virtio-gpu", "", "")),
    "six virtio devices": (SET, Q35, ("device-unknown", "virtio-blk", "", "")),
    "machine, the other way": (PLAIN, Q35, ("machine-type", "machine", "pc-i440fx-7.2", "pc-q35-7.2")),
    "machine version, the other way": (
        Side(machine_type="pc-i440fx-6.2"),
        PLAIN,
        ("machine-type", "machine", "pc-i440fx-6.2", "pc-i440fx-7.2"),
    ),
    "less memory": (Side(memory_mib=256), PLAIN, ("ram-size", "pc.ram", str(256 << 20), str(128 << 20))),
    "half the memory": (PLAIN, Side(memory_mib=64), ("ram-size", "pc.ram", str(128 << 20), str(64 << 20))),
}
MACHINES = MORE | {
    name: (ours, theirs, expected)
    for name, (ours, theirs, _, _, expected) in MISMATCHES.items()
    if name not in ("feature", "doubt", "session")
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_what_today_s_stream_loses_or_fails_without_a_reason_is_refused_with_one(two: Two, name: str) -> None:
    ours, theirs, (code, item, here, there) = MACHINES[name]
    needs("7.2")
    scenario = Scenario(name="mismatch", title="mismatch", source=ours, destination=theirs).vary(guest__ram_mib=16.0)
    v1 = asyncio.run(play(Case(scenario, "v1", "7.2"), HERE)).row
    assert (v1.outcome, v1.reason_at_source) not in (("migrated", "none"), ("failed", "specific")), v1
    assert v1.outcome in ("lost", "hung", "failed"), v1

    async def work() -> None:
        async with two(PAIRS[0], ours, theirs) as pair:
            end = await pair.migrate()
            errors = [e for e in end.errors if e.code == code and item in e.item]
            assert end.status == "failed" and errors and errors[0].text, end
            assert (here in errors[0].source, there in errors[0].destination) == (True, True), errors[0]
            assert await pair.counts_on(pair.source) and pair.there.moved_bytes == 0
            fits = await pair.guest(pair.scenario.vary(source=theirs), "fitting")
            pair.source = fits
            again = await pair.migrate(fits, MigrationRequest(), theirs.machine)
            assert again.status == "completed" and await pair.arrived_whole(), again

    go(work())


def test_there_are_twenty_mismatches() -> None:
    assert len(MACHINES) >= 20


@pytest.mark.parametrize(
    "versions", [PAIRS[3], *(pytest.param(p, marks=pytest.mark.slow) for p in PAIRS[:3])], ids=">".join
)
@pytest.mark.parametrize("name", MISMATCHES)
def test_a_mismatch_is_told_before_the_guest_moves_and_a_correct_attempt_follows_at_once(
    two: Two, name: str, versions: tuple[str, str]
) -> None:
    ours, theirs, wish, their_wish, (code, item, here, there) = MISMATCHES[name]

    async def work() -> None:
        async with two(versions, ours, theirs, their_wish) as pair:
            end = await pair.migrate(wish=wish)
            errors = [e for e in end.errors if e.code == code and item in e.item]
            assert end.status == "failed" and errors, end
            assert (here in errors[0].source, there in errors[0].destination) == (True, True), errors[0]
            assert errors[0].text
            assert await pair.counts_on(pair.source)
            assert (await pair.source.ask("query-migrate")).get("status") in (None, "none")  # it never began
            assert pair.there.moved_bytes == 0
            fits = await pair.guest(pair.scenario.vary(source=theirs), "fitting")
            pair.source = fits
            again = await pair.migrate(fits, MigrationRequest(session=their_wish.session), theirs.machine)
            assert again.status == "completed", again
            assert await pair.arrived_whole()

    go(work())


BACKWARDS = [(*(f"multifd[{n}]" for n in range(count - 1, -1, -1)), "main") for count in (2, 4, 16)]
ORDERS = [("multifd[0]", "multifd[1]", "main"), ("multifd[1]", "main", "multifd[0]"), *BACKWARDS]


@pytest.mark.parametrize("versions", [PAIRS[0], pytest.param(PAIRS[3], marks=pytest.mark.slow)], ids=">".join)
@pytest.mark.parametrize("order", ORDERS, ids=lambda o: f"{len(o)}-{o[0]}")
def test_channels_in_a_wrong_order_and_strangers_make_no_difference(
    two: Two, order: tuple[str, ...], versions: tuple[str, str]
) -> None:
    async def work() -> None:
        async with two(versions) as pair:
            for word in ("silent", "multifd", "qevm", "v2-hello", "bad-channel"):
                pair.stack.callback((await intrude(pair.at, INTRUDERS.get(word))).close)
            await pair.through(Scenario(name="order", faults=(Fault("order", order=order, accept_gap_s=0.05),)))
            end = await pair.migrate(wish=MigrationRequest(len(order) - 1))
            assert end.status == "completed", end
            assert await pair.arrived_whole()

    go(work())


FAST = ("hears READY", "says GO")
PHASES = ("says OFFER", "says START", "hears READY", "source QEMU is active", "hears LOADED", "says GO")


async def until(pair: Any, phase: str) -> None:
    words = phase.split(" ", 1)
    while not any(
        phase in pair.trace.line(s) or (s.side == words[0] and s.text == words[-1]) for s in pair.trace.steps
    ):
        await asyncio.sleep(0)


def breaks(pair: Any, agent: Any, what: str) -> None:
    if what == "the connection":
        pair.proxy.cut()
    elif what == "the destination QEMU":
        pair.destination.process.kill()
    else:
        (agent if "source" in what else pair.there).close()


@pytest.mark.parametrize("phase", [p if p in FAST else pytest.param(p, marks=pytest.mark.slow) for p in PHASES])
@pytest.mark.parametrize(
    "what", ["the connection", "the destination QEMU", "the source's agent", "the destination's agent"]
)
def test_whatever_breaks_and_whenever_the_guest_is_in_one_place(two: Two, what: str, phase: str) -> None:
    async def work() -> None:
        async with two() as pair:
            await pair.through(Scenario(name="cut"))
            agent = await pair.agent(wish=MigrationRequest(2))
            await asyncio.wait_for(until(pair, phase), 20)
            breaks(pair, agent, what)
            for _ in range(300):
                here, there = await pair.running()
                assert not (here and there), str(pair.trace)
                if here or there:
                    break
                await asyncio.sleep(0.02)
            if not (here or there):  # who could have decided is gone, or can't know: it waits at the source, whole
                said_go = any(s.text == "GO" for s in pair.trace.steps)
                assert "agent" in what or said_go, str(pair.trace)
                await pair.source.ask("cont")
                here = True
            assert await pair.counts_on(pair.source if here else pair.destination)
            assert pair.trace.steps

    go(work())


@pytest.mark.parametrize("phase", [p if p in FAST else pytest.param(p, marks=pytest.mark.slow) for p in PHASES])
@pytest.mark.parametrize("versions", PAIRS[:2], ids=">".join)
def test_a_source_qemu_that_dies_takes_its_guest_along_unless_that_has_arrived(
    two: Two, versions: tuple[str, str], phase: str
) -> None:
    """Nobody can save a guest whose process is killed before it was sent; a whole copy that waits is started."""

    async def work() -> None:
        async with two(versions) as pair:
            agent = await pair.agent(wish=MigrationRequest(2))
            await asyncio.wait_for(until(pair, phase), 20)
            pair.source.process.kill()
            here = await asyncio.wait_for(until_finished(agent), 20)
            there = await asyncio.wait_for(until_finished(pair.there), 20)
            arrived = any(s.text == "LOADED" and s.side == "source" for s in pair.trace.steps)
            assert (here.status, there.status) == (("completed",) * 2 if arrived else ("failed",) * 2), str(pair.trace)
            assert phase not in PHASES[-2:] or arrived
            if arrived:
                assert await whole(pair.destination, pair.scenario)
            else:
                assert "source" in here.text and here.errors, here
                assert there.errors, there
                assert not (await pair.destination.status()).get("running")

    go(work())


@pytest.mark.slow
def test_fifty_migrations_in_a_row_arrive_whole(two: Two, tmp_path: Any) -> None:
    async def work(number: int) -> None:
        async with two(PAIRS[number % 4]) as pair:
            pair.trace.steps.clear()
            end = await pair.migrate(wish=MigrationRequest((0, 1, 2, 4, 8)[number % 5]))
            assert end.status == "completed", (number, end)
            assert await pair.arrived_whole(), number

    for number in range(50):
        go(work(number))
        for path in tmp_path.iterdir():
            path.rename(tmp_path.parent / f"{tmp_path.name}-{number}-{path.name}")
