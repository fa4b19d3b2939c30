"""Writes what crossed the simulated wire as a pcapng file, so that Wireshark shows a run as it shows a real one.

It knows pcapng, IPv4 and TCP headers; it knows nothing of migration (`data/wireshark/qemu_migration.lua` does) and
makes no decision about timing: packets keep the order and the time that they are given. Sequence numbers follow from
the bytes, and every packet acknowledges all that the other side has sent above it in the file, so a capture shows which
side sent what and when; its acknowledgements carry no information about delay or loss.

    write(Path("run.pcapng"), [Segment(0, 0, True, "syn"), Segment(50_000, 0, False, "syn-ack"), ...], "scenario 12")

or, while it happens, a `Capture`.

Sources: pcapng is draft-ietf-opsawg-pcapng (sections 4.1 SHB, 4.2 IDB, 4.3 EPB, 4.7 DSB), LINKTYPE_RAW is on
tcpdump.org/linktypes.html, headers and checksum are RFC 791, 9293 and 1071.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .trace import Packet

_SECTION_HEADER, _INTERFACE, _PACKET, _SECRETS = 0x0A0D0D0A, 0x01, 0x06, 0x0A
_OPT_COMMENT, _SHB_HARDWARE, _SHB_OS, _SHB_USERAPPL, _IF_NAME, _IF_TSRESOL = 1, 2, 3, 4, 2, 9
_LINKTYPE_RAW = 101  # the packet starts with its IP header: there is no Ethernet to invent
_TLS_KEY_LOG = 0x544C534B  # "TLSK": an NSS key log, the text that SSLKEYLOGFILE names

_SOURCE, _DESTINATION = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
_LISTENING_PORT, _FIRST_CLIENT_PORT = 4444, 50_000
_FIN, _SYN, _RST, _PSH, _ACK = 0x01, 0x02, 0x04, 0x08, 0x10
_FLAGS = {"syn": _SYN, "syn-ack": _SYN | _ACK, "ack": _ACK, "data": _PSH | _ACK, "fin": _FIN | _ACK, "rst": _RST | _ACK}
# Maximum segment size and window scale 14 (RFC 7323): without the latter, a long flight looks like a full window.
_SYN_OPTIONS = bytes((2, 4, 0xFF, 0xD7, 1, 3, 3, 14))

_MAX_DATA = 60_000  # bytes of one packet; IPv4 allows 65,535 with headers
_SEQUENCES = 1 << 32
_WINDOW = 0xFFFF << 14  # bytes unacknowledged, at most: RFC 7323 stops there, since 2^31 ahead looks like behind
_MAX_WAITING = 100  # packets unacknowledged, at most: Wireshark walks the list of them at each one
_MAX_FILL = 1 << 29  # bytes that one packet stands for
_MAX_COMMENT = 65_000  # an option's length is 16 bits


@dataclass(frozen=True, slots=True)
class Segment:
    """One send by one side. Only "data", "fin" and "rst" may carry bytes; those of the last two go before the flag."""

    time_ns: int  # since the start of the run
    connection: int  # 0, 1, 2 ... in order of opening; becomes the client's TCP port
    from_source: bool  # direction: source (client) -> destination (server)
    kind: str  # "syn", "syn-ack", "ack", "data", "fin", "rst"
    data: bytes = b""  # real bytes
    fill: int = 0  # stand-in bytes that were counted but never made, after `data`
    comment: str = ""  # opt_comment of the packet block

    def __post_init__(self) -> None:
        """Refuse what no packet can express; here the caller's mistake is still on the stack."""
        if self.kind not in _FLAGS:
            raise ValueError(f"unknown kind of segment {self.kind!r}; known: {', '.join(_FLAGS)}")
        if self.fill < 0 or ((self.data or self.fill) and self.kind in ("syn", "syn-ack", "ack")):
            raise ValueError(f"a {self.kind} segment can't carry {len(self.data)} bytes and {self.fill} stand-in bytes")
        if not 0 <= self.connection <= 0xFFFF - _FIRST_CLIENT_PORT:
            raise ValueError(f"connection {self.connection} has no TCP port")


@dataclass(slots=True)
class _Side:
    """One direction of a connection, and what the other side has acknowledged of it."""

    address: bytes
    port: int
    following: int  # sequence number of the next byte; the first one is as good as any
    acknowledged: int
    opened: bool = False
    waiting: int = 0  # packets sent since the other side last sent one


def open_private(path: Path) -> BinaryIO:
    """A new file that only its owner can read, from its first byte on. An old one is replaced: writing into it would
    keep its mode, and show all to any process that has it open. A pipe or a device is written to. Raises OSError."""
    if path.exists() and not path.is_file():
        return path.open("wb")
    place = Path(os.path.realpath(path))  # a link goes on leading there
    place.unlink(missing_ok=True)
    return os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


class Capture:
    """A file that grows by what is added; TLS secrets only into one that is `private`. Raises OSError, at each step."""

    def __init__(self, path: Path, comment: str = "", private: bool = False) -> None:
        self.connections: dict[int, tuple[_Side, _Side]] = {}
        self.private = private
        self.file = open_private(path) if private else path.open("wb")
        self.file.write(_file_head(comment))

    def add_secrets(self, lines: bytes) -> None:
        """Write part of a TLS key log in NSS format; Wireshark needs it in front of the packets that it decrypts.

        Raises:
            ValueError: if the capture is not private.
            OSError: if it can't be written.
        """
        if not self.private:
            raise ValueError("TLS secrets go into a private capture only, and others can read this one")
        self.file.write(_block(_SECRETS, struct.pack("<II", _TLS_KEY_LOG, len(lines)) + _padded(lines)))

    def add(self, segment: Segment) -> int:
        """Write a segment; returns the number of its packets."""
        sides = self.connections.get(segment.connection)
        if sides is None:
            sides = self.connections[segment.connection] = (
                _Side(_DESTINATION, _LISTENING_PORT, 2_000_000, 2_000_000),
                _Side(_SOURCE, _FIRST_CLIENT_PORT + segment.connection, 1_000_000, 1_000_000),
            )
        blocks = list(_blocks(segment, sides[segment.from_source], sides[not segment.from_source]))
        self.file.writelines(blocks)
        return len(blocks)

    def close(self) -> None:
        self.file.close()


def segments(packets: Iterable[Packet]) -> Iterator[Segment]:
    """A trace's packets in the order of time, as they are written."""
    for p in sorted(packets, key=lambda p: p.time_s):
        yield Segment(round(p.time_s * 1e9), p.connection, p.from_source, p.kind, p.data, p.fill)


def write(path: Path, segments: Iterable[Segment], comment: str = "", secrets: bytes = b"") -> int:
    """Write a whole capture.

    Args:
        segments: in the order of the file.
        comment: of the file.
        secrets: a TLS key log in NSS format; with it, only the owner can read the file.

    Returns:
        The number of packets.

    Raises:
        OSError: if the file can't be written.
    """
    with closing(Capture(path, comment, private=bool(secrets))) as capture:
        if secrets:
            capture.add_secrets(secrets)
        return sum(map(capture.add, segments))


def _blocks(segment: Segment, sender: _Side, receiver: _Side) -> Iterator[bytes]:
    """Yield the packet blocks of `segment`, and the ACKs that TCP must have sent meanwhile and that were not recorded.

    An "ack" that has nothing new to acknowledge is left out: Wireshark would call it a duplicate, that is, a loss.
    """
    if segment.kind == "ack" and not receiver.waiting and not segment.comment:
        return
    for flags, data, fill, comment in _pieces(segment):
        flight = (sender.following + len(data) + fill - sender.acknowledged) % _SEQUENCES
        if flight > _WINDOW or sender.waiting >= _MAX_WAITING:
            yield _packet_block(segment.time_ns, _packet(receiver, sender, _ACK, b"", 0), 0, "")
        yield _packet_block(segment.time_ns, _packet(sender, receiver, flags, data, fill), fill, comment)


def _pieces(segment: Segment) -> Iterator[tuple[int, bytes, int, str]]:
    """Yield (flags, data, fill, comment) of each packet of `segment`; its own comment is on the first.

    A stand-in is a packet of its own, cut off after its headers: captured length < original length, as `tcpdump -s`
    does it. Measured on Wireshark 4.0: a hole in the sequence numbers instead gets a warning on either side of it
    ("ACKed segment that wasn't captured", "Previous segment(s) not captured") and is missing from the byte counts; a
    cut packet gets none and is counted. It shares no packet with real data, because Wireshark never reassembles a
    packet that was cut.
    """
    comment = segment.comment
    for start in range(0, len(segment.data), _MAX_DATA):
        yield _PSH | _ACK, segment.data[start : start + _MAX_DATA], 0, comment
        comment = ""
    left = segment.fill
    while left:
        fill = min(left, _MAX_FILL)
        note = f"{fill:,} stand-in bytes not captured"
        yield _PSH | _ACK, b"", fill, f"{comment} and {note}" if comment else note
        comment = ""
        left -= fill
    if segment.kind != "data" or not (segment.data or segment.fill):
        yield _FLAGS[segment.kind], b"", 0, comment


def _packet(sender: _Side, receiver: _Side, flags: int, data: bytes, fill: int) -> bytes:
    """Build the IPv4 packet and move both sides' sequence numbers on."""
    again = bool(flags & _SYN) and sender.opened  # a SYN that is sent again has its old number
    sequence = (sender.following - again) % _SEQUENCES
    taken = len(data) + fill + bool(flags & (_SYN | _FIN))
    sender.following = (sequence + taken) % _SEQUENCES
    sender.opened = sender.opened or bool(flags & _SYN)
    sender.waiting += taken > 0
    if flags & _ACK:
        receiver.acknowledged, receiver.waiting = receiver.following, 0
    acknowledgement = receiver.following if flags & _ACK else 0
    options = _SYN_OPTIONS if flags & _SYN else b""
    words = (20 + len(options)) << 2  # header length in words of 4 bytes, in the upper four bits of a byte
    tcp = struct.pack(
        "!HHIIBBH", sender.port, receiver.port, sequence, acknowledgement, words, flags, 0xFFFF
    )  # its checksum and urgent pointer follow
    length = 20 + len(options) + len(data) + fill
    addresses = sender.address + receiver.address
    # Stand-in bytes count as zeros, which add nothing to the sum.
    odd = bytes(len(data) % 2)
    tcp_sum = _checksum(addresses + struct.pack("!II", 6, length) + tcp + options + data + odd)
    # A packet too long for 16 bits has the length 0, as on Linux since 6.3 (BIG TCP, iph_set_totlen() in
    # include/linux/ip.h): Wireshark and tcpdump then take the length from the capture file.
    ip_length = 20 + length if 20 + length <= 0xFFFF else 0
    ip = struct.pack("!BBHHHBB", 0x45, 0, ip_length, 0, 0x4000, 64, 6)  # don't fragment, 64 hops, TCP
    ip_sum = _checksum(ip + addresses)
    return ip + struct.pack("!H", ip_sum) + addresses + tcp + struct.pack("!HH", tcp_sum, 0) + options + data


def _checksum(data: bytes) -> int:
    """RFC 1071 of an even number of bytes: a ones' complement sum of 16-bit words is the number modulo 65,535."""
    return -int.from_bytes(data, "big") % 0xFFFF


def _file_head(comment: str) -> bytes:
    section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)  # byte-order magic, version 1.0, section of unknown length
    options = _option(_SHB_HARDWARE, b"simulated") + _option(_SHB_OS, b"none") + _option(_SHB_USERAPPL, b"simlib")
    interface = struct.pack("<HHI", _LINKTYPE_RAW, 0, 0xFFFF)
    about = _option(_IF_NAME, b"sim0") + _option(_IF_TSRESOL, bytes((9,)))  # times in 10^-9 s
    return _block(_SECTION_HEADER, section + _comment(comment) + options + bytes(4)) + _block(
        _INTERFACE, interface + about + bytes(4)
    )


def _packet_block(time_ns: int, packet: bytes, fill: int, comment: str) -> bytes:
    lengths = struct.pack("<II", len(packet), len(packet) + fill)  # captured, original
    head = struct.pack("<III", 0, time_ns >> 32, time_ns & 0xFFFFFFFF)  # interface, time
    return _block(_PACKET, head + lengths + _padded(packet) + (_comment(comment) + bytes(4) if comment else b""))


def _comment(text: str) -> bytes:
    if not text:
        return b""
    return _option(_OPT_COMMENT, text.encode(errors="replace")[:_MAX_COMMENT].decode(errors="ignore").encode())


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length
