"""A thousand peers that go as far as START on a real socket, and then hold it (SPEC 2.5, section 11)."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from contextlib import suppress
from dataclasses import replace

from simlib.case.endpoints import Case
from simlib.case.scenario import Scenario
from simlib.handshake.interface import Opened, Received, Send, Start
from simlib.handshake.machine import Machine, Settings
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.frames import Limits
from simlib.handshake.v2.source import Source
from simlib.live.address import Address, bound
from simlib.live.host import Host
from simlib.record.trace import Trace

HOLDERS = 1000
GUARD_S = 3.0
SCENARIO = Scenario(name="holders", title="holders").vary(guest__ram_mib=1.0)


def hold(address: Address, count: int) -> None:
    """In a process of its own: each connects once, says HELLO, OFFER and START, and nothing more."""

    async def holder(number: int) -> None:
        source = Source(Settings(machine=Machine()), SessionConfig(number.to_bytes(32, "big")))
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            outputs = [*source.handle(Start()), *source.handle(Opened(0))]
            while source.finished is None:
                writer.writelines(o.data for o in outputs if isinstance(o, Send) and o.conn == 0)
                data = await reader.read(1 << 16)
                if not data:
                    return
                outputs = source.handle(Received(0, data))
            await reader.read()

    async def all_of_them() -> None:
        await asyncio.gather(*map(holder, range(count)))

    asyncio.run(all_of_them())


async def honest_source_is_accepted_after() -> float:
    """Seconds from the first attempt of a source that tries again every second."""
    setup = Case(SCENARIO, "v2", "10.0")
    settings = setup.settings(False)
    config = replace(setup.session_config(False), limits=Limits(guard_s=GUARD_S))
    there = Host("destination", Destination(settings, config), Trace(), setup.guest(False))
    await there.listen(Address("tcp", "127.0.0.1:0"), backlog=4096)
    assert there.listener is not None
    there.feed(Start())
    where = bound(there.listener)
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(where, HOLDERS), daemon=True)
    process.start()
    try:
        while "control" not in {link.kind for link in there.endpoint.links.values()}:  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
        begun_s = time.monotonic()
        while True:
            here = Host("source", setup.source(), Trace(), setup.guest(True), peer=where)
            here.feed(Start())
            while here.endpoint.finished is None:
                here.changed.clear()
                await asyncio.wait_for(here.changed.wait(), 60)
            here.close()
            if here.endpoint.finished.status == "completed":
                return time.monotonic() - begun_s
            assert {e.code for e in here.endpoint.finished.errors} <= {"busy", "peer-closed", "connection-lost"}
            await asyncio.sleep(1.0)
    finally:
        process.kill()
        process.join()
        there.close()


def test_a_thousand_peers_that_stop_after_start_hold_a_destination_for_one_guard_time() -> None:
    assert asyncio.run(honest_source_is_accepted_after()) <= GUARD_S + 2.0
