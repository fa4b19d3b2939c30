"""Preface and frames: the bytes around every message (SPEC section 2). The invariants I1 to I7 live here.

Limits are enforced before anything is kept: a frame is refused by its length field, not after it has been stored.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..buffer import Buffer
from ..endpoint import declare
from ..errors import Code, PeerError

INITIATOR = b"\x89QMS\r\n\x1a\n"
RESPONDER = b"\x89QMD\r\n\x1a\n"
MANIFEST = b"\x89QMF\r\n\x1a\n"
PREFACE_BYTES = 32
PREFACE_LIMIT = 1024
PING_LIMIT = 64
FRAME_BYTES = 12
LOWEST = HIGHEST = 0x0201  # 2.1; the draft 2.0 sent 2
ALPN = "qemu-migration/2"  # what every TLS handshake of v2 offers (RFC 7301)
CRITICAL, MORE = 0x01, 0x02
PING, PONG, DATA = 0x0B, 0x0C, 0x40  # the frames without a JSON body
NAMES = {PING: "PING", PONG: "PONG", DATA: "DATA"}  # of frame types; messages.py adds its own


@dataclass(frozen=True, slots=True)
class Limits:
    """What one side is ready to hold; configurable downwards (SPEC section 2.5)."""

    frame_bytes: int = 64 << 10
    data_bytes: int = 256 << 10
    handshake_bytes: int = 4 << 20
    channels: int = 64
    unauthenticated: int = 16
    ignorable: int = 256
    errors: int = 64
    guard_s: float = 10.0  # for a connection that has not authenticated; 0: none


@dataclass(frozen=True, slots=True)
class Preface:
    """What the first bytes of a side say: the versions that it speaks, and its nonce."""

    magic: bytes
    lowest: int
    highest: int
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, its payload in whole."""

    type: int
    payload: bytes
    flags: int = CRITICAL
    channel: int = 0
    request: int = 0
    fill: int = 0  # stand-in bytes of a DATA payload


def version_range(lowest: int, highest: int) -> str:
    """Two version numbers, as errors show them: the high byte is the major version, the low byte the minor one.

    >>> version_range(0x0201, 0x0300)
    '2.1..3.0'
    """
    return "..".join(f"{number >> 8}.{number & 0xFF}" for number in (lowest, highest))


def preface(magic: bytes, nonce: bytes, flags: int = 0, lowest: int = LOWEST, highest: int = HIGHEST) -> bytes:
    """The 32 bytes that each side sends first on each connection: magic, length, versions, flags, nonce (SPEC 2.2)."""
    return magic + struct.pack(">HHHH", PREFACE_BYTES, lowest, highest, flags) + nonce


def frame(type: int, payload: bytes, flags: int = CRITICAL, channel: int = 0, request: int = 0, fill: int = 0) -> bytes:
    """One frame: its head of 12 bytes, and the payload; `fill` bytes of it are only counted (SPEC 2.3)."""
    return struct.pack(">IBBHI", len(payload) + fill, type, flags, channel, request) + payload


class Reader(NamedTuple):
    """What has been read of one connection: a value that `read` replaces."""

    expected: bytes  # the magic that the peer must begin with
    limits: Limits
    buffer: Buffer = Buffer()
    got_preface: bool = False
    spent_bytes: int = 0  # of the handshake
    ignored: int = 0
    partial: tuple[int, bytes] | None = None  # type and payload so far of a frame with MORE
    data_left: int = 0  # of the DATA frame being passed on
    unlimited: bool = False  # the handshake is over: DATA may come without end

    def add(self, data: bytes, fill: int = 0) -> Reader:
        """With these bytes, and then `fill` stand-in bytes, behind those that are still to be read."""
        return self._replace(buffer=self.buffer.add(data, fill))

    def next(self) -> tuple[Reader, Preface | Frame | None]:
        """The next thing on the connection, or None until more has come. Raises PeerError."""
        before, (read, item) = self, self._step()
        while item is None and len(read.buffer) < len(before.buffer):  # a part of a continued frame: go on behind it
            before, (read, item) = read, read._step()
        return read, item

    def _step(self) -> tuple[Reader, Preface | Frame | None]:
        """One preface, one frame, or one piece of a DATA frame."""
        if self.data_left:
            return self._data()
        return self._frame() if self.got_preface else self._preface()

    def _preface(self) -> tuple[Reader, Preface | None]:
        """The magic is checked byte by byte as it comes, so that an intruder is noticed at its first wrong one; a
        longer preface of a later version is passed over (SPEC 2.2, I2)."""
        data = self.buffer.peek(PREFACE_BYTES)
        _check_magic(data[:8], self.expected)
        if len(data) < 10:
            return self, None
        size = struct.unpack(">H", data[8:10])[0]
        if not PREFACE_BYTES <= size <= PREFACE_LIMIT:
            raise PeerError(Code.FRAME_TOO_BIG, f"a preface of {size} bytes; {PREFACE_BYTES} to {PREFACE_LIMIT} may be")
        if len(self.buffer) < size:
            return self, None
        _, lowest, highest, _flags = struct.unpack(">HHHH", data[8:16])
        read = self._replace(buffer=self.buffer.skip(size), got_preface=True, spent_bytes=size)
        return read, Preface(data[:8], lowest, highest, data[16:32])

    def _frame(self) -> tuple[Reader, Frame | None]:
        """A frame is refused by its length before its payload is kept (SPEC 2.5)."""
        head = self.buffer.peek(FRAME_BYTES)
        if len(head) < FRAME_BYTES:
            return self, None
        size, type, flags, channel, request = struct.unpack(">IBBHI", head)
        limit = {DATA: self.limits.data_bytes, PING: PING_LIMIT, PONG: PING_LIMIT}.get(type, self.limits.frame_bytes)
        if size > limit:
            raise PeerError(Code.FRAME_TOO_BIG, f"a {name(type)} frame of {size} bytes; {limit} are allowed")
        if type == DATA and self.partial is not None:
            raise PeerError(Code.BAD_STATE, f"DATA inside a continued {name(self.partial[0])}")
        if type == DATA:
            read = self._replace(buffer=self.buffer.skip(FRAME_BYTES), data_left=size)
            return read._data() if size else (read, Frame(DATA, b""))
        if len(self.buffer) < FRAME_BYTES + size:
            return self, None
        payload = self.buffer.skip(FRAME_BYTES).peek(size)
        spent = self.spent_bytes + (0 if self.unlimited else FRAME_BYTES + size)
        if spent > self.limits.handshake_bytes and not self.unlimited:
            raise PeerError(Code.TOO_MUCH, f"more than {self.limits.handshake_bytes} bytes of handshake")
        read = self._replace(buffer=self.buffer.skip(FRAME_BYTES + size), spent_bytes=spent)
        return read._continued(Frame(type, payload, flags, channel, request))

    def _continued(self, got: Frame) -> tuple[Reader, Frame | None]:
        """Put frames with MORE together."""
        if self.partial is None and not got.flags & MORE:
            return self, got
        type, before = self.partial or (got.type, b"")
        if type != got.type:
            raise PeerError(Code.BAD_STATE, f"{name(got.type)} inside a continued {name(type)}")
        whole = before + got.payload
        if len(whole) > self.limits.handshake_bytes:
            raise PeerError(Code.TOO_MUCH, f"a continued {name(type)} of more than {self.limits.handshake_bytes} bytes")
        if got.flags & MORE:
            return self._replace(partial=(type, whole)), None
        return self._replace(partial=None), replace(got, payload=whole)

    def _data(self) -> tuple[Reader, Frame | None]:
        """Bytes of a DATA frame as they come, stand-in bytes uncounted by memory."""
        passed = min(self.data_left, len(self.buffer))
        if not passed:
            return self, None
        data = self.buffer.head[:passed]
        read = self._replace(buffer=self.buffer.skip(len(data)), data_left=self.data_left - len(data))
        if not data:
            part = read.buffer.rest[0]
            fill = min(part if isinstance(part, int) else 0, read.data_left)
            read = read._replace(buffer=read.buffer.skip(fill), data_left=read.data_left - fill)
            return read, Frame(DATA, b"", fill=fill)
        return read, Frame(DATA, data)

    def skipped(self) -> Reader:
        """Count one ignorable frame."""
        if self.unlimited:
            return self
        if self.ignored >= self.limits.ignorable:
            raise PeerError(Code.TOO_MUCH, f"more than {self.limits.ignorable} ignorable frames")
        return self._replace(ignored=self.ignored + 1)


declare(
    Reader,
    NON_STATE={"spent_bytes": "counts GREASE, whose length is random, towards a limit that no modelled peer reaches"},
)


def name(type: int) -> str:
    """The name of a frame's type, or its number."""
    return NAMES.get(type, f"0x{type:02x}")


def _check_magic(first: bytes, expected: bytes) -> None:
    """Which mistake the first bytes are: an echo, a v1 stream, or something else (SPEC section 12)."""
    if first == expected[: len(first)]:
        return
    own = RESPONDER if expected == INITIATOR else INITIATOR
    if first[:4] == own[:4]:
        raise PeerError(
            Code.REFLECTED, "our own bytes came back: the transport echoes, or both sides have the same role"
        )
    if first[:4] == b"QEVM":
        raise PeerError(Code.PEER_V1, "the peer speaks the v1 stream (QEVM)", source="v1", destination="v2")
    if len(first) >= 4:
        raise PeerError(Code.NOT_A_HANDSHAKE, f"the first bytes are {first.hex(' ')}", source=first.hex())
