"""What v1's destination knows of one connection, and how it checks multifd's first 64 bytes (multifd.c)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from .. import stream
from ..buffer import Buffer
from ..loader import MultifdReader
from ..machine import Settings
from ..versions import Behaviour
from .states import Kind


class Connection(NamedTuple):
    """One connection, as the destination knows it."""

    kind: Kind
    buffer: Buffer = Buffer()
    ended: str = ""  # how its bytes ended: EOF, or the system's word
    number: int = -1  # of a multifd channel
    lane: MultifdReader = MultifdReader()
    left: int = 0  # of the urgent pages being passed over


def skip_urgent_pages(buffer: Buffer, left: int) -> tuple[Buffer, int, int]:
    """Pass over the page records of a preempt channel: 8 bytes with flags, a block name, the pages.

    Takes what has arrived and how much is missing of the latest record's pages. Returns both as they are then, and the
    bytes of pages that were there.
    """
    passed = 0
    while len(buffer):
        if not left:
            head = buffer.peek(15)
            if len(head) < 15:
                break
            left = struct.unpack(">Q", head[:8])[0] & ~stream.RAM_FLAGS
            buffer = buffer.skip(15)
        size = min(left, len(buffer))
        buffer, left, passed = buffer.skip(size), left - size, passed + size
    return buffer, left, passed


def wrong_initial(packet: bytes, settings: Settings, rules: Behaviour, taken: tuple[int, ...]) -> tuple[str, int]:
    """The checks of a multifd channel's first packet, in QEMU's order (multifd_recv_initial_packet, multifd.c).

    Returns what is wrong (empty if nothing), and the channel's number.
    """
    index = packet[24]
    version = struct.unpack(">I", packet[4:8])[0]
    uuid = settings.machine.uuid or "0" * 32
    if packet[:4] != stream.MULTIFD_MAGIC:
        return f"received packet magic {packet[:4].hex()} expected 11223344", len(taken)
    if version != 1:
        return f"received packet version {version} expected 1", index
    if packet[8:24].hex() != uuid:
        return f"received uuid '{packet[8:24].hex()}' and expected uuid '{uuid}'", index
    if rules.checks_number and index >= settings.channels:
        return f"received channel id {index} exceeds channel count {settings.channels}", index
    if index > settings.channels:
        return f"received channel id {index} is greater than number of channels {settings.channels}", index
    if index in taken or index >= settings.channels:
        return f"received id '{index}' already setup'", index
    return "", index
