"""A scenario with two real QEMU processes and a proxy between them: `run` takes and gives what the other runners do.

The proxy is the lab's own (`live.proxy`): it delays, reorders, cuts, stalls and discards as the scenario requires, and
sees every byte. What the sides report about themselves is queried over QMP, as by a manager.
"""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

from ..case.endpoints import Case
from ..case.faults import Delaying, Freeze, Intrusion, Kill, Order, Stopping
from ..case.registry import USUAL_MANAGER
from ..case.scenario import Scenario
from ..handshake.interface import Finished
from ..handshake.names import Reason, Status
from ..live.address import Address, intrude, parse
from ..live.proxy import Proxy
from ..process.ending import as_asked
from ..record.outcome import Facts, Row, classify, guest_at
from ..record.result import Result
from ..record.trace import Trace
from . import agent_run
from .guest import BASE, PAGE, count
from .machine import arguments, migration_settings, unsupported_reason, whole
from .monitor import QemuError, Refused, Unavailable
from .process import Qemu, needed
from .shapes import Json
from .tap import Tap

LOOK_S = 0.03
QUIET_S = 6.0  # nothing has moved and no status has changed for so long: it hangs
SETTLE_S = 1.5  # what the destination still does when the source has ended
LOAD_S = 4.0  # a saved guest is loaded in less, or never
OBSERVE_S = 25.0
ENDED = ("completed", "failed", "cancelled")
ERRNO = re.compile(
    r"(Broken pipe|Connection reset by peer|Input/output error|Bad file descriptor|Connection refused"
    r"|Channel error|No such file or directory|Transport endpoint is not connected)\W*$"
)


class _Run:
    """One scenario under way. `binaries`: version -> program."""

    def __init__(self, setup: Case, binaries: dict[str, str], folder: Path) -> None:
        self.setup, self.folder, self.scenario = setup, folder, setup.scenario
        self.loop = asyncio.get_running_loop()
        self.zero_s = self.loop.time()
        self.trace = Trace(f"{self.scenario.name}: v1, {setup.version}, real QEMU")
        self.source = Qemu(binaries[setup.versions[0]], arguments(setup, True, folder), folder, "source")
        self.destination = Qemu(binaries[setup.versions[1]], arguments(setup, False, folder), folder, "destination")
        self.span_bytes = int(self.scenario.guest.ram_mib * (1 << 20)) & ~(PAGE - 1)
        self.proxy: Proxy | None = None
        self.tap = Tap(self.trace, lambda: self.now_s)
        self.real = Address("tcp", "")
        self.intruders: list[socket.socket] = []
        self.status_of: dict[str, Json] = {"source": {}, "destination": {}}
        self.frozen = False
        self.ended_s: float | None = None
        self.timers: list[asyncio.TimerHandle] = []

    @property
    def now_s(self) -> float:
        return self.loop.time() - self.zero_s

    def note(self, side: str, kind: str, text: str) -> None:
        self.trace.note(self.now_s, side, kind, "", text)

    async def run(self) -> Result:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.source)
            await stack.enter_async_context(self.destination)
            stack.callback(self._close)
            refused = await self._set_up()
            if refused is None and self._from_file:
                refused = await self._save_and_load()
            elif refused is None:
                refused = await self._migrate()
            return Result(await self._row(refused), self.trace)

    def _close(self) -> None:
        for timer in self.timers:
            timer.cancel()
        for closing in (self.proxy, *self.intruders):
            if closing is not None:
                closing.close()

    @property
    def _from_file(self) -> bool:
        return self.scenario.link.transport not in ("tcp", "unix")

    # --- before it moves --------------------------------------------------------------------------------------------
    async def _set_up(self) -> Finished | None:
        """The refusal, where QMP refuses. The guest counts before anything is set."""
        await self.source.ask("cont")
        while count(await self.source.memory(BASE, PAGE)) < 2 + (self.span_bytes <= PAGE):
            await asyncio.sleep(LOOK_S)
        self.status_of["source"] = {"running": True}
        for qemu in (self.source,) if self._from_file else (self.source, self.destination):
            try:
                await self._settings(qemu)
            except Refused as error:
                return self._refused(qemu.name, error.why)
        return None

    async def _settings(self, qemu: Qemu) -> None:
        """Raises Refused."""
        side = self.scenario.source if qemu is self.source else self.scenario.destination
        capabilities, parameters = migration_settings(side, qemu is self.source)
        if capabilities:
            await qemu.ask("migrate-set-capabilities", capabilities=capabilities)
        if parameters:
            await qemu.ask("migrate-set-parameters", **parameters)

    def _refused(self, side: str, text: str) -> Finished:
        self.note(side, "end", f"rejected: {text}")
        return Finished(Status.REJECTED, text, Reason.SPECIFIC, listening=True)

    async def _listen(self, uri: str) -> None:
        more = {} if self.scenario.destination.exit_on_error else {"exit-on-error": False}
        try:
            await self.destination.ask("migrate-incoming", uri=uri, **more)
        except Refused:
            if not more:
                raise
            await self.destination.ask("migrate-incoming", uri=uri)  # before 9.1 there is no such argument
        self._seen("destination", "setup")

    # --- through the proxy ------------------------------------------------------------------------------------------
    async def _migrate(self) -> Finished | None:
        kind = self.scenario.link.transport
        self.zero_s = self.loop.time()
        try:
            if kind == "tcp":
                await self._listen("tcp:127.0.0.1:0")
                at = (await self.destination.ask("query-migrate"))["socket-address"][0]
                self.real = Address("tcp", f"{at['host']}:{at['port']}")
            else:
                self.real = parse(f"unix:{self.folder}/in")
                await self._listen(str(self.real))
        except Refused as error:
            return self._refused("destination", error.why)
        self.proxy = Proxy(self.scenario, self.setup.seed, self.real, self.tap.names(self.scenario), self.zero_s)
        self.proxy.arrange(self.scenario.faults)
        self.proxy.seen = self.tap.seen
        near = Address("tcp", "127.0.0.1:0") if kind == "tcp" else Address("unix", f"{self.folder}/out")
        near = await self.proxy.listen(near)
        before = [f for f in self.scenario.faults if isinstance(f, Intrusion) and f.at_s <= 0]
        for intruder in before:
            await self._intruder(intruder)
        for fault in self.scenario.faults:
            if isinstance(fault, Stopping) and fault.before_start:
                self._stop(fault)
                if isinstance(fault, Kill) and fault.side == "destination":
                    self.proxy.close()  # as after a dead process: a connection finds no listener
        try:
            await self.source.ask("migrate", uri=str(near))
        except Refused as error:
            return self._refused("source", error.why)
        later = [f for f in self.scenario.faults if isinstance(f, Stopping) and not f.before_start]
        await self._watch([f for f in self.scenario.faults if f in later or (isinstance(f, Intrusion) and f.at_s > 0)])
        return None

    async def _intruder(self, fault: Intrusion) -> None:
        self.note("intruder", "say", fault.payload)
        try:
            self.intruders.append(await intrude(self.real, fault.intruder))
        except ConnectionError as error:  # the listener may have ended; an intruder ends nothing else
            self.note("intruder", "link", f"finds nobody: {error.strerror}")

    def _stop(self, fault: Stopping) -> None:
        qemu = self.destination if fault.side == "destination" else self.source
        self.frozen = isinstance(fault, Freeze)
        self.note(qemu.name, "link", f"process is {'frozen' if self.frozen else 'killed'}")
        qemu.signal(signal.SIGSTOP if self.frozen else signal.SIGKILL)

    async def _watch(self, faults: list[Stopping | Intrusion]) -> None:
        """Look at both sides until the source has ended and the destination has settled, or nothing moves any more."""
        orders = self._orders()
        moved = state = None
        quiet_s, patience_s = self.now_s, OBSERVE_S
        planned_s = max([at for at, _, _ in orders] + [f.at_s for f in faults], default=0.0)
        reordered = [f for f in self.scenario.faults if isinstance(f, Order)]
        gaps = [f.accept_gap_s * len(f.order) for f in reordered] + [
            f.for_s for f in self.scenario.faults if isinstance(f, Delaying)
        ]
        planned_s = max([planned_s, *gaps])
        while self.now_s < patience_s + planned_s:
            await asyncio.sleep(0.002 if any(isinstance(f, Stopping) for f in faults) else LOOK_S)
            for fault in list(faults):
                if self._due(fault):
                    faults.remove(fault)
                    await self._intruder(fault) if isinstance(fault, Intrusion) else self._stop(fault)
            while orders and self.now_s >= orders[0][0] and self.ended_s is None:
                await self._order(*orders.pop(0)[1:])
            if await self._look_at_both():
                break
            now = (
                self.status_of["source"].get("status"),
                self.status_of["destination"].get("status"),
                self.tap.passed_bytes,
            )
            if (moved, state) != (now[2], now[:2]):
                moved, state, quiet_s = now[2], now[:2], self.now_s
            if self.now_s > max(quiet_s, planned_s) + QUIET_S:
                self.note("link", "link", "nothing moves any more")
                break

    def _orders(self) -> list[tuple[float, str, str]]:
        management = self.scenario.management
        times = (
            (management.cancel_at_s, "migrate_cancel", "Cancel"),
            (management.deadline_s, "migrate_cancel", "Cancel"),
            (management.postcopy_at_s, "migrate-start-postcopy", "SwitchToPostcopy"),
        )
        return sorted((min(at_s, QUIET_S + 2), command, text) for at_s, command, text in times if at_s >= 0)

    async def _order(self, command: str, text: str) -> None:
        self.note("manager", "management", text)
        with suppress(QemuError):  # a blocked monitor does not answer; the effect is observed
            await self.source.ask(command)

    def _due(self, fault: Stopping | Intrusion) -> bool:
        assert self.proxy is not None
        if fault.at_s >= 0:
            return self.now_s >= fault.at_s
        return isinstance(fault, Stopping) and self.proxy.shapers[True].passed >= fault.after_mib * (1 << 20)

    async def _look_at_both(self) -> bool:
        """Whether it is over."""
        there = {} if self.frozen else await self.destination.status()
        here = await self.source.status()
        for name, answer in (("source", here), ("destination", there)):
            self._seen(name, str(answer.get("status", "")), str(answer.get("error-desc", "")))
            self.status_of[name] = answer or self.status_of[name]
        if here.get("status") in ENDED and self.ended_s is None:
            self.ended_s = self.now_s
        settled = bool(there.get("running")) or not self.destination.alive
        return self.ended_s is not None and (settled or self.now_s > self.ended_s + SETTLE_S)

    def _seen(self, side: str, status: str, text: str = "") -> None:
        if status and status != self.status_of[side].get("status"):
            self.note(side, "end" if status in ENDED else "state", status + (f": {text}" if text else ""))
            self.status_of[side] = {**self.status_of[side], "status": status}

    # --- through a file ---------------------------------------------------------------------------------------------
    async def _save_and_load(self) -> Finished | None:
        link, path = self.scenario.link, self.folder / "stream"
        save = {
            "exec-cat": f"exec:cat > {path}",
            "exec-null": "exec:cat > /dev/null",
            "exec-true": "exec:true",
            "file": f"file:{path}",
        }[link.transport]
        load = {"exec-cat": f"exec:cat {path}", "exec-none": "exec:cat /nonexistent", "file": f"file:{path}"}
        try:
            await self.source.ask("migrate", uri=save)
        except Refused as error:
            return self._refused("source", error.why)
        await self._until_source_ended()
        saved = (
            self.status_of["source"].get("status") not in ("failed", "cancelled")
            or self.scenario.management.loads_anyway
        )
        if saved and link.transport in ("exec-cat", "file"):
            with suppress(QemuError):
                await self._settings(self.destination)
                await self._listen(load[link.load_transport or link.transport])
        ended_s, self.ended_s = self.ended_s, self.now_s + LOAD_S
        while not await self._look_at_both():
            await asyncio.sleep(LOOK_S)
        self.ended_s = ended_s
        return None

    async def _until_source_ended(self) -> None:
        orders, quiet_s, state = self._orders(), self.now_s, None
        while self.ended_s is None and (orders or self.now_s < quiet_s + QUIET_S):
            await asyncio.sleep(LOOK_S)
            while orders and self.now_s >= orders[0][0]:
                await self._order(*orders.pop(0)[1:])
            await self._look_at_both()
            if state != (state := self.status_of["source"].get("status")):
                quiet_s = self.now_s

    # --- how it ended -----------------------------------------------------------------------------------------------
    async def _row(self, refused: Finished | None) -> Row:
        here, there = self.status_of["source"], self.status_of["destination"]
        end = refused or self._end(here)
        now = await self.source.status()
        runs_here = self.source.alive and bool((now or here).get("running"))  # a monitor may be blocked, not its guest
        runs_there = not self.frozen and bool((await self.destination.status()).get("running"))
        dead = not self.destination.alive
        status = "failed" if dead else str(there.get("status", ""))
        ended = {
            "failed": Finished(Status.FAILED, self.destination.stderr),
            "completed": Finished(Status.COMPLETED),
        }.get(status)
        arrived = runs_there and end is not None and end.status == "completed"  # 11.1 allows no look before
        complete = arrived and await whole(self.destination, self.scenario)
        settings = self.setup.settings(True), self.setup.settings(False)
        asked = as_asked(self.setup, *settings)
        facts = Facts(end, ended, runs_here, runs_there, dead, complete, asked, not self.source.alive)
        for line in (self.source.stderr, self.destination.stderr):
            if line:
                self.note("source" if line == self.source.stderr else "destination", "print", line)
        return Row(
            self.scenario.name,
            self.setup.protocol,
            self.setup.manager,
            *self.setup.versions,
            self.setup.seed,
            classify(facts),
            end.status if end else str(here.get("status", "none")),
            "gone" if dead else str(there.get("status", "none")),
            guest_at(facts),
            end.reason if end else "none",
            "",
            self.ended_s,
            None,
            None,
            self.tap.guest_bytes,
            None,
            end.text if end else "",
            self.destination.stderr,
            spoken=self.setup.protocol,
            spoken_right=True,
        )

    def _end(self, answer: Json) -> Finished | None:
        status, text = str(answer.get("status", "")), str(answer.get("error-desc", ""))
        if status not in ENDED:
            return None
        reason = Reason.NONE if not text else Reason.GENERIC if ERRNO.search(text) else Reason.SPECIFIC
        return Finished(Status(status), text, reason if status == Status.FAILED else Reason.NONE)


async def play(setup: Case, binaries: dict[str, str]) -> Result:
    """v1 between the two QEMUs, or v2 by agents beside them. Raises QemuError, ValueError where they can't play it."""
    beside_them = setup.definition.negotiates
    why = unsupported_reason(setup.scenario) or (beside_them and agent_run.unsupported_reason(setup.scenario))
    if why:
        raise ValueError(f"{setup.scenario.name} can't run on real QEMU: {why}")
    for version in setup.versions:
        if version not in binaries:
            raise Unavailable(f"QEMU {version} is not here; `make qemu` brings 7.2 and 10.0")
    with tempfile.TemporaryDirectory(prefix="simlib-") as folder:
        player = agent_run.AgentRun if beside_them else _Run
        return await player(setup, binaries, Path(folder)).run()


def run(
    scenario: Scenario,
    *,
    protocol: str = "v1",
    version: str = "",
    manager: str = USUAL_MANAGER,
    seed: int = 1,
    binaries: dict[str, str],
) -> Result:
    """One run of a scenario with two QEMU processes. Raises QemuError, ValueError."""
    if manager != USUAL_MANAGER:
        raise ValueError(f"the manager {manager!r} is simulated only; real QEMUs are watched by a naive one")
    return asyncio.run(play(Case(scenario, protocol, version or scenario.versions[0], manager, seed), binaries))


def runner() -> Callable[..., Result]:
    """`run` with the QEMUs that are here, for other processes too. Raises QemuError where there are none."""
    return partial(run, binaries=needed())
