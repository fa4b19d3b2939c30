"""Makes the test vectors of the v2 handshake in this folder, the same at every run (README.md says what they are).

python data/vectors/make.py             write them; frozen OFFERs only where they are missing
python data/vectors/make.py --check     write nothing; exit 1 and name the first file that differs
python data/vectors/make.py --refreeze  write the frozen OFFERs anew too (before a release, never after it)

What a case expects of negotiation, verdict, frames and bodies is written here by hand and compared with what the
implementation does: a vector can't freeze a mistake unseen.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simlib.case import profiles
from simlib.handshake import interface as i
from simlib.handshake.errors import PeerError
from simlib.handshake.machine import Device, Machine, RamBlock, Settings, Subsection
from simlib.handshake.v2 import binding, body, features, frames, inventory, manifest, messages, wire
from simlib.handshake.v2.agreement import agreement_body, channel_plan
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.frames import CRITICAL, DATA, INITIATOR, MORE, RESPONDER, frame
from simlib.handshake.v2.manifest import Manifest
from simlib.handshake.v2.source import Source

ACCEPT, GO, HELLO, INFO, LOADED, OFFER, REJECT = (
    m.TYPE
    for m in (
        messages.Accept,
        messages.Go,
        messages.Hello,
        messages.Info,
        messages.Loaded,
        messages.Offer,
        messages.Reject,
    )
)
HERE = Path(__file__).resolve().parent
NONCE = bytes(range(16))
PREFACE = frames.preface(INITIATOR, NONCE)
SESSION = "0123456789abcdef"
FACTS = ("machine", "ram-blocks", "devices")  # of an OFFER and of a manifest


# --- both endpoints in one process ----------------------------------------------------------------------------------
class Side:
    """An endpoint and its neighbours, who answer at once. What it puts on the wire gathers in `wire`."""

    def __init__(self, endpoint: Source | Destination, case: Conversation) -> None:
        self.endpoint = endpoint
        self.passes = list(case.passes)
        self.case = case
        self.wire: list[dict[str, Any]] = []
        self.opened: set[int] = set()
        self.gone: set[int] = set()
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
        elif isinstance(output, i.Send):
            step = {"connection": output.conn, "says": self.said, "hex": output.data.hex(), "zeros": output.fill}
            self.wire.append({k: v for k, v in step.items() if v != "" and (k, v) != ("zeros", 0)})
            self.said = ""
            yield i.Drained(output.conn)
        elif isinstance(output, i.Drop | i.End) and output.conn not in self.gone:
            self.gone.add(output.conn)
            self.wire.append({"connection": output.conn, "closes": True})
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

    def hear(self, step: dict[str, Any], at_a_time: int = 1 << 30) -> None:
        """What the other side put on the wire arrives, so many bytes at a time."""
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


class FromTheFuture(Source):
    """Speaks version 3 alone."""

    def _greeting(self, conn: int) -> bytes:
        preface = super()._greeting(conn)
        return preface[:10] + struct.pack(">HH", 3, 3) + preface[14:]


@dataclass(frozen=True)
class Conversation:
    about: str
    source: Settings
    destination: Settings
    passes: tuple[i.RamCollected, ...] = ()
    apply_error: str = ""
    load_error: str = ""
    psk: bytes = b""
    on_maybe: str = "warn"
    source_class: type[Source] = Source

    def sides(self) -> dict[str, Side]:
        """Fresh endpoints with the fixed entropy of these vectors."""
        one = self.source_class(self.source, SessionConfig(b"S" * 32, psk=self.psk, on_maybe=self.on_maybe))
        other = Destination(self.destination, SessionConfig(b"D" * 32, psk=self.psk))
        return {"source": Side(one, self), "destination": Side(other, self)}


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
PASSES = (i.RamCollected(8192, True), i.RamCollected(0, True))
CONVERSATIONS = {
    "success-inline": Conversation(
        "exec: with an answer; the stream is carried in DATA frames on the control connection",
        replace(OVER_TCP, transport="exec"),
        replace(OVER_TCP, transport="exec"),
        PASSES,
    ),
    "success-multifd": Conversation(
        "main and two multifd channels, each a connection of its own; a pre-shared key",
        WITH_MULTIFD,
        WITH_MULTIFD,
        PASSES,
        psk=b"the pre-shared key",
    ),
    "refusal-device-unknown": Conversation(
        "the destination lacks a device", OVER_TCP, replace(OVER_TCP, machine=replace(SMALL, devices=(TIMER,)))
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
    ),
    "refusal-maybe": Conversation(
        "the source asked that maybe be refused",
        OVER_TCP,
        replace(OVER_TCP, machine=replace(SMALL, devices=(TIMER, NET, Device("extra")))),
        on_maybe="reject",
    ),
    "refusal-no-common-version": Conversation(
        "a source that speaks version 3 alone", OVER_TCP, OVER_TCP, source_class=FromTheFuture
    ),
    "refusal-apply-failed": Conversation(
        "agreed, but the destination could not set what was agreed",
        OVER_TCP,
        OVER_TCP,
        apply_error="no such compressor",
    ),
    "late-failure": Conversation(
        "all was sent, and a device would not load", OVER_TCP, OVER_TCP, PASSES, load_error="timer: bad period"
    ),
}


def converse(case: Conversation) -> tuple[list[dict[str, Any]], dict[str, Side]]:
    """Both real endpoints against each other until neither has more to say: the steps in order."""
    sides = case.sides()
    steps: list[dict[str, Any]] = []
    while any(side.wire for side in sides.values()):
        for name, other in (("source", "destination"), ("destination", "source")):
            pending, sides[name].wire = sides[name].wire, []
            for step in pending:
                steps.append({"from": name, **step})
                sides[other].hear(step)
    return steps, sides


def replayed(case: Conversation, role: str, steps: list[dict[str, Any]], at_a_time: int) -> Side:
    """A fresh endpoint, told what the recorded other side said."""
    side = case.sides()[role]
    for step in steps:
        if step["from"] != role:
            side.hear(step, at_a_time)
    return side


def bytes_of(steps: list[dict[str, Any]]) -> dict[int, bytes]:
    """All bytes of each connection."""
    streams: dict[int, bytes] = {}
    for step in steps:
        data = bytes.fromhex(step.get("hex", "")) + bytes(step.get("zeros", 0))
        streams[step["connection"]] = streams.get(step["connection"], b"") + data
    return streams


def transcripts() -> Iterator[tuple[str, str]]:
    for name, case in CONVERSATIONS.items():
        steps, sides = converse(case)
        transcript: dict[str, Any] = {"name": name, "about": case.about, "psk": case.psk.hex()}
        flights = {role: bytes_of([s for s in steps if s["from"] == role])[0] for role in sides}
        if any("ACCEPT" in s.get("says", "") for s in steps):
            transcript |= _key_of(flights["source"], flights["destination"], case.psk)
            _must(name, transcript["key"], sides["source"].endpoint.key_bytes.hex())
        transcript |= {"steps": steps, "outcome": {role: side.outcome() for role, side in sides.items()}}
        yield f"transcripts/{name}.json", json.dumps(transcript, indent=1) + "\n"


def _key_of(source: bytes, destination: bytes, psk: bytes) -> dict[str, str]:
    """By SPEC section 5 alone, without the implementation's own way."""
    upto, end = _upto(source, OFFER)[0], _upto(destination, ACCEPT)
    secret = json.loads(end[1])["secret"]
    hashes = hashlib.sha256(upto).digest(), hashlib.sha256(end[0]).digest()
    key = binding.session_key(bytes.fromhex(secret), psk, b"", *hashes)
    return {"secret": secret, "h_S": hashes[0].hex(), "h_D": hashes[1].hex(), "key": key.hex()}


def _upto(flight: bytes, type: int) -> tuple[bytes, bytes]:
    """The bytes up to the end of the first frame of that type, and its payload."""
    at = struct.unpack(">H", flight[8:10])[0]
    while True:
        size, frame_type = struct.unpack(">IB", flight[at : at + 5])
        at += 12 + size
        if frame_type == type:
            return flight[:at], flight[at - size : at]


# --- frames ---------------------------------------------------------------------------------------------------------
def _preface(magic: bytes = INITIATOR, size: int = 32, lowest: int = 2, highest: int = 2, flags: int = 0) -> bytes:
    return magic + struct.pack(">HHHH", size, lowest, highest, flags) + NONCE + bytes(max(0, size - 32))


def _announced(size: int, type: int) -> bytes:
    """The header of a frame without its payload."""
    return struct.pack(">IBBHI", size, type, CRITICAL, 0, 0)


GOOD_FRAMES: list[tuple[str, str, bytes]] = [
    ("a preface", "destination", PREFACE),
    ("a responder's preface", "source", _preface(RESPONDER)),
    ("a preface with every flag set", "destination", _preface(flags=0xFFFF)),
    ("a longer preface of a later version", "destination", _preface(size=48, highest=5) + frame(GO, b"{}")),
    ("the longest preface", "destination", _preface(size=1024)),
    ("an empty frame", "destination", PREFACE + frame(0x90, b"", flags=0)),
    ("a HELLO that is not JSON, which framing does not see", "destination", PREFACE + frame(HELLO, b"hello")),
    ("channel and request are carried, whatever they are", "destination", PREFACE + frame(GO, b"{}", 1, 7, 0xDEADBEEF)),
    ("unknown flag bits", "destination", PREFACE + frame(GO, b"{}", 0xFD)),
    (
        "a frame continued twice",
        "destination",
        PREFACE + frame(INFO, b'{"text":', CRITICAL | MORE) + frame(INFO, b'"x",', MORE) + frame(INFO, b'"percent":1}'),
    ),
    ("an ignorable frame before another", "destination", PREFACE + frame(0xC3, b"\1\2\3", 0xF0) + frame(GO, b"{}")),
    ("a DATA frame", "destination", PREFACE + frame(DATA, b"QEVM\0\0\0\3")),
    ("half a frame: nothing yet", "destination", PREFACE + frame(GO, b"{}")[:-1]),
    ("half a preface: nothing yet", "destination", PREFACE[:31]),
    ("a frame of 64 KiB announced, its payload still to come", "destination", PREFACE + _announced(65536, OFFER)),
]
# name, who reads, bytes, code, what that reader answers before it closes
BAD_FRAMES: list[tuple[str, str, bytes, str, list[str]]] = [
    ("a v1 stream", "destination", b"QEVM\0\0\0\3", "peer-v1", []),
    ("a v1 destination's answer", "source", b"QEVM\0\0\0\3", "peer-v1", ["ABORT"]),
    ("a multifd channel of v1", "destination", bytes.fromhex("1122334400000001"), "not-a-handshake", []),
    ("TLS where none is expected", "destination", bytes.fromhex("1603010128010001"), "not-a-handshake", []),
    ("a web browser", "destination", b"GET / HTTP/1.1\r\n", "not-a-handshake", []),
    (
        "line ends changed on the way",
        "destination",
        INITIATOR.replace(b"\r\n", b"\n") + bytes(9),
        "not-a-handshake",
        [],
    ),
    ("the top bit lost on the way", "destination", b"\x09" + INITIATOR[1:], "not-a-handshake", []),
    ("a manifest where a preface should be", "destination", frames.MANIFEST, "not-a-handshake", []),
    ("an echo at the source", "source", PREFACE, "reflected", ["ABORT"]),
    ("two responders", "destination", _preface(RESPONDER), "reflected", []),
    ("a preface of 31 bytes", "destination", _preface(size=31), "frame-too-big", ["REJECT"]),
    ("a preface of 1025 bytes", "destination", _preface(size=1025), "frame-too-big", ["REJECT"]),
    ("an older source", "destination", _preface(lowest=1, highest=1), "no-common-version", ["REJECT"]),
    ("a later source", "destination", _preface(lowest=3, highest=9), "no-common-version", ["REJECT"]),
    ("a later destination", "source", _preface(RESPONDER, lowest=3, highest=3), "no-common-version", ["ABORT"]),
    ("lowest above highest", "destination", _preface(lowest=3, highest=2), "no-common-version", ["REJECT"]),
    ("a frame one byte too long", "destination", PREFACE + _announced(65537, OFFER), "frame-too-big", ["REJECT"]),
    ("the longest length", "destination", PREFACE + _announced(0xFFFFFFFF, OFFER), "frame-too-big", ["REJECT"]),
    ("a DATA frame too long", "destination", PREFACE + _announced((256 << 10) + 1, DATA), "frame-too-big", ["REJECT"]),
    ("an unknown critical frame", "destination", PREFACE + frame(0x7F, b"", CRITICAL), "unknown-critical", ["REJECT"]),
    ("257 ignorable frames", "destination", PREFACE + frame(0x99, b"", 0) * 257, "too-much", ["REJECT"]),
    (
        "a frame between the parts of another",
        "destination",
        PREFACE + frame(HELLO, b"{", CRITICAL | MORE) + frame(GO, b"{}"),
        "bad-state",
        ["REJECT"],
    ),
    ("OFFER before HELLO", "destination", PREFACE + frame(OFFER, b"{}"), "bad-state", ["REJECT"]),
    ("DATA before HELLO", "destination", PREFACE + frame(DATA, b"QEVM"), "bad-state", ["REJECT"]),
    ("a ping of 65 bytes", "destination", PREFACE + frame(frames.PING, bytes(65)), "frame-too-big", ["REJECT"]),
    ("an early LOADED", "source", _preface(RESPONDER) + frame(LOADED, b'{"bytes":0}'), "bad-state", ["ABORT"]),
]


def read_frames(reader: str, data: bytes) -> list[dict[str, Any]]:
    """What framing alone makes of the bytes. Raises PeerError."""
    state = frames.Reader(INITIATOR if reader == "destination" else RESPONDER, frames.Limits()).add(data)
    items: list[dict[str, Any]] = []
    while True:
        state, item = state.next()
        if item is None:
            return items
        if isinstance(item, frames.Preface):
            items.append(
                {"preface": item.magic.hex(), "lowest": item.lowest, "highest": item.highest, "nonce": item.nonce.hex()}
            )
        else:
            items.append(
                {
                    "type": item.type,
                    "flags": item.flags,
                    "channel": item.channel,
                    "request": item.request,
                    "payload": item.payload.hex(),
                }
            )


def refusal(reader: str, data: bytes) -> dict[str, Any]:
    """What a whole endpoint makes of the bytes: the code, and the messages that it answers."""
    side = Conversation("", OVER_TCP, OVER_TCP).sides()[reader]
    side.wire = []
    printed: list[str] = []
    handle = side.endpoint.handle

    def watched(input: i.Input) -> list[i.Output]:
        outputs = handle(input)
        printed.extend(o.text for o in outputs if isinstance(o, i.Printed))
        return outputs

    side.endpoint.handle = watched  # type: ignore[method-assign]
    side.hear({"connection": 0, "hex": data.hex()})
    end = side.endpoint.finished
    code = end.errors[0].code if end else printed[0].removeprefix("connection 0 refused: ").partition(":")[0]
    return {"error": code, "answer": [s["says"].partition(" ")[0] for s in side.wire if "says" in s]}


def frame_vectors() -> list[dict[str, Any]]:
    cases = []
    for name, reader, data in GOOD_FRAMES:
        cases.append(
            {"name": name, "reader": reader, "hex": data.hex(), "expect": {"items": read_frames(reader, data)}}
        )
    for name, reader, data, code, answer in BAD_FRAMES:
        expected = {"error": code, "answer": answer}
        _must(name, expected, refusal(reader, data))
        cases.append({"name": name, "reader": reader, "hex": data.hex(), "expect": expected})
    return cases


# --- bodies ---------------------------------------------------------------------------------------------------------
_NESTED = b'{"?x":' + b"[" * 15 + b"]" * 15 + b"}"
# name, message, payload, error code or "" (accepted)
BODIES: list[tuple[str, str, bytes, str]] = [
    ("as it should be", "LOADED", b'{"bytes":4096}', ""),
    ("spaces and line ends between tokens", "LOADED", b' {\r\n\t"bytes" : 4096 } ', ""),
    ("a body without keys", "GO", b"{}", ""),
    ("an ignorable key", "GO", b'{"?grease-1f":[1,{"a":null}]}', ""),
    ("a known key with a mark is that key", "LOADED", b'{"?bytes":7}', ""),
    ("an optional key is absent", "INFO", b'{"text":"half","percent":50}', ""),
    ("an optional key", "INFO", b'{"text":"","percent":0,"missing":["main"]}', ""),
    ("escapes", "INFO", b'{"text":"\\u00e9\\ud83d\\ude00\\n\\/","percent":0}', ""),
    ("UTF-8", "INFO", '{"text":"é😀","percent":0}'.encode(), ""),
    ("the largest integer", "LOADED", b'{"bytes":18446744073709551615}', ""),
    ("the smallest integer", "LOADED", b'{"bytes":-9223372036854775808}', ""),
    ("16 levels", "GO", _NESTED, ""),
    ("256 ignorable keys", "GO", json.dumps({f"?{n}": 0 for n in range(256)}).encode(), ""),
    ("4096 characters", "INFO", json.dumps({"text": "x" * 4096, "percent": 0}).encode(), ""),
    ("brackets in a string are not depth", "INFO", json.dumps({"text": "[" * 40, "percent": 0}).encode(), ""),
    ("17 levels", "GO", _NESTED.replace(b"[]", b"[[]]"), "encoding"),
    ("a fraction", "LOADED", b'{"bytes":1.5}', "encoding"),
    ("an exponent", "LOADED", b'{"bytes":1e3}', "encoding"),
    ("not a number", "LOADED", b'{"bytes":NaN}', "encoding"),
    ("65 bits", "LOADED", b'{"bytes":18446744073709551616}', "encoding"),
    ("65 bits below", "LOADED", b'{"bytes":-9223372036854775809}', "encoding"),
    ("a key twice", "LOADED", b'{"bytes":1,"bytes":1}', "encoding"),
    ("a key twice, once with a mark", "LOADED", b'{"bytes":1,"?bytes":1}', "encoding"),
    ("an ignorable key twice", "GO", b'{"?a":1,"?a":1}', "encoding"),
    ("bytes after the object", "GO", b"{}{}", "encoding"),
    ("cut short", "LOADED", b'{"bytes":', "encoding"),
    ("nothing at all", "GO", b"", "encoding"),
    ("a list", "GO", b"[]", "encoding"),
    ("null", "GO", b"null", "encoding"),
    ("not UTF-8", "INFO", b'{"text":"\xff","percent":0}', "encoding"),
    ("a byte order mark", "GO", b"\xef\xbb\xbf{}", "encoding"),
    ("a raw control character in a string", "INFO", b'{"text":"\n","percent":0}', "encoding"),
    ("a leading zero", "LOADED", b'{"bytes":01}', "encoding"),
    ("an unknown key", "GO", b'{"fast":true}', "unknown-key"),
    ("a key that lacks", "LOADED", b"{}", "unknown-value"),
    ("a string for an integer", "LOADED", b'{"bytes":"1"}', "unknown-value"),
    ("a boolean for an integer", "LOADED", b'{"bytes":true}', "unknown-value"),
    ("null for an integer", "LOADED", b'{"bytes":null}', "unknown-value"),
    ("an object for a list", "ERROR", b'{"errors":{}}', "unknown-value"),
    ("a string for an object", "ERROR", b'{"errors":["x"]}', "unknown-value"),
    ("257 ignorable keys", "GO", json.dumps({f"?{n}": 0 for n in range(257)}).encode(), "too-much"),
    ("4097 characters", "INFO", json.dumps({"text": "x" * 4097, "percent": 0}).encode(), "too-much"),
    ("8193 items", "INFO", body.dump({"text": "", "percent": 0, "missing": [""] * 8193}), "too-much"),
]
CANONICAL: list[tuple[str, Any]] = [
    ("keys are sorted", {"b": 1, "a": {"d": 2, "c": [3, 1, 2]}, "B": 0, "a-": 1}),
    ("escapes", {"text": 'é😀 "quoted" back\\slash / \b\f\n\r\t\x00\x1f\x7f'}),
    ("values", {"t": True, "f": False, "n": None, "zero": 0, "most": (1 << 64) - 1, "least": -(1 << 63), "empty": {}}),
    (
        "an agreement",
        {
            "features": {"final-ack": {}, "multifd": {"channels": 2, "compression": "none"}},
            "channels": ["main", "multifd[0]", "multifd[1]"],
            "session-id": SESSION,
        },
    ),
]
MESSAGE = {name: type for type, name in frames.NAMES.items()}


def read_body(message: str, payload: bytes) -> dict[str, Any]:
    """What is expected of a body: the canonical form's digest, marks and ignorable keys gone, or code and item."""
    try:
        return {"sha256": body.digest(body.load(payload, messages.SHAPES[MESSAGE[message]], message))}
    except PeerError as error:
        return {"error": error.error.code, "item": error.error.item}


def body_vectors() -> dict[str, Any]:
    cases = []
    for name, message, payload, code in BODIES:
        result = read_body(message, payload)
        _must(name, code, result.get("error", ""))
        cases.append({"name": name, "message": message, "hex": payload.hex(), "expect": result})
    canonical = [
        {"name": name, "value": value, "canonical": body.dump(value).decode(), "sha256": body.digest(value)}
        for name, value in CANONICAL
    ]
    return {"bodies": cases, "canonical": canonical}


# --- negotiation ----------------------------------------------------------------------------------------------------
def _stances(text: str) -> list[dict[str, Any]]:
    """Of "multifd+ channels=1..8 compression=zstd|none, xbzrle": ! require, + prefer, - forbid, nothing: allow."""
    stances = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, *words = part.split()
        need = {"!": "require", "+": "prefer", "-": "forbid"}.get(name[-1], "allow")
        stance: dict[str, Any] = {"name": name.rstrip("!+") if need != "forbid" else name[:-1], "need": need}
        if words:
            pairs = [g.split("=") for g in words]
            stance["parameters"] = {k: [int(n) for n in v.split("..")] if ".." in v else v.split("|") for k, v in pairs}
        stances.append(stance)
    return stances


_M = "multifd+ channels=1..4 compression="
# name, source, destination, on (with parameters), skipped, errors (code and item)
NEGOTIATIONS: list[tuple[str, str, str, dict[str, Any], list[str], list[list[str]]]] = [
    ("nothing asked", "final-ack!", "final-ack!", {"final-ack": {}}, [], []),
    ("both allow: off", "final-ack!, xbzrle", "final-ack!, xbzrle", {"final-ack": {}}, [], []),
    ("one prefers, the other allows: on", "xbzrle+", "xbzrle", {"xbzrle": {}}, [], []),
    ("the destination's wish counts as much", "xbzrle", "xbzrle+", {"xbzrle": {}}, [], []),
    ("required and allowed: on", "switchover-ack!", "switchover-ack", {"switchover-ack": {}}, [], []),
    ("preferred and forbidden: skipped", "xbzrle+", "xbzrle-", {}, ["xbzrle"], []),
    ("preferred and absent: skipped", "switchover-ack+", "", {}, ["switchover-ack"], []),
    ("allowed and forbidden: not a word", "xbzrle", "xbzrle-", {}, [], []),
    ("required and forbidden", "xbzrle!", "xbzrle-", {}, [], [["feature-required", "feature[xbzrle]"]]),
    ("required by the destination and absent", "", "final-ack!", {}, [], [["feature-required", "feature[final-ack]"]]),
    ("an unknown feature of a later source", "x-later+, final-ack!", "final-ack!", {"final-ack": {}}, ["x-later"], []),
    ("a later source requires an unknown feature", "x-later!", "", {}, [], [["feature-required", "feature[x-later]"]]),
    ("grease", "final-ack!, x-grease-0a1b2c+", "final-ack!", {"final-ack": {}}, ["x-grease-0a1b2c"], []),
    (
        "later versions of both share a feature",
        "x-later+, a-later+",
        "a-later, x-later",
        {"a-later": {}, "x-later": {}},
        [],
        [],
    ),
    (
        "the highest common channel count",
        _M + "none",
        "multifd channels=2..16 compression=none",
        {"multifd": {"channels": 4, "compression": "none"}},
        [],
        [],
    ),
    ("no common channel count", _M + "none", "multifd channels=8..16", {}, ["multifd"], []),
    (
        "no common channel count, and required",
        "multifd! channels=1..4",
        "multifd channels=8..16",
        {},
        [],
        [["parameter", "feature[multifd].channels"]],
    ),
    (
        "the source's order of choices decides",
        _M + "zstd|zlib|none",
        "multifd compression=none|zlib|zstd",
        {"multifd": {"compression": "zstd"}},
        [],
        [],
    ),
    (
        "an unknown choice is passed over",
        _M + "later|zlib",
        "multifd compression=none|zlib",
        {"multifd": {"compression": "zlib"}},
        [],
        [],
    ),
    (
        "no common choice, and required",
        "multifd! compression=zstd",
        "multifd compression=none",
        {},
        [],
        [["parameter", "feature[multifd].compression"]],
    ),
    (
        "a range against a choice has nothing in common",
        "multifd+ channels=1..4",
        "multifd channels=4",
        {},
        ["multifd"],
        [],
    ),
    (
        "a parameter that one side does not name is left out",
        _M + "none",
        "multifd compression=none",
        {"multifd": {"compression": "none"}},
        [],
        [],
    ),
    (
        "a conflict of equals: the first of the pair stays",
        "multifd+, xbzrle+",
        "multifd, xbzrle",
        {"multifd": {}},
        ["xbzrle"],
        [],
    ),
    ("a conflict: the required one stays", "multifd+, xbzrle!", "multifd+, xbzrle", {"xbzrle": {}}, ["multifd"], []),
    (
        "a conflict of two that are required",
        "multifd!, xbzrle!",
        "multifd, xbzrle",
        {"multifd": {}},
        ["xbzrle"],
        [["feature-conflict", "feature[multifd]"]],
    ),
    (
        "each required by another side",
        "multifd!, compress",
        "multifd, compress!",
        {"multifd": {}},
        ["compress"],
        [["feature-conflict", "feature[multifd]"]],
    ),
    (
        "conflicts are taken in their order",
        "postcopy-ram+, x-ignore-shared+, mapped-ram+",
        "postcopy-ram, x-ignore-shared, mapped-ram",
        {"postcopy-ram": {}},
        ["x-ignore-shared", "mapped-ram"],
        [],
    ),
    (
        "what depends on something that is off goes too",
        "postcopy-preempt+, postcopy-ram",
        "postcopy-preempt, postcopy-ram",
        {},
        ["postcopy-preempt"],
        [],
    ),
    (
        "what depends on something that a conflict removed goes too",
        "multifd+, zero-copy-send+, xbzrle!",
        "multifd, zero-copy-send, xbzrle",
        {"xbzrle": {}},
        ["multifd", "zero-copy-send"],
        [],
    ),
    (
        "what is required depends on something forbidden",
        "postcopy-preempt!, postcopy-ram+",
        "postcopy-preempt, postcopy-ram-",
        {},
        ["postcopy-ram", "postcopy-preempt"],
        [["feature-dependency", "feature[postcopy-preempt]"]],
    ),
    (
        "all that is wrong at once",
        "xbzrle!, multifd! channels=1..2, final-ack!",
        "multifd channels=3..4, final-ack!",
        {"final-ack": {}},
        [],
        [["parameter", "feature[multifd].channels"], ["feature-required", "feature[xbzrle]"]],
    ),
    (
        "channels in the plan",
        "final-ack!, multifd+ channels=1..2, postcopy-ram+, postcopy-preempt+",
        "final-ack!, multifd channels=1..64, postcopy-ram, postcopy-preempt",
        {"final-ack": {}, "multifd": {"channels": 2}, "postcopy-ram": {}, "postcopy-preempt": {}},
        [],
        [],
    ),
]


def negotiated(source: list[dict[str, Any]], destination: list[dict[str, Any]]) -> dict[str, Any]:
    agreement = features.resolve(messages.read_stances(source), messages.read_stances(destination))
    result: dict[str, Any] = {
        "on": agreement.body(),
        "skipped": [name for name, _ in agreement.skipped],
        "errors": [[e.code, e.item] for e in agreement.errors],
    }
    if not agreement.errors:
        result["agreement"] = agreement_body(agreement, channel_plan(agreement, False), SESSION)
        result["digest"] = body.digest(result["agreement"])
    return result


def negotiation_vectors() -> list[dict[str, Any]]:
    cases = []
    for name, one, other, on, skipped, errors in NEGOTIATIONS:
        source, destination = _stances(one), _stances(other)
        result = negotiated(source, destination)
        _must(name, (on, skipped, errors), (result["on"], result["skipped"], result["errors"]))
        cases.append({"name": name, "source": source, "destination": destination, "expect": result})
    return cases


# --- verdict --------------------------------------------------------------------------------------------------------
def _device(**changes: Any) -> Callable[[Machine], Machine]:
    """The machine with its second device changed."""
    return lambda machine: replace(machine, devices=(machine.devices[0], replace(machine.devices[1], **changes)))


def _with(**changes: Any) -> Callable[[Machine], Machine]:
    return lambda machine: replace(machine, **changes)


def _same(machine: Machine) -> Machine:
    return machine


HOTPLUG = Device("0000:00:01.3/piix4_pm", subsections=(Subsection("piix4_pm/cpuhp", 1, "always"),))
_NET = f"device[{NET.id}]"
# name, the source's machine, the destination's, its memory limit, verdict, findings (code, item, severity)
VERDICTS: list[tuple[str, Any, Any, int, str, list[tuple[str, str]]]] = [
    ("the same machine", _same, _same, 0, "yes", []),
    ("an alias at the destination", _with(type="pc"), _same, 0, "yes", []),
    ("another machine type", _with(type="pc-q35-7.2"), _same, 0, "no", [("machine-type", "machine.type")]),
    (
        "an alias of the source counts for nothing",
        _same,
        _with(type="pc", aliases=()),
        0,
        "no",
        [("machine-type", "machine.type")],
    ),
    ("another architecture", _with(arch="aarch64"), _same, 0, "no", [("arch", "machine.arch")]),
    ("another page size", _with(page_bits=16), _same, 0, "no", [("page-bits", "machine.page-bits")]),
    ("more CPUs than there", _with(vcpus=2), _same, 0, "no", [("vcpus", "machine.vcpus")]),
    ("fewer CPUs than there", _same, _with(vcpus=2), 0, "maybe", [("vcpus", "machine.vcpus")]),
    (
        "fewer CPUs than there, and their hotplug state is sent",
        _with(devices=(HOTPLUG,)),
        _with(devices=(HOTPLUG,), vcpus=2),
        0,
        "no",
        [("vcpus", "machine.vcpus")],
    ),
    ("another CPU model", _same, _with(cpu="host"), 0, "maybe", [("cpu-model", "machine.cpu")]),
    (
        "two CPU features missing",
        _with(cpu_features=("avx512f", "amx", "sse4")),
        _with(cpu_features=("sse4", "la57")),
        0,
        "no",
        [("cpu-feature", "cpu-feature[amx]"), ("cpu-feature", "cpu-feature[avx512f]")],
    ),
    (
        "a memory block missing",
        _with(ram_blocks=(*SMALL.ram_blocks, RamBlock("rom", 4096))),
        _same,
        0,
        "no",
        [("ram-block", "ram-block[rom]")],
    ),
    ("a memory block more", _same, _with(ram_blocks=(*SMALL.ram_blocks, RamBlock("rom", 4096))), 0, "yes", []),
    (
        "a memory block of another size",
        _same,
        _with(ram_blocks=(RamBlock("pc.ram", 2 << 20),)),
        0,
        "no",
        [("ram-size", "ram-block[pc.ram]")],
    ),
    (
        "a block that may be resized",
        _same,
        _with(ram_blocks=(RamBlock("pc.ram", 2 << 20, resizable=True),)),
        0,
        "yes",
        [],
    ),
    ("not enough memory", _same, _same, (1 << 20) - 1, "no", [("memory", "ram")]),
    ("just enough memory", _same, _same, 1 << 20, "yes", []),
    ("a device missing", _same, _with(devices=(TIMER,)), 0, "no", [("device-unknown", _NET)]),
    ("a device more", _with(devices=(TIMER,)), _same, 0, "maybe", [("device-extra", _NET)]),
    (
        "an instance missing",
        _with(devices=(TIMER, NET, replace(NET, instance=1))),
        _same,
        0,
        "no",
        [("device-instance", f"device[{NET.id}/1]")],
    ),
    ("a device too new", _device(version=12), _same, 0, "no", [("device-version", _NET)]),
    ("a device too old", _device(version=10), _same, 0, "no", [("device-version", _NET)]),
    ("a device that loads older versions", _device(version=10), _device(minimum_version=9), 0, "yes", []),
    (
        "a nested version too new",
        _device(nested=(("virtio", 2, 1),)),
        _same,
        0,
        "no",
        [("device-nested-version", f"{_NET}.virtio")],
    ),
    (
        "a nested version too old",
        _same,
        _device(nested=(("virtio", 3, 2),)),
        0,
        "no",
        [("device-nested-version", f"{_NET}.virtio")],
    ),
    ("a nested description that the destination lacks", _same, _device(nested=()), 0, "yes", []),
    (
        "a subsection that is always sent",
        _device(subsections=(Subsection("new", 1, "always"),)),
        _same,
        0,
        "no",
        [("device-subsection", f"{_NET}.new")],
    ),
    (
        "a subsection that may be sent",
        _device(subsections=(Subsection("new", 1, "maybe"),)),
        _same,
        0,
        "maybe",
        [("device-subsection", f"{_NET}.new")],
    ),
    ("a subsection that is never sent", _device(subsections=(Subsection("new", 1, "never"),)), _same, 0, "yes", []),
    (
        "features that the guest uses",
        _device(features=("ctrl-vq", "rss", "mq")),
        _same,
        0,
        "no",
        [("device-features", _NET)],
    ),
    ("features unknown at the destination", _same, _device(features=()), 0, "yes", []),
    ("other fields at the same version", _same, _device(schema="33" * 8), 0, "maybe", [("device-schema", _NET)]),
    ("other fields at another version", _same, _device(schema="33" * 8, version=12), 0, "yes", []),
    ("fields unknown at one side", _device(schema=""), _same, 0, "yes", []),
    ("a device that can't move", _device(migratable=False), _same, 0, "no", [("device-unmigratable", _NET)]),
    (
        "a device that can't move and is not there",
        _device(migratable=False),
        _with(devices=(TIMER,)),
        0,
        "no",
        [("device-unmigratable", _NET)],
    ),
    (
        "much at once, errors first",
        _device(subsections=(Subsection("new"),), version=12),
        _with(cpu="host", arch="arm"),
        0,
        "no",
        [
            ("arch", "machine.arch"),
            ("device-version", _NET),
            ("cpu-model", "machine.cpu"),
            ("device-subsection", f"{_NET}.new"),
        ],
    ),
]


def facts_of(machine: Machine, at_destination: bool) -> dict[str, Any]:
    """OFFER's facts; the destination also knows its aliases and what may be resized."""
    facts = {key: value for key, value in wire.to_body(Manifest.of(Settings("", machine))).items() if key in FACTS}
    local = {"aliases": list(machine.aliases), "resizable": [b.name for b in machine.ram_blocks if b.resizable]}
    return facts | (local if at_destination else {})


def machine_of(facts: dict[str, Any]) -> Machine:
    shape = {key: manifest.SHAPE[key] for key in FACTS}
    local = {"aliases?": [str], "resizable?": [str], "capabilities?": [str]}
    checked = body.load(body.dump(facts), shape | local, "facts")
    messages.check_facts(checked)
    sent = checked | {"capabilities": [], "qemu-version": ""}
    machine = messages.whole_machine(wire.from_body(Manifest, sent, ""))
    blocks = tuple(replace(b, resizable=b.name in facts.get("resizable", ())) for b in machine.ram_blocks)
    return replace(machine, aliases=tuple(facts.get("aliases", ())), ram_blocks=blocks)


def judged(source: dict[str, Any], destination: dict[str, Any], limit_bytes: int) -> dict[str, Any]:
    errors = inventory.compare(machine_of(source), machine_of(destination), limit_bytes)
    findings = [[e.code, e.item, e.severity, e.source, e.destination] for e in errors]
    return {"verdict": inventory.verdict(errors), "findings": findings}


def verdict_vectors() -> list[dict[str, Any]]:
    cases = []
    for name, one, other, limit, verdict, findings in VERDICTS:
        source, destination = facts_of(one(SMALL), False), facts_of(other(SMALL), True)
        result = judged(source, destination, limit)
        _must(name, (verdict, findings), (result["verdict"], [tuple(f[:2]) for f in result["findings"]]))
        cases.append(
            {"name": name, "source": source, "destination": destination, "memory-limit": limit, "expect": result}
        )
    return cases


# --- keys and MACs --------------------------------------------------------------------------------------------------
def mac_vectors() -> list[dict[str, Any]]:
    secret, source, destination = (hashlib.sha256(text).digest() for text in (b"secret", b"source", b"destination"))
    cases = []
    for name, psk, exporter in (
        ("plain", b"", b""),
        ("a pre-shared key", b"the pre-shared key", b""),
        ("TLS", b"", hashlib.sha256(b"tls").digest()),
        ("both, longer than a block of SHA-256", bytes(range(40)), hashlib.sha256(b"tls").digest()),
    ):
        key = binding.session_key(secret, psk, exporter, source, destination)
        case: dict[str, Any] = {
            "name": name,
            "secret": secret.hex(),
            "psk": psk.hex(),
            "exporter": exporter.hex(),
            "h_S": source.hex(),
            "h_D": destination.hex(),
            "key": key.hex(),
            "macs": [],
        }
        nonces = [hashlib.sha256(bytes([n])).hexdigest()[:32] for n in range(3)]
        for parts in (
            ["START", hashlib.sha256(b"agreement").hexdigest()],
            ["CHANNEL_OPEN", SESSION, "multifd[1]", nonces[0]],
            ["CHANNEL_OK", "multifd[1]", nonces[0], nonces[1]],
            ["READY"],
            ["READY", "main", nonces[2], "multifd[0]", nonces[1], "multifd[1]", nonces[0]],
        ):
            raw = b"".join(struct.pack(">I", len(p)) + p.encode() for p in parts)
            case["macs"].append({"parts": parts, "input": raw.hex(), "mac": binding.mac(key, *parts)})
        cases.append(case)
    return cases


# --- manifest -------------------------------------------------------------------------------------------------------
def _sealed(payload: bytes) -> bytes:
    data = frames.MANIFEST + struct.pack(">I", len(payload)) + payload
    return data + hashlib.sha256(data).digest()


def manifest_vectors() -> list[dict[str, Any]]:
    saved = replace(OVER_TCP, capabilities=("mapped-ram",))
    good = manifest.write(OVER_TCP)
    content = json.loads(good[12:-32])
    small = replace(OVER_TCP, machine=replace(SMALL, devices=(TIMER,)))
    cases = []
    for name, data, settings, codes in (
        ("good", good, OVER_TCP, []),
        ("good, the stream behind it", good + b"QEVM\0\0\0\3", OVER_TCP, []),
        ("an ignorable key", _sealed(body.dump(content | {"?later": 1})), OVER_TCP, []),
        ("saved with mapped-ram, loaded without", manifest.write(saved), OVER_TCP, ["feature-required"]),
        ("saved with mapped-ram, loaded with it", manifest.write(saved), saved, []),
        ("a device that is not there", good, small, ["device-unknown"]),
        ("no manifest", b"QEVM\0\0\0\3" + bytes(40), OVER_TCP, ["manifest"]),
        ("cut in its length", good[:10], OVER_TCP, ["manifest"]),
        ("cut in its checksum", good[:-1], OVER_TCP, ["manifest"]),
        ("one bit changed", good[:100] + bytes([good[100] ^ 1]) + good[101:], OVER_TCP, ["manifest"]),
        ("a length above the limit", frames.MANIFEST + struct.pack(">I", (4 << 20) + 1), OVER_TCP, ["manifest"]),
        ("an unknown key", _sealed(body.dump(content | {"later": 1})), OVER_TCP, ["unknown-key"]),
        (
            "a key that lacks",
            _sealed(body.dump({k: v for k, v in content.items() if k != "devices"})),
            OVER_TCP,
            ["unknown-value"],
        ),
        ("not JSON", _sealed(b"{"), OVER_TCP, ["encoding"]),
    ):
        _must(name, codes, [e.code for e in manifest.check(data, settings)])
        here = facts_of(settings.machine, True) | {"capabilities": list(settings.capabilities)}
        cases.append({"name": name, "hex": data.hex(), "destination": here, "expect": codes})
    return cases


def settings_of(here: dict[str, Any]) -> Settings:
    return replace(OVER_TCP, machine=machine_of(here), capabilities=tuple(here["capabilities"]))


# --- frozen OFFERs --------------------------------------------------------------------------------------------------
OFFERS = [(q, c, g) for q in ("7.2", "10.0") for c in ("pc-i440fx-7.2", "pc-q35-7.2") for g in (False, True)]


def answered(flight: bytes, version: str, configuration: str) -> dict[str, Any]:
    """What a destination of that version says to a first flight: verdict and codes."""
    settings = Settings(version, profiles.machine(version, configuration))
    side = Side(Destination(settings, SessionConfig(b"D" * 32, grease=False)), Conversation("", settings, settings))
    side.hear({"connection": 0, "hex": flight.hex()})
    for item in read_frames("source", bytes.fromhex(next(s["hex"] for s in side.wire if "hex" in s))):
        content = json.loads(bytes.fromhex(item["payload"])) if "payload" in item else {}
        if item.get("type") == ACCEPT:
            codes = sorted({e["code"] for e in content["warnings"]})
            return {"destination": version, "verdict": content["verdict"], "codes": codes}
        if item.get("type") == REJECT:
            return {"destination": version, "verdict": "no", "codes": sorted({e["code"] for e in content["errors"]})}
    raise AssertionError("neither ACCEPT nor REJECT")


def offers() -> Iterator[tuple[str, str]]:
    for version, configuration, grease in OFFERS:
        settings = Settings(version, profiles.machine(version, configuration))
        side = Side(Source(settings, SessionConfig(b"S" * 32, grease=grease)), Conversation("", settings, settings))
        flight = bytes.fromhex(side.wire[0]["hex"])
        offer = {
            "about": f"the first flight of QEMU {version} with {configuration}; frozen: it is accepted for ever",
            "qemu-version": version,
            "configuration": configuration,
            "hex": flight.hex(),
            "expect": [answered(flight, other, configuration) for other in ("7.2", "10.0")],
        }
        yield (
            f"offers/v2.0-{version}-{configuration}{'-grease' if grease else ''}.json",
            json.dumps(offer, indent=1) + "\n",
        )


# --- files ----------------------------------------------------------------------------------------------------------
def _must(name: str, expected: Any, actual: Any) -> None:
    if expected != actual:
        raise SystemExit(f"{name}: the implementation says {actual!r}, expected is {expected!r}")


def _lines(cases: list[dict[str, Any]]) -> str:
    return "[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n"


def made() -> dict[str, str]:
    """Every file but the frozen ones, by its path below this folder."""
    bodies = body_vectors()
    grouped = ",\n".join(f'"{name}": {_lines(cases).rstrip()}' for name, cases in bodies.items())
    return {
        "frames.json": _lines(frame_vectors()),
        "bodies.json": "{\n" + grouped + "\n}\n",
        "negotiation.json": _lines(negotiation_vectors()),
        "verdict.json": _lines(verdict_vectors()),
        "mac.json": _lines(mac_vectors()),
        "manifest.json": _lines(manifest_vectors()),
        **dict(transcripts()),
    }


def stale() -> str:
    """The sentence that names the first file that differs; empty when none does."""
    for name, text in made().items():
        path = HERE / name
        if not path.is_file() or path.read_text() != text:
            return f"{path} differs from what the implementation gives; run python data/vectors/make.py."
    names = {*made(), *(name for name, _ in offers())}
    for path in sorted([*HERE.glob("*.json"), *HERE.glob("*/*.json")]):
        if path.relative_to(HERE).as_posix() not in names:
            return f"{path} is not made by make.py; remove it."
    return next((f"{HERE / name} is missing." for name, _ in offers() if not (HERE / name).is_file()), "")


def main(arguments: list[str]) -> int:
    if "--check" in arguments:
        sentence = stale()
        print(
            sentence or "The vectors are as the implementation gives them.", file=sys.stderr if sentence else sys.stdout
        )
        return 1 if sentence else 0
    wanted = made()
    wanted |= {name: text for name, text in offers() if "--refreeze" in arguments or not (HERE / name).is_file()}
    for name, text in wanted.items():
        path = HERE / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
