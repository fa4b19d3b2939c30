"""The format of today's main stream and of multifd's packets: its numbers, and how it is written (loader.py reads it).

v1 runs on it; under v2 it runs unchanged on the channel `main`. Sources: QEMU migration/savevm.c, ram.c, multifd.c and
vmstate.c, 7.2 to 10.2. All integers are big-endian.

Two stand-ins, both after their real framing. Guest memory: a ram record's 8 bytes carry the flags in their low bits as
in life, and above them the number of bytes that follow instead of one page's address. Device state: as many bytes as
the inventory lists. Both are counted, not made (`fill`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from .machine import Machine, Settings

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
    fewer: list[Piece] = []
    for data, fill in pieces:
        if fewer and fewer[-1][1] == 0:
            fewer[-1] = (fewer[-1][0] + data, fill)
        else:
            fewer.append((data, fill))
    return fewer


def _name(text: str) -> bytes:
    """A counted string: one byte of length, then the text (qemu_put_counted_string, qemu-file.c)."""
    raw = text.encode()
    return bytes([len(raw)]) + raw


def header(settings: Settings) -> bytes:
    """QEVM header and configuration section with the subsections that `settings` calls for (savevm.c)."""
    machine = settings.machine
    raw = machine.type.encode()
    data = MAGIC + struct.pack(">IBI", FILE_VERSION, CONFIGURATION, len(raw)) + raw
    if machine.page_bits != LEGACY_PAGE_BITS:
        data += _subsection("configuration/target-page-bits") + struct.pack(">I", machine.page_bits)
    on = [c for c in VALIDATED if settings.has(c)]
    if on:
        data += _subsection("configuration/capabilities") + struct.pack(">I", len(on))
        data += b"".join(_name(c) for c in on)
    if settings.has("validate-uuid") and machine.uuid:
        data += _subsection("configuration/uuid") + bytes.fromhex(machine.uuid)
    return data


def _subsection(name: str, version: int = 1) -> bytes:
    """The head of a subsection (vmstate_subsection_save, vmstate.c)."""
    return bytes([SUBSECTION]) + _name(name) + struct.pack(">I", version)


def command(number: int, payload: bytes = b"") -> bytes:
    """A command with its payload (qemu_savevm_command_send, savevm.c)."""
    return struct.pack(">BHH", COMMAND, number, len(payload)) + payload


def postcopy_advise(machine: Machine) -> bytes:
    """What postcopy needs to be alike: the page sizes of all blocks together, and the target's
    (qemu_savevm_send_postcopy_advise and ram_pagesize_summary)."""
    sizes = 0
    for block in machine.ram_blocks:
        sizes |= block.page_bytes
    return command(POSTCOPY_ADVISE, struct.pack(">QQ", sizes, 1 << machine.page_bits))


def ram_start(section: int, settings: Settings, flush: bool) -> bytes:
    """RAM's first section (ram_save_setup, ram.c): its version, the total size, name and length of each block, and
    what postcopy and ignore-shared add to that; after it multifd's flush where the machine type wants one."""
    blocks = settings.machine.ram_blocks
    data = _full(START, section, "ram", 0, 4) + struct.pack(">Q", settings.machine.ram_bytes | RAM_MEM_SIZE)
    for block in blocks:
        data += _name(block.name) + struct.pack(">Q", block.size_bytes)
        if settings.has("postcopy-ram") and block.page_bytes != 4096:
            data += struct.pack(">Q", block.page_bytes)
        if settings.has("x-ignore-shared"):
            data += struct.pack(">Q", 0)
    return data + _flush(flush) + struct.pack(">Q", RAM_EOS) + _footer(section)


def ram_pass(section: int, settings: Settings, size_bytes: int, flush: bool, kind: int = PART) -> list[Piece]:
    """One pass on main (ram_save_iterate or ram_save_complete, ram.c): a record with `size_bytes` of pages, rounded
    up to whole ones, and the end of the section."""
    data = struct.pack(">BI", kind, section)
    pieces: list[Piece] = []
    if size_bytes:
        flags = RAM_COMPRESS if settings.has("compress") else RAM_PAGE
        size_bytes += -size_bytes % 4096
        data += struct.pack(">Q", size_bytes | flags) + _name(settings.machine.ram_blocks[0].name)
        pieces, data = [(data, size_bytes)], b""
    return [*pieces, (data + _flush(flush) + struct.pack(">Q", RAM_EOS) + _footer(section), 0)]


def urgent_page(machine: Machine) -> Piece:
    """A page that was asked for, as it stands on the preempt channel (ram_save_host_page_urgent, ram.c)."""
    return struct.pack(">Q", 4096 | RAM_PAGE) + _name(machine.ram_blocks[0].name), 4096


def _flush(flush: bool) -> bytes:
    """The record by which main asks all multifd channels to synchronise, from machine type 8.1 on
    (RAM_SAVE_FLAG_MULTIFD_FLUSH, ram.c)."""
    return struct.pack(">Q", RAM_MULTIFD_FLUSH) if flush else b""


def device_state(first_section: int, machine: Machine) -> Iterator[Piece]:
    """One section for each device, with the subsections that it always sends (vmstate_save, savevm.c). The state
    itself is a stand-in of the length that the inventory lists."""
    for section, device in enumerate(machine.devices, first_section):
        yield _full(FULL, section, device.id, device.instance, device.version), device.size_bytes
        for sent in device.subsections:
            if sent.needed == "always":
                yield _subsection(sent.name, sent.version), sent.uncounted_bytes(machine.vcpus)
        yield _footer(section), 0


def end_of_stream(description: bytes) -> bytes:
    """EOF; after a precopy also the JSON description of all devices, which no destination needs
    (qemu_savevm_state_complete_precopy, savevm.c)."""
    data = bytes([EOF])
    return data + struct.pack(">BI", VMDESCRIPTION, len(description)) + description if description else data


def _full(kind: int, section: int, name: str, instance: int, version: int) -> bytes:
    """The head of a section that begins (save_section_header, savevm.c)."""
    return struct.pack(">BI", kind, section) + _name(name) + struct.pack(">II", instance, version)


def _footer(section: int) -> bytes:
    """The end of a section (save_section_footer, savevm.c)."""
    return struct.pack(">BI", FOOTER, section)


def multifd_initial(machine: Machine, channel: int) -> bytes:
    """The first 64 bytes of a multifd channel: magic, version, the VM's UUID, the channel's number (MultiFDInit_t,
    multifd.h)."""
    uuid = bytes.fromhex(machine.uuid) if machine.uuid else bytes(16)
    return MULTIFD_MAGIC + struct.pack(">I16sB", 1, uuid, channel) + bytes(39)


def multifd_packet(number: int, compression: str, size_bytes: int, sync: bool = False) -> bytes:
    """The header of a packet of up to 128 pages of 4 KiB (MultiFDPacket_t, multifd.h). The length of its payload is
    the real field; the offsets of its pages are left zero, and the payload is a stand-in."""
    flags = COMPRESSION_FLAG[compression] | (MULTIFD_SYNC if sync else 0)
    counted = struct.pack(">IIIIIQ", flags, 128, 0, size_bytes, 0, number)
    head = MULTIFD_MAGIC + struct.pack(">I", 1) + counted[:16] + counted[20:]
    return head + bytes(MULTIFD_PACKET_BYTES - len(head))


def multifd_pass(lanes: list[int], size_bytes: int, compression: str, number: int) -> Iterator[tuple[int, Piece, str]]:
    """One pass of guest memory spread evenly over the lanes: each lane's packets, then its SYNC (multifd_send_pages and
    multifd_send_sync_main, multifd.c).

    Yields lane, piece and the name for the trace. `number` counts packets over all passes.
    """
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
