"""What real QEMU binaries report about themselves (`data/profiles/*.json`), as machines and inventories.

A version without a profile of its own takes the nearest older one that has the machine: for a given machine type the
stream's contents are meant to be the same, and between 7.2 and 10.0 they are. 11.1 always sends the state of CPU
hotplug, which older ones send once the guest has asked for it.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..handshake.machine import Device, Machine, RamBlock, Subsection
from ..handshake.versions import behaviour, version_number
from .failure import Failure

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data" if (ROOT / "data").is_dir() else ROOT.parent / "data"
Json = dict[str, Any]  # of a profile, as real_qemu/profile.py writes it
SIZE_LIMIT_BYTES = 64 << 20


class ProfileError(Failure):
    """No such profile, machine or device; one sentence."""


@lru_cache(maxsize=8)
def profile(version: str) -> Json:
    """The profile for a QEMU version. Raises ProfileError."""
    paths = {version_number(p.stem.removeprefix("qemu-")): p for p in (DATA / "profiles").glob("qemu-*.json")}
    if not paths:
        raise ProfileError(f"no profiles in {DATA / 'profiles'}; data/profiles/README.md says how to make them")
    best = max((n for n in paths if n[:2] <= version_number(version)[:2]), default=min(paths))
    content: Json = json.loads(paths[best].read_text())
    return content


def is_file(configuration: str) -> bool:
    """Whether it names a profile's file, FILE.json or FILE.json#MACHINE, and no configuration of data/profiles."""
    return configuration.partition("#")[0].endswith(".json")


def from_file(configuration: str) -> Machine:
    """A machine that `simlib qemu profile` has written: FILE.json, or of several FILE.json#MACHINE.

    Raises:
        ProfileError: if it can't be read, or is no profile.

    >>> from_file("nowhere.json")
    Traceback (most recent call last):
    simlib.case.profiles.ProfileError: nowhere.json: can't be read: No such file or directory
    """
    name, _, entry = configuration.partition("#")
    try:
        with Path(name).open("rb") as file:
            text = file.read(SIZE_LIMIT_BYTES + 1)
        content = json.loads(text) if len(text) <= SIZE_LIMIT_BYTES else None
    except OSError as error:
        raise ProfileError(f"{name}: can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{name}: is not JSON: {error}") from None
    if content is None:
        raise ProfileError(f"{name}: is longer than a profile can be ({SIZE_LIMIT_BYTES >> 20} MiB)")
    return described(content, entry, name)


def machine(version: str, configuration: str) -> Machine:
    """The machine of one configuration, as a QEMU version sends it.

    Args:
        version: QEMU's, such as "7.2".
        configuration: of data/profiles, such as "pc-i440fx-7.2+virtio-rng", or FILE.json or FILE.json#MACHINE.

    Raises:
        ProfileError: if there is no such profile or machine.
    """
    if is_file(configuration):
        return _as_of(version, from_file(configuration))
    return _committed(version, configuration)


@lru_cache(maxsize=64)
def _committed(version: str, configuration: str) -> Machine:
    return _as_of(version, described(profile(version), configuration, f"QEMU {version}"))


def _as_of(version: str, machine: Machine) -> Machine:
    """What this version sends of it."""
    if not behaviour(version).sends_cpu_hotplug:
        return machine
    devices = []
    for device in machine.devices:
        known = (replace(s, needed="always") if s.by_vcpus else s for s in device.subsections)
        devices.append(replace(device, subsections=tuple(known)))
    return replace(machine, devices=tuple(devices))


def described(content: Json, configuration: str, whose: str) -> Machine:
    """One of a profile's machines; the only one if no name is given. Raises ProfileError."""
    try:
        machines = {m["name"]: m for m in content["machines"]}
        entry = machines.get(configuration or (next(iter(machines)) if len(machines) == 1 else ""))
        if entry is None:
            known = ", ".join(sorted(machines))
            raise ProfileError(f"{whose} has no machine configuration {configuration!r}; known are {known}")
        return _machine(content, entry)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ProfileError(f"{whose}: is no profile as `simlib qemu profile` writes it ({error!r})") from None


def _machine(content: Json, entry: Json) -> Machine:
    """What the profiles of data/profiles leave out has its default."""
    devices = tuple(_device(d) for d in entry["devices"] if d["id"] != "ram")
    blocks = tuple(RamBlock(b["name"], b["size"], resizable=b.get("resizable", False)) for b in entry["ram-blocks"])
    vcpus = entry.get("vcpus") or sum(d.id == "cpu_common" for d in devices) or 1
    aliases = tuple(
        m["alias"] for m in content["machine-types"] if m["name"] == entry["machine-type"] and m.get("alias")
    )
    usual = Machine()
    return Machine(
        entry["machine-type"],
        aliases,
        entry.get("arch", usual.arch),
        entry.get("page-bits", usual.page_bits),
        vcpus,
        entry.get("cpu", usual.cpu),
        tuple(entry.get("cpu-features", ())),
        entry.get("uuid", ""),
        blocks,
        devices,
    )


def _device(entry: Json) -> Device:
    sent = set(entry["sent-subsections"])
    return Device(
        entry["id"],
        entry["instance"],
        entry["version"],
        entry["minimum-version"],
        max(entry["size"], 1),
        tuple(
            Subsection(s["name"], s["version"], "always" if s["name"] in sent else "maybe")
            for s in entry["subsections"]
        ),
        tuple((n[0], n[1], n[2] if len(n) > 2 else 0) for n in entry["nested"]),
        entry["schema"],
        bool(entry["vmsd"]),
    )


def edited(machine: Machine, edits: tuple[Json, ...]) -> Machine:
    """The machine with some devices changed.

    Args:
        edits: for each device a table as in files, such as {device = "id", version = 3}.

    Raises:
        ProfileError: for a device that the machine does not have, or a value of the wrong shape.
    """
    devices = list(machine.devices)
    for edit in edits:
        at = next((n for n, d in enumerate(devices) if d.id == edit.get("device")), None)
        if at is None:
            raise ProfileError(f"edit names no device of {machine.type}: {edit.get('device')!r}")
        changes = {k.replace("-", "_"): v for k, v in edit.items() if k != "device"}
        for key, value in changes.items():
            if not _fits(value, _EXAMPLE.get(key)):
                raise ProfileError(f"edit of {edit['device']}: {key} = {value!r} is nothing that a device has")
            if key == "subsections":
                try:
                    changes[key] = tuple(Subsection(*s) for s in value)
                except ValueError as error:
                    raise ProfileError(f"edit of {edit['device']}: {error}") from None
            elif isinstance(value, list):
                changes[key] = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        devices[at] = replace(devices[at], **changes)
    return replace(machine, devices=tuple(devices))


_EXAMPLE = {f.name: f.default for f in fields(Device)} | {
    "id": "",
    "subsections": [["", 1, "always"]],
    "nested": [["", 1, 1]],
    "features": [""],
}


def _fits(value: object, example: object) -> bool:
    """Whether it has the example's shape: lists of any length, numbers of 32 bits."""
    if isinstance(value, list) and isinstance(example, list):
        if len(example) > 1:  # an entry of several values
            return len(value) == len(example) and all(map(_fits, value, example))
        return all(_fits(v, example[0]) for v in value)
    return type(value) is type(example) and (type(value) is not int or 0 <= value < 1 << 32)
