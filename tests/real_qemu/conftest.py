"""Real QEMUs for tests: which are here, and pairs of them with their agents. Without QEMU these tests are left out, and
the summary says so."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from simlib.case.endpoints import Case
from simlib.case.scenario import Scenario, Side
from simlib.handshake.interface import Finished, Start
from simlib.live.address import Address
from simlib.live.host import Names
from simlib.live.proxy import Proxy
from simlib.real_qemu import guest
from simlib.real_qemu.machine import arguments, whole
from simlib.real_qemu.migrate import MigrationRequest, destination_agent, listen, settings, source_agent, until_finished
from simlib.real_qemu.process import Qemu, binaries
from simlib.record.trace import Trace

HERE = binaries()
BUSY = Scenario(name="busy", title="busy").vary(
    guest__ram_mib=32.0, guest__dirty_mib_s=20.0, guest__working_set_mib=4.0
)


def needs(*versions: str) -> None:
    for version in versions:
        if version not in HERE:
            pytest.skip(f"QEMU {version} IS NOT HERE, so nothing of it was tested; make qemu VERSIONS={version}")


class Pair:
    """Two QEMUs and two agents on one link. The guest counts at the source; `migrate` moves it with v2."""

    def __init__(self, stack: AsyncExitStack, folder: Path, versions: tuple[str, str], scenario: Scenario) -> None:
        self.stack, self.folder, self.versions, self.scenario = stack, folder, versions, scenario
        self.trace = Trace("v2 beside QEMU")
        self.names: Names = {}
        self.source: Qemu
        self.destination: Qemu
        self.there: Any
        self.proxy: Proxy | None = None

    async def start(self, wish: MigrationRequest, capabilities: tuple[str, ...] = ()) -> None:
        """The destination with its agent, and the guest."""
        self.destination = await self._qemu(self.scenario, False, "destination")
        self.source = await self.guest(self.scenario)
        there = await settings(
            self.destination, self.scenario.destination.machine, MigrationRequest(capabilities=capabilities)
        )
        self.there = destination_agent(
            there, wish, secrets.token_bytes(32), self.trace, self.destination, self.folder, names=self.names
        )
        self.stack.callback(self.there.close)
        self.at = await listen(self.there, Address("tcp", "127.0.0.1:0"))

    async def _qemu(self, scenario: Scenario, at_source: bool, name: str) -> Qemu:
        setup = Case(scenario, "v1", ">".join(self.versions))
        place = self.folder / name
        place.mkdir()
        options = arguments(setup, at_source, place)
        binary = HERE[self.versions[0 if at_source else 1]]
        return await self.stack.enter_async_context(Qemu(binary, (*options, "-S"), place, name))

    async def guest(self, scenario: Scenario, name: str = "source") -> Qemu:
        qemu = await self._qemu(scenario, True, name)
        await qemu.ask("cont")
        while await self.count(qemu) < 3:
            await asyncio.sleep(0.02)
        return qemu

    async def through(self, scenario: Scenario) -> None:
        """Put the lab's proxy, with its faults, between the agents."""
        self.proxy = Proxy(scenario, 1, self.at, self.names, asyncio.get_running_loop().time())
        self.proxy.arrange(scenario.faults)
        self.stack.callback(self.proxy.close)
        self.at = await self.proxy.listen(Address("tcp", "127.0.0.1:0"))

    async def agent(
        self, qemu: Qemu | None = None, wish: MigrationRequest = MigrationRequest(), machine: str = ""
    ) -> Any:
        """The source's agent, started."""
        qemu = qemu or self.source
        ours = await settings(qemu, machine or self.scenario.source.machine, wish)
        agent = source_agent(
            ours, wish, secrets.token_bytes(32), self.trace, qemu, qemu.folder, self.at, names=self.names
        )
        self.stack.callback(agent.close)
        agent.feed(Start())
        return agent

    async def migrate(
        self, qemu: Qemu | None = None, wish: MigrationRequest = MigrationRequest(), machine: str = ""
    ) -> Finished:
        end = await asyncio.wait_for(until_finished(await self.agent(qemu, wish, machine)), 60)
        assert end is not None
        return end

    async def count(self, qemu: Qemu) -> int:
        return guest.count(await qemu.memory(guest.BASE, guest.PAGE))

    async def counts_on(self, qemu: Qemu) -> bool:
        before = await self.count(qemu)
        for _ in range(150):
            if await self.count(qemu) > before:
                return True
            await asyncio.sleep(0.02)
        return False

    async def arrived_whole(self) -> bool:
        """It counts at the destination, stands still at the source, and every page is as it left it."""
        return not (await self.source.status())["running"] and await whole(self.destination, self.scenario)

    async def running(self) -> tuple[bool, bool]:
        """Whether the guest runs at the source, and at the destination."""
        here, there = await self.source.status(), await self.destination.status()
        return bool(here.get("running")), bool(there.get("running"))


@asynccontextmanager
async def pair(
    folder: Path,
    versions: tuple[str, str] = ("10.0", "10.0"),
    source: Side = Side(),
    destination: Side = Side(),
    wish: MigrationRequest = MigrationRequest(),
    capabilities: tuple[str, ...] = (),
) -> AsyncIterator[Pair]:
    needs(*versions)
    async with AsyncExitStack() as stack:
        both = Pair(stack, folder, versions, BUSY.vary(source=source, destination=destination))
        await both.start(wish, capabilities)
        yield both


@pytest.fixture
def qemus() -> dict[str, str]:
    """Version -> program."""
    needs("7.2", "10.0")
    return HERE


@pytest.fixture
def two(tmp_path: Path) -> Callable[..., Any]:
    """`async with two(versions, ...) as pair`."""
    return lambda *args, **more: pair(tmp_path, *args, **more)
