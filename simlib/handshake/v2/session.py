"""What source and destination do alike: prefaces and frames in and out, GREASE, and the tables of messages.

The two roles are in source.py and destination.py; each has the tables of what is legal in which state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from ..endpoint import BaseEndpoint, ConnectionTable, as_overridden, declare
from ..errors import Code, Error, OurMistake, PeerError
from ..interface import Heard, Said, Send, SetAlarm
from ..machine import Settings
from . import binding, body, frames, messages, reasons, states, wire
from .body import Json
from .config import SessionConfig
from .frames import Frame, Preface, Reader
from .messages import Message
from .states import Event

KEEPALIVE = "keepalive"  # the name of an alarm
GREASED = (messages.Hello, messages.Offer, messages.Accept)  # messages that may carry an ignorable key


class Link(NamedTuple):
    """One connection as this side knows it."""

    reader: Reader
    kind: str = (
        "new"  # new, control, a channel's name, or draining: it was refused, and is read until the peer closes it
    )
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


class Receive(NamedTuple):
    """One kind of message that a side may receive: the states in which it is legal, each with the state after it, and
    the method that handles it."""

    states: Mapping[Any, Any]
    handler: Callable[..., None]


class Session(BaseEndpoint):
    """Fields are values, replaced and never mutated; `handle` is the only entrance.

    RECEIVES, SENDS and EVENTS are all legal transitions of `state`: by a message that is received, by one that is sent
    on the control connection, and by what else happens.
    """

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
    RECEIVES: ClassVar[Mapping[type[Message], Receive]] = {}
    SENDS: ClassVar[Mapping[type[Message], Mapping[Any, Any]]] = {}
    EVENTS: ClassVar[Mapping[Event, Mapping[Any, Any]]] = {}
    DATA_STATES: ClassVar[tuple[str, ...]] = ()  # in which DATA frames may come
    BEFORE_ACCEPT: ClassVar[tuple[str, ...]] = ()  # in which neither side may send PING
    _receivers: ClassVar[Mapping[type[Message], Callable[..., None]]] = {}

    def __init_subclass__(cls) -> None:
        """Look the handlers of messages up once for each class, with what it overrides."""
        super().__init_subclass__()
        cls._receivers = as_overridden(cls, {kind: receive.handler for kind, receive in cls.RECEIVES.items()})

    def __init__(self, settings: Settings, session_config: SessionConfig, state: str) -> None:
        super().__init__(settings)
        self.session_config = session_config
        self.state = state
        self.links: ConnectionTable[Link] = ConnectionTable()
        self.sent = self.heard = b""  # transcripts, until they become digests
        self.key_bytes = b""
        self.exporter = b""
        self.quiet = 0  # times that the keepalive alarm rang since the last byte on control

    @property
    def silence_s(self) -> float:
        """The longest time from the last byte of a peer to the end of the attempt (SPEC 5.10)."""
        return self.session_config.silence_s

    # --- states -----------------------------------------------------------------------------------------------------
    @classmethod
    def next_state(cls, state: str, kind: type[Message]) -> str | None:
        """The state after a message is received; None where it is not legal."""
        receive = cls.RECEIVES.get(kind)
        if receive is None:
            return None
        after: str | None = receive.states.get(state)
        return after

    def _happened(self, event: Event) -> None:
        """Change the state by something other than a message."""
        self._to(self.EVENTS[event].get(self.state), event)

    def _to(self, state: str | None, cause: str) -> None:
        """The one writer of `state`."""
        if state is None:
            raise OurMistake(f"the {self.role} is {self.state}, where {cause} is not expected")
        self.state = state

    # --- liveness ---------------------------------------------------------------------------------------------------
    def _watch_peer(self) -> None:
        """Set the keepalive alarm, if it is not off (SPEC 5.10)."""
        if self.session_config.keepalive_s:
            self._out.append(SetAlarm(KEEPALIVE, self.session_config.keepalive_s))

    def _keepalive_rang(self, conn: int, may_ping: bool) -> None:
        """Ask a peer that has sent nothing since the last time; give up on one that has not answered often enough
        (SPEC 5.10)."""
        if self.quiet > self.session_config.keepalive_count:
            self._peer_silent(reasons.silent(self.silence_s))
            return
        if self.quiet and may_ping:
            self._send(conn, frames.frame(frames.PING, b""), "PING")
        self.quiet += 1
        self._watch_peer()

    def _peer_silent(self, error: Error) -> None:
        """The peer is dead, frozen, or can't be reached."""
        raise NotImplementedError

    # --- out --------------------------------------------------------------------------------------------------------
    def _derive(self, label: str, size: int) -> bytes:
        """Random bytes for one purpose, from the side's own entropy: an endpoint draws nothing itself."""
        return binding.derive(self.session_config.entropy, f"{self.role} {label}", size)

    def _add_link(self, conn: int) -> None:
        """A new connection, with a nonce of its own (SPEC 2.2)."""
        reader = Reader(self.peer_magic, self.session_config.limits)
        self.links[conn] = Link(reader, nonce=self._derive(f"nonce {conn}", 16))

    def _greeting(self, conn: int) -> bytes:
        """The preface, with random ignorable flags, and an ignorable frame behind it."""
        self._set(conn, spoke=True)
        bits = self._derive(f"grease {conn}", 32)
        flags = int.from_bytes(bits[:2], "big") if self.session_config.grease else 0
        data = frames.preface(self.magic, self.links[conn].nonce, flags)
        if self.session_config.grease:
            data += frames.frame(0x80 | bits[2] & 0x7F, bits[3 : 3 + bits[3] % 16], flags=bits[4] & 0xFC)
        return data

    def _content(self, message: Message) -> Json:
        """The body of a message that is sent."""
        return wire.to_body(message)

    def _frame(self, message: Message) -> bytes:
        """One message, in as many frames as the limit asks for."""
        content, type = self._content(message), message.TYPE
        if self.session_config.grease and isinstance(message, GREASED):
            content = content | {f"?grease-{self._derive(f'key {type}', 4).hex()}": self._derive(f"value {type}", 1)[0]}
        payload, limit = body.dump(content), self.session_config.limits.frame_bytes
        parts = [payload[i : i + limit] for i in range(0, len(payload), limit)]
        more = frames.CRITICAL | frames.MORE
        return b"".join(frames.frame(type, p, more) for p in parts[:-1]) + frames.frame(type, parts[-1])

    def _say(self, conn: int, message: Message, before: bytes = b"", note: str = "") -> bytes:
        """Send a message; the bytes that went out. On the control connection it may change the state (SENDS)."""
        data = before + self._frame(message)
        self._send(conn, data, message.NAME + (f" {note}" if note else ""))
        after = self.SENDS.get(type(message), {}).get(self.state) if self._is_control(conn) else None
        if after is not None:
            self._to(after, message.NAME)
        return data

    def _send(self, conn: int, data: bytes, name: str) -> None:
        """Send bytes, and report them by name."""
        self._out += [Said(conn, name), Send(conn, data)]

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
                else:
                    self._got_frame(conn, item)
        except PeerError as error:
            self._mistake(conn, error.error)

    def _reads(self, conn: int) -> bool:
        """Whether frames are expected there; a bound channel carries the stream instead."""
        return conn in self.links and self.links[conn].kind in ("new", "control")

    def _check_versions(self, item: Preface) -> None:
        """The ranges of both sides must meet, and the first flight, which has the form of the source's lowest version,
        must be readable (SPEC 2.2); a range that is none is refused likewise."""
        apart = not item.lowest <= frames.HIGHEST or not item.highest >= frames.LOWEST or item.lowest > item.highest
        if apart or (self.role == states.DESTINATION and item.lowest < frames.LOWEST):
            ours = frames.version_range(frames.LOWEST, frames.HIGHEST)
            theirs = frames.version_range(item.lowest, item.highest)
            source, destination = (ours, theirs) if self.role == states.SOURCE else (theirs, ours)
            raise PeerError(
                Code.NO_COMMON_VERSION,
                f"the source speaks handshake versions {source}, the destination {destination}",
                item="version",
                source=source,
                destination=destination,
            )

    def _got_frame(self, conn: int, frame: Frame) -> None:
        """An unknown critical frame is refused: its sender counts on it (SPEC 2.3). PING and PONG concern no state."""
        name = frames.name(frame.type)
        if _unknown(frame):
            raise PeerError(Code.UNKNOWN_CRITICAL, f"a critical frame of unknown type {name}", item=name)
        if frame.type in (frames.PING, frames.PONG):
            self._ping(conn, frame)
        elif self.links[conn].kind == "control" or self._may_begin(conn, frame.type):
            self._got_message(conn, frame)
        else:
            text = f"{name} on a connection that is {self.links[conn].kind}"
            raise PeerError(Code.BAD_STATE, text, item=name)

    def _got_message(self, conn: int, frame: Frame) -> None:
        """Shape first, then state, then values: the content of a message counts only where the message is legal (SPEC
        section 9)."""
        name = frames.name(frame.type)
        if frame.type == frames.DATA:
            if self.state not in self.DATA_STATES or not self.inline:
                raise PeerError(Code.BAD_STATE, f"DATA while {self.state}", item="DATA")
            self._got_data(conn, frame)
            return
        kind = messages.MESSAGES[frame.type]
        content = body.load(frame.payload, messages.SHAPES[frame.type], name)
        if not self._is_connection_scoped(conn, kind):
            after = self.next_state(self.state, kind)
            if after is None:
                raise PeerError(Code.BAD_STATE, f"{name} while {self.state}", item=name)
            self._to(after, name)
        self._out.append(Heard(conn, name))
        self._receivers[kind](self, conn, messages.read(frame.type, content))

    def _ping(self, conn: int, frame: Frame) -> None:
        """Legal on control, once ACCEPT was said; of a peer that has not authenticated they are counted (SPEC 2.5,
        5.10)."""
        name, link = frames.name(frame.type), self.links[conn]
        if link.kind != "control" or self.state in self.BEFORE_ACCEPT:
            raise PeerError(Code.BAD_STATE, f"{name} while {self.state}", item=name)
        if not link.reader.unlimited:
            self._set(conn, reader=link.reader.skipped())
        if frame.type == frames.PING:
            self._out.append(Send(conn, frames.frame(frames.PONG, frame.payload)))

    # --- what the roles define --------------------------------------------------------------------------------------
    @property
    def inline(self) -> bool:
        """Control carries the stream: there is one connection."""
        raise NotImplementedError

    def _is_control(self, conn: int) -> bool:
        """Whether that connection is the session's control connection."""
        raise NotImplementedError

    def _is_connection_scoped(self, conn: int, kind: type[Message]) -> bool:
        """Whether the message concerns that connection alone, and no state of the session."""
        raise NotImplementedError

    def _may_begin(self, conn: int, type: int) -> bool:
        """Whether a frame of that type may come first on a connection that is not control."""
        raise NotImplementedError

    def _got_data(self, conn: int, frame: Frame) -> None:
        """A piece of the stream on control."""
        raise NotImplementedError

    def _mistake(self, conn: int, error: Error) -> None:
        """The peer has broken a rule on that connection."""
        raise NotImplementedError

    def _set(self, conn: int, **changes: Any) -> None:
        """Change what is known of one connection."""
        self.links[conn] = self.links[conn]._replace(**changes)

    def _make_key(self, secret: bytes, source: bytes, destination: bytes) -> None:
        """The key of the session (SPEC 5.5); the transcripts have served their purpose."""
        hashes = binding.transcript(source), binding.transcript(destination)
        self.key_bytes = binding.session_key(secret, self.session_config.psk, self.exporter, *hashes)
        self.sent = self.heard = b""


def _unknown(frame: Frame) -> bool:
    """A type that this version does not define."""
    return frame.type not in frames.NAMES


def _ignorable(frame: Frame) -> bool:
    """Unknown, and not marked as critical: skipped, and counted (SPEC 2.3)."""
    return _unknown(frame) and not frame.flags & frames.CRITICAL
