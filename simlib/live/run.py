"""A scenario on real sockets: two real endpoints in this process, a real link between them, the guest simulated."""

from __future__ import annotations

import asyncio
import select
import selectors
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..endpoints import Setup
from ..handshake.interface import Cancel, Finished, Start, SwitchToPostcopy
from ..host import MIB
from ..outcome import Row
from ..result import Result, row
from ..scenario import Fault, Scenario
from ..trace import Trace
from .address import Address, bound, stranger
from .host import Host, Names
from .proxy import Proxy
from .tls import Credentials, make_credentials

QUIET_S = 0.3  # nothing happens any more on either side
STUCK_S = 1.5  # ... and the source has not ended
GRACE_S = 0.1
PLANNED_S = 3.0  # alarms that ring so soon are waited for
LINK_FAULTS = ("cut", "stall", "swallow", "order", "late", "hold")


def inexpressible(scenario: Scenario) -> str:
    """Why a scenario can't run on real sockets here; empty if it can."""
    link = scenario.link
    if link.transport not in ("tcp", "unix", "fd", "exec-socat"):
        return f"nobody answers on {link.transport}"
    if link.loss or link.syn_loss or any(f.kind == "lose" for f in scenario.faults):
        return "packets can't be lost on loopback"
    if scenario.schedule or scenario.guest.source_ms:
        return "the kernel delivers when it likes"
    return "the manager tries again" if scenario.management.retries else ""


class _Run:
    """One scenario under way."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup, self.folder = setup, folder
        self.scenario = setup.scenario
        self.loop = asyncio.get_running_loop()
        self.zero_s = self.loop.time()
        self.names: Names = {}
        self.trace = Trace(f"{self.scenario.name}: {setup.protocol}, {setup.version}, live, seed {setup.seed}")
        link = self.scenario.link
        self.far = link.delay_ms > 0.05 or link.rate_mib_s < 1200 or link.jitter_ms > 0
        self.proxied = self.far or any(f.kind in LINK_FAULTS for f in self.scenario.faults)
        self.source = self._host("source", setup.source())
        self.destination = self._host("destination", setup.destination())
        self.source.guest.running = True
        self.proxy: Proxy | None = None
        self.reachable = self.inline = Address("tcp", "")  # where the destination is
        self.timers: list[asyncio.TimerHandle] = []
        self.strangers: list[Any] = []
        self.failure: BaseException | None = None
        self.loop.set_exception_handler(self._failed)

    def _host(self, side: str, endpoint: Any) -> Host:
        label = str(self.setup.settings(side == "source").parameter("tls-creds", ""))
        credentials = self._credentials(label) if label else None
        trip_s = 2 * self.scenario.link.delay_ms / 1e3 if self.far else 0.0
        host = Host(side, endpoint, self.trace, self.setup.guest(side == "source"), credentials=credentials,
                    names=self.names, zero_s=self.zero_s, trip_s=trip_s, record="sent")  # fmt: skip
        host.continues = self.setup.manager == "libvirt"
        return host

    def _credentials(self, label: str) -> Credentials:
        folder = self.folder / label
        return replace(Credentials(folder) if folder.exists() else make_credentials(folder), hostname="localhost")

    def _failed(self, _: Any, context: dict[str, Any]) -> None:
        self.failure = self.failure or context.get("exception") or RuntimeError(context["message"])

    # --- the run ----------------------------------------------------------------------------------------------------
    async def run(self) -> Result:
        refused = self.setup.refused()
        try:
            if refused is not None:
                side, end = refused
                self.trace.note(0.0, side, "end", "", f"rejected: {end.text}")
                return Result(self._row(end), self.trace)
            await self._listen()
            self.destination.feed(Start())
            if self.destination.endpoint.finished is not None:
                return Result(self._row(self.destination.endpoint.finished), self.trace)
            await self._disturb()
            self.source.feed(Start())
            await self._until_quiet()
            return Result(self._row(None), self.trace)
        finally:
            for timer in self.timers:
                timer.cancel()
            for closing in (self.source, self.destination, self.proxy, *self.strangers):
                if closing is not None:
                    closing.close()
            await asyncio.sleep(0)  # transports close in the next turn
            await asyncio.sleep(0)
            if self.failure is not None:
                raise self.failure

    def _row(self, refused: Finished | None) -> Row:
        return row(self.setup, self.source, self.destination, refused, None)

    async def _listen(self) -> None:
        kind = self.scenario.link.transport
        if kind in ("fd", "exec-socat"):
            ours, theirs = socket.socketpair()
            self.source.peer = Address("fd", str(ours.detach()))
            self.inline = Address("fd", str(theirs.detach()))
            return
        where = self._place(kind, "destination")
        backlog = max(self.setup.settings(False).channels, 1) if self.setup.protocol == "v1" else 64
        await self.destination.listen(where, backlog)
        assert self.destination.listener is not None
        self.source.peer = self.reachable = bound(self.destination.listener)
        if self.proxied:
            self.proxy = Proxy(self.scenario, self.setup.seed, self.reachable, self.names, self.zero_s)
            self.source.peer = await self.proxy.listen(self._place(kind, "proxy"))

    def _place(self, kind: str, name: str) -> Address:
        return Address("tcp", "127.0.0.1:0") if kind == "tcp" else Address("unix", str(self.folder / name))

    async def _disturb(self) -> None:
        if self.scenario.link.transport in ("fd", "exec-socat"):
            await self.destination.listen(self.inline)
        management = self.scenario.management
        for at_s, input in ((management.cancel_at_s, Cancel()), (management.deadline_s, Cancel("deadline")),
                            (management.postcopy_at_s, SwitchToPostcopy())):  # fmt: skip
            if at_s >= 0:
                self._at(at_s, self._order, input)
        for number, fault in enumerate(self.scenario.faults):
            if fault.kind == "stranger" and fault.at_s <= 0:
                await self._stranger(fault, number)
            elif fault.kind == "stranger":
                self._at(fault.at_s, lambda f=fault, n=number: self.source._spawn(self._stranger(f, n)))
            elif fault.kind in ("freeze", "kill"):
                self._stop_process(fault)

    def _at(self, at_s: float, call: Any, *given: Any) -> None:
        self.timers.append(self.loop.call_at(self.zero_s + at_s, call, *given))

    def _order(self, input: Any) -> None:
        if self.source.endpoint.finished is None:
            self.trace.note(self.source.now_s, "manager", "management", "", type(input).__name__)
            self.source.feed(input)

    def _stop_process(self, fault: Fault) -> None:
        host = self.destination if fault.side == "destination" else self.source
        act = host.freeze if fault.kind == "freeze" else lambda: host.die("is killed")
        if fault.before:
            act()
        elif fault.at_s >= 0:
            self._at(fault.at_s, act)
        else:
            host.calls.append((int(max(fault.after_mib, 0) * MIB), act))

    async def _stranger(self, fault: Fault, number: int) -> None:
        name = f"stranger[{number}]"
        met = await stranger(self.reachable, fault.says, lambda own: self.names.__setitem__(own, name))
        self.strangers.append(met)

    @property
    def _moves(self) -> int:
        return self.proxy.moves if self.proxy is not None else 0

    async def _until_quiet(self) -> None:
        """Both have ended, or nothing has happened for a while and nothing is planned."""
        management, both = self.scenario.management, (self.source, self.destination)
        link = self.scenario.link
        pause_s = 4 * (link.delay_ms + 5 * link.jitter_ms) / 1e3 + self.scenario.guest.ram_mib / link.rate_mib_s
        pause_s += max((f.gap_s for f in self.scenario.faults if f.kind == "order"), default=0.0)
        while self.source.now_s < management.observe_s and self.failure is None:
            ends = [h.endpoint.finished is not None or h.dead for h in both]
            if all(ends):
                break
            timers = [*(self.timers if not ends[0] else ()), *(t for h in both for t in h.timers.values())]
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
        await asyncio.sleep(0.01 + pause_s)  # what closing still says


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
    why = inexpressible(scenario)
    if why:
        raise ValueError(f"{scenario.name} can't run on real sockets: {why}")
    setup = Setup(scenario, protocol, version or scenario.versions[0], manager, seed)

    async def whole() -> Result:
        with tempfile.TemporaryDirectory(prefix="simlib-") as folder:
            return await _Run(setup, Path(folder)).run()

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Punctual())) as runner:
        return runner.run(whole())
