"""One side of a scenario as QEMU's command line, capabilities and parameters."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

from ..case.endpoints import Case
from ..case.profiles import profile
from ..case.scenario import Scenario, Side
from ..handshake.versions import version_number
from ..live.tls import make_credentials
from .guest import BASE, PAGE, SURPRISES, count, firmware, wrong_pages
from .monitor import Monitor

TRANSPORTS = ("tcp", "unix", "exec-cat", "exec-null", "exec-true", "file")
PASS_S = 0.01
COUNTS_S = 3.0
MOST_MIB = 96.0  # of 128 that the profiles' machines have


def unsupported_reason(scenario: Scenario) -> str:
    """Why two QEMUs of this machine can't play a scenario; empty if they can."""
    link, guest = scenario.link, scenario.guest
    for side in (scenario.source, scenario.destination):
        if side.edit:
            return "no real device has that version"
        if side.apply_error:
            return "v1 applies nothing"
    if link.transport not in TRANSPORTS:
        return f"{link.transport}: needs a program of its own"
    if link.loss or link.syn_loss:
        return "packets can't be lost on loopback"
    if why := next((f.unsupported_on_sockets for f in scenario.faults if f.unsupported_on_sockets), ""):
        return why
    if scenario.schedule or guest.source_ms:
        return "nobody decides when a real QEMU answers"
    if guest.ram_mib > MOST_MIB:
        return f"{guest.ram_mib:.0f} MiB are more than our guest has"
    if guest.post_load_error:
        return "no device of ours fails in post_load"
    return "the manager tries again" if scenario.management.retries else ""


def arguments(setup: Case, at_source: bool, folder: Path) -> tuple[str, ...]:
    """Everything behind the binary's name, except the monitor. The source's guest stays paused until `cont`."""
    scenario, name = setup.scenario, "source" if at_source else "destination"
    side = scenario.source if at_source else scenario.destination
    contents = profile(setup.versions[0 if at_source else 1])
    words = list(next(m["arguments"] for m in contents["machines"] if m["name"] == side.machine))
    words.remove("-S")
    at = words.index("-M") + 1
    words[at] = side.machine_type or _newest_known(words[at], setup.versions)
    if side.memory_mib:
        words[words.index("-m") + 1] = f"{side.memory_mib}M"
    if side.vcpus and side.vcpus > 1:
        words += ["-smp", str(side.vcpus)]
    if side.cpu != "qemu64" or side.cpu_features:
        words += ["-cpu", ",".join([side.cpu, *(f"+{f}" for f in side.cpu_features)])]
    if side.uuid:
        words += ["-uuid", str(UUID(side.uuid))]
    image = folder / "firmware"
    image.write_bytes(firmware(int(scenario.guest.ram_mib * (1 << 20)) & ~(PAGE - 1), *dirtying(scenario)))
    words += ["-bios", str(image), *_tls(side, at_source, folder)]
    return (*words, *(("-S",) if at_source else ("-incoming", "defer")), "-name", name)


def _newest_known(machine_type: str, versions: tuple[str, str]) -> str:
    """The machine type, or the newest of its kind that the older QEMU has: 5.2 has no pc-i440fx-7.2."""
    kind, _, since = machine_type.rpartition("-")
    major, minor = min(map(version_number, versions))[:2]
    return f"{kind}-{major}.{minor}" if version_number(since)[:2] > (major, minor) else machine_type


def dirtying(scenario: Scenario) -> tuple[int, float]:
    """(bytes, seconds): what the guest rewrites again and again, and how long it takes for it."""
    rate = scenario.guest.dirty_mib_s * (1 << 20)
    if not rate:
        return PAGE, PASS_S
    size = max(int(min(scenario.guest.working_set_mib, scenario.guest.ram_mib) * (1 << 20)) & ~(PAGE - 1), PAGE)
    return size, size / rate


async def whole(qemu: Monitor, scenario: Scenario) -> bool:
    """Whether the guest counts on there, and every page is, and was, as it left it. Leaves it stopped."""
    loop = asyncio.get_running_loop()
    first, until_s = await qemu.memory(BASE, PAGE), loop.time() + COUNTS_S
    while await qemu.memory(BASE, PAGE) == first:
        if loop.time() > until_s:
            return False
        await asyncio.sleep(0.02)
    await qemu.ask("stop")
    memory = await qemu.memory(BASE, int(scenario.guest.ram_mib * (1 << 20)) & ~(PAGE - 1))
    surprises = count(await qemu.memory(SURPRISES, PAGE))
    return not surprises and not wrong_pages(memory, dirtying(scenario)[0])


def _tls(side: Side, at_source: bool, folder: Path) -> list[str]:
    label = side.parameters.get("tls-creds")
    if not label:
        return []
    keys = folder / str(label)
    if not keys.exists():
        make_credentials(keys)
    endpoint = "client" if at_source else "server"
    return ["-object", f"tls-creds-x509,id={label},dir={keys},endpoint={endpoint},verify-peer=on"]


def migration_settings(side: Side, at_source: bool) -> tuple[list[dict[str, object]], dict[str, int | str]]:
    """The arguments of migrate-set-capabilities and migrate-set-parameters."""
    parameters = dict(side.parameters)
    if "tls-creds" in parameters and at_source:
        parameters["tls-hostname"] = "localhost"
    return [{"capability": c, "state": True} for c in side.capabilities], parameters
