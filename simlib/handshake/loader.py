"""Reads today's main stream and multifd's packets as a destination does: in any pieces, and refusing in QEMU's words.

Sources: QEMU migration/savevm.c, ram.c, multifd.c and vmstate.c, 7.2 to 10.2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from .buffer import Buffer
from .endpoint import State
from .machine import Device, RamBlock, Settings
from .names import Name
from .stream import (
    BLOCKS_LIMIT,
    COMMAND,
    COMMAND_LENGTH,
    COMMANDS,
    COMPRESSION_FLAG,
    CONFIGURATION,
    END,
    EOF,
    FILE_VERSION,
    FOOTER,
    FULL,
    MAGIC,
    MULTIFD_MAGIC,
    MULTIFD_PACKET_BYTES,
    MULTIFD_SYNC,
    PART,
    RAM_COMPRESS,
    RAM_CONTINUE,
    RAM_EOS,
    RAM_FLAGS,
    RAM_MULTIFD_FLUSH,
    RAM_PAGE,
    SIZE,
    START,
    STRING_LIMIT,
    SUBSECTION,
    VALIDATED,
    VMDESCRIPTION,
)
from .versions import behaviour


class Position(Name):
    """What a loader reads next."""

    HEADER = "header"
    CONFIGURATION = "configuration"
    CONFIGURED = "configured"
    SECTIONS = "sections"
    RAM_BLOCK = "ram_block"
    RAM_RECORD = "ram_record"
    RAM_PAGES = "ram_pages"
    DEVICE = "device"
    DEVICE_SUBSECTIONS = "device_subsections"
    FOOTER = "footer"
    AFTER_EOF = "after_eof"
    DESCRIPTION = "description"
    FINISHED = "finished"


class StreamError(Exception):
    """The stream can't be loaded here; the text is what QEMU prints."""


@dataclass(frozen=True, slots=True)
class MultifdReader:
    """One multifd connection after its identity is known: packet headers, payload passed over, SYNCs counted."""

    buffer: Buffer = Buffer()
    left: int = 0  # payload of the packet being passed over
    syncs: int = 0
    ram_bytes: int = 0

    def add(self, data: bytes, fill: int = 0) -> MultifdReader:
        """With these bytes, and then `fill` stand-in bytes, behind those that are still to be read."""
        return MultifdReader(self.buffer.add(data, fill), self.left, self.syncs, self.ram_bytes)

    def read(self, compression: str, index: int, until_sync: int) -> MultifdReader:
        """As far as its bytes go, or until more than `until_sync` SYNCs have come. Raises StreamError."""
        lane = self
        while True:
            if lane.left:
                passed = min(lane.left, len(lane.buffer))
                lane = MultifdReader(lane.buffer.skip(passed), lane.left - passed, lane.syncs, lane.ram_bytes + passed)
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
            lane = MultifdReader(lane.buffer.skip(len(head)), size, syncs, lane.ram_bytes)


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
        self.state: Position = Position.HEADER
        self.section = (0, "")  # id and name of the one being read
        self.ram_section = -1  # its number, once it has begun
        self.ram_left = self.ram_blocks = 0  # bytes of memory whose blocks are still to be listed; blocks listed
        self.capabilities: tuple[str, ...] | None = None
        self.left = 0  # stand-in bytes still to pass over
        self.device_bytes = 0

    @cached_property
    def _known_devices(self) -> dict[tuple[str, int], Device]:
        """The destination's own devices by name and instance, as find_se looks them up (savevm.c)."""
        return {(d.id, d.instance): d for d in reversed(self.settings.machine.devices)}

    @cached_property
    def _known_subsections(self) -> dict[tuple[str, str], int]:
        """Of each device and subsection, the bytes that its state does not count."""
        machine = self.settings.machine
        return {(d.id, s.name): s.uncounted_bytes(machine.vcpus) for d in machine.devices for s in d.subsections}

    @cached_property
    def _known_blocks(self) -> dict[str, RamBlock]:
        """The destination's memory blocks by name, as qemu_ram_block_by_name finds them (system/physmem.c)."""
        return {b.name: b for b in self.settings.machine.ram_blocks}

    def feed(self, data: bytes, fill: int = 0) -> None:
        """Take what has arrived; `next_event` reads it."""
        self.buffer = self.buffer.add(data, fill)

    def next_event(self) -> tuple[object, ...] | None:
        """The next event of the stream, or None until more has been fed."""
        try:
            while True:
                before = self.buffer, self._at
                event = self.READERS[self.state](self)
                if event is not None:
                    return event
        except _More:
            self.buffer, self._at = before
            return None
        finally:
            self._settle()

    def _settle(self) -> None:
        """Let go of what was read: not at each number, since that copies the rest."""
        self.buffer, self._at = self.buffer.skip(self._at) if self._at else self.buffer, 0

    def _peek(self, size: int) -> bytes:
        """The next `size` bytes, or fewer when fewer have arrived; they stay."""
        data = self.buffer.head[self._at : self._at + size]
        if len(data) < size:
            self._settle()
            data = self.buffer.peek(size)
        return data

    def _take(self, size: int) -> bytes:
        """The next `size` bytes. Raises _More when fewer have arrived."""
        data = self._peek(size)
        if len(data) < size:
            raise _More
        if self._at + size <= len(self.buffer.head):
            self._at += size
        else:
            self.buffer = self.buffer.skip(size)
        return data

    def _number(self, kind: str) -> int:
        """A big-endian integer of a kind that SIZE lists (qemu_get_be32 and its like, qemu-file.c)."""
        return int.from_bytes(self._take(SIZE[kind]), "big")

    def _string(self) -> str:
        """A counted string: one byte of length, then the text (qemu_get_counted_string, qemu-file.c)."""
        return self._take(self._number("B")).decode("utf-8", "replace")

    def _header(self) -> None:
        """Magic and version (qemu_loadvm_state_header, savevm.c)."""
        magic = self._peek(4)
        if magic != MAGIC[: len(magic)]:
            raise StreamError("Not a migration stream")
        self._take(4)
        version = self._number("I")
        if version == 2:
            raise StreamError("SaveVM v2 format is obsolete and no longer supported")
        if version != FILE_VERSION:
            raise StreamError("Unsupported migration stream version")
        self.state = Position.CONFIGURATION

    def _configuration(self) -> tuple[object, ...]:
        """The machine type, the first thing that is compared (configuration_post_load, savevm.c)."""
        if self._number("B") != CONFIGURATION:
            raise StreamError("Configuration section missing")
        size = self._number("I")
        if size > STRING_LIMIT:
            raise StreamError(f"Machine type name of {size} bytes is too long")
        name, local = self._take(size).decode("utf-8", "replace"), self.settings.machine.type
        if not local.startswith(name):  # QEMU compares over the received length only
            raise StreamError(f"Machine type received is '{name}' and local is '{local}'")
        self.state = Position.CONFIGURED
        return "machine", name

    def _configured(self) -> None:
        """The configuration's subsections, which end where something else begins."""
        if not (ahead := self._peek(1)):
            raise _More
        if ahead[0] != SUBSECTION:
            self._check_capabilities(self.capabilities or ())
            self.state = Position.SECTIONS
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
        """The two capabilities that a stream declares must be alike on both sides
        (configuration_validate_capabilities, savevm.c); nothing else of the settings is in a stream."""
        known = [c for c in VALIDATED if c != "mapped-ram" or behaviour(self.settings.version).validates_mapped_ram]
        for name in received:
            if name not in known and name in VALIDATED:
                raise StreamError(f"Received unknown capability {name}")
        for name in known:
            if (name in received) != self.settings.has(name):
                ours, theirs = ("off", "on") if name in received else ("on", "off")
                raise StreamError(f"Capability {name} is {ours}, but received capability is {theirs}")

    def _sections(self) -> tuple[object, ...] | None:
        """The loop over sections (qemu_loadvm_state_main, savevm.c)."""
        kind = self._number("B")
        if kind == EOF:
            self.state = Position.AFTER_EOF
            return ("eof",)
        if kind == COMMAND:
            return self._command()
        if kind in (START, FULL):
            return self._full_section(kind)
        if kind in (PART, END):
            number = self._number("I")
            if number != self.ram_section:
                raise StreamError(f"Unknown savevm section {number}")
            self.section, self.state = (number, "ram"), Position.RAM_RECORD
            return None
        raise StreamError(f"Unknown savevm section type {kind}")

    def _command(self) -> tuple[object, ...]:
        """Number and length of a command, each checked against QEMU's table (loadvm_process_command, savevm.c)."""
        number, size = self._number("H"), self._number("H")
        if number not in COMMAND_LENGTH:
            raise StreamError(f"MIG_CMD 0x{number:x} unknown (len 0x{size:x})")
        if size not in COMMAND_LENGTH[number]:
            expected = COMMAND_LENGTH[number][-1]
            raise StreamError(f"{COMMANDS[number]} received with bad length - expecting {expected}, got {size}")
        return "command", number, self._take(size)

    def _full_section(self, kind: int) -> tuple[object, ...] | None:
        """A section that begins: its device must exist here, in a version that is loaded
        (qemu_loadvm_section_start_full and vmstate_load, savevm.c; vmstate_load_state, vmstate.c)."""
        number, name = self._number("I"), self._string()
        instance, version = self._number("I"), self._number("I")
        self.section = (number, name)
        if name == "ram" and kind == START:
            self.ram_left, self.ram_blocks = self._number("Q") & ~RAM_FLAGS, 0
            self.ram_section, self.state = number, Position.RAM_BLOCK
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
        self.left, self.state, self.device_bytes = local.size_bytes, Position.DEVICE, local.size_bytes
        return None

    def _ram_block(self) -> tuple[object, ...] | None:
        """One block of the list in RAM's first section: name and size must be known (parse_ramblock, ram.c)."""
        if self.ram_left <= 0:
            self.state = Position.RAM_RECORD
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
        """Flags and length of one record of RAM's sections (ram_load_precopy, ram.c)."""
        word = self._number("Q")
        flags, size = word & RAM_FLAGS, word & ~RAM_FLAGS
        if flags & RAM_EOS:
            self.state = Position.FOOTER
            return ("eos",)
        if flags & RAM_MULTIFD_FLUSH:
            return ("flush",)
        if flags & RAM_COMPRESS and not self.settings.has("compress"):
            raise StreamError(f"error while loading state section id {self.section[0]}(ram)")
        if not flags & (RAM_PAGE | RAM_COMPRESS):
            raise StreamError(f"Unknown combination of migration flags: 0x{flags:x}")
        if not flags & RAM_CONTINUE:
            self._string()
        self.left, self.state = size, Position.RAM_PAGES
        return ("page", size)

    def _ram_pages(self) -> tuple[object, ...]:
        """Pages are passed over and counted, in as many pieces as they come."""
        passed = self._pass_over()
        if not self.left:
            self.state = Position.RAM_RECORD
        return "ram", passed

    def _device(self) -> None:
        """The state of a device, whose length each side takes from its own description: v1 sends none."""
        if self.left:
            self._pass_over()
        if not self.left:
            self.state = Position.DEVICE_SUBSECTIONS

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
        """The subsections that follow a device's state; one that is not known is fatal (vmstate_subsection_load,
        vmstate.c)."""
        name = self.section[1]
        if not (ahead := self._peek(1)):
            raise _More
        if ahead[0] != SUBSECTION:
            self.state = Position.FOOTER
            return "device", name, self.device_bytes
        self._take(1)
        subsection, _version = self._string(), self._number("I")
        if (name, subsection) not in self._known_subsections:
            raise StreamError(f"Failed to load {name}: unknown subsection {subsection}")
        self.left, self.state = self._known_subsections[name, subsection], Position.DEVICE
        return None

    def _footer(self) -> None:
        """The end of a section, which names it once more (check_section_footer, savevm.c). It shows that a device's
        state had another length than the destination thought."""
        if self._number("B") != FOOTER:
            raise StreamError(f"Missing section footer for {self.section[1]}")
        number = self._number("I")
        if number != self.section[0]:
            raise StreamError(f"Mismatched section id in footer for {self.section[1]}: {number}")
        self.state = Position.SECTIONS

    def _after_eof(self) -> tuple[object, ...] | None:
        """After EOF comes the JSON description, from a precopy source (qemu_loadvm_state, savevm.c)."""
        if self._number("B") != VMDESCRIPTION:
            raise StreamError("Expected vmdescription section, but got something else")
        self.left = self._number("I")
        self.state = Position.DESCRIPTION
        return None

    def _description(self) -> tuple[object, ...] | None:
        """The description is read and thrown away: it is for tools such as analyze-migration.py."""
        if self.left:
            self._pass_over()
            return None
        self.state = Position.FINISHED
        return ("description",)

    def _finished(self) -> None:
        """Whatever may come now is never read."""
        raise _More

    READERS: ClassVar[Mapping[Position, Callable[[Loader], tuple[object, ...] | None]]] = {
        Position.HEADER: _header,
        Position.CONFIGURATION: _configuration,
        Position.CONFIGURED: _configured,
        Position.SECTIONS: _sections,
        Position.RAM_BLOCK: _ram_block,
        Position.RAM_RECORD: _ram_record,
        Position.RAM_PAGES: _ram_pages,
        Position.DEVICE: _device,
        Position.DEVICE_SUBSECTIONS: _device_subsections,
        Position.FOOTER: _footer,
        Position.AFTER_EOF: _after_eof,
        Position.DESCRIPTION: _description,
        Position.FINISHED: _finished,
    }
