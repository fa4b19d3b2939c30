"""Bytes that nobody acknowledges are given up by TCP when the handshake gives its peer up (SPEC 5.10, RFC 5482)."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from simlib.case.endpoints import Case
from simlib.case.scenario import Scenario
from simlib.handshake.interface import Start
from simlib.live.address import Address, bound
from simlib.live.host import Host
from simlib.record.trace import Trace

QUICK = Scenario(name="quick", title="quick").vary(guest__ram_mib=1.0)


async def timeouts_ms(protocol: str) -> set[int]:
    """Of all of a migration's connections, at both ends, when the source has ended."""
    setup, seen = Case(QUICK, protocol, "10.0"), set()
    there = Host("destination", setup.destination(), Trace(), setup.guest(False))
    await there.listen(Address("tcp", "127.0.0.1:0"), backlog=16)
    assert there.listener is not None
    there.feed(Start())
    here = Host("source", setup.source(), Trace(), setup.guest(True), peer=bound(there.listener))
    here.feed(Start())
    while here.endpoint.finished is None:
        here.changed.clear()
        for link in (*here.links.values(), *there.links.values()):
            if link.sock is not None and link.sock.fileno() >= 0:
                seen.add(link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
        await asyncio.wait_for(here.changed.wait(), 30)
    here.close()
    there.close()
    return seen


@pytest.mark.skipif(sys.platform != "linux", reason="THE SOCKET OPTION IS LINUX'S, so this was not tested")
@pytest.mark.parametrize(("protocol", "expected_ms"), [("v2", 35_000), ("v1", 0)])
def test_a_connection_gives_up_when_the_handshake_does(protocol: str, expected_ms: int) -> None:
    assert asyncio.run(timeouts_ms(protocol)) == {expected_ms}
