"""What source and destination do alike: prefaces and frames in and out, GREASE, the one door, alarms.

The two roles are in source.py and destination.py; what is legal when, in states.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from ..endpoint import Endpoint, Table, declare
from ..errors import Error, PeerError, clean
from ..interface import Entered, Heard, Said, Send
from ..machine import Settings
from . import binding, body, frames, messages, states
from .frames import Frame, Preface, Reader
from .messages import Identity


class Link(NamedTuple):
    """One connection as this side knows it."""

    reader: Reader
    kind: str = "new"  # new, control, a channel's name, or leaving: it was told why, and is read until it goes
    nonce: bytes = b""  # ours
    peer_nonce: bytes = b""
    exporter: bytes = b""  # of its TLS connection
    heard: bytes = b""  # all that came, while it may belong to the transcript
    spoke: bool = False  # our preface has gone out


declare(
    Link,
    RANDOM={
        "nonce": "drawn by us",
        "peer_nonce": "drawn by the peer",
        "exporter": "of a TLS connection's secrets (RFC 9266)",
        "heard": "a transcript",
    },
)


class Session(Endpoint):
    """Fields are values, replaced and never mutated; `handle` is the one door."""

    speaks, authenticates = "v2", True
    extensions: tuple[str, ...] = ()  # what it counts on beyond the agreement
    role: str
    magic: bytes  # that we send
    peer_magic: bytes
    RANDOM: ClassVar[Mapping[str, str]] = {
        "sent": "a transcript, which is hashed into the key and then dropped",
        "heard": "a transcript",
        "key_bytes": "derived from both sides' random values",
        "exporter": "of a TLS connection's secrets (RFC 9266)",
        "session_id": "drawn by the destination",
    }

    def __init__(self, settings: Settings, identity: Identity) -> None:
        super().__init__(settings)
        self.identity = identity
        self.state = "connecting"
        self.links: Table[Link] = Table()
        self.sent = self.heard = b""  # transcripts, until they become digests
        self.key_bytes = b""
        self.exporter = b""

    # --- out --------------------------------------------------------------------------------------------------------
    def _derive(self, label: str, size: int) -> bytes:
        return binding.derive(self.identity.entropy, f"{self.role} {label}", size)

    def _add_link(self, conn: int) -> None:
        reader = Reader(self.peer_magic, self.identity.limits)
        self.links[conn] = Link(reader, nonce=self._derive(f"nonce {conn}", 16))

    def _greeting(self, conn: int) -> bytes:
        """The preface, with random ignorable flags, and an ignorable frame behind it."""
        self._set(conn, spoke=True)
        bits = self._derive(f"grease {conn}", 32)
        flags = int.from_bytes(bits[:2], "big") if self.identity.grease else 0
        told = frames.preface(self.magic, self.links[conn].nonce, flags)
        if self.identity.grease:
            told += frames.frame(0x80 | bits[2] & 0x7F, bits[3 : 3 + bits[3] % 16], flags=bits[4] & 0xFC)
        return told

    def _frame(self, type: int, told: dict[str, Any]) -> bytes:
        if self.identity.grease and type in (frames.HELLO, frames.OFFER, frames.ACCEPT):
            told = told | {f"?grease-{self._derive(f'key {type}', 4).hex()}": self._derive(f"value {type}", 1)[0]}
        payload, limit = body.dump(told), self.identity.limits.frame_bytes
        parts = [payload[i : i + limit] for i in range(0, len(payload), limit)]
        more = frames.CRITICAL | frames.MORE
        return b"".join(frames.frame(type, p, more) for p in parts[:-1]) + frames.frame(type, parts[-1])

    def _say(self, conn: int, type: int, told: dict[str, Any], before: bytes = b"", note: str = "") -> bytes:
        data = before + self._frame(type, told)
        self._send(conn, data, frames.name(type) + (f" {note}" if note else ""))
        return data

    def _send(self, conn: int, data: bytes, named: str) -> None:
        self._out += [Said(conn, named), Send(conn, data)]

    # --- in ---------------------------------------------------------------------------------------------------------
    def _read(self, conn: int, data: bytes, fill: int) -> None:
        """Everything that the bytes complete, one message after the other; a peer's mistake ends here."""
        self._set(conn, reader=self.links[conn].reader.add(data, fill))
        try:
            while self.finished is None and self._reads(conn):
                reader, item = self.links[conn].reader.next()
                while isinstance(item, Frame) and _ignorable(item):
                    reader, item = reader.skipped().next()
                self._set(conn, reader=reader)
                if item is None:
                    return
                if isinstance(item, Preface):
                    self._check_versions(item)
                    self._set(conn, peer_nonce=item.nonce)
                    self._greeted(conn, item)
                else:
                    self._got_frame(conn, item)
        except PeerError as error:
            self._mistake(conn, error.error)

    def _reads(self, conn: int) -> bool:
        """Whether frames are expected there; a bound channel carries the stream instead."""
        return True

    def _check_versions(self, item: Preface) -> None:
        if not item.lowest <= frames.HIGHEST or not item.highest >= frames.LOWEST or item.lowest > item.highest:
            ours, theirs = f"{frames.LOWEST}..{frames.HIGHEST}", f"{item.lowest}..{item.highest}"
            source, destination = (ours, theirs) if self.role == states.SOURCE else (theirs, ours)
            raise PeerError("no-common-version", f"the source speaks handshake versions {source}, the destination "
                            f"{destination}", "version", source, destination)  # fmt: skip

    def _got_frame(self, conn: int, got: Frame) -> None:
        if _unknown(got):
            raise PeerError("unknown-critical", f"a critical frame of unknown type {frames.name(got.type)}",
                            frames.name(got.type))  # fmt: skip
        if got.type in (frames.PING, frames.PONG):
            self._ping(conn, got)
        elif self.links[conn].kind == "control" or got.type in self._first_frames(conn):
            self._got_message(conn, got)
        else:
            raise PeerError("bad-state", f"{frames.name(got.type)} on a connection that is {self.links[conn].kind}",
                            frames.name(got.type))  # fmt: skip

    def _got_message(self, conn: int, got: Frame) -> None:
        heard = frames.name(got.type)
        if got.type == frames.DATA:
            after = states.next_state(self.role, self.state, got.type)
            if after is None:
                raise PeerError("bad-state", f"DATA while {self.state}", "DATA")
            self._heard_data(conn, got)
            return
        told = body.load(got.payload, messages.SHAPES[got.type], heard)
        if not self._apart(conn, got.type):
            after = states.next_state(self.role, self.state, got.type)
            if after is None:
                raise PeerError("bad-state", f"{heard} while {self.state}", heard)
            self.state = after
        self._out.append(Heard(conn, heard))
        getattr(self, "_heard_" + heard.lower())(conn, told)

    def _apart(self, conn: int, type: int) -> bool:
        """Whether the message concerns that connection alone, and no state of the session."""
        raise NotImplementedError

    def _ping(self, conn: int, got: Frame) -> None:
        if len(got.payload) > 64:
            raise PeerError("frame-too-big", f"{frames.name(got.type)} with {len(got.payload)} bytes; 64 are allowed")
        if not self.links[conn].reader.unlimited:
            self._set(conn, reader=self.links[conn].reader.skipped())
        if got.type == frames.PING and self.links[conn].kind == "control" and self.links[conn].spoke:
            self._out.append(Send(conn, frames.frame(frames.PONG, got.payload)))

    def _heard_info(self, conn: int, told: dict[str, Any]) -> None:
        self._out[-1] = Heard(conn, f"INFO {clean(told['text'], 200)}")
        if not self.links[conn].reader.unlimited:
            self._set(conn, reader=self.links[conn].reader.skipped())

    def _enter(self, status: str) -> None:
        self.status = status
        self._out.append(Entered(status))

    # --- for the roles to say ---------------------------------------------------------------------------------------
    def _first_frames(self, conn: int) -> tuple[int, ...]:
        """The frame types that may come first on a connection that is not control."""
        raise NotImplementedError

    def _greeted(self, conn: int, item: Preface) -> None:
        """The peer's preface has come."""

    def _heard_data(self, conn: int, got: Frame) -> None:
        raise PeerError("bad-state", "DATA to the source", "DATA")

    def _mistake(self, conn: int, error: Error) -> None:
        raise NotImplementedError

    def _set(self, conn: int, **changes: Any) -> None:
        self.links[conn] = self.links[conn]._replace(**changes)

    def _make_key(self, secret: bytes, source: bytes, destination: bytes) -> None:
        hashes = binding.transcript(source), binding.transcript(destination)
        self.key_bytes = binding.session_key(secret, self.identity.psk, self.exporter, *hashes)
        self.sent = self.heard = b""


def _unknown(got: Frame) -> bool:
    return got.type not in messages.SHAPES and got.type not in (frames.PING, frames.PONG, frames.DATA)


def _ignorable(got: Frame) -> bool:
    return _unknown(got) and not got.flags & frames.CRITICAL
