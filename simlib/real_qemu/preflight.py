"""Can this guest go there? The engine's verdict on two profiles, without touching a guest or a host.

The guest is a profile, a file with a manifest in front, or a bare saved stream; each host is a profile. The
verdict is also that of the live handshake, since `handshake.v2.inventory` and `features` compute both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..case.profiles import SIZE_LIMIT_BYTES, ProfileError, described
from ..handshake.capabilities import refusal
from ..handshake.errors import Code, Error, PeerError, Retry
from ..handshake.machine import Device, Machine, RamBlock, Settings, Subsection
from ..handshake.v2 import manifest
from ..handshake.v2.features import SHARED, resolve, stances
from ..handshake.v2.inventory import compare, verdict
from . import shapes
from .description import sent_nested
from .saved import Saved, SavedError, manifest_head, read
from .shapes import Json


@dataclass(frozen=True)
class HostProfile:
    """The guest or a host. What its profile lacks is in `silent_on`; `listed`: capabilities, machine types."""

    name: str
    settings: Settings
    capabilities: tuple[str, ...] = ()
    machine_types: tuple[str, ...] = ()
    silent_on: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    has_manifest: bool = False


@dataclass(frozen=True)
class Answer:
    """What stands against the guest on one host."""

    host: HostProfile
    verdict: str
    findings: tuple[Error, ...]
    notes: tuple[str, ...]

    @property
    def remedies(self) -> tuple[str, ...]:
        """What would make a `no` a yes, each once."""
        return tuple(dict.fromkeys(e.hint for e in self.findings if e.severity == "error" and e.hint))


def party(argument: str) -> HostProfile:
    """FILE or FILE#MACHINE. Raises ProfileError, OSError."""
    path, _, configuration = argument.partition("#")
    place = Path(path)
    with place.open("rb") as file:
        head = file.read(8)
        if head[:1] not in (b"{", b" ", b"\n", b"\t"):
            return _of_saved(place)
        text = head + file.read(SIZE_LIMIT_BYTES)
    if len(text) > SIZE_LIMIT_BYTES:
        raise ProfileError(f"{place}: is longer than a profile can be ({SIZE_LIMIT_BYTES >> 20} MiB)")
    try:
        contents = shapes.decoded(text, Json)
        profile = shapes.convert(contents, shapes.Profile)
    except shapes.WRONG as error:
        raise ProfileError(f"{place}: is no profile as `simlib qemu profile` writes it: {error}") from None
    machine = described(contents, configuration, path)
    entry = next(m for m in profile.machines if m.name == configuration or not configuration)
    on = tuple(c.name for c in profile.capabilities if c.default)
    types = tuple(name for m in profile.machine_types for name in (m.name, m.alias) if name)
    version = ".".join(profile.version.split(".")[:2])
    silent = tuple(
        what for what, value in (("the CPU", entry.cpu), ("CPU features", entry.cpu_features)) if value is None
    )
    return HostProfile(
        argument,
        Settings(version, machine, on),
        tuple(c.name for c in profile.capabilities),
        types,
        silent,
        tuple(profile.notes),
    )


def _of_saved(path: Path) -> HostProfile:
    """A saved guest: what its manifest states, or what the stream alone shows."""
    try:
        if head := manifest_head(path):
            machine, capabilities, _ = manifest.read(head)
            return HostProfile(str(path), Settings("", machine, capabilities), has_manifest=True)
        saved = read(path)
    except SavedError as error:
        raise ProfileError(str(error)) from None
    except PeerError as error:
        raise ProfileError(f"{path}: {error}") from None
    if not saved.described:
        raise ProfileError(f"{path}: describes none of its devices, so only loading it would tell")
    note = "no manifest: judged by the stream's own description, which lacks minimum versions and the CPU"
    return HostProfile(
        str(path),
        Settings("", machine_of(saved), saved.capabilities),
        silent_on=("the CPU", "CPU features"),
        notes=(note,),
    )


def machine_of(saved: Saved) -> Machine:
    """A saved guest as the engine takes it: what it sent, it surely sends."""
    devices = tuple(
        Device(
            section.id,
            section.instance,
            section.version,
            section.version,
            max(section.size_bytes, 1),
            tuple(Subsection(name, version, "always") for name, version in section.subsections),
            tuple(sorted({(name, version, 0) for name, version in sent_nested(entry)})),
        )
        for section, entry in zip(saved.devices, saved.described, strict=True)
    )
    blocks = tuple(RamBlock(block.name, block.size_bytes) for block in saved.blocks)
    vcpus = sum(d.id == "cpu_common" for d in devices) or 1
    return Machine(
        saved.machine_type,
        page_bits=saved.page_bits or 12,
        vcpus=vcpus,
        uuid=saved.uuid,
        ram_blocks=blocks,
        devices=devices,
    )


def answers(
    guest: HostProfile, hosts: Sequence[HostProfile], wanted: Sequence[str] = (), on_maybe: str = "warn"
) -> list[Answer]:
    """One for each host. `wanted`: capabilities that the migration shall use, besides those the guest has on."""
    return [
        _answer(guest, host, tuple(dict.fromkeys((*guest.settings.capabilities, *wanted))), on_maybe) for host in hosts
    ]


def _answer(guest: HostProfile, host: HostProfile, wanted: tuple[str, ...], on_maybe: str) -> Answer:
    silent = tuple(dict.fromkeys((*guest.silent_on, *host.silent_on)))
    ours, theirs = (_without(p.settings.machine, silent) for p in (guest, host))
    if guest.has_manifest:
        there = replace(host.settings, machine=theirs, capabilities=tuple(c for c in wanted if c in host.capabilities))
        findings = list(manifest.check(manifest.write(replace(guest.settings, machine=ours)), there))
    elif not guest.settings.version:
        findings = [*compare(ours, theirs), *_unlisted(guest, host, guest.settings.capabilities)]
    else:
        findings = [*_refused(guest, wanted), *_features(guest, host, wanted), *compare(ours, theirs)]
    findings = sorted((_knowing(e, host) for e in findings), key=lambda e: e.severity != "error")
    notes = (*guest.notes, *host.notes, *(f"{what}: not compared, for one side doesn't say" for what in silent))
    worst = verdict(tuple(findings))
    return Answer(host, "no" if worst == "maybe" and on_maybe == "reject" else worst, tuple(findings), notes)


def _without(machine: Machine, silent: tuple[str, ...]) -> Machine:
    """The CPU left out, so that a missing value does not count as a difference."""
    machine = replace(machine, cpu="") if "the CPU" in silent else machine
    return replace(machine, cpu_features=()) if "CPU features" in silent else machine


def _refused(guest: HostProfile, wanted: tuple[str, ...]) -> list[Error]:
    """The errors of the guest's own QEMU for these capabilities."""
    errors = _unlisted(guest, guest, wanted)
    transport = "file" if "mapped-ram" in wanted else "tcp"
    asked = replace(guest.settings, capabilities=wanted, transport=transport)
    why = refusal(asked, True) if wanted and not errors else ""
    if why:
        errors.append(
            Error(
                Code.FEATURE_CONFLICT,
                item="features",
                source=" ".join(wanted),
                text=f"The guest's QEMU refuses it: {why}.",
                hint="Ask for capabilities that go together.",
            )
        )
    return errors


def _unlisted(guest: HostProfile, host: HostProfile, wanted: tuple[str, ...]) -> list[Error]:
    whose = "The guest's own QEMU" if guest is host else "The host's QEMU"
    return [
        Error(
            Code.FEATURE_REQUIRED,
            item=f"feature[{name}]",
            source="require",
            destination="unknown",
            text=f"{whose} has no capability {name}.",
            hint=f"Do without {name}, or use a QEMU that has it.",
            retry=Retry.WITH_VERSION,
        )
        for name in wanted
        if name not in host.capabilities
    ]


def _features(guest: HostProfile, host: HostProfile, wanted: tuple[str, ...]) -> tuple[Error, ...]:
    """The handshake's negotiation, with what each binary lists in the place of what its version should have."""
    shared = tuple(c for c in wanted if c in SHARED and c in guest.capabilities)
    source = stances(replace(guest.settings, capabilities=wanted), True, require=shared)
    destination = stances(host.settings, False)
    has = [
        tuple(s for s in each if s.feature in (*whose.capabilities, "final-ack"))
        for each, whose in ((source, guest), (destination, host))
    ]
    return resolve(has[0], has[1]).errors


def _knowing(error: Error, host: HostProfile) -> Error:
    """A hint that can be followed: the host's binary may not have the guest's machine type at all."""
    if error.code != "machine-type" or not host.machine_types or error.source in host.machine_types:
        return error
    hint = f"QEMU {host.settings.version} there has no {error.source}: choose a host with a QEMU that lists it."
    return replace(error, hint=hint, retry="with-version")


def as_json(guest: HostProfile, verdicts: Sequence[Answer]) -> Json:
    return {
        "guest": guest.name,
        "machine-type": guest.settings.machine.type,
        "qemu-version": guest.settings.version,
        "takers": [a.host.name for a in verdicts if a.verdict != "no"],
        "hosts": [
            {
                "host": a.host.name,
                "qemu-version": a.host.settings.version,
                "verdict": a.verdict,
                "findings": [e.body() for e in a.findings],
                "mends": list(a.remedies),
                "notes": list(a.notes),
            }
            for a in verdicts
        ],
    }
