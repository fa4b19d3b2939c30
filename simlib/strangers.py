"""What those say who connect without being asked: port scanners, monitors, crossed wires, and worse."""

from __future__ import annotations

from .handshake import stream
from .handshake.machine import Machine
from .handshake.v2 import body, frames
from .handshake.v2.frames import Limits


def _bad_channel() -> bytes:
    told = {"session-id": "0" * 16, "name": "main", "role": "main", "index": 0, "nonce": "0" * 32, "mac": "0" * 64}
    return frames.preface(frames.INITIATOR, bytes(16)) + frames.frame(frames.CHANNEL_OPEN, body.dump(told))


TLS_HEADER_BYTES = 5  # of a record (RFC 8446, 5.1): whoever has said less can't be told from who is slow
_PREFACE = frames.preface(frames.INITIATOR, bytes(16))
WORDS = {
    "silent": b"",
    "scan": b"",  # and leaves
    "garbage": b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
    "half-magic": stream.MAGIC[:2],
    "multifd": stream.multifd_initial(Machine(), 0),
    "qevm": stream.MAGIC + b"\0\0\0\3",
    "v2-hello": _PREFACE,
    "bad-channel": _bad_channel(),
    "flood": _PREFACE + frames.frame(0x7E, b"", flags=0) * (Limits().ignorable + 1),
}
