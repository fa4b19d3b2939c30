"""A scenario's v2 with two real QEMUs, an agent beside each, and the lab's proxy between the agents."""

from __future__ import annotations

import asyncio
import secrets
import signal
from contextlib import AsyncExitStack
from pathlib import Path

from ..case.endpoints import Case
from ..case.faults import (
    Freeze,
    Intrusion,
    Stopping,
)
from ..case.guest import MIB
from ..case.scenario import Scenario, Side
from ..handshake.interface import Cancel, Finished, Start, SwitchToPostcopy
from ..live.address import Address, intrude
from ..live.host import Names
from ..live.proxy import Proxy
from ..live.tls import Credentials, make_credentials
from ..record.outcome import Facts, Row, classify, guest_at
from ..record.result import Result
from ..record.trace import Trace
from .guest import BASE, PAGE, count
from .machine import arguments, whole
from .migrate import MigrationRequest, destination_agent, listen, settings, source_agent, until_finished
from .process import Qemu
from .sidecar import Agent

SETTLE_S = 1.0
OBSERVE_S = 60.0


def unsupported_reason(scenario: Scenario) -> str:
    """Why agents beside QEMUs can't play a scenario; empty if they can. Besides what holds for v1."""
    sides = (scenario.source, scenario.destination)
    if scenario.link.transport not in ("tcp", "unix"):
        return "the agents need sockets"
    if any(s.psk for s in sides):
        return "the agents take certificates, not secrets"
    expressible = all(s.knows_v2 and not (s.accepts_both or s.accepts_stream_alone) for s in sides)
    return "" if expressible else "the agents speak v2 and nothing else"


class AgentRun:
    """One scenario under way."""

    def __init__(self, setup: Case, binaries: dict[str, str], folder: Path) -> None:
        self.setup, self.scenario, self.folder = setup, setup.scenario, folder
        self.loop = asyncio.get_running_loop()
        self.zero_s = self.loop.time()
        self.trace = Trace(f"{self.scenario.name}: v2, {setup.version}, agents beside real QEMU")
        command_lines = arguments(setup, True, folder), (*arguments(setup, False, folder), "-S")
        self.source, self.destination = (
            Qemu(binaries[v], a, folder, n)
            for v, a, n in zip(setup.versions, command_lines, ("source", "destination"), strict=True)
        )
        self.names: Names = {}
        self.agents: list[Agent] = []
        self.proxy: Proxy | None = None
        self.real = Address("tcp", "")

    async def run(self) -> Result:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.source)
            await stack.enter_async_context(self.destination)
            await self.source.ask("cont")
            while count(await self.source.memory(BASE, PAGE)) < 3:
                await asyncio.sleep(0.02)
            self.zero_s = self.loop.time()
            end = await self._migrate(stack)
            return Result(await self._row(end), self.trace)

    async def _migrate(self, stack: AsyncExitStack) -> Finished | None:
        ours, theirs = self.scenario.source, self.scenario.destination
        there = await settings(self.destination, self.setup.settings(False).machine, _request(theirs))
        to = destination_agent(
            there,
            _request(theirs),
            secrets.token_bytes(32),
            self.trace,
            self.destination,
            self.folder,
            names=self.names,
            zero_s=self.zero_s,
            credentials=self._credentials(theirs),
        )
        stack.callback(to.close)
        self.agents.append(to)
        self.real = await listen(to, Address("tcp", "127.0.0.1:0"))
        self.proxy = Proxy(self.scenario, self.setup.seed, self.real, self.names, self.zero_s)
        self.proxy.arrange(self.scenario.faults)
        stack.callback(self.proxy.close)
        near = await self.proxy.listen(Address("tcp", "127.0.0.1:0"))
        here = await settings(self.source, self.setup.settings(True).machine, _request(ours))
        agent = source_agent(
            here,
            _request(ours),
            secrets.token_bytes(32),
            self.trace,
            self.source,
            self.folder,
            near,
            names=self.names,
            zero_s=self.zero_s,
            credentials=self._credentials(ours),
        )
        stack.callback(agent.close)
        self.agents.insert(0, agent)
        faults = [f for f in self.scenario.faults if isinstance(f, (Intrusion, Stopping))]
        for fault in [f for f in faults if (f.at_s <= 0 if isinstance(f, Intrusion) else f.before_start)]:
            faults.remove(fault)
            await self._do(fault, stack)
        agent.feed(Start())
        ending = asyncio.ensure_future(until_finished(agent))
        stack.callback(ending.cancel)
        await self._disturb(ending, faults, stack)
        return ending.result() if ending.done() else None

    def _credentials(self, side: Side) -> Credentials | None:
        label = side.parameters.get("tls-creds")
        if not label:
            return None
        folder = self.folder / str(label)
        credentials = Credentials(folder) if folder.exists() else make_credentials(folder)
        return Credentials(credentials.folder, "localhost")

    async def _disturb(
        self, ending: asyncio.Future[Finished | None], faults: list[Intrusion | Stopping], stack: AsyncExitStack
    ) -> None:
        """Until the source has ended, or long enough."""
        management = self.scenario.management
        times = (
            (management.cancel_at_s, Cancel("cancelled")),
            (management.deadline_s, Cancel("deadline")),
            (management.postcopy_at_s, SwitchToPostcopy()),
        )
        orders = sorted(((min(at_s, 6.0), order) for at_s, order in times if at_s >= 0), key=lambda o: o[0])
        assert self.proxy is not None
        until_s = self.loop.time() + min(management.observe_s, OBSERVE_S)
        while not ending.done() and self.loop.time() < until_s:
            await asyncio.wait({ending}, timeout=0.002)
            now_s, passed = self.loop.time() - self.zero_s, self.proxy.shapers[True].passed
            for fault in list(faults):
                if isinstance(fault, Stopping) and fault.at_s < 0:
                    due = passed >= fault.after_mib * MIB
                else:
                    due = now_s >= fault.at_s
                if due:
                    faults.remove(fault)
                    await self._do(fault, stack)
            while orders and now_s >= orders[0][0]:
                self.agents[0].feed(orders.pop(0)[1])

    async def _do(self, fault: Intrusion | Stopping, stack: AsyncExitStack) -> None:
        if isinstance(fault, Stopping):
            qemu = self.destination if fault.side == "destination" else self.source
            agent = self.agents[-1 if fault.side == "destination" else 0]
            if isinstance(fault, Freeze):  # the host: QEMU and the agent beside it
                agent.freeze()
                qemu.signal(signal.SIGSTOP)
            else:
                agent.close()
                await qemu.stop()
                if fault.before_start and agent is self.agents[-1] and self.proxy is not None:
                    self.proxy.close()  # as after a dead process: a connection finds no listener
            return
        stack.callback((await intrude(self.real, fault.intruder)).close)

    async def _row(self, end: Finished | None) -> Row:
        here, there = self.agents
        for _ in range(int(SETTLE_S / 0.02)):
            if there.endpoint.finished is not None or there.dead or there.frozen:
                break
            await asyncio.sleep(0.02)
        runs_here = bool((await self.source.status()).get("running"))
        runs_there = not there.frozen and bool((await self.destination.status()).get("running"))
        right = await whole(self.destination, self.scenario) if runs_there else False
        dead = not self.destination.alive
        ended = there.endpoint.finished
        facts = Facts(end, ended, runs_here, runs_there, dead, right, True, not self.source.alive)
        return Row(
            self.scenario.name,
            self.setup.protocol,
            self.setup.manager,
            *self.setup.versions,
            self.setup.seed,
            classify(facts),
            end.status if end else here.endpoint.status,
            "gone" if dead else there.endpoint.status,
            guest_at(facts),
            end.reason if end else "none",
            " ".join(dict.fromkeys(e.code for e in end.errors)) if end else "",
            here.finished_s,
            None,
            None,
            there.moved_bytes,
            None,
            end.text if end else "",
            self.destination.stderr,
            spoken=self.setup.protocol,
            spoken_right=True,
        )


def _request(side: Side) -> MigrationRequest:
    capabilities = tuple(c for c in side.capabilities if c != "multifd")
    parameters = tuple((k, v) for k, v in side.parameters.items() if k not in ("tls-creds", "multifd-channels"))
    channels = int(side.parameters.get("multifd-channels", 2)) if "multifd" in side.capabilities else 0
    return MigrationRequest(
        channels,
        capabilities,
        parameters,
        side.require,
        side.forbid,
        side.on_maybe,
        side.session,
        "tls-creds" in side.parameters,
        side.memory_limit_mib << 20,
    )
