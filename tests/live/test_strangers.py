"""A destination on a real socket among a thousand who were not asked."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tracemalloc
from contextlib import suppress
from dataclasses import dataclass

import pytest

from simlib.endpoints import Setup
from simlib.handshake.interface import Start
from simlib.handshake.v2.frames import Limits
from simlib.live.address import Address, bound
from simlib.live.host import Host
from simlib.scenario import Scenario, Side
from simlib.strangers import WORDS
from simlib.trace import Trace

STRANGERS = 1000
SIDE = Side(capabilities=("multifd",), parameters={"multifd-channels": 4})
SCENARIO = Scenario(name="strangers", title="strangers", source=SIDE, destination=SIDE).vary(guest__ram_mib=1.0)
AGAIN_S = 2.0  # a stranger who was thrown out comes back


@dataclass(frozen=True)
class Seen:
    """One handshake: seconds to READY, how many came, how many are kept, and the peak of what Python allocated."""

    ready_s: float
    came: int
    unknown: int
    peak_bytes: int


async def stranger(address: Address, said: bytes) -> None:
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(said)
            while await reader.read(1 << 16):
                pass
            writer.close()
        await asyncio.sleep(AGAIN_S)


async def handshake(strangers: int, measured: bool = False) -> Seen:
    setup = Setup(SCENARIO, "v2", "10.0")
    trace = Trace()
    there = Host("destination", setup.destination(), trace, setup.guest(False))
    await there.listen(Address("tcp", "127.0.0.1:0"))
    assert there.listener is not None
    where = bound(there.listener)
    there.feed(Start())
    words = itertools.cycle(w for name, w in WORDS.items() if name != "scan")
    tasks = [asyncio.create_task(stranger(where, next(words))) for _ in range(strangers)]
    if measured:
        tracemalloc.start()
    while len(there.links) < strangers:
        await asyncio.sleep(0.01)
    here = Host("source", setup.source(), trace, setup.guest(True), peer=where)
    here.feed(Start())
    begun_s = here.now_s
    while here.endpoint.finished is None:
        here.changed.clear()
        await asyncio.wait_for(here.changed.wait(), 20)
    peak = tracemalloc.get_traced_memory()[1] if measured else 0
    if measured:
        tracemalloc.stop()
    unknown = sum(link.kind == "new" for link in there.endpoint.links)  # type: ignore[attr-defined]
    assert here.endpoint.finished.status == "completed"
    ready_s = next(s.time_s for s in trace.steps if s.side == "source" and s.text == "active") - begun_s
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    here.close()
    there.close()
    await asyncio.sleep(0.05)
    return Seen(ready_s, len(there.links), unknown, peak)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the strangers are thrown out, and so are their streams
def test_an_honest_handshake_ends_well_among_a_thousand_strangers_and_few_of_them_are_kept() -> None:
    seen = asyncio.run(handshake(STRANGERS, measured=True))
    limits = Limits()
    assert seen.came >= STRANGERS and seen.unknown <= limits.unauthenticated
    # every connection that is kept may hold a frame; the rest is what asyncio and the strangers themselves hold
    assert seen.peak_bytes < limits.unauthenticated * limits.frame_bytes + STRANGERS * 32_768


if __name__ == "__main__":
    alone = statistics.median(asyncio.run(handshake(0)).ready_s for _ in range(5))
    among = [asyncio.run(handshake(STRANGERS)).ready_s for _ in range(5)]
    peak = asyncio.run(handshake(STRANGERS, measured=True)).peak_bytes
    print(f"to READY alone: {alone * 1e3:.1f} ms; among {STRANGERS} strangers: {statistics.median(among) * 1e3:.1f} ms "
          f"({statistics.median(among) / alone:.1f} times; {min(among) * 1e3:.1f} to {max(among) * 1e3:.1f} ms); "
          f"Python's peak memory, strangers included: {peak / 2**20:.1f} MiB")  # fmt: skip
