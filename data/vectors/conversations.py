"""Whole conversations between the two endpoints, with what disturbs them: make.py writes them to transcripts/."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from simlib.handshake import interface as i
from simlib.handshake.errors import Code
from simlib.handshake.machine import Device, Machine, RamBlock, Settings, Subsection
from simlib.handshake.v2 import binding, body, frames, messages
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.frames import INITIATOR, frame
from simlib.handshake.v2.messages import Message
from simlib.handshake.v2.source import Source

STRANGER = 9  # the connection of somebody who is neither side
Step = dict[str, Any]


class Side:
    """An endpoint and its neighbours, who answer at once. What it puts on the wire gathers in `wire`."""

    def __init__(self, endpoint: Source | Destination, case: Conversation) -> None:
        self.endpoint = endpoint
        self.passes = list(case.passes)
        self.case = case
        self.wire: list[Step] = []
        self.opened: set[int] = set()
        self.gone: set[int] = set()
        self.ended: set[int] = set()  # by us: the peer may still speak
        self.said = ""
        self.tell(i.Start())

    def tell(self, input: i.Input) -> None:
        waiting: list[i.Input] = [input]
        while waiting:
            for output in self.endpoint.handle(waiting.pop(0)):
                waiting += self._answers(output)

    def _answers(self, output: i.Output) -> Iterator[i.Input]:
        if isinstance(output, i.Said):
            self.said = output.text
        elif isinstance(output, i.Open):
            self.opened.add(output.conn)
            yield i.Opened(output.conn)
        elif isinstance(output, i.StartTls):
            yield i.Secured(output.conn, exporter(output.conn), output.alpn)
        elif isinstance(output, i.Send):
            step = {"connection": output.conn, "says": self.said, "hex": output.data.hex(), "zeros": output.fill}
            self.wire.append({k: v for k, v in step.items() if v != "" and (k, v) != ("zeros", 0)})
            self.said = ""
            yield i.Drained(output.conn)
        elif isinstance(output, i.Drop | i.End):
            if output.conn not in (self.gone | self.ended):
                self.wire.append({"connection": output.conn, "closes": True})
            (self.gone if isinstance(output, i.Drop) else self.ended).add(output.conn)
        elif isinstance(output, i.CollectRam):
            yield self.passes.pop(0)
        elif isinstance(output, i.StopGuest):
            yield i.GuestStopped()
        elif isinstance(output, i.Apply):
            yield i.Applied(self.case.apply_error)
        elif isinstance(output, i.Load):
            yield i.Loaded(self.case.load_error)
        elif isinstance(output, i.RunGuest):
            yield i.GuestRunning()
        elif isinstance(output, i.WatchFaults):
            yield i.PageFault("pc.ram", 0, 4096)

    def hear(self, step: Step, at_a_time: int = 1 << 30) -> None:
        """What was put on the wire arrives, so many bytes at a time."""
        conn = step["connection"]
        if conn in self.gone:
            return
        if conn not in self.opened:
            self.opened.add(conn)
            self.tell(i.Opened(conn))
        data = bytes.fromhex(step.get("hex", "")) + bytes(step.get("zeros", 0))
        for at in range(0, len(data), at_a_time):
            self.tell(i.Received(conn, data[at : at + at_a_time]))
        if step.get("closes"):
            self.tell(i.Ended(conn))

    def outcome(self) -> dict[str, Any]:
        end = self.endpoint.finished
        errors = end.errors if end else getattr(self.endpoint, "ended_as", ())
        return {"status": end.status if end else self.endpoint.state, "codes": [e.code for e in errors]}


def exporter(conn: int) -> bytes:
    """The channel binding of a connection's TLS (RFC 9266), of these transcripts."""
    return hashlib.sha256(f"exporter {conn}".encode()).digest()


EVENTS: dict[str, i.Input] = {
    "cancel": i.Cancel(Code.CANCELLED),
    "deadline": i.Cancel(Code.DEADLINE),
    "migrate-start-postcopy": i.SwitchToPostcopy(),
    "the guard rings": i.AlarmRang("guard-0"),
    "the keepalive alarm rings": i.AlarmRang("keepalive"),
}


@dataclass(frozen=True)
class Event:
    """What happens once `after` was said: one of EVENTS at a side, the loss of a connection, or a stranger's bytes."""

    after: str
    by: str  # source, destination, link, stranger
    what: str
    connection: int = STRANGER

    def step(self, steps: list[Step]) -> Step:
        """As it stands in the transcript."""
        if self.by != "stranger":
            return {"from": self.by, "event": self.what} | (
                {"connection": self.connection} if self.by == "link" else {}
            )
        opening = next((s["hex"] for s in steps if s.get("says", "").startswith("CHANNEL_OPEN")), "")
        return {"from": "stranger", "connection": STRANGER, "says": self.what, "hex": STRANGERS[self.what](opening)}


def _repeats(opening: str) -> str:
    return opening


def _forges(opening: str) -> str:
    """The source's CHANNEL_OPEN with a MAC of zeros, behind a preface with the same nonce."""
    data = bytes.fromhex(opening)
    head, content = data[:32], json.loads(data[data.index(b"{") :])
    return (head + frame(messages.ChannelOpen.TYPE, body.dump(content | {"mac": "0" * 64}))).hex()


def _opens_another_session(opening: str) -> str:
    nonce = bytes(16)
    content = {
        "session-id": "f" * 16,
        "name": "main",
        "role": "main",
        "index": 0,
        "nonce": nonce.hex(),
        "mac": "0" * 64,
    }
    return (frames.preface(INITIATOR, nonce) + frame(messages.ChannelOpen.TYPE, body.dump(content))).hex()


def _greets(opening: str) -> str:
    content = {"role": "source", "main": "separate", "implementation": "another", "qemu-version": "10.0"}
    return (frames.preface(INITIATOR, bytes(16)) + frame(messages.Hello.TYPE, body.dump(content))).hex()


STRANGERS = {
    "a copy of CHANNEL_OPEN": _repeats,
    "CHANNEL_OPEN with a wrong MAC": _forges,
    "CHANNEL_OPEN of another session": _opens_another_session,
    "HELLO": _greets,
}


# --- sources that do something else, or break a rule ----------------------------------------------------------------
class InPieces(Source):
    """Cuts its bodies into frames of at most 400 bytes."""

    def _frame(self, message: Message) -> bytes:
        payload = super()._frame(message)[12:]
        parts = [payload[at : at + 400] for at in range(0, len(payload), 400)]
        more = frames.CRITICAL | frames.MORE
        return b"".join(frame(message.TYPE, p, more) for p in parts[:-1]) + frame(message.TYPE, parts[-1])


class FromTheFuture(Source):
    """Speaks version 3.0 alone."""

    LOWEST = 0x0300

    def _greeting(self, conn: int) -> bytes:
        preface = super()._greeting(conn)
        return preface[:10] + struct.pack(">HH", self.LOWEST, 0x0300) + preface[14:]


class SpeaksBoth(FromTheFuture):
    """Speaks 2.1 and 3.0: its first flight has the form of the lowest."""

    LOWEST = frames.LOWEST


class Unplanned(Source):
    """Opens another channel in the place of main."""

    def _accept(self, conn: int, accept: messages.Accept) -> None:
        super()._accept(conn, accept)
        self.channels = ("control", "multifd[7]")


class OtherAgreement(Source):
    """Names another agreement in START."""

    def _content(self, message: Message) -> dict[str, Any]:
        content = super()._content(message)
        return content | {"agreement": "0" * 64} if isinstance(message, messages.Start) else content


class Mute(Source):
    """Takes the agreement, and says nothing more."""

    def _accept(self, conn: int, accept: messages.Accept) -> None:
        self.session_id = accept.session_id


# --- the conversations ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Conversation:
    """`ends`: how each side ends, source first: its status, or its state where it goes on, and its codes."""

    about: str
    source: Settings
    destination: Settings
    ends: tuple[str, str]
    passes: tuple[i.RamCollected, ...] = ()
    apply_error: str = ""
    load_error: str = ""
    psks: tuple[bytes, bytes] = (b"", b"")
    sessions: tuple[str, str] = ("", "")
    on_maybe: str = "warn"
    source_class: type[Source] = Source
    events: tuple[Event, ...] = ()
    late: str = ""  # what begins so arrives after READY

    def sides(self) -> dict[str, Side]:
        """Fresh endpoints with the fixed entropy of these vectors."""
        own = SessionConfig(b"S" * 32, psk=self.psks[0], session=self.sessions[0], on_maybe=self.on_maybe)
        there = SessionConfig(b"D" * 32, psk=self.psks[1], session=self.sessions[1])
        return {
            "source": Side(self.source_class(self.source, own), self),
            "destination": Side(Destination(self.destination, there), self),
        }


TIMER = Device("timer", version=2, minimum_version=2, size_bytes=16, schema="11" * 8)
NET = Device(
    "0000:00:03.0/virtio-net",
    version=11,
    minimum_version=11,
    size_bytes=24,
    schema="22" * 8,
    subsections=(Subsection("virtio-net-device/rss", 1, "maybe"),),
    nested=(("virtio", 1, 1),),
    features=("mrg-rxbuf", "ctrl-vq"),
)
SMALL = Machine("pc-i440fx-7.2", ("pc",), ram_blocks=(RamBlock("pc.ram", 1 << 20),), devices=(TIMER, NET))
MULTIFD = (("multifd-channels", 2), ("multifd-compression", "none"))
OVER_TCP = Settings("10.0", SMALL)
WITH_MULTIFD = Settings("10.0", SMALL, ("multifd",), MULTIFD)
WITH_POSTCOPY = Settings("10.0", SMALL, ("postcopy-ram", "postcopy-preempt"))
WITH_ACK = Settings("10.0", SMALL, ("switchover-ack",))
OVER_TLS = Settings("10.0", SMALL, (), (("tls-creds", "tls0"),))
INLINE = replace(OVER_TCP, transport="exec")
EXTRA = replace(OVER_TCP, machine=replace(SMALL, devices=(TIMER, NET, Device("extra"))))
PASSES = (i.RamCollected(8192, True), i.RamCollected(0, True))
STEPS = (i.RamCollected(8192, False), i.RamCollected(4096, True))  # of a postcopy: before the switch, and after it
SWITCH = Event("OFFER", "source", "migrate-start-postcopy")
PSK = b"the pre-shared key"
COMPLETED = "completed", "completed"
UNBOUND = "cancelled channel-missing channel-missing channel-missing"


def refused(code: str) -> tuple[str, str]:
    """Both sides name it, and the destination listens again."""
    return f"failed {code}", f"listening {code}"


CONVERSATIONS = {
    "success-inline": Conversation(
        "exec: with an answer; the stream is carried in DATA frames on the control connection",
        INLINE,
        INLINE,
        COMPLETED,
        PASSES,
    ),
    "success-multifd": Conversation(
        "main and two multifd channels, each a connection of its own; a pre-shared key",
        WITH_MULTIFD,
        WITH_MULTIFD,
        COMPLETED,
        PASSES,
        psks=(PSK, PSK),
    ),
    "success-tls": Conversation(
        "over TLS: the key holds the exporter of control, each CHANNEL_OPEN that of its own connection",
        OVER_TLS,
        OVER_TLS,
        COMPLETED,
        PASSES,
    ),
    "success-maybe": Conversation("a doubt that both sides accept", OVER_TCP, EXTRA, COMPLETED, PASSES),
    "success-continuation": Conversation(
        "the source cuts its bodies into frames of at most 400 bytes",
        OVER_TCP,
        OVER_TCP,
        COMPLETED,
        PASSES,
        source_class=InPieces,
    ),
    "success-ready-first": Conversation(
        "READY overtakes CHANNEL_OK: the source begins when it has both",
        OVER_TCP,
        OVER_TCP,
        COMPLETED,
        PASSES,
        late="CHANNEL_OK",
    ),
    "success-two-versions": Conversation(
        "the source speaks 2.1 and 3.0: its first flight has the form of the lowest, and 2.1 is agreed",
        OVER_TCP,
        OVER_TCP,
        COMPLETED,
        PASSES,
        source_class=SpeaksBoth,
    ),
    "success-postcopy": Conversation(
        "the guest runs at the destination before its memory is there; a page is asked for on main, and comes on the "
        "preempt channel or with the rest",
        WITH_POSTCOPY,
        WITH_POSTCOPY,
        COMPLETED,
        STEPS,
        events=(SWITCH,),
    ),
    "success-switchover-ack": Conversation(
        "the source stops its guest when SWITCHOVER_ACK has come on main", WITH_ACK, WITH_ACK, COMPLETED, PASSES
    ),
    "success-replay": Conversation(
        "a copy of CHANNEL_OPEN on somebody else's connection, after the original: refused there",
        OVER_TCP,
        OVER_TCP,
        COMPLETED,
        PASSES,
        events=(Event("CHANNEL_OPEN main", "stranger", "a copy of CHANNEL_OPEN"),),
    ),
    "success-wrong-mac": Conversation(
        "a CHANNEL_OPEN whose MAC is wrong is refused, and the session goes on",
        WITH_MULTIFD,
        WITH_MULTIFD,
        COMPLETED,
        PASSES,
        events=(Event("CHANNEL_OPEN main", "stranger", "CHANNEL_OPEN with a wrong MAC"),),
    ),
    "success-busy": Conversation(
        "a HELLO while a handshake is on is refused, and the session goes on",
        OVER_TCP,
        OVER_TCP,
        COMPLETED,
        PASSES,
        events=(Event("START", "stranger", "HELLO"),),
    ),
    "success-wrong-session": Conversation(
        "a CHANNEL_OPEN of another session is refused, and the session goes on",
        OVER_TCP,
        OVER_TCP,
        COMPLETED,
        PASSES,
        events=(Event("START", "stranger", "CHANNEL_OPEN of another session"),),
    ),
    "success-no-session": Conversation(
        "a CHANNEL_OPEN while no handshake is on is refused",
        OVER_TCP,
        OVER_TCP,
        COMPLETED,
        PASSES,
        events=(Event("", "stranger", "CHANNEL_OPEN of another session"),),
    ),
    "refusal-device-unknown": Conversation(
        "the destination lacks a device",
        OVER_TCP,
        replace(OVER_TCP, machine=replace(SMALL, devices=(TIMER,))),
        refused("device-unknown"),
    ),
    "refusal-several": Conversation(
        "everything that is wrong is told at once",
        OVER_TCP,
        replace(
            OVER_TCP,
            machine=replace(
                SMALL,
                type="pc-q35-7.2",
                aliases=(),
                page_bits=13,
                ram_blocks=(RamBlock("pc.ram", 2 << 20),),
                devices=(replace(TIMER, version=1, minimum_version=1), replace(NET, features=("ctrl-vq",))),
            ),
        ),
        refused("machine-type page-bits ram-size device-version device-features"),
    ),
    "refusal-maybe": Conversation(
        "the source asked that maybe be refused",
        OVER_TCP,
        EXTRA,
        refused("maybe-refused device-extra"),
        on_maybe="reject",
    ),
    "refusal-no-common-version": Conversation(
        "a source that speaks version 3.0 alone",
        OVER_TCP,
        OVER_TCP,
        ("failed no-common-version", "listening"),
        source_class=FromTheFuture,
    ),
    "refusal-apply-failed": Conversation(
        "agreed, but the destination could not set what was agreed",
        OVER_TCP,
        OVER_TCP,
        refused("apply-failed"),
        apply_error="no such compressor",
    ),
    "success-inline-multifd": Conversation(
        "multifd is preferred where main is inline: skipped",
        replace(INLINE, capabilities=("multifd",), version="7.2"),
        INLINE,
        COMPLETED,
        PASSES,
    ),
    "refusal-names-differ": Conversation(
        "the two managers name different migrations",
        OVER_TCP,
        OVER_TCP,
        refused("wrong-session"),
        sessions=("one", "another"),
    ),
    "refusal-psk-differs": Conversation(
        "the pre-shared keys differ", OVER_TCP, OVER_TCP, refused("transcript"), psks=(PSK, b"another key")
    ),
    "refusal-agreement-mismatch": Conversation(
        "START names another agreement", OVER_TCP, OVER_TCP, refused("agreement-mismatch"), source_class=OtherAgreement
    ),
    "refusal-channel-unplanned": Conversation(
        "a channel that was not agreed: refused there, which ends the attempt of a source that wants it",
        OVER_TCP,
        OVER_TCP,
        refused("channel-unplanned"),
        source_class=Unplanned,
    ),
    "refusal-handshake-timeout": Conversation(
        "a source that says nothing after ACCEPT",
        OVER_TCP,
        OVER_TCP,
        refused("handshake-timeout"),
        source_class=Mute,
        events=(Event("ACCEPT", "destination", "the guard rings"),),
    ),
    "cancel": Conversation(
        "the source's manager cancels while channels are being opened",
        WITH_MULTIFD,
        WITH_MULTIFD,
        (f"cancelled {UNBOUND}", f"listening {UNBOUND}"),
        events=(Event("START", "source", "cancel"),),
    ),
    "deadline-at-destination": Conversation(
        "the destination's manager gives up before READY",
        OVER_TCP,
        OVER_TCP,
        ("cancelled deadline", "cancelled deadline"),
        events=(Event("START", "destination", "deadline"),),
    ),
    "peer-closed": Conversation(
        "control is lost before the destination has answered",
        OVER_TCP,
        OVER_TCP,
        ("failed peer-closed", "listening connection-lost"),
        events=(Event("OFFER", "link", "is lost", 0),),
    ),
    "channel-lost": Conversation(
        "main is lost before READY",
        OVER_TCP,
        OVER_TCP,
        refused("channel-lost"),
        events=(Event("CHANNEL_OPEN main", "link", "is lost", 1),),
    ),
    "late-failure": Conversation(
        "all was sent, and a device would not load",
        OVER_TCP,
        OVER_TCP,
        ("failed needs-restart", "failed needs-restart"),
        PASSES,
        load_error="timer: bad period",
    ),
    "loss-after-go": Conversation(
        "control is lost when GO was said and RUNNING was not heard: the guest runs at the destination, the source is "
        "uncertain",
        OVER_TCP,
        OVER_TCP,
        ("uncertain connection-lost", "completed"),
        PASSES,
        events=(Event("GO", "link", "is lost", 0),),
    ),
    "loss-in-postcopy": Conversation(
        "control is lost while the rest of the memory is on its way",
        WITH_POSTCOPY,
        WITH_POSTCOPY,
        ("postcopy-paused connection-lost", "postcopy-paused connection-lost"),
        STEPS,
        events=(SWITCH, Event("RUNNING", "link", "is lost", 0)),
    ),
    "peer-silent": Conversation(
        "for 35 s nothing has come from the source, when its stream begins",
        OVER_TCP,
        OVER_TCP,
        refused("peer-silent"),
        PASSES,
        events=tuple(Event("READY", "destination", "the keepalive alarm rings") for _ in range(7)),
    ),
}


def converse(case: Conversation) -> tuple[list[Step], dict[str, Side]]:
    """Both real endpoints against each other until neither has more to say: the steps in order."""
    sides = case.sides()
    steps: list[Step] = []
    events, late_steps = list(case.events), []

    def take(step: Step) -> None:
        steps.append(step)
        apply(step, sides)
        said = step.get("says", "")
        for event in [e for e in events if e.after and said.startswith(e.after) and step["from"] in sides]:
            events.remove(event)
            take(event.step(steps))

    for event in [e for e in events if not e.after]:
        events.remove(event)
        take(event.step(steps))
    while any(side.wire for side in sides.values()) or late_steps:
        if not any(side.wire for side in sides.values()):
            take(late_steps.pop(0))
        for name, side in sides.items():
            pending, side.wire = side.wire, []
            for step in pending:
                if case.late and step.get("says", "").startswith(case.late):
                    late_steps.append({"from": name, **step})
                else:
                    take({"from": name, **step})
    return steps, sides


def apply(step: Step, sides: dict[str, Side], at_a_time: int = 1 << 30) -> None:
    """One step reaches the sides that it concerns."""
    by = step["from"]
    for role, side in sides.items():
        if by == "link":
            if step["connection"] not in side.gone:
                side.gone.add(step["connection"])
                side.tell(i.Broken(step["connection"], "Connection reset by peer"))
        elif "event" in step:
            if by == role:
                side.tell(EVENTS[step["event"]])
        elif by != role and (step["connection"] < STRANGER or role == "destination"):
            side.hear(step, at_a_time)


def replayed(case: Conversation, role: str, steps: list[Step], at_a_time: int) -> Side:
    """A fresh endpoint, told what the recorded others said, and what happened to it."""
    side = case.sides()[role]
    for step in steps:
        apply(step, {role: side}, at_a_time)
    return side


def bytes_of(steps: list[Step]) -> dict[int, bytes]:
    """All bytes of each connection."""
    streams: dict[int, bytes] = {}
    for step in steps:
        if "event" not in step:
            data = bytes.fromhex(step.get("hex", "")) + bytes(step.get("zeros", 0))
            streams[step["connection"]] = streams.get(step["connection"], b"") + data
    return streams


def transcripts() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each by its name, with its secrets and its outcome."""
    for name, case in CONVERSATIONS.items():
        steps, sides = converse(case)
        transcript: dict[str, Any] = {"name": name, "about": case.about, "psk": case.psks[0].hex()}
        if case.psks[1] != case.psks[0]:
            transcript["destination-psk"] = case.psks[1].hex()
        if case.source.tls:
            transcript["exporters"] = {str(conn): exporter(conn).hex() for conn in sorted(sides["source"].opened)}
        flights = {role: bytes_of([s for s in steps if s["from"] == role])[0] for role in sides}
        if any("ACCEPT" in s.get("says", "") for s in steps):
            transcript |= _key_of(flights["source"], flights["destination"], case)
            own = sides["source"].endpoint.key_bytes.hex()
            if own not in ("", transcript["key"]):
                raise SystemExit(f"{name}: the key is {own}, by the specification {transcript['key']}")
        transcript |= {"steps": steps, "outcome": {role: side.outcome() for role, side in sides.items()}}
        yield name, transcript


def _key_of(source: bytes, destination: bytes, case: Conversation) -> dict[str, str]:
    """The source's, by SPEC section 5 alone, without the implementation's own way."""
    upto, end = _upto(source, messages.Offer.TYPE)[0], _upto(destination, messages.Accept.TYPE)
    secret = json.loads(end[1])["secret"]
    hashes = hashlib.sha256(upto).digest(), hashlib.sha256(end[0]).digest()
    binds = exporter(0) if case.source.tls else b""
    key = binding.session_key(bytes.fromhex(secret), case.psks[0], binds, *hashes)
    return {"secret": secret, "h_S": hashes[0].hex(), "h_D": hashes[1].hex(), "key": key.hex()}


def _upto(flight: bytes, type: int) -> tuple[bytes, bytes]:
    """The bytes up to the end of the last frame of the first message of that type, and its payload."""
    at, payload = struct.unpack(">H", flight[8:10])[0], b""
    while True:
        size, frame_type, flags = struct.unpack(">IBB", flight[at : at + 6])
        at += 12 + size
        if frame_type == type:
            payload += flight[at - size : at]
            if not flags & frames.MORE:
                return flight[:at], payload
