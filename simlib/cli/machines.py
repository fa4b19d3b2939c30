"""The commands `simlib inspect` and `simlib qemu profile|preflight|save`: what they print, and their exit status."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from ..case.profiles import ProfileError
from ..real_qemu.preflight import (
    Answer,
    HostProfile,
    answers,
    as_json,
    party,
)
from ..real_qemu.profile import Monitor
from ..real_qemu.reprofile import Running, of_process, profiled
from ..real_qemu.save import ROOM_BYTES, load_uri, save
from ..real_qemu.saved import Saved, read
from ..real_qemu.shapes import Json
from .sockets import table

DOUBTS_SHOWN = 6


# --- inspect --------------------------------------------------------------------------------------------------------
def inspect(options: Namespace) -> int:
    """Raises SavedError, OSError."""
    saved = read(options.file, options.offset)
    if options.json:
        contents = {k: v for k, v in dataclasses.asdict(saved).items() if k not in ("described", "manifest")}
        contents |= {
            "has_manifest": saved.manifest is not None,
            "ram_bytes": saved.ram_bytes,
            "known": list(knowable(saved)),
        }
        json.dump(contents, sys.stdout, indent=1)
        print()
        return 0
    print(f"{options.file}: {saved.size_bytes} bytes; the stream starts at byte {saved.starts_at}")
    for line in _told(saved):
        print(line)
    print("\nWhat a destination could know from it, before and while it loads:")
    for line in knowable(saved):
        print(f"  - {line}")
    return 0


def _told(saved: Saved) -> Iterator[str]:
    yield f"machine type    {saved.machine_type or 'not said: there is no configuration section'}"
    yield f"page bits       {saved.page_bits or 'not said: the least of the architecture'}"
    yield f"capabilities    {', '.join(saved.capabilities) or 'none declared'}"
    yield f"uuid            {saved.uuid or 'not said'}"
    yield f"commands        {', '.join(saved.commands) or 'none'}"
    if saved.ram:
        pages = ", ".join(f"{count} {kind}" for kind, count in sorted(saved.pages.items())) or "none in the stream"
        yield f"memory          ram version {saved.ram[1]}, {saved.ram_bytes} bytes; pages: {pages}"
        for block in saved.blocks:
            yield f"  {block.name:40} {block.size_bytes:>14}"
    yield f"devices         {len(saved.devices)} from byte {saved.devices_at}; told in {saved.description_bytes} bytes"
    for d in saved.devices:
        place = f"byte {d.offset}" if d.offset >= 0 else "place unknown"
        yield f"  {d.id:40} instance {d.instance:<4} version {d.version:<4} {d.size_bytes:>7} bytes  {place}"
        for name, version in d.subsections:
            yield f"      {name} {version}"
    for note in saved.notes:
        yield f"note            {note}"


def knowable(saved: Saved) -> Iterator[str]:
    """The claim D1 on this file: what the bytes carry, in the order they arrive, and what they don't."""
    if saved.manifest is not None:
        yield (
            f"before the first page, by its manifest: machine type {saved.manifest.type}, memory, capabilities, and "
            f"{len(saved.manifest.devices)} devices with versions and nested versions; what can't work is refused there"
        )
    declared = ", ".join(saved.capabilities) or "none"
    yield (
        f"first: machine type {saved.machine_type or '(not sent)'}; capabilities {declared} (mapped-ram and "
        "x-ignore-shared are the only two that a stream declares and a destination compares)"
    )
    yield f"then the memory: {len(saved.blocks)} blocks by name and size; each must be there with the same size"
    if saved.devices:
        yield (
            f"only after all of the memory, at byte {saved.devices_at}: the devices, one by one. A device, instance or "
            "version that it lacks shows when its section comes; a subsection that it lacks, inside that"
        )
    yield (
        "never: how long a device's state is (it must know the device to pass over it), nested versions, fields, the "
        "CPU model and its features, the QEMU version, multifd, compression, and what the guest negotiated"
    )
    if saved.description_bytes:
        yield "the description at the end holds sizes and nested versions, but comes last, and no destination reads it"


# --- qemu profile ---------------------------------------------------------------------------------------------------
def profile(options: Namespace) -> int:
    """Raises ProfileError, OSError, ValueError."""
    sources = [bool(options.binary), options.pid is not None, bool(options.qmp)]
    if sources[:2] == [True, True] or not any(sources) or (options.qmp and options.binary):
        raise ValueError("name one: a BINARY with `-- ARGUMENTS`, --pid N, or --qmp ADDRESS (with --pid if it is TCP)")
    with tempfile.TemporaryDirectory() as folder:
        if options.qmp:
            with Monitor.at(options.qmp) as original:
                contents = _profiled(options, Path(folder), original)
        else:
            contents = _profiled(options, Path(folder), None)
    text = json.dumps(contents, indent=1, sort_keys=True) + "\n"
    if options.out is None:
        print(text, end="")
        return 0
    options.out.write_text(text, encoding="utf-8")
    machine = contents["machines"][0]
    print(
        f"{options.out}: QEMU {contents['version']}, {machine['machine-type']}, {len(machine['devices'])} devices",
        file=sys.stderr,
    )
    for note in contents.get("notes", ()):
        print(f"note: {note}", file=sys.stderr)
    return 0


def _profiled(options: Namespace, folder: Path, original: Monitor | None) -> Json:
    pid = options.pid or (original.pid if original else 0)
    if original and not pid:
        raise ProfileError(f"{options.qmp}: whose monitor this is can't be seen over TCP; add --pid N")
    it = of_process(pid) if pid else Running(options.binary, tuple(options.rest), Path.cwd(), ())
    return profiled(it, options.name, folder, original)


# --- qemu preflight -------------------------------------------------------------------------------------------------
def preflight(options: Namespace) -> int:
    """0: some host can take the guest. Raises ProfileError, OSError."""
    guest, hosts = party(options.guest), [party(name) for name in options.host]
    for host in hosts:
        if not host.settings.version:
            raise ProfileError(f"{host.name}: is a saved guest; a host is a profile, from `simlib qemu profile`")
    verdicts = answers(guest, hosts, tuple(options.capability), options.on_maybe)
    if options.json:
        json.dump(as_json(guest, verdicts), sys.stdout, indent=1)
        print()
    else:
        for line in page(guest, verdicts):
            print(line)
    return 0 if any(a.verdict != "no" for a in verdicts) else 1


def page(guest: HostProfile, verdicts: list[Answer]) -> Iterator[str]:
    """One page: where it can go, then host by host what stands against it."""
    version = f", QEMU {guest.settings.version}" if guest.settings.version else ""
    yield f"guest: {guest.name} ({guest.settings.machine.type}{version})"
    wide = max(len(a.host.name) for a in verdicts)
    for answer in verdicts:
        errors = [e for e in answer.findings if e.severity == "error"]
        doubts = len(answer.findings) - len(errors)
        why = (
            errors[0].text
            if errors
            else f"{doubts} doubts, none of which forbids it"
            if doubts
            else "nothing in the way"
        )
        yield f"  {answer.verdict:5}  {answer.host.name:{wide}}  (QEMU {answer.host.settings.version})  {why}"
    for answer in verdicts:
        yield from _against(guest, answer)


def _against(guest: HostProfile, answer: Answer) -> Iterator[str]:
    errors = tuple(e for e in answer.findings if e.severity == "error")
    doubts = tuple(e for e in answer.findings if e.severity != "error")
    if errors or doubts or answer.notes:
        yield f"\n{answer.host.name}: {answer.verdict}"
    yield from table((*errors, *doubts[:DOUBTS_SHOWN]))
    if len(doubts) > DOUBTS_SHOWN:
        yield f"  and {len(doubts) - DOUBTS_SHOWN} doubts more; --json shows all"
    for number, remedy in enumerate(answer.remedies, 1):
        yield f"  what would mend it ({number}): {remedy}"
    for note in answer.notes:
        yield f"  note: {note}"
    if guest.has_manifest and answer.verdict != "no":
        yield f"  load it there with: -incoming {shlex.quote(load_uri(Path(guest.name), answer.host.settings.version))}"


# --- qemu save ------------------------------------------------------------------------------------------------------
def save_guest(options: Namespace) -> int:
    """Raises ProfileError, OSError."""
    settings = save(options.qmp, options.file, options.resume)
    machine = settings.machine
    if options.json:
        summary = {
            "file": str(options.file),
            "stream_at": ROOM_BYTES,
            "size_bytes": options.file.stat().st_size,
            "qemu_version": settings.version,
            "machine_type": machine.type,
            "devices": len(machine.devices),
            "capabilities": list(settings.capabilities),
            "resumed": options.resume,
        }
        json.dump(summary, sys.stdout, indent=1)
        print()
        return 0
    print(
        f"{options.file}: {machine.type} of QEMU {settings.version}, {len(machine.devices)} devices; the stream "
        f"starts at byte {ROOM_BYTES}, behind the manifest"
    )
    print(f"the guest {'runs on' if options.resume else 'stands still; `cont` lets it go on'}")
    print(f"can it be loaded elsewhere? simlib qemu preflight {options.file} HOST.json")
    return 0
