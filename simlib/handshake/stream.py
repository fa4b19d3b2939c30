"""The format of today's main stream and of multifd's packets, written and read.

v1 runs on it; under v2 it runs unchanged on the channel `main`. Sources: QEMU migration/savevm.c, ram.c, multifd.c and
vmstate.c, 7.2 to 10.2. All integers are big-endian.

Two stand-ins, both after their real framing. Guest memory: a ram record's 8 bytes carry the flags in their low bits as
in life, and above them the number of bytes that follow instead of one page's address. Device state: as many bytes as
the inventory says. Both are counted, not made (`fill`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from .buffer import Buffer
from .endpoint import State
from .machine import Device, Machine, RamBlock, Settings, version_number

MAGIC = b"QEVM"
MULTIFD_MAGIC = b"\x11\x22\x33\x44"
FILE_VERSION = 3
EOF, START, PART, END, FULL, SUBSECTION, VMDESCRIPTION, CONFIGURATION, COMMAND, FOOTER = (*range(9), 0x7E)
OPEN_RETURN_PATH, PING, POSTCOPY_ADVISE, POSTCOPY_LISTEN, POSTCOPY_RUN = 1, 2, 3, 4, 5
PACKAGED, SWITCHOVER_START = 7, 11
COMMANDS = {
    1: "OPEN_RETURN_PATH",
    2: "PING",
    3: "POSTCOPY_ADVISE",
    4: "POSTCOPY_LISTEN",
    5: "POSTCOPY_RUN",
    6: "POSTCOPY_RAM_DISCARD",
    7: "PACKAGED",
    8: "ENABLE_COLO",
    9: "POSTCOPY_RESUME",
    10: "RECV_BITMAP",
    11: "SWITCHOVER_START",
}
COMMAND_LENGTH = {1: (0,), 2: (4,), 3: (0, 16), 4: (0,), 5: (0,), 7: (4,), 9: (0,), 11: (0,)}
RAM_MEM_SIZE, RAM_PAGE, RAM_EOS, RAM_CONTINUE, RAM_COMPRESS, RAM_MULTIFD_FLUSH = 0x04, 0x08, 0x10, 0x20, 0x100, 0x200
RAM_FLAGS = 0xFFF
VALIDATED = ("mapped-ram", "x-ignore-shared")  # the only capabilities that the stream declares and checks
SIZE = {"B": 1, "H": 2, "I": 4, "Q": 8}
MULTIFD_INITIAL_BYTES = 64
MULTIFD_PACKET_BYTES = 320 + 8 * 128
MULTIFD_SYNC = 1
COMPRESSION_FLAG = {"none": 0, "zlib": 2, "zstd": 4, "qpl": 8, "uadk": 16, "qatzip": 32}
PACKET_FILL_BYTES = 1 << 30
LEGACY_PAGE_BITS = 12
STRING_LIMIT = 255
BLOCKS_LIMIT = 1024

Piece = tuple[bytes, int]  # real bytes, then stand-in bytes


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same bytes in as few pieces as possible."""
    found: list[Piece] = []
    for data, fill in pieces:
        if found and found[-1][1] == 0:
            found[-1] = (found[-1][0] + data, fill)
        else:
            found.append((data, fill))
    return found


def _name(text: str) -> bytes:
    raw = text.encode()
    return bytes([len(raw)]) + raw


# --- writing --------------------------------------------------------------------------------------------------------
def header(settings: Settings) -> bytes:
    """QEVM header and configuration section with the subsections that `settings` calls for (savevm.c)."""
    machine = settings.machine
    raw = machine.type.encode()
    told = MAGIC + struct.pack(">IBI", FILE_VERSION, CONFIGURATION, len(raw)) + raw
    if machine.page_bits != LEGACY_PAGE_BITS:
        told += _subsection("configuration/target-page-bits") + struct.pack(">I", machine.page_bits)
    on = [c for c in VALIDATED if settings.has(c)]
    if on:
        told += _subsection("configuration/capabilities") + struct.pack(">I", len(on))
        told += b"".join(_name(c) for c in on)
    if settings.has("validate-uuid") and machine.uuid:
        told += _subsection("configuration/uuid") + bytes.fromhex(machine.uuid)
    return told


def _subsection(name: str, version: int = 1) -> bytes:
    return bytes([SUBSECTION]) + _name(name) + struct.pack(">I", version)


def command(number: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BHH", COMMAND, number, len(payload)) + payload


def postcopy_advise(machine: Machine) -> bytes:
    sizes = 0
    for block in machine.ram_blocks:
        sizes |= block.page_bytes
    return command(POSTCOPY_ADVISE, struct.pack(">QQ", sizes, 1 << machine.page_bits))


def ram_start(section: int, settings: Settings, flush: bool) -> bytes:
    """SECTION_START of "ram": the blocks, and after them multifd's flush where the machine type wants it."""
    blocks = settings.machine.ram_blocks
    told = _full(START, section, "ram", 0, 4) + struct.pack(">Q", settings.machine.ram_bytes | RAM_MEM_SIZE)
    for block in blocks:
        told += _name(block.name) + struct.pack(">Q", block.size_bytes)
        if settings.has("postcopy-ram") and block.page_bytes != 4096:
            told += struct.pack(">Q", block.page_bytes)
        if settings.has("x-ignore-shared"):
            told += struct.pack(">Q", 0)
    return told + _flush(flush) + struct.pack(">Q", RAM_EOS) + _footer(section)


def ram_pass(section: int, settings: Settings, size_bytes: int, flush: bool, kind: int = PART) -> list[Piece]:
    """SECTION_PART (or END) of "ram" with `size_bytes` of pages on the main connection."""
    told = struct.pack(">BI", kind, section)
    pieces: list[Piece] = []
    if size_bytes:
        flags = RAM_COMPRESS if settings.has("compress") else RAM_PAGE
        size_bytes += -size_bytes % 4096
        told += struct.pack(">Q", size_bytes | flags) + _name(settings.machine.ram_blocks[0].name)
        pieces, told = [(told, size_bytes)], b""
    return [*pieces, (told + _flush(flush) + struct.pack(">Q", RAM_EOS) + _footer(section), 0)]


def _flush(flush: bool) -> bytes:
    return struct.pack(">Q", RAM_MULTIFD_FLUSH) if flush else b""


def device_state(first_section: int, machine: Machine) -> Iterator[Piece]:
    """One SECTION_FULL a device, with the subsections that it always sends."""
    for section, device in enumerate(machine.devices, first_section):
        yield _full(FULL, section, device.id, device.instance, device.version), device.size_bytes
        for sent in device.subsections:
            if sent.needed == "always":
                yield _subsection(sent.name, sent.version), sent.uncounted_bytes(machine.vcpus)
        yield _footer(section), 0


def end_of_stream(description: bytes) -> bytes:
    """EOF; with a description (precopy only) also the JSON that no destination needs."""
    told = bytes([EOF])
    return told + struct.pack(">BI", VMDESCRIPTION, len(description)) + description if description else told


def _full(kind: int, section: int, name: str, instance: int, version: int) -> bytes:
    return struct.pack(">BI", kind, section) + _name(name) + struct.pack(">II", instance, version)


def _footer(section: int) -> bytes:
    return struct.pack(">BI", FOOTER, section)


def multifd_initial(machine: Machine, channel: int) -> bytes:
    uuid = bytes.fromhex(machine.uuid) if machine.uuid else bytes(16)
    return MULTIFD_MAGIC + struct.pack(">I16sB", 1, uuid, channel) + bytes(39)


def multifd_packet(number: int, compression: str, size_bytes: int, sync: bool = False) -> bytes:
    """A packet's header (4 KiB pages, 128 a packet); its payload's length is the real field, its pages a stand-in."""
    flags = COMPRESSION_FLAG[compression] | (MULTIFD_SYNC if sync else 0)
    counted = struct.pack(">IIIIIQ", flags, 128, 0, size_bytes, 0, number)
    head = MULTIFD_MAGIC + struct.pack(">I", 1) + counted[:16] + counted[20:]
    return head + bytes(MULTIFD_PACKET_BYTES - len(head))


def multifd_pass(lanes: list[int], size_bytes: int, compression: str, number: int) -> Iterator[tuple[int, Piece, str]]:
    """One pass of guest memory spread over the lanes: each lane's packets, then its SYNC. (lane, piece, name) each."""
    for lane in lanes:
        left = size_bytes // len(lanes)
        while left > 0:
            size = min(left, PACKET_FILL_BYTES)
            number += 1
            yield lane, (multifd_packet(number, compression, size), size), "pages"
            left -= size
    for lane in lanes:
        number += 1
        yield lane, (multifd_packet(number, compression, 0, sync=True), 0), "SYNC"


# --- reading --------------------------------------------------------------------------------------------------------
class StreamError(Exception):
    """The stream can't be loaded here; the text is what QEMU prints."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One multifd connection after its identity is known: packet headers, payload passed over, SYNCs counted."""

    buffer: Buffer = Buffer()
    left: int = 0  # payload of the packet being passed over
    syncs: int = 0
    ram_bytes: int = 0

    def add(self, data: bytes, fill: int = 0) -> Lane:
        return Lane(self.buffer.add(data, fill), self.left, self.syncs, self.ram_bytes)

    def read(self, compression: str, index: int, until_sync: int) -> Lane:
        """As far as its bytes go, or until more than `until_sync` SYNCs have come. Raises StreamError."""
        lane = self
        while True:
            if lane.left:
                passed = min(lane.left, len(lane.buffer))
                lane = Lane(lane.buffer.skip(passed), lane.left - passed, lane.syncs, lane.ram_bytes + passed)
                if lane.left:
                    return lane
            if lane.syncs > until_sync or not len(lane.buffer):
                return lane
            head = lane.buffer.peek(MULTIFD_PACKET_BYTES)
            if len(head) < MULTIFD_PACKET_BYTES:
                return lane
            flags, _alloc, _normal, size = struct.unpack(">IIII", head[8:24])
            if head[:4] != MULTIFD_MAGIC:
                raise StreamError(f"multifd: received packet magic {head[:4].hex()} expected 11223344")
            if not flags & MULTIFD_SYNC and flags != (expected := COMPRESSION_FLAG[compression]):
                raise StreamError(f"multifd {index}: flags received {flags:x} flags expected {expected:x}")
            syncs = lane.syncs + bool(flags & MULTIFD_SYNC)
            lane = Lane(lane.buffer.skip(len(head)), size, syncs, lane.ram_bytes)


class _More(Exception):
    """More bytes are needed."""


class Loader(State):
    """Reads a main stream with the eyes of a destination that has `settings`.

    `feed` and then `next_event` until it gives None. Events are tuples: ("machine", type), ("command", number,
    payload), ("setup",), ("ram", bytes), ("flush",), ("eos",), ("device", id, bytes), ("eof",). Raises StreamError.
    """

    NON_STATE = dict.fromkeys(("_at", "_known_devices", "_known_subsections", "_known_blocks"), "scratch, or a cache")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.buffer = Buffer()
        self._at = 0  # how much of its head was read, while an event is looked for
        self.state = "header"
        self.section = (0, "")  # id and name of the one being read
        self.ram_section = -1  # its number, once it has begun
        self.ram_left = self.ram_blocks = 0  # bytes of memory whose blocks are still to be told; blocks told
        self.capabilities: tuple[str, ...] | None = None
        self.left = 0  # stand-in bytes still to pass over
        self.device_bytes = 0

    @cached_property
    def _known_devices(self) -> dict[tuple[str, int], Device]:
        return {(d.id, d.instance): d for d in reversed(self.settings.machine.devices)}

    @cached_property
    def _known_subsections(self) -> dict[tuple[str, str], int]:
        machine = self.settings.machine
        return {(d.id, s.name): s.uncounted_bytes(machine.vcpus) for d in machine.devices for s in d.subsections}

    @cached_property
    def _known_blocks(self) -> dict[str, RamBlock]:
        return {b.name: b for b in self.settings.machine.ram_blocks}

    def feed(self, data: bytes, fill: int = 0) -> None:
        self.buffer = self.buffer.add(data, fill)

    def next_event(self) -> tuple[object, ...] | None:
        """The next thing that the stream says, or None until more has been fed."""
        try:
            while True:
                before = self.buffer, self._at
                event = getattr(self, "_" + self.state)()
                if event is not None:
                    return event  # type: ignore[no-any-return]
        except _More:
            self.buffer, self._at = before
            return None
        finally:
            self._settle()

    def _settle(self) -> None:
        """Let go of what was read: not at each number, since that copies the rest."""
        self.buffer, self._at = self.buffer.skip(self._at) if self._at else self.buffer, 0

    def _peek(self, size: int) -> bytes:
        found = self.buffer.head[self._at : self._at + size]
        if len(found) < size:
            self._settle()
            found = self.buffer.peek(size)
        return found

    def _take(self, size: int) -> bytes:
        found = self._peek(size)
        if len(found) < size:
            raise _More
        if self._at + size <= len(self.buffer.head):
            self._at += size
        else:
            self.buffer = self.buffer.skip(size)
        return found

    def _number(self, kind: str) -> int:
        return int.from_bytes(self._take(SIZE[kind]), "big")

    def _string(self) -> str:
        return self._take(self._number("B")).decode("utf-8", "replace")

    def _header(self) -> None:
        magic = self._peek(4)
        if magic != MAGIC[: len(magic)]:
            raise StreamError("Not a migration stream")
        self._take(4)
        version = self._number("I")
        if version == 2:
            raise StreamError("SaveVM v2 format is obsolete and no longer supported")
        if version != FILE_VERSION:
            raise StreamError("Unsupported migration stream version")
        self.state = "configuration"

    def _configuration(self) -> tuple[object, ...]:
        if self._number("B") != CONFIGURATION:
            raise StreamError("Configuration section missing")
        size = self._number("I")
        if size > STRING_LIMIT:
            raise StreamError(f"Machine type name of {size} bytes is too long")
        name, local = self._take(size).decode("utf-8", "replace"), self.settings.machine.type
        if not local.startswith(name):  # QEMU compares over the received length only
            raise StreamError(f"Machine type received is '{name}' and local is '{local}'")
        self.state = "configured"
        return "machine", name

    def _configured(self) -> None:
        """The configuration's subsections, which end where something else begins."""
        if not (ahead := self._peek(1)):
            raise _More
        if ahead[0] != SUBSECTION:
            self._check_capabilities(self.capabilities or ())
            self.state = "sections"
            return
        self._take(1)
        name, _version = self._string(), self._number("I")
        local = self.settings.machine
        if name == "configuration/target-page-bits":
            bits = self._number("I")
            if bits != local.page_bits:
                raise StreamError(f"Received target_page_bits {bits} but local is {local.page_bits}")
        elif name == "configuration/capabilities":
            self.capabilities = tuple(self._string() for _ in range(min(self._number("I"), 64)))
        elif name == "configuration/uuid":
            uuid = self._take(16).hex()
            if local.uuid and uuid != local.uuid:
                raise StreamError(f"UUID received is {uuid} and local is {local.uuid}")
        else:
            raise StreamError(f"Unknown savevm subsection '{name}'")

    def _check_capabilities(self, received: tuple[str, ...]) -> None:
        known = [c for c in VALIDATED if c != "mapped-ram" or version_number(self.settings.version) >= (9, 0)]
        for name in received:
            if name not in known and name in VALIDATED:
                raise StreamError(f"Received unknown capability {name}")
        for name in known:
            if (name in received) != self.settings.has(name):
                ours, theirs = ("off", "on") if name in received else ("on", "off")
                raise StreamError(f"Capability {name} is {ours}, but received capability is {theirs}")

    def _sections(self) -> tuple[object, ...] | None:
        kind = self._number("B")
        if kind == EOF:
            self.state = "after_eof"
            return ("eof",)
        if kind == COMMAND:
            return self._command()
        if kind in (START, FULL):
            return self._full_section(kind)
        if kind in (PART, END):
            number = self._number("I")
            if number != self.ram_section:
                raise StreamError(f"Unknown savevm section {number}")
            self.section, self.state = (number, "ram"), "ram_record"
            return None
        raise StreamError(f"Unknown savevm section type {kind}")

    def _command(self) -> tuple[object, ...]:
        number, size = self._number("H"), self._number("H")
        if number not in COMMAND_LENGTH:
            raise StreamError(f"MIG_CMD 0x{number:x} unknown (len 0x{size:x})")
        if size not in COMMAND_LENGTH[number]:
            expected = COMMAND_LENGTH[number][-1]
            raise StreamError(f"{COMMANDS[number]} received with bad length - expecting {expected}, got {size}")
        return "command", number, self._take(size)

    def _full_section(self, kind: int) -> tuple[object, ...] | None:
        number, name = self._number("I"), self._string()
        instance, version = self._number("I"), self._number("I")
        self.section = (number, name)
        if name == "ram" and kind == START:
            self.ram_left, self.ram_blocks = self._number("Q") & ~RAM_FLAGS, 0
            self.ram_section, self.state = number, "ram_block"
            return None
        local = self._known_devices.get((name, instance))
        if local is None:
            raise StreamError(
                f"Unknown section or instance '{name}' {instance}. Make sure that your current VM setup matches your "
                "saved VM setup, including any hotplugged devices"
            )
        if version > local.version:
            raise StreamError(f"savevm: unsupported version {version} for '{name}' v{local.version}")
        if version < local.minimum_version:
            raise StreamError(f"{name}: incoming version_id {version} is too old for local minimum version id")
        self.left, self.state, self.device_bytes = local.size_bytes, "device", local.size_bytes
        return None

    def _ram_block(self) -> tuple[object, ...] | None:
        if self.ram_left <= 0:
            self.state = "ram_record"
            return ("setup", self.ram_blocks)
        name, size = self._string(), self._number("Q")
        block = self._known_blocks.get(name)
        if block is None:
            raise StreamError(f'Unknown ramblock "{name}", cannot accept migration')
        if size != block.size_bytes and not (block.resizable or self.settings.has("mapped-ram")):
            raise StreamError(f"Size mismatch: {name}: 0x{size:x} != 0x{block.size_bytes:x}: Invalid argument")
        if self.settings.has("postcopy-ram") and block.page_bytes != 4096:
            self._number("Q")
        if self.settings.has("x-ignore-shared"):
            self._number("Q")
        self.ram_left, self.ram_blocks = self.ram_left - size, self.ram_blocks + 1
        if self.ram_blocks > BLOCKS_LIMIT:  # ours: QEMU would go on with blocks of no bytes for ever
            raise StreamError(f"More than {BLOCKS_LIMIT} memory blocks")
        return None

    def _ram_record(self) -> tuple[object, ...]:
        word = self._number("Q")
        flags, size = word & RAM_FLAGS, word & ~RAM_FLAGS
        if flags & RAM_EOS:
            self.state = "footer"
            return ("eos",)
        if flags & RAM_MULTIFD_FLUSH:
            return ("flush",)
        if flags & RAM_COMPRESS and not self.settings.has("compress"):
            raise StreamError(f"error while loading state section id {self.section[0]}(ram)")
        if not flags & (RAM_PAGE | RAM_COMPRESS):
            raise StreamError(f"Unknown combination of migration flags: 0x{flags:x}")
        if not flags & RAM_CONTINUE:
            self._string()
        self.left, self.state = size, "ram_pages"
        return ("page", size)

    def _ram_pages(self) -> tuple[object, ...]:
        passed = self._pass_over()
        if not self.left:
            self.state = "ram_record"
        return "ram", passed

    def _device(self) -> None:
        if self.left:
            self._pass_over()
        if not self.left:
            self.state = "device_subsections"

    def _pass_over(self) -> int:
        """Skip what is here of `left` bytes of memory or state; how many."""
        self._settle()
        passed = min(self.left, len(self.buffer))
        if not passed:
            raise _More
        self.buffer = self.buffer.skip(passed)
        self.left -= passed
        return passed

    def _device_subsections(self) -> tuple[object, ...] | None:
        name = self.section[1]
        if not (ahead := self._peek(1)):
            raise _More
        if ahead[0] != SUBSECTION:
            self.state = "footer"
            return "device", name, self.device_bytes
        self._take(1)
        subsection, _version = self._string(), self._number("I")
        if (name, subsection) not in self._known_subsections:
            raise StreamError(f"Failed to load {name}: unknown subsection {subsection}")
        self.left, self.state = self._known_subsections[name, subsection], "device"
        return None

    def _footer(self) -> None:
        if self._number("B") != FOOTER:
            raise StreamError(f"Missing section footer for {self.section[1]}")
        number = self._number("I")
        if number != self.section[0]:
            raise StreamError(f"Mismatched section id in footer for {self.section[1]}: {number}")
        self.state = "sections"

    def _after_eof(self) -> tuple[object, ...] | None:
        if self._number("B") != VMDESCRIPTION:
            raise StreamError("Expected vmdescription section, but got something else")
        self.left = self._number("I")
        self.state = "description"
        return None

    def _description(self) -> tuple[object, ...] | None:
        if self.left:
            self._pass_over()
            return None
        self.state = "finished"
        return ("description",)

    def _finished(self) -> None:
        raise _More
