"""Peers that connect to the destination uninvited: port scanners, monitors, crossed wires, and worse."""

from __future__ import annotations

from dataclasses import dataclass

from ..handshake import stream
from ..handshake.machine import Machine
from ..handshake.v2 import body, frames, wire
from ..handshake.v2.frames import Limits
from ..handshake.v2.messages import ChannelOpen
from .registry import ScenarioError

TLS_HEADER_BYTES = 5  # of a record (RFC 8446, 5.1): a peer that has sent less can't be distinguished from a slow one


@dataclass(frozen=True)
class Intruder:
    """One uninvited peer.

    Args:
        name: what scenarios and the command line call it.
        payload: bytes that it sends once it is connected.
        leaves_after_s: when it closes the connection, in seconds after that; negative: never.

    Raises:
        ScenarioError: if the payload is not bytes.

    >>> Intruder("probe", b"HEAD / HTTP/1.0", leaves_after_s=0.5).leaves
    True
    """

    name: str
    payload: bytes = b""
    leaves_after_s: float = -1.0

    def __post_init__(self) -> None:
        if not isinstance(self.payload, bytes):
            raise ScenarioError(f"intruder {self.name!r}: the payload must be bytes; it is {self.payload!r:.40}")

    @property
    def leaves(self) -> bool:
        return self.leaves_after_s >= 0


def _bad_channel() -> bytes:
    opening = ChannelOpen("0" * 16, "main", "main", 0, nonce="0" * 32, mac="0" * 64)
    payload = body.dump(wire.to_body(opening))
    return frames.preface(frames.INITIATOR, bytes(16)) + frames.frame(ChannelOpen.TYPE, payload)


_PREFACE = frames.preface(frames.INITIATOR, bytes(16))
SILENT = Intruder("silent")
SCAN = Intruder("scan", leaves_after_s=0.0)
GARBAGE = Intruder("garbage", b"GET / HTTP/1.1\r\nHost: example\r\n\r\n")
HALF_MAGIC = Intruder("half-magic", stream.MAGIC[:2])
MULTIFD = Intruder("multifd", stream.multifd_initial(Machine(), 0))
QEVM = Intruder("qevm", stream.MAGIC + b"\0\0\0\3")
V2_HELLO = Intruder("v2-hello", _PREFACE)
BAD_CHANNEL = Intruder("bad-channel", _bad_channel())
FLOOD = Intruder("flood", _PREFACE + frames.frame(0x7E, b"", flags=0) * (Limits().ignorable + 1))
