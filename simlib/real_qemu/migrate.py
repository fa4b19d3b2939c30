"""What an agent receives about its QEMU, and a whole migration with both agents in one process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from ..case.guest import Guest
from ..case.profiles import ProfileError, machine
from ..handshake.interface import Finished, Start
from ..handshake.machine import Machine, Settings
from ..handshake.v2.config import SessionConfig
from ..handshake.v2.destination import Destination
from ..handshake.v2.source import Source
from ..live.address import Address, bound
from ..live.host import HostOptions
from ..record.trace import Trace
from .monitor import Monitor, QemuError
from .preflight import party
from .reprofile import of_monitor
from .sidecar import Agent


@dataclass(frozen=True)
class MigrationRequest:
    """What a migration shall use; at the destination: what it may."""

    channels: int = 0
    capabilities: tuple[str, ...] = ()
    parameters: tuple[tuple[str, int | str], ...] = ()
    require: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    on_maybe: str = "warn"
    session: str = ""
    tls: bool = False  # between the agents
    memory_limit_bytes: int = 0


async def looked_at(address: str, named: str) -> Machine | str:
    """The machine of the QEMU whose monitor is there, or the one that the user names. Raises QemuError."""
    try:
        return named or await asyncio.to_thread(of_monitor, address)
    except ProfileError as error:
        raise QemuError(f"{error}; --profile names a machine or a profile instead") from None


def _named(version: str, name: str) -> Machine:
    """MACHINE of data/profiles, or FILE or FILE#MACHINE as `simlib qemu profile` writes it. Raises ProfileError."""
    if not Path(name.partition("#")[0]).is_file():
        return machine(version, name)
    profile = party(name).settings
    if profile.version != version:
        raise ProfileError(f"{name}: is a profile of QEMU {profile.version or '(not said)'}, and this is {version}")
    return profile.machine


async def settings(qemu: Monitor, machine: Machine | str, request: MigrationRequest = MigrationRequest()) -> Settings:
    """What a running QEMU reports about itself, on top of a machine's devices. Raises QemuError."""
    number = (await qemu.ask("query-version"))["qemu"]
    version = f"{number['major']}.{number['minor']}"
    try:
        base = machine if isinstance(machine, Machine) else _named(version, machine)
    except (ProfileError, OSError) as error:
        raise QemuError(f"{qemu.name}: {error}") from None
    capabilities = (*request.capabilities, *(("multifd",) if request.channels else ()))
    parameters = list(request.parameters)
    if request.channels:
        parameters.append(("multifd-channels", request.channels))
    if request.tls:
        parameters.append(("tls-creds", "agents"))
    return Settings(version, await _own(qemu, base), capabilities, tuple(parameters), "tcp", False)


async def _own(qemu: Monitor, machine: Machine) -> Machine:
    """Machine type, memory, vCPUs and UUID are the process's own."""
    type_ = str(await qemu.ask("qom-get", path="/machine", property="type")).removesuffix("-machine")
    memory = int((await qemu.ask("query-memory-size-summary"))["base-memory"])
    vcpus = len(await qemu.ask("query-cpus-fast"))
    uuid = str((await qemu.ask("query-uuid"))["UUID"]).replace("-", "")
    first, *rest = machine.ram_blocks
    aliases = machine.aliases if type_ == machine.type else ()
    return replace(
        machine,
        type=type_,
        aliases=aliases,
        vcpus=vcpus,
        uuid=uuid if uuid.strip("0") else "",
        ram_blocks=(replace(first, size_bytes=memory), *rest),
    )


def session_config(request: MigrationRequest, entropy: bytes) -> SessionConfig:
    return SessionConfig(
        entropy,
        request.session,
        on_maybe=request.on_maybe,
        require=request.require,
        forbid=request.forbid,
        memory_limit_bytes=request.memory_limit_bytes,
        relays=True,
    )


def source_agent(
    settings: Settings,
    request: MigrationRequest,
    entropy: bytes,
    trace: Trace,
    qemu: Monitor,
    folder: Path,
    peer: Address,
    **more: Unpack[HostOptions],
) -> Agent:
    agent = Agent(
        "source",
        Source(settings, session_config(request, entropy)),
        trace,
        Guest(running=True),
        qemu=qemu,
        folder=folder,
        peer=peer,
        **more,
    )
    agent.guest.running = True
    return agent


def destination_agent(
    settings: Settings,
    request: MigrationRequest,
    entropy: bytes,
    trace: Trace,
    qemu: Monitor,
    folder: Path,
    **more: Unpack[HostOptions],
) -> Agent:
    return Agent(
        "destination",
        Destination(settings, session_config(request, entropy)),
        trace,
        Guest(),
        qemu=qemu,
        folder=folder,
        **more,
    )


async def until_finished(agent: Agent, stop: asyncio.Event | None = None) -> Finished | None:
    """How it ended; None if it was stopped first. A source that has failed has its guest running again by then."""
    stopped = asyncio.ensure_future(stop.wait()) if stop else None
    while agent.endpoint.finished is None and not (stop and stop.is_set()):
        agent.changed.clear()
        changed = asyncio.ensure_future(agent.changed.wait())
        await asyncio.wait({changed, *([stopped] if stopped else [])}, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
    if stopped:
        stopped.cancel()
    end = agent.endpoint.finished
    if end is not None and agent.side == "source" and end.status in ("failed", "cancelled"):
        await asyncio.wait_for(agent.resumed.wait(), 10.0)
    return end


async def listen(agent: Agent, address: Address) -> Address:
    """Where it can be reached."""
    await agent.listen(address)
    agent.feed(Start())
    assert agent.listener is not None
    return bound(agent.listener)
