"""Items 1 and 3: what the simulated world adds to the engine, and how both grow."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from simlib.case.profiles import machine
from simlib.handshake import interface as i
from simlib.record.trace import Trace
from simlib.world import run
from simlib.world.run import play
from simlib.world.world import World

from .bare import VERSION, pair, pump, scenario
from .clocks import raw_heap
from .measure import Line, middle, over, rounds

MESSAGES = 2000  # of the raw heap, to price one of them
MOST = (("v1", 255), ("v2", 64))  # protocol, channels: a uint8 in migration.json; a limit of v2


class Deaf(Trace):
    """A trace that keeps nothing."""

    def note(self, *_: Any) -> None:
        pass


def world(protocol: str, channels: int, traced: bool = True) -> World:
    simulated = World(scenario(channels), protocol, VERSION, "naive", 1)
    if not traced:
        simulated.trace = simulated.source.trace = simulated.destination.trace = Deaf()
        simulated.net.packet = lambda *_: None
    return simulated


def inputs(protocol: str, channels: int) -> list[tuple[bool, i.Input]]:
    """All that a world told its endpoints, in order."""
    simulated, recorded = world(protocol, channels), []

    def watched(host: Any, at_source: bool) -> None:
        handle: Callable[[i.Input], list[i.Output]] = host.endpoint.handle

        def record(input: i.Input) -> list[i.Output]:
            recorded.append((at_source, input))
            return handle(input)

        host.endpoint.handle = record

    watched(simulated.source, True)
    watched(simulated.destination, False)
    play(simulated)
    return recorded


def replayed(protocol: str, channels: int) -> tuple[Callable[[], None], int]:
    """The engine alone on what a world told it, and how many calls that is."""
    recorded = inputs(protocol, channels)
    setup = world(protocol, channels).setup

    def again() -> None:
        source, destination = setup.source(), setup.destination()
        for at_source, input in recorded:
            (source if at_source else destination).handle(input)

    return again, len(recorded)


def over_bare(times: int) -> Iterator[Line]:
    for protocol, must, stretch in (("v1", 3.0, 2.0), ("v2", 1.3, 1.15)):
        for channels in (0, 2, 8, 64):
            make = pair(protocol, channels)
            again, _ = replayed(protocol, channels)
            samples = rounds(
                {
                    "bare": partial(_pumped, make),
                    "world": partial(run, scenario(channels), protocol=protocol, version=VERSION),
                    "replay": again,
                },
                times,
            )
            goal = (must, stretch) if channels == 8 else (None, None)
            note = (
                f"bare {middle(samples, 'bare') * 1e6:.0f} us; the engine on the world's own inputs, which come in "
                f"more pieces: {middle(samples, 'replay') / middle(samples, 'bare'):.2f} x bare"
            )
            yield Line(
                1,
                f"{protocol}, {channels} channels, 47 devices: world",
                "both endpoints pumped bare",
                over(samples, "world", "bare"),
                *goal,
                note=note,
            )


def added(times: int) -> Iterator[Line]:
    for protocol in ("v1", "v2"):
        again, calls = replayed(protocol, 8)
        samples = rounds(
            {
                "world": lambda p=protocol: run(scenario(8), protocol=p, version=VERSION),  # type: ignore[misc]
                "engine": again,
                "heap": partial(raw_heap, MESSAGES, 30),
            },
            times,
        )
        prices = tuple((r["world"] - r["engine"]) / calls / (r["heap"] / MESSAGES) for r in samples)
        yield Line(
            1,
            f"{protocol}, 8 channels: what the world adds to one engine call",
            "one message on a raw heap",
            prices,
            4,
            2.5,
            note=f"{calls} engine calls a run",
        )


def traced(times: int) -> Iterator[Line]:
    for protocol in ("v1", "v2"):
        samples = rounds(
            {
                "off": lambda p=protocol: play(world(p, 8, False)),
                "on": lambda p=protocol: play(world(p, 8)),
                "digest": lambda p=protocol: play(world(p, 8)).trace.digest(),
            },
            times,
        )  # type: ignore[misc]
        yield Line(1, f"{protocol}, 8 channels: trace on", "trace off", over(samples, "on", "off"), 1.10, 1.05)
        yield Line(
            1, f"{protocol}, 8 channels: trace and digest", "trace off", over(samples, "digest", "off"), 1.45, 1.2
        )


# --- growth ---------------------------------------------------------------------------------------------------------
def devices(count: int) -> Any:
    """The profile's machine with so many devices, its own over and over."""
    own = machine(VERSION, "pc-i440fx-7.2")
    copies = (replace(own.devices[n % len(own.devices)], id=f"d{n}", instance=0) for n in range(count))
    return replace(own, devices=tuple(copies))


def peak_bytes(call: Callable[[], object]) -> int:
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _pumped(make: Callable[[], tuple[Any, Any]]) -> None:
    pump(*make())


def growth(times: int) -> Iterator[Line]:
    """Cost for one more, far out, over cost for one more, near: 1 is linear."""
    sizes = (10, 512, 4096)
    makers = {n: pair("v2", 0, devices(n)) for n in sizes}
    calls = {str(n): partial(_pumped, make) for n, make in makers.items()}
    samples = rounds(calls, times)
    linear = tuple(r["4096"] / r["512"] / (4096 / 512) for r in samples)
    cost = ", ".join(f"{n}: {middle(samples, str(n)) * 1e3:.1f} ms" for n in sizes)
    yield Line(
        3, "v2: a handshake with 4,096 devices, a device", "with 512 devices, a device", linear, 1.10, 1.0, note=cost
    )
    memory = {n: peak_bytes(calls[str(n)]) for n in sizes[1:]}
    yield Line(
        3,
        "v2: peak memory with 4,096 devices, a device",
        "with 512 devices, a device",
        (memory[4096] / memory[512] / 8,),
        1.10,
        1.0,
        exact=True,
        note=f"{memory[4096] / 2**20:.1f} MiB",
    )
    for protocol, far in MOST:
        runs = {str(n): partial(run, scenario(n), protocol=protocol, version=VERSION) for n in (1, 16, 64, far)}
        samples = rounds(runs, times)
        linear = tuple(r[str(far)] / r["16"] / (far / 16) for r in samples)
        cost = ", ".join(f"{n}: {middle(samples, n) * 1e3:.1f} ms" for n in runs)
        yield Line(
            3,
            f"{protocol}: a world's run with {far} channels, a channel",
            "with 16 channels, a channel",
            linear,
            1.10,
            1.0,
            note=f"{far} is the most that is allowed; {cost}",
        )
    rng = random.Random(1)
    trace = Trace()
    for _ in range(20_000):
        trace.note(20_000 * rng.random(), "source", "say", "main", "RAM")
    short = Trace(steps=trace.steps[:2_000])
    samples = rounds({"far": trace.digest, "near": short.digest}, times)
    yield Line(
        3,
        "digest of 20,000 steps, a step",
        "of 2,000 steps, a step",
        tuple(r["far"] / r["near"] / 10 for r in samples),
        1.10,
        1.0,
    )


def lines(times: int) -> Iterator[Line]:
    yield from over_bare(times)
    yield from added(times)
    yield from traced(times)
    yield from growth(times)
