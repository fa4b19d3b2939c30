"""A destination on a real socket among a thousand who were not asked."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import random
import resource
import time
import tracemalloc
from contextlib import suppress
from dataclasses import dataclass

import pytest

from simlib.case.endpoints import Case
from simlib.case.registry import INTRUDERS
from simlib.case.scenario import Scenario, Side
from simlib.handshake.interface import Start
from simlib.handshake.v2.frames import Limits
from simlib.live.address import Address, bound
from simlib.live.host import Host
from simlib.record.trace import Trace

STRANGERS = 1000
SIDE = Side(capabilities=("multifd",), parameters={"multifd-channels": 4})
SCENARIO = Scenario(name="intruders", title="intruders", source=SIDE, destination=SIDE).vary(guest__ram_mib=1.0)
COMING_PER_S = 500  # those who were thrown out come back, but no faster than half of what the first rush was served at
SETTLED_S = 1.0  # the first rush is over: who waits behind it in the kernel's queue waits, whatever we do


@dataclass(frozen=True)
class Seen:
    """One handshake: seconds to READY, how many came and are kept, the peak of what Python allocated."""

    ready_s: float
    came: int
    links: int
    peak_bytes: int


def crowd(address: Address, count: int) -> None:
    """In a process of its own, as intruders are: all connect and say their word; whoever was thrown out comes again
    after a while."""

    begun_s, served = time.monotonic(), 0

    async def intruder(said: bytes) -> None:
        nonlocal served
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(address.host, address.port)
                writer.write(said)
                while await reader.read(1 << 16):
                    pass
                writer.close()
            served += 1
            # a machine that serves fewer than come has a queue that only grows, and the honest one stands behind it
            coming_per_s = min(COMING_PER_S, served / (time.monotonic() - begun_s) / 2)
            await asyncio.sleep(random.uniform(0, 2 * count / coming_per_s))

    async def all_of_them() -> None:
        words = itertools.cycle(INTRUDERS.get(n).payload for n in INTRUDERS if not INTRUDERS.get(n).leaves)
        await asyncio.gather(*(intruder(next(words)) for _ in range(count)))

    asyncio.run(all_of_them())


async def handshake(intruders: int, measured: bool = False) -> Seen:
    setup = Case(SCENARIO, "v2", "10.0")
    trace = Trace()
    there = Host("destination", setup.destination(), trace, setup.guest(False))
    await there.listen(Address("tcp", "127.0.0.1:0"), backlog=4096)
    assert there.listener is not None
    where = bound(there.listener)
    there.feed(Start())
    if measured:
        tracemalloc.start()
    process = multiprocessing.get_context("spawn").Process(target=crowd, args=(where, intruders), daemon=True)
    process.start()
    while there.accepted < intruders:
        await asyncio.sleep(0.01)
    await asyncio.sleep(SETTLED_S if intruders else 0.0)
    here = Host("source", setup.source(), trace, setup.guest(True), peer=where)
    here.feed(Start())
    begun_s, links = here.now_s, 0
    while here.endpoint.finished is None:
        here.changed.clear()
        await asyncio.wait_for(here.changed.wait(), 60)
        links = max(links, len(there.links))
    peak = tracemalloc.get_traced_memory()[1] if measured else 0
    if measured:
        tracemalloc.stop()
    assert here.endpoint.finished.status == "completed"
    ready_s = next(s.time_s for s in trace.steps if s.side == "source" and s.text == "active") - begun_s
    here.close()
    there.close()
    process.kill()
    process.join()
    await asyncio.sleep(0.05)
    return Seen(ready_s, there.accepted, links, peak)


@pytest.mark.parametrize("intruders", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_an_honest_handshake_ends_well_among_thousands_of_strangers_and_few_of_them_are_kept(intruders: int) -> None:
    room, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < intruders + 1000:
        pytest.skip(f"{intruders} intruders need as many descriptors; ulimit -Hn says {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(room, intruders + 1000), most))
    seen = asyncio.run(handshake(intruders, measured=True))
    limits = Limits()
    assert seen.came >= intruders
    assert seen.links <= 2 * limits.unauthenticated + 5 + 1  # control and lanes; as many again may be about to close
    # every connection that is kept may hold a frame: the bound does not know how many came
    assert seen.peak_bytes < (2 * limits.unauthenticated + 6) * limits.frame_bytes + (4 << 20)


if __name__ == "__main__":
    for intruders in (0, STRANGERS, 10 * STRANGERS):
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        seen = [asyncio.run(handshake(intruders)) for _ in range(5)]
        times_ms = sorted(s.ready_s * 1e3 for s in seen)
        print(
            f"{intruders} intruders: to READY {times_ms[2]:.1f} ms ({times_ms[0]:.1f} to {times_ms[-1]:.1f} ms), "
            f"{max(s.links for s in seen)} connections kept"
        )
