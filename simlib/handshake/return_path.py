"""What the destination may say to the source: types, and lengths in bytes (migration/migration.c, rp_cmd_args)."""

from __future__ import annotations

import struct
from enum import IntEnum

from .names import Reason


class Reply(IntEnum):
    """Numbers of the messages (enum mig_rp_message_type, migration/migration.h)."""

    SHUT = 1
    PONG = 2
    REQ_PAGES_ID = 3
    REQ_PAGES = 4
    RECV_BITMAP = 5
    RESUME_ACK = 6
    ACK = 7  # SWITCHOVER_ACK


NAMES = {reply.value: reply.name for reply in Reply}
LENGTH = {1: 4, 2: 4, 3: None, 4: 12, 5: None, 6: 4, 7: 0}
LIMIT = 512
FIRST_PING = 1
PACKAGE_LOADED = 0x42  # the PING at a package's end (QEMU_VM_PING_PACKAGED_LOADED, savevm.h 10.2)


def message(kind: Reply, payload: bytes = b"") -> bytes:
    """Type, length, payload (migrate_send_rp_message, migration.c)."""
    return struct.pack(">HH", kind, len(payload)) + payload


def page_request(block: str, offset: int, size_bytes: int) -> bytes:
    """Asks for that part of a memory block (migrate_send_rp_req_pages, migration.c)."""
    name = block.encode()
    return message(Reply.REQ_PAGES_ID, struct.pack(">QIB", offset, size_bytes, len(name)) + name)


def wrong(kind: int, size: int) -> str:
    """QEMU's error text for such a message's head; empty if it is in order."""
    if kind not in NAMES or size > LIMIT:
        return f"Received invalid message 0x{kind:04x} length 0x{size:04x}"
    name, expected = NAMES[kind], LENGTH[kind]
    if expected is not None and size != expected:
        return f"Received '{name}' message (0x{kind:04x}) withincorrect length {size} expecting {expected}"
    return ""


def ended(tls: bool) -> tuple[str, Reason]:
    """The error text, and its reason, of an end that no SHUT announced."""
    if tls:
        return "Cannot read from TLS channel: The TLS connection was non-properly terminated.", Reason.SPECIFIC
    return "Channel error: Input/output error", Reason.GENERIC
