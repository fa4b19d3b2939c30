"""A real v1 stream in a file: what is in it, byte by byte, without loading it anywhere.

`read(path)` walks header, configuration, commands and memory from the front (savevm.c, ram.c), and the devices from
the back by the description that ends the stream, because a device's state carries no length. The file is mapped, never
read into memory, and every length in it is checked against where the file ends: it may be anything.
"""

from __future__ import annotations

import mmap
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path

from ..case.failure import Failure
from ..handshake import stream as v1
from ..handshake.errors import PeerError, clean
from ..handshake.machine import Machine
from ..handshake.v2 import frames, manifest
from .description import devices, sent_bytes, sent_subsections
from .shapes import Described

DESCRIPTION_LIMIT_BYTES = 16 << 20
LIST_LIMIT = 65_536
ZERO, XBZRLE, MAPPED_HEADER_BYTES = 0x02, 0x40, 28
WORD = struct.Struct(">Q")


class SavedError(Failure):
    """Why a file can't be read as a saved guest, in one sentence."""


@dataclass(frozen=True, slots=True)
class Block:
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Section:
    """A device's state. `offset` is where its section starts in the file; -1 if that could not be found out."""

    id: str
    instance: int
    version: int
    size_bytes: int
    subsections: tuple[tuple[str, int], ...] = ()
    offset: int = -1


@dataclass(slots=True)
class Saved:
    """What a file contains. `machine_type` is empty without a configuration section."""

    size_bytes: int = 0
    starts_at: int = 0
    manifest: Machine | None = None
    manifest_capabilities: tuple[str, ...] = ()
    machine_type: str = ""
    page_bits: int = 0  # 0: not stated, so the architecture's least is meant
    capabilities: tuple[str, ...] = ()
    uuid: str = ""
    commands: list[str] = field(default_factory=list)
    ram: tuple[int, int] | None = None  # instance and version
    blocks: list[Block] = field(default_factory=list)
    pages: dict[str, int] = field(default_factory=dict)
    devices_at: int = 0
    devices: list[Section] = field(default_factory=list)
    described: list[Described] = field(default_factory=list, repr=False)
    description_bytes: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def ram_bytes(self) -> int:
        return sum(block.size_bytes for block in self.blocks)


def read(path: Path, starts_at: int = 0) -> Saved:
    """Raises SavedError, OSError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise SavedError(f"{path}: is no file; save the stream into one first")
    with path.open("rb") as file:
        size = path.stat().st_size
        if not size:
            raise SavedError(f"{path}: is empty; nothing was saved")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _Walk(data, starts_at).whole()
            except SavedError as error:
                raise SavedError(f"{path}: {error}") from None


def manifest_head(path: Path) -> bytes:
    """As much of a file as a manifest may take; empty if it begins with none. Raises OSError."""
    with path.open("rb") as file:
        if file.read(len(frames.MANIFEST)) != frames.MANIFEST:
            return b""
        file.seek(0)
        return file.read(12 + manifest.LIMIT_BYTES + 32)


class _Walk:
    """From the front to the first thing without a length."""

    def __init__(self, data: mmap.mmap, starts_at: int) -> None:
        self.data, self.at = data, starts_at
        self.saved = Saved(len(data), starts_at)
        self.names: dict[int, str] = {}  # of sections that come in parts

    def whole(self) -> Saved:
        if self.at == 0 and self.data[: len(frames.MANIFEST)] == frames.MANIFEST:
            self._manifest()
        self._header()
        if self._peek() == v1.CONFIGURATION:
            self._configuration()
        while self._section():
            pass
        self.saved.devices_at = self.at
        self._devices()
        return self.saved

    def _take(self, size: int, what: str) -> bytes:
        if len(self.data) - self.at < size:
            raise SavedError(
                f"the stream is cut short: {what} needs {size} bytes at byte {self.at}, the file has {len(self.data)}"
            )
        self.at += size
        return self.data[self.at - size : self.at]

    def _number(self, size: int, what: str) -> int:
        return int.from_bytes(self._take(size, what), "big")

    def _string(self, what: str) -> str:
        return clean(self._take(self._number(1, what), what).decode("utf-8", "replace"), 255)

    def _peek(self) -> int:
        return self.data[self.at] if self.at < len(self.data) else -1

    def _manifest(self) -> None:
        try:
            machine, capabilities, self.at = manifest.read(self.data[: 12 + manifest.LIMIT_BYTES + 32])
        except PeerError as error:
            raise SavedError(f"begins with a manifest that can't be read: {error}") from None
        self.saved.manifest, self.saved.manifest_capabilities = machine, capabilities
        self.saved.starts_at = self.at

    def _header(self) -> None:
        magic = self.data[self.at : self.at + 4]
        if magic != v1.MAGIC:
            raise SavedError(
                f"is no migration stream: at byte {self.at} stands {magic.hex(' ') or 'nothing'}, not "
                f"{v1.MAGIC.hex(' ')} (QEVM)"
            )
        self._take(4, "the header")
        version = self._number(4, "the header")
        if version != v1.FILE_VERSION:
            raise SavedError(f"is a migration stream of file version {version}; QEMU writes {v1.FILE_VERSION}")

    def _configuration(self) -> None:
        saved, what = self.saved, "the configuration"
        self._take(1, what)
        size = self._number(4, what)
        if size > v1.STRING_LIMIT:
            raise SavedError(f"is broken at byte {self.at}: a machine type's name of {size} bytes")
        saved.machine_type = clean(self._take(size, what).decode("utf-8", "replace"), 255)
        while self._peek() == v1.SUBSECTION:
            self._take(1, what)
            name = self._string(what)
            self._take(4, what)
            if name == "configuration/target-page-bits":
                saved.page_bits = self._number(4, name)
                if not 9 < saved.page_bits < 31:
                    raise SavedError(f"is broken at byte {self.at}: pages of 2^{saved.page_bits} bytes")
            elif name == "configuration/capabilities":
                count = min(self._number(4, name), 256)
                saved.capabilities = tuple(self._string(name) for _ in range(count))
            elif name == "configuration/uuid":
                saved.uuid = self._take(16, name).hex()
            else:
                raise SavedError(f"holds {name}, which no known QEMU writes (byte {self.at})")

    def _section(self) -> bool:
        """Pass over one; False where the walk ends."""
        start = self.at
        kind = self._number(1, "the next section")
        if kind == v1.COMMAND:
            return self._command()
        if kind in (v1.PART, v1.END):
            number = self._number(4, "a section")
            if number not in self.names:
                raise SavedError(f"is broken at byte {start}: a part of section {number}, which has not begun")
            self._pages()
            return True
        if kind == v1.START and (name := self._ram()) is None:
            return True
        if kind == v1.START:
            self.saved.notes.append(f"section {name} at byte {start} has no length: not walked")
        elif kind not in (v1.EOF, v1.FULL):
            raise SavedError(f"is broken at byte {start}: section type {kind} is none of QEMU's")
        self.at = start
        return False

    def _command(self) -> bool:
        number, size = self._number(2, "a command"), self._number(2, "a command")
        name = v1.COMMANDS.get(number, f"unknown command {number}")
        if len(self.saved.commands) < LIST_LIMIT:
            self.saved.commands.append(name)
        self._take(size, name)
        if number == v1.PACKAGED:
            self.saved.notes.append(f"postcopy begins at byte {self.at}: what follows is not walked")
            return False
        return True

    def _ram(self) -> str | None:
        """The blocks of the section "ram"; another section's name."""
        number, name = self._number(4, "a section"), self._string("a section")
        instance, version = self._number(4, name), self._number(4, name)
        if name != "ram":
            return name
        self.names[number] = name
        self.saved.ram = instance, version
        left = self._number(8, "ram") & ~v1.RAM_FLAGS
        while left > 0:
            block = Block(self._string("a memory block"), self._number(8, "a memory block"))
            self.saved.blocks.append(block)
            left -= block.size_bytes
            if left < 0 or len(self.saved.blocks) > 1024:
                raise SavedError(f"is broken at byte {self.at}: its memory blocks are more than the memory")
            if "x-ignore-shared" in self.saved.capabilities:
                self._take(8, "a memory block")
            if "mapped-ram" in self.saved.capabilities:
                self._mapped(block)
        self._pages()
        return None

    def _mapped(self, block: Block) -> None:
        """mapped-ram: the block's pages have fixed places; the stream goes on behind them (ram.c, MappedRamHeader)."""
        header = self._take(MAPPED_HEADER_BYTES, "a mapped block")
        pages_at = int.from_bytes(header[20:], "big")
        if not self.at <= pages_at <= len(self.data) or pages_at + block.size_bytes > len(self.data):
            raise SavedError(f"is cut short, or was moved: the pages of {block.name} stand at byte {pages_at}")
        self.at = pages_at + block.size_bytes

    def _pages(self) -> None:
        """The records of one part of "ram", up to its mark of the end, and the footer."""
        pages, page_bytes = self.saved.pages, 1 << (self.saved.page_bits or v1.LEGACY_PAGE_BITS)
        data, at, end = self.data, self.at, len(self.data)
        zero = plain = 0
        while at + 8 <= end:
            flags = WORD.unpack_from(data, at)[0] & v1.RAM_FLAGS
            at += 8
            if flags & v1.RAM_EOS:
                break
            if flags & v1.RAM_MULTIFD_FLUSH:
                continue
            if not flags & v1.RAM_CONTINUE and at < end:
                at += 1 + data[at]
            if flags & ZERO:
                zero, at = zero + 1, at + 1
            elif flags & v1.RAM_PAGE:
                plain, at = plain + 1, at + page_bytes
            elif flags & (XBZRLE | v1.RAM_COMPRESS):
                head, size = (3, 2) if flags & XBZRLE else (4, 4)
                at += head + int.from_bytes(data[at + head - size : at + head], "big")
                pages["packed"] = pages.get("packed", 0) + 1
            else:
                raise SavedError(f"is broken at byte {at - 8}: memory with the unknown flags 0x{flags:x}")
        else:
            raise SavedError(f"the stream is cut short: it ends in the middle of guest memory, at byte {end}")
        for kind, count in (("zero", zero), ("plain", plain)):
            if count:
                pages[kind] = pages.get(kind, 0) + count
        self.at = at
        if self._peek() == v1.FOOTER:
            self._take(5, "a footer")

    def _devices(self) -> None:
        """By the description, from the back: each section must begin with the header that it gives."""
        saved, where = self.saved, self._description()
        if where < 0:
            self._without_description()
            return
        saved.description_bytes = len(self.data) - where - 5
        at = where - 1  # the byte EOF
        for entry in reversed(saved.described):
            at = self._device(entry, at)
        saved.devices.reverse()
        if 0 <= self.at < at:
            saved.notes.append(f"bytes {self.at} to {at} are sections that the description does not have")

    def _device(self, entry: Described, end: int) -> int:
        """Note a device whose section ends at `end`, behind those after it; where it starts, or -1. slirp's version is
        on the wire alone."""
        saved, name, size, at = self.saved, entry["name"].encode(), sent_bytes(entry), -1
        head = bytes([len(name) & 0xFF]) + name + struct.pack(">I", entry["instance_id"] & 0xFFFFFFFF)
        if end >= 0:
            at = end - (5 if self.data[end - 5 : end - 4] == bytes([v1.FOOTER]) else 0) - size - len(head) - 9
            behind = at + 5 + len(head)
            if at < self.at or self.data[at + 5 : behind] != head:
                saved.notes.append(f"the size described for {clean(entry['name'], 80)} is not that in the stream")
                at = -1
            else:
                entry.setdefault("version", int.from_bytes(self.data[behind : behind + 4], "big"))
        saved.devices.append(
            Section(
                clean(entry["name"], 255),
                entry["instance_id"],
                entry.setdefault("version", 0),
                size,
                tuple(sorted(set(sent_subsections(entry)))),
                at,
            )
        )
        return at

    def _description(self) -> int:
        """Read it; where the section VMDESCRIPTION stands, or -1."""
        data, end = self.data, len(self.data)
        least = max(self.at - 1, end - DESCRIPTION_LIMIT_BYTES)
        mark = bytes([v1.EOF, v1.VMDESCRIPTION])
        at = data.rfind(mark, least)
        for _ in range(3):  # JSON has no byte 0: it is the last one, unless the length behind it looks like one too
            if at >= 0 and int.from_bytes(data[at + 2 : at + 6], "big") == end - at - 6:
                described = devices(data[at + 6 :])
                self.saved.described = described or []
                return -1 if described is None else at + 1
            at = data.rfind(mark, least, at + 1) if at > 0 else -1
        return -1

    def _without_description(self) -> None:
        if "PACKAGED" in self.saved.commands:
            return
        tail = self.data[max(self.at, len(self.data) - 6) :]
        ended = tail == bytes([v1.EOF]) or (tail[-1:] == bytes([v1.EOF]) and tail[:1] == bytes([v1.FOOTER]))
        if not ended:
            raise SavedError(
                f"the stream is cut short: {self.saved.machine_type or 'a machine'} was read up to byte {self.at}, "
                f"where its devices begin, but the file ends at byte {len(self.data)} without the mark of the end"
            )
        self.saved.notes.append("no description at the end: devices can't be told apart, for state has no length")
