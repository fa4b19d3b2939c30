"""The manifest: an OFFER's facts before a saved stream, for when there is no destination yet (SPEC section 8).

`QMF` magic, u32 length, JSON, SHA-256 of what precedes it. A destination that loads the file evaluates it with the code
and the errors of the live handshake, before it reads a page.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from ..errors import Code, Error, PeerError
from ..machine import Device, Machine, RamBlock, Settings
from . import body, frames, messages, wire
from .inventory import compare


@dataclass(frozen=True)
class Manifest:
    """What a saved stream was saved with."""

    machine: Machine
    ram_blocks: tuple[RamBlock, ...]
    devices: tuple[Device, ...]
    capabilities: tuple[str, ...]
    qemu_version: str

    @classmethod
    def of(cls, settings: Settings) -> Manifest:
        """The facts of one side."""
        machine = settings.machine
        return cls(machine, machine.ram_blocks, machine.devices, settings.capabilities, settings.version)


SHAPE = wire.shape(Manifest)
LIMIT_BYTES = 4 << 20


def write(settings: Settings, size_bytes: int = 0) -> bytes:
    """The manifest of a side, as the bytes that stand before its stream (SPEC section 8).

    At least `size_bytes` long, filled up with spaces: a stream's place may be chosen before its facts are known.
    """
    content = body.dump(wire.to_body(Manifest.of(settings)))
    content = content.ljust(size_bytes - 12 - 32)
    data = frames.MANIFEST + struct.pack(">I", len(content)) + content
    return data + hashlib.sha256(data).digest()


def read(data: bytes) -> tuple[Machine, tuple[str, ...], int]:
    """Machine, the capabilities that the stream was saved with, and the byte at which the stream begins.

    Raises PeerError for what is no manifest, is cut short, or has been changed.
    """
    if data[:8] != frames.MANIFEST:
        raise PeerError(Code.MANIFEST, f"no manifest: the file begins {data[:8].hex(' ')}")
    if len(data) < 12:
        raise PeerError(Code.MANIFEST, "the manifest is cut short")
    size = struct.unpack(">I", data[8:12])[0]
    if size > LIMIT_BYTES:
        raise PeerError(Code.MANIFEST, f"a manifest of {size} bytes; {LIMIT_BYTES} are allowed")
    end = 12 + size + 32
    if len(data) < end:
        raise PeerError(Code.MANIFEST, f"the manifest is cut short: {len(data)} of {end} bytes")
    if hashlib.sha256(data[: 12 + size]).digest() != data[12 + size : end]:
        raise PeerError(Code.MANIFEST, "the manifest's checksum is wrong")
    content = body.load(data[12 : 12 + size], SHAPE, "manifest")
    messages.check_facts(content, "manifest")
    facts = wire.from_body(Manifest, content, "manifest")
    return messages.whole_machine(facts), facts.capabilities, end


def check(data: bytes, settings: Settings) -> tuple[Error, ...]:
    """All that stands against loading the file that begins with `data` here."""
    try:
        machine, capabilities, _ = read(data)
    except PeerError as error:
        return (error.error,)
    findings = list(compare(machine, settings.machine))
    for name in ("mapped-ram", "x-ignore-shared"):
        saved, here = name in capabilities, settings.has(name)
        if saved != here:
            findings.append(
                Error(
                    Code.FEATURE_REQUIRED,
                    item=f"feature[{name}]",
                    source="on" if saved else "off",
                    destination="on" if here else "off",
                    text=f"The stream was saved with {name} {'on' if saved else 'off'}.",
                    hint=f"Set {name} likewise before loading.",
                )
            )
    return tuple(findings)
