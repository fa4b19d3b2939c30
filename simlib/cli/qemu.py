"""`simlib qemu check`, `simlib qemu migrate` and `simlib qemu agent`."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..case import files
from ..case.registry import PROTOCOLS, require
from ..handshake.interface import Cancel, Finished, Start, SwitchToPostcopy
from ..live.address import Address, parse
from ..live.tls import Credentials
from ..real_qemu import check as checking
from ..real_qemu.migrate import (
    MigrationRequest,
    destination_agent,
    listen,
    looked_at,
    settings,
    source_agent,
    until_finished,
)
from ..real_qemu.monitor import Monitor, QemuError
from ..real_qemu.process import needed
from ..real_qemu.sidecar import Agent
from ..record.capture import Segment, write
from ..record.result import Result
from ..record.trace import Trace
from ..world import run as in_world
from .sockets import StreamingTrace, print_end
from .terminal import progress

CAPTURED_BYTES = 4 << 10  # of each direction of a run: what is behind is guest memory
Work = Callable[[asyncio.Event, AsyncExitStack, Path, Trace], Coroutine[object, object, int]]


# --- check ----------------------------------------------------------------------------------------------------------
def check(options: Namespace) -> int:
    """The table scenario × version. 0 if every cell that ran agrees, 1 if not. Raises ValueError, QemuError."""
    scenarios = [files.find(n) for n in options.scenario] if options.scenario else files.load_all()
    for protocol in options.protocol or ():
        require("protocol", protocol, PROTOCOLS)
    here = needed(tuple(options.binary))
    work = checking.work(scenarios, here, tuple(options.protocol or ("v1",)), tuple(options.qemu))
    if not work:
        raise ValueError(f"nothing is to be run on the versions that are here ({', '.join(sorted(here))})")
    cells: list[checking.Cell] = []
    try:
        checker = checking.Checker(in_world, here, options.repeats, Keeper(options.captures))
        results: Iterable[checking.Cell] = checking.check(checker, work, options.jobs)
        for cell in progress(results, len(work), "cells"):
            cells.append(cell)
    finally:
        if cells:
            try:
                if options.out:
                    checking.write(options.out, cells)
            finally:  # a full disk takes none of it
                _print_cells(cells, options)
    return 0 if all(c.agrees or c.left_out for c in cells) else 1


def _print_cells(cells: list[checking.Cell], options: Namespace) -> None:
    if options.json:
        json.dump({"cells": [c.as_dict() for c in cells], "summary": checking.summary(cells)}, sys.stdout, indent=1)
        print()
        return
    for line in (*checking.table(cells), "", checking.summary(cells)):
        print(line)


@dataclass(frozen=True)
class Keeper:
    """Keeps a run's trace, and the first bytes of its connections."""

    folder: Path | None

    def __call__(self, name: str, result: Result) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.txt").write_text(f"{result.trace}\n", encoding="utf-8")
        segments, passed = [], {True: 0, False: 0}
        for p in result.trace.packets:
            data = p.data[: max(CAPTURED_BYTES - passed[p.from_source], 0)]
            passed[p.from_source] += len(p.data)
            if data:
                segments.append(Segment(round(p.time_s * 1e9), p.connection, p.from_source, p.kind, data))
        write(self.folder / f"{name}.pcapng", segments, result.trace.title)


# --- migrate, agent -------------------------------------------------------------------------------------------------
def migrate(options: Namespace) -> int:
    """One guest, from a running QEMU to a waiting one. Raises ValueError, QemuError."""
    if bool(options.destination_qmp) == bool(options.to):
        raise ValueError("name the destination: --destination-qmp for one of this host, --to for an agent elsewhere")

    async def work(stop: asyncio.Event, stack: AsyncExitStack, folder: Path, trace: Trace) -> int:
        machine = await looked_at(options.source_qmp, options.profile)
        source = await _monitor(stack, "source", options.source_qmp, folder)
        here = await settings(source, machine, _migration_request(options))
        if options.to:
            peer = parse(options.to)
        else:
            at = Address("tcp", "127.0.0.1:0")
            named = options.destination_profile
            peer = await _agent(options, stack, folder, trace, options.destination_qmp, named, at)
        credentials = _credentials(options, peer.host if peer.kind == "tcp" else "localhost")
        entropy = secrets.token_bytes(32)
        agent = source_agent(
            here, _migration_request(options), entropy, trace, source, folder, peer, credentials=credentials
        )
        stack.push_async_callback(_close, agent)
        agent.feed(Start())
        if options.postcopy_after is not None:
            asyncio.get_running_loop().call_later(options.postcopy_after, agent.feed, SwitchToPostcopy())
        if await until_finished(agent, stop) is None:
            agent.feed(Cancel())
            await until_finished(agent)
        return _report(options, agent.endpoint.finished, trace, agent.guest.running, stop.is_set())

    return _run(options, work)


def agent(options: Namespace) -> int:
    """The destination's half, until a guest has come. Raises ValueError, QemuError."""

    async def work(stop: asyncio.Event, stack: AsyncExitStack, folder: Path, trace: Trace) -> int:
        at = await _agent(options, stack, folder, trace, options.qmp, options.profile, parse(options.address))
        print(f"listening on {at} for the QEMU at {options.qmp}; Ctrl-C ends it", file=sys.stderr, flush=True)
        host = options.agents[0]
        await until_finished(host, stop)
        return _report(options, host.endpoint.finished, trace, host.guest.running, stop.is_set())

    return _run(options, work)


async def _agent(
    options: Namespace, stack: AsyncExitStack, folder: Path, trace: Trace, qmp: str, named: str, at: Address
) -> Address:
    """A destination's agent that listens; `options.agents` keeps it."""
    machine = await looked_at(qmp, named)
    qemu = await _monitor(stack, "destination", qmp, folder)
    status = (await qemu.ask("query-status"))["status"]
    if status not in ("inmigrate", "prelaunch", "paused"):
        raise QemuError(f"{qmp}: this QEMU is {status}; a destination is started with -S -incoming defer")
    request = replace(_migration_request(options), channels=0)  # the source decides their number
    here = await settings(qemu, machine, request)
    entropy, credentials = secrets.token_bytes(32), _credentials(options, "")
    host = destination_agent(here, request, entropy, trace, qemu, folder, credentials=credentials)
    stack.push_async_callback(_close, host)
    options.agents = [host]
    return await listen(host, at)


async def _monitor(stack: AsyncExitStack, name: str, address: str, folder: Path) -> Monitor:
    monitor = Monitor(name, folder)
    await monitor.connect(address)
    stack.push_async_callback(monitor.disconnect)
    return monitor


def _migration_request(options: Namespace) -> MigrationRequest:
    wanted = ("postcopy-ram",) if getattr(options, "postcopy_after", None) is not None else ()
    return MigrationRequest(
        getattr(options, "channels", 0),
        (*options.capability, *wanted),
        (),
        tuple(options.require),
        tuple(options.forbid),
        options.on_maybe,
        options.session,
        bool(options.tls),
    )


def _credentials(options: Namespace, hostname: str) -> Credentials | None:
    return Credentials(options.tls, hostname) if options.tls else None


async def _close(agent: Agent) -> None:
    await asyncio.sleep(0.05)  # the last messages go out
    agent.close()
    await asyncio.sleep(0)


def _report(options: Namespace, end: Finished | None, trace: Trace, running: bool, stopped: bool) -> int:
    good = end is not None and end.status == "completed"
    if options.json:
        errors = [asdict(e) for e in (end.errors if end else ())]
        json.dump(
            {
                "status": end.status if end else "none",
                "text": end.text if end else "",
                "errors": errors,
                "guest_runs_here": running,
                "steps": trace.rows(),
            },
            sys.stdout,
            indent=1,
        )
        print()
    elif end is not None:
        print_end(end)
    return 0 if good else 130 if stopped else 1


def _run(options: Namespace, work: Work) -> int:
    async def whole() -> int:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        with tempfile.TemporaryDirectory(prefix="simlib-") as folder:
            async with AsyncExitStack() as stack:
                return await work(stop, stack, Path(folder), StreamingTrace(not options.json))

    return asyncio.run(whole())
