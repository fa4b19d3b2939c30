"""A scenario on real sockets: two real endpoints in this process, a real link between them, the guest simulated."""

from __future__ import annotations

import asyncio
import select
import selectors
import socket
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ..case.endpoints import Case
from ..case.faults import LinkEffect
from ..case.intruders import Intruder
from ..case.registry import ScenarioError
from ..case.scenario import Scenario
from ..handshake.endpoint import Endpoint
from ..handshake.interface import Start
from ..process.ending import row
from ..process.management import Management
from ..record.result import Result
from ..record.trace import Trace
from .address import Address, bound, intrude
from .host import Host, Names
from .proxy import Proxy
from .tls import Credentials, make_credentials

QUIET_S = 0.3  # nothing happens any more on either side
STUCK_S = 1.5  # ... and the source has not ended
GRACE_S = 0.1
PLANNED_S = 3.0  # alarms that ring so soon are waited for


def unsupported_reason(scenario: Scenario) -> str:
    """Why a scenario can't run on real sockets here; empty if it can."""
    link = scenario.link
    if link.transport not in ("tcp", "unix", "fd", "exec-socat"):
        return f"nobody answers on {link.transport}"
    if link.loss or link.syn_loss:
        return "packets can't be lost on loopback"
    if why := next((f.unsupported_on_sockets for f in scenario.faults if f.unsupported_on_sockets), ""):
        return why
    if scenario.schedule or scenario.guest.source_ms:
        return "the kernel delivers when it likes"
    return ""


class _Run:
    """One scenario under way."""

    def __init__(self, setup: Case, folder: Path) -> None:
        self.setup, self.folder = setup, folder
        self.scenario = setup.scenario
        self.loop = asyncio.get_running_loop()
        self.zero_s = self.loop.time()
        self.names: Names = {}
        self.trace = Trace(f"{self.scenario.name}: {setup.protocol}, {setup.version}, live, seed {setup.seed}")
        link = self.scenario.link
        self.far = link.delay_ms > 0.05 or link.rate_mib_s < 1200 or link.jitter_ms > 0
        self.proxied = self.far or any(f.on_link for f in self.scenario.faults)
        self.source = self._host("source", setup.source())
        self.destination = self._host("destination", setup.destination())
        self.source.guest.running = True
        self.proxy: Proxy | None = None
        self.reachable = self.inline = Address("tcp", "")  # where the destination is
        self.management = Management(setup, self)
        self.timers: list[asyncio.TimerHandle] = []
        self.next: list[asyncio.TimerHandle] = []  # of the manager, once the source has ended
        self.steps: list[Callable[[], Awaitable[None]]] = []  # what the manager's commands have yet to do
        self.one_by_one = asyncio.Lock()
        self.past: list[Host] = []  # processes that were replaced
        self.first: list[tuple[Intruder, int]] = []  # they connect before the source
        self.intruders: list[socket.socket] = []
        self.failure: BaseException | None = None
        self.loop.set_exception_handler(self._failed)

    def _host(self, side: str, endpoint: Endpoint) -> Host:
        label = str(self.setup.settings(side == "source").parameter("tls-creds", ""))
        credentials = self._credentials(label) if label else None
        trip_s = 2 * self.scenario.link.delay_ms / 1e3 if self.far else 0.0
        host = Host(
            side,
            endpoint,
            self.trace,
            self.setup.guest(side == "source"),
            credentials=credentials,
            names=self.names,
            zero_s=self.zero_s,
            trip_s=trip_s,
            record="sent",
        )
        host.on_status = lambda status: self.management.reported(host, status)
        host.on_exit = lambda: self.management.exited(host)
        return host

    def _credentials(self, label: str) -> Credentials:
        folder = self.folder / label
        return replace(Credentials(folder) if folder.exists() else make_credentials(folder), hostname="localhost")

    def _failed(self, _: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
        error = context.get("exception")
        self.failure = self.failure or (error if isinstance(error, BaseException) else RuntimeError(context["message"]))

    # --- the run ----------------------------------------------------------------------------------------------------
    async def run(self) -> Result:
        try:
            await self._listen()
            self.management.begin()
            await self._carry_out()
            refused = self.management.refused is not None or self.destination.endpoint.finished is not None
            if not refused:
                await self._until_quiet()
            self.management.end()
            return Result(row(self.setup, self.source, self.destination, self.management.refused, None), self.trace)
        finally:
            for timer in (*self.timers, *self.next):
                timer.cancel()
            for closing in (self.source, self.destination, *self.past, self.proxy, *self.intruders):
                if closing is not None:
                    closing.close()
            await asyncio.sleep(0)  # transports close in the next turn
            await asyncio.sleep(0)
            if self.failure is not None:
                raise self.failure

    async def _listen(self) -> None:
        kind = self.scenario.link.transport
        if kind in ("fd", "exec-socat"):
            ours, theirs = socket.socketpair()
            self.source.peer = Address("fd", str(ours.detach()))
            self.inline = Address("fd", str(theirs.detach()))
            return
        where = self._place(kind, "destination")
        await self.destination.listen(where, self.setup.definition.backlog(self.setup))
        assert self.destination.listener is not None
        self.source.peer = self.reachable = bound(self.destination.listener)
        if self.proxy is not None:
            self.proxy.upstream = self.reachable
        elif self.proxied:
            self.proxy = Proxy(self.scenario, self.setup.seed, self.reachable, self.names, self.zero_s)
            self.near = await self.proxy.listen(self._place(kind, "proxy"))
        if self.proxy is not None:
            self.source.peer = self.near

    def _place(self, kind: str, name: str) -> Address:
        return Address("tcp", "127.0.0.1:0") if kind == "tcp" else Address("unix", str(self.folder / name))

    # --- what its manager needs (management.Stage) ------------------------------------------------------------------
    def host(self, side: str) -> Host:
        return self.source if side == "source" else self.destination

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        ended = self.source.endpoint.finished is not None
        (self.next if ended else self.timers).append(self.loop.call_later(delay_s, call))

    def renew(self, side: str, endpoint: Endpoint) -> None:
        old, new = self.host(side), self._host(side, endpoint)
        self.past.append(old)
        if side == "source":
            self.source = new
            new.peer, new.guest.running = old.peer, True
        else:
            if not old.dead:
                old.die("is replaced")
            self.destination = new
            self.steps.append(self._listen)

    def begin(self, side: str) -> None:
        if side == "source":
            self.steps.append(self._start_source)
        elif self.steps:  # it has yet to listen
            self.steps.append(self._start_destination)
        else:
            self.destination.feed(Start())
            for number, fault in enumerate(self.scenario.faults):
                fault.arrange(self, number)
        if self.past:  # not the first attempt, which `run` waits for
            self.source._spawn(self._carry_out())

    async def _carry_out(self) -> None:
        async with self.one_by_one:
            while self.steps:
                await self.steps.pop(0)()

    async def _start_destination(self) -> None:
        self.destination.feed(Start())

    async def _start_source(self) -> None:
        if self.inline.where:
            await self.destination.listen(self.inline)
        intruders, self.first = self.first, []
        for intruder, number in intruders:  # they connect before the source
            await self._intrude(intruder, number)
        self.source.feed(Start())

    # --- what faults may do (faults.Rig) ----------------------------------------------------------------------------
    def at(self, at_s: float, call: Callable[[], None]) -> None:
        self.timers.append(self.loop.call_at(self.zero_s + at_s, call))

    def cut(self) -> None:
        self._link.cut()

    def reset(self, connection: str) -> None:
        self._link.reset(connection)

    def shape(self, effect: LinkEffect, direction: str, after_bytes: int | None, timeout_s: float = 0.0) -> None:
        self._link.shape(effect, direction, after_bytes)

    def delay_accept(self, connection: str, for_s: float) -> None:
        self._link.delay_accept(connection, for_s)

    def delay_data(self, connection: str, for_s: float) -> None:
        self._link.delay_data(connection, for_s)

    @property
    def _link(self) -> Proxy:
        if self.proxy is None:
            name = self.scenario.name
            raise ScenarioError(f"{name}: a fault of the link needs a proxy; give its class on_link = True")
        return self.proxy

    def stop(self, side: str, how: str, after_bytes: int | None) -> None:
        host = self.destination if side == "destination" else self.source
        act = host.freeze if how == "freeze" else lambda: host.die("is killed")
        if after_bytes is None:
            act()
        else:
            host.calls.append((after_bytes, act))

    def intrude(self, intruder: Intruder, number: int, at_s: float) -> None:
        if at_s <= 0:
            self.first.append((intruder, number))
        else:
            self.at(at_s, lambda: self.source._spawn(self._intrude(intruder, number)))

    async def _intrude(self, intruder: Intruder, number: int) -> None:
        name = f"intruder[{number}]"
        met = await intrude(self.reachable, intruder, lambda own: self.names.__setitem__(own, name))
        self.intruders.append(met)

    @property
    def _moves(self) -> int:
        return self.proxy.moves if self.proxy is not None else 0

    async def _until_quiet(self) -> None:
        """Both have ended, or nothing has happened for a while and nothing is planned."""
        management = self.scenario.management
        link = self.scenario.link
        pause_s = 4 * (link.delay_ms + 5 * link.jitter_ms) / 1e3 + self.scenario.guest.ram_mib / link.rate_mib_s
        pause_s += max((getattr(f, "gap_s", 0.0) for f in self.scenario.faults), default=0.0)
        while self.source.now_s < management.observe_s and self.failure is None:
            both = (self.source, self.destination)
            ends = [h.endpoint.finished is not None or h.dead for h in both]
            self.next = [t for t in self.next if not t.cancelled() and t.when() > self.loop.time()]
            if all(ends) and not self.next:
                break
            timers = [*(self.timers if not ends[0] else ()), *self.next, *(t for h in both for t in h.timers.values())]
            planned = [s for t in timers if 0 < (s := t.when() - self.loop.time()) < PLANNED_S]
            for host in both:
                host.changed.clear()
            moves = self._moves
            wait_s = max([(QUIET_S if ends[0] else STUCK_S) + pause_s, *(s + QUIET_S for s in planned)])
            waits = [asyncio.ensure_future(h.changed.wait()) for h in both]
            _, left = await asyncio.wait(waits, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            if not any(host.changed.is_set() for host in both):
                await asyncio.sleep(GRACE_S)  # a busy machine may have slept over what was under way
            if moves == self._moves and not any(host.changed.is_set() for host in both):
                break
        await asyncio.sleep(0.01 + pause_s)  # what closing still sends


class Punctual(selectors.DefaultSelector):
    """epoll counts in milliseconds, and asyncio rounds up: each hop by the proxy would be late by up to one."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def run(
    scenario: Scenario, *, protocol: str = "v2", version: str = "", manager: str = "naive", seed: int = 1
) -> Result:
    """One run of a scenario on real sockets of this machine. Raises ValueError where that can't be."""
    why = unsupported_reason(scenario)
    if why:
        raise ValueError(f"{scenario.name} can't run on real sockets: {why}")
    setup = Case(scenario, protocol, version or scenario.versions[0], manager, seed)

    async def whole() -> Result:
        with tempfile.TemporaryDirectory(prefix="simlib-") as folder:
            return await _Run(setup, Path(folder)).run()

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Punctual())) as runner:
        return runner.run(whole())
