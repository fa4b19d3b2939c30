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
from dataclasses import replace
from pathlib import Path
from typing import Any

from simlib.case import profiles
from simlib.handshake import interface as i
from simlib.handshake.errors import PeerError
from simlib.handshake.machine import Device, Machine, RamBlock, Settings, Subsection
from simlib.handshake.v2 import binding, body, features, frames, inventory, manifest, messages, wire
from simlib.handshake.v2.agreement import agreement_body, channel_plan
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.frames import CRITICAL, DATA, HIGHEST, INITIATOR, LOWEST, MORE, RESPONDER, frame
from simlib.handshake.v2.manifest import Manifest
from simlib.handshake.v2.source import Source
from simlib.study.growth import first_answer

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for whoever imports this file
from conversations import (
    COMPLETED,
    CONVERSATIONS,
    NET,
    OVER_TCP,
    SMALL,
    TIMER,
    Conversation,
    Side,
    transcripts,
)
from schema import bodies as schemas

ACCEPT, CHANNEL_OK, GO, HELLO, LOADED, OFFER, REJECT = (
    m.TYPE
    for m in (
        messages.Accept,
        messages.ChannelOk,
        messages.Go,
        messages.Hello,
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


# --- frames ---------------------------------------------------------------------------------------------------------
def _preface(
    magic: bytes = INITIATOR, size: int = 32, lowest: int = LOWEST, highest: int = HIGHEST, flags: int = 0
) -> bytes:
    return magic + struct.pack(">HHHH", size, lowest, highest, flags) + NONCE + bytes(max(0, size - 32))


def _announced(size: int, type: int) -> bytes:
    """The header of a frame without its payload."""
    return struct.pack(">IBBHI", size, type, CRITICAL, 0, 0)


GOOD_FRAMES: list[tuple[str, str, bytes]] = [
    ("a preface", "destination", PREFACE),
    ("a responder's preface", "source", _preface(RESPONDER)),
    ("a preface with every flag set", "destination", _preface(flags=0xFFFF)),
    ("a longer preface of a later version", "destination", _preface(size=48, highest=0x0305) + frame(GO, b"{}")),
    ("the longest preface", "destination", _preface(size=1024)),
    ("an empty frame", "destination", PREFACE + frame(0x90, b"", flags=0)),
    ("a HELLO that is not JSON, which framing does not see", "destination", PREFACE + frame(HELLO, b"hello")),
    ("channel and request are carried, whatever they are", "destination", PREFACE + frame(GO, b"{}", 1, 7, 0xDEADBEEF)),
    ("unknown flag bits", "destination", PREFACE + frame(GO, b"{}", 0xFD)),
    (
        "a frame continued twice",
        "destination",
        PREFACE
        + frame(CHANNEL_OK, b'{"nonce":', CRITICAL | MORE)
        + frame(CHANNEL_OK, b'"x",', MORE)
        + frame(CHANNEL_OK, b'"mac":""}'),
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
    ("the draft 2.0", "destination", _preface(lowest=2, highest=2), "no-common-version", ["REJECT"]),
    ("a source that speaks the draft too", "destination", _preface(lowest=2), "no-common-version", ["REJECT"]),
    ("a later source", "destination", _preface(lowest=0x0300, highest=0x0309), "no-common-version", ["REJECT"]),
    (
        "a later destination",
        "source",
        _preface(RESPONDER, lowest=0x0300, highest=0x0300),
        "no-common-version",
        ["ABORT"],
    ),
    (
        "lowest above highest",
        "destination",
        _preface(lowest=HIGHEST + 1, highest=LOWEST),
        "no-common-version",
        ["REJECT"],
    ),
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
    ("a ping of 65 bytes", "destination", PREFACE + _announced(65, frames.PING), "frame-too-big", ["REJECT"]),
    ("PING before HELLO", "destination", PREFACE + frame(frames.PING, b""), "bad-state", ["REJECT"]),
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
    side = Conversation("", OVER_TCP, OVER_TCP, COMPLETED).sides()[reader]
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
_HELLO = {"role": "source", "main": "separate", "implementation": "any", "qemu-version": "10.0"}
_ON: dict[str, Any] = {"name": "multifd", "need": "prefer"}
_ACCEPT: dict[str, Any] = {
    "features": [_ON],
    "agreement": {"features": {"multifd": {}}, "channels": ["main"], "session-id": SESSION},
    "session-id": SESSION,
    "secret": "00" * 32,
    "channels": ["main"],
    "verdict": "yes",
    "warnings": [],
    "skipped": [["xbzrle", "source: prefer, destination: forbid"]],
    "config": {},
}
_OFFER: dict[str, Any] = wire.to_body(
    messages.offer(OVER_TCP, SessionConfig(), (features.FeatureOffer("final-ack", features.REQUIRE),))
)


def _stanced(**stance: Any) -> dict[str, Any]:
    """An ACCEPT with that stance alone."""
    return _ACCEPT | {"features": [stance]}


def _subsection(*needed: str) -> dict[str, Any]:
    """An OFFER of one device, with one subsection."""
    device = {**_OFFER["devices"][0], "subsections": [["timer/new", 1, *needed]]}
    return _OFFER | {"devices": [device]}


def _nested(version: int) -> dict[str, Any]:
    """An OFFER of one device, with one nested description."""
    return _OFFER | {"devices": [{**_OFFER["devices"][0], "nested": [["core", version, 0]]}]}


# name, message, payload, error code or "" (accepted)
BODIES: list[tuple[str, str, bytes, str]] = [
    ("as it should be", "LOADED", b'{"bytes":4096}', ""),
    ("spaces and line ends between tokens", "LOADED", b' {\r\n\t"bytes" : 4096 } ', ""),
    ("a body without keys", "GO", b"{}", ""),
    ("an ignorable key", "GO", b'{"?grease-1f":[1,{"a":null}]}', ""),
    ("a known key with a mark is that key", "LOADED", b'{"?bytes":7}', ""),
    ("an optional key is absent", "HELLO", body.dump(_HELLO), ""),
    ("an optional key", "HELLO", body.dump(_HELLO | {"session": "this one"}), ""),
    ("escapes", "CHANNEL_OK", b'{"nonce":"\\u00e9\\ud83d\\ude00\\n\\/","mac":""}', ""),
    ("UTF-8", "CHANNEL_OK", '{"nonce":"é😀","mac":""}'.encode(), ""),
    ("the largest integer", "LOADED", b'{"bytes":18446744073709551615}', ""),
    ("the smallest integer", "GO", b'{"?least":-9223372036854775808}', ""),
    ("16 levels", "GO", _NESTED, ""),
    ("256 ignorable keys", "GO", json.dumps({f"?{n}": 0 for n in range(256)}).encode(), ""),
    ("4096 characters", "CHANNEL_OK", json.dumps({"nonce": "x" * 4096, "mac": ""}).encode(), ""),
    ("brackets in a string are not depth", "CHANNEL_OK", json.dumps({"nonce": "[" * 40, "mac": ""}).encode(), ""),
    ("17 levels", "GO", _NESTED.replace(b"[]", b"[[]]"), "encoding"),
    ("a fraction", "LOADED", b'{"bytes":1.5}', "encoding"),
    ("an exponent", "LOADED", b'{"bytes":1e3}', "encoding"),
    ("not a number", "LOADED", b'{"bytes":NaN}', "encoding"),
    ("65 bits", "LOADED", b'{"bytes":18446744073709551616}', "encoding"),
    ("65 bits below", "GO", b'{"?least":-9223372036854775809}', "encoding"),
    ("half of a surrogate pair", "CHANNEL_OK", b'{"nonce":"\\ud83d","mac":""}', "encoding"),
    ("a key twice", "LOADED", b'{"bytes":1,"bytes":1}', "encoding"),
    ("a key twice, once with a mark", "LOADED", b'{"bytes":1,"?bytes":1}', "encoding"),
    ("an ignorable key twice", "GO", b'{"?a":1,"?a":1}', "encoding"),
    ("bytes after the object", "GO", b"{}{}", "encoding"),
    ("cut short", "LOADED", b'{"bytes":', "encoding"),
    ("nothing at all", "GO", b"", "encoding"),
    ("a list", "GO", b"[]", "encoding"),
    ("null", "GO", b"null", "encoding"),
    ("not UTF-8", "CHANNEL_OK", b'{"nonce":"\xff","mac":""}', "encoding"),
    ("a byte order mark", "GO", b"\xef\xbb\xbf{}", "encoding"),
    ("a raw control character in a string", "CHANNEL_OK", b'{"nonce":"\n","mac":""}', "encoding"),
    ("a leading zero", "LOADED", b'{"bytes":01}', "encoding"),
    ("an unknown key", "GO", b'{"fast":true}', "unknown-key"),
    ("a key that lacks", "LOADED", b"{}", "unknown-value"),
    ("a string for an integer", "LOADED", b'{"bytes":"1"}', "unknown-value"),
    ("a boolean for an integer", "LOADED", b'{"bytes":true}', "unknown-value"),
    ("null for an integer", "LOADED", b'{"bytes":null}', "unknown-value"),
    ("a negative count", "LOADED", b'{"bytes":-1}', "unknown-value"),
    ("an ACCEPT of no", "ACCEPT", body.dump(_ACCEPT | {"verdict": "no"}), "unknown-value"),
    ("a short secret", "ACCEPT", body.dump(_ACCEPT | {"secret": "00"}), "unknown-value"),
    ("a stance that is none", "ACCEPT", body.dump(_stanced(name="x", need="perhaps")), "unknown-value"),
    ("a feature twice", "ACCEPT", body.dump(_ACCEPT | {"features": [_ON, _ON]}), "unknown-value"),
    ("a range", "ACCEPT", body.dump(_stanced(**_ON, parameters={"p": [1, 2]})), ""),
    ("a range upside down", "ACCEPT", body.dump(_stanced(**_ON, parameters={"p": [2, 1]})), "unknown-value"),
    ("a choice with one twice", "ACCEPT", body.dump(_stanced(**_ON, parameters={"p": ["a", "a"]})), "unknown-value"),
    ("a config that is no object", "ACCEPT", body.dump(_ACCEPT | {"config": []}), "unknown-value"),
    ("a range of booleans", "ACCEPT", body.dump(_stanced(**_ON, parameters={"p": [True, True]})), "unknown-value"),
    ("a set", "ACCEPT", body.dump(_stanced(**_ON, parameters={"p": {"set": ["a", "b"]}})), ""),
    (
        "a set with one twice",
        "ACCEPT",
        body.dump(_stanced(**_ON, parameters={"p": {"set": ["a", "a"]}})),
        "unknown-value",
    ),
    ("an empty set", "ACCEPT", body.dump(_stanced(**_ON, parameters={"p": {"set": []}})), "unknown-value"),
    ("an empty choice", "ACCEPT", body.dump(_stanced(**_ON, parameters={"p": []})), "unknown-value"),
    ("an OFFER", "OFFER", body.dump(_OFFER), ""),
    ("a device twice", "OFFER", body.dump(_OFFER | {"devices": _OFFER["devices"][:1] * 2}), "unknown-value"),
    ("a memory block twice", "OFFER", body.dump(_OFFER | {"ram-blocks": _OFFER["ram-blocks"] * 2}), "unknown-value"),
    ("a subsection that is sent perhaps", "OFFER", body.dump(_subsection("perhaps")), "unknown-value"),
    ("a nested version below zero", "OFFER", body.dump(_nested(-1)), "unknown-value"),
    ("a subsection's row too short", "OFFER", body.dump(_subsection()), "unknown-value"),
    ("on-maybe is something else", "OFFER", body.dump(_OFFER | {"on-maybe": "ask"}), "unknown-value"),
    ("an ERROR without an error", "ERROR", b'{"errors":[]}', "unknown-value"),
    ("an object for a list", "ERROR", b'{"errors":{}}', "unknown-value"),
    ("a string for an object", "ERROR", b'{"errors":["x"]}', "unknown-value"),
    ("257 ignorable keys", "GO", json.dumps({f"?{n}": 0 for n in range(257)}).encode(), "too-much"),
    ("4097 characters", "CHANNEL_OK", json.dumps({"nonce": "x" * 4097, "mac": ""}).encode(), "too-much"),
    ("8193 items", "READY", body.dump({"channels": [["", ""]] * 8193, "mac": ""}), "too-much"),
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
        content = body.load(payload, messages.SHAPES[MESSAGE[message]], message)
        messages.read(MESSAGE[message], content)
        return {"sha256": body.digest(content)}
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
    """Of "multifd+ channels=1..8 compression=zstd|none with=a&b, xbzrle": ! require, + prefer, - forbid, nothing:
    allow; a parameter is a range, a choice or a set."""
    stances = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, *words = part.split()
        need = {"!": "require", "+": "prefer", "-": "forbid"}.get(name[-1], "allow")
        stance: dict[str, Any] = {"name": name.rstrip("!+") if need != "forbid" else name[:-1], "need": need}
        if words:
            pairs = [g.split("=") for g in words]
            stance["parameters"] = {k: _values(v) for k, v in pairs}
        stances.append(stance)
    return stances


def _values(text: str) -> Any:
    """A range, a set or a choice."""
    if ".." in text:
        return [int(n) for n in text.split("..")]
    return {"set": text.strip("&").split("&")} if "&" in text else text.split("|")


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
        "of sets, what is in both",
        "x-later+ devices=c&a&b",
        "x-later devices=d&b&a",
        {"x-later": {"devices": ["a", "b"]}},
        [],
        [],
    ),
    ("sets without anything in both", "x-later+ devices=a&", "x-later devices=b&", {}, ["x-later"], []),
    ("a set against a choice has nothing in common", "x-later+ devices=a&", "x-later devices=a", {}, ["x-later"], []),
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
        "multifd+, xbzrle+, compress+",
        "multifd, xbzrle, compress",
        {"multifd": {}},
        ["xbzrle", "compress"],
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
    ("main is inline: multifd is skipped", "multifd+", "multifd", {}, ["multifd"], []),
    ("main is inline, multifd is allowed: not a word", "multifd", "multifd", {}, [], []),
    (
        "main is inline, and multifd required",
        "multifd!",
        "multifd",
        {},
        [],
        [["feature-required", "feature[multifd]"]],
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


def negotiated(source: list[dict[str, Any]], destination: list[dict[str, Any]], inline: bool) -> dict[str, Any]:
    agreement = features.resolve(messages.read_stances(source), messages.read_stances(destination), inline)
    result: dict[str, Any] = {
        "on": agreement.body(),
        "skipped": [name for name, _ in agreement.skipped],
        "errors": [[e.code, e.item, e.source, e.destination] for e in agreement.errors],
    }
    if not agreement.errors:
        result["agreement"] = agreement_body(agreement, channel_plan(agreement, inline), SESSION)
        result["digest"] = body.digest(result["agreement"])
    return result


def negotiation_vectors() -> list[dict[str, Any]]:
    cases = []
    for name, one, other, on, skipped, errors in NEGOTIATIONS:
        source, destination = _stances(one), _stances(other)
        main = "inline" if name.startswith("main is inline") else "separate"
        result = negotiated(source, destination, main == "inline")
        _must(name, (on, skipped, errors), (result["on"], result["skipped"], [e[:2] for e in result["errors"]]))
        cases.append({"name": name, "main": main, "source": source, "destination": destination, "expect": result})
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
_UUIDS = [{"uuid": digit * 32} for digit in "ab"]
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
    (
        "a subsection that is always sent, and the device there has no description",
        _device(subsections=(Subsection("new", 1, "always"),)),
        _device(described=False),
        0,
        "maybe",
        [("device-subsection", f"{_NET}.new")],
    ),
    ("a subsection that is never sent", _device(subsections=(Subsection("new", 1, "never"),)), _same, 0, "yes", []),
    (
        "a subsection of a later version",
        _device(subsections=(Subsection("virtio-net-device/rss", 2, "always"),)),
        _same,
        0,
        "no",
        [("device-subsection", f"{_NET}.virtio-net-device/rss")],
    ),
    (
        "a subsection of a later version that may be sent",
        _device(subsections=(Subsection("virtio-net-device/rss", 2, "maybe"),)),
        _same,
        0,
        "maybe",
        [("device-subsection", f"{_NET}.virtio-net-device/rss")],
    ),
    ("another UUID", _with(**_UUIDS[0]), _with(**_UUIDS[1]), 0, "yes", []),
    (
        "another UUID, with validate-uuid",
        _with(**_UUIDS[0]),
        _with(**_UUIDS[1]),
        0,
        "no",
        [("uuid", "machine.uuid")],
    ),
    ("pages of another size", _same, _with(ram_blocks=(RamBlock("pc.ram", 1 << 20, 2 << 20),)), 0, "yes", []),
    (
        "pages of another size, with postcopy-ram",
        _same,
        _with(ram_blocks=(RamBlock("pc.ram", 1 << 20, 2 << 20),)),
        0,
        "no",
        [("ram-page-size", "ram-block[pc.ram]")],
    ),
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
    ("other fields, one of the two not described", _same, _device(schema="33" * 8, described=False), 0, "yes", []),
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
    messages.check_facts(checked, "facts")
    sent = checked | {"capabilities": [], "qemu-version": ""}
    machine = messages.whole_machine(wire.from_body(Manifest, sent, ""))
    blocks = tuple(replace(b, resizable=b.name in facts.get("resizable", ())) for b in machine.ram_blocks)
    return replace(machine, aliases=tuple(facts.get("aliases", ())), ram_blocks=blocks)


def judged(source: dict[str, Any], destination: dict[str, Any], limit_bytes: int, agreed: list[str]) -> dict[str, Any]:
    uuid_checked, postcopy = "validate-uuid" in agreed, "postcopy-ram" in agreed
    errors = inventory.compare(machine_of(source), machine_of(destination), limit_bytes, uuid_checked, postcopy)
    findings = [[e.code, e.item, e.severity, e.source, e.destination, e.retry] for e in errors]
    return {"verdict": inventory.verdict(errors), "findings": findings}


def verdict_vectors() -> list[dict[str, Any]]:
    cases = []
    for name, one, other, limit, verdict, findings in VERDICTS:
        source, destination = facts_of(one(SMALL), False), facts_of(other(SMALL), True)
        agreed = [name.rpartition(" with ")[2]] if ", with " in name else []
        result = judged(source, destination, limit, agreed)
        _must(name, (verdict, findings), (result["verdict"], [tuple(f[:2]) for f in result["findings"]]))
        terms = {"memory-limit": limit, "agreed": agreed}
        cases.append({"name": name, "source": source, "destination": destination, **terms, "expect": result})
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
            ["CHANNEL_OPEN", SESSION, "multifd[1]", nonces[0], exporter],
            ["CHANNEL_OK", "multifd[1]", nonces[0], nonces[1]],
            ["READY"],
            ["READY", "main", nonces[2], "multifd[0]", nonces[1], "multifd[1]", nonces[0]],
        ):
            bytes_of = [p if isinstance(p, bytes) else p.encode() for p in parts]
            raw = b"".join(struct.pack(">I", len(p)) + p for p in bytes_of)
            shown = [p.hex() if isinstance(p, bytes) else p for p in parts]
            case["macs"].append({"parts": shown, "input": raw.hex(), "mac": binding.mac(key, *parts)})
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
    return {"destination": version, **first_answer(flight, settings)}


def offers() -> Iterator[tuple[str, str]]:
    for version, configuration, grease in OFFERS:
        settings = Settings(version, profiles.machine(version, configuration))
        case = Conversation("", settings, settings, COMPLETED)
        side = Side(Source(settings, SessionConfig(b"S" * 32, grease=grease)), case)
        flight = bytes.fromhex(side.wire[0]["hex"])
        offer = {
            "about": f"the first flight of QEMU {version} with {configuration}; frozen: it is accepted for ever",
            "qemu-version": version,
            "configuration": configuration,
            "hex": flight.hex(),
            "expect": [answered(flight, other, configuration) for other in ("7.2", "10.0")],
        }
        yield (
            f"offers/v2.1-{version}-{configuration}{'-grease' if grease else ''}.json",
            json.dumps(offer, indent=1) + "\n",
        )


# --- transcripts ----------------------------------------------------------------------------------------------------
def transcript_vectors() -> Iterator[tuple[str, str]]:
    for name, transcript in transcripts():
        ends = CONVERSATIONS[name].ends
        outcome = [" ".join([side["status"], *side["codes"]]) for side in transcript["outcome"].values()]
        _must(name, list(ends), outcome)
        case = CONVERSATIONS[name]
        there = facts_of(case.destination.machine, True) | {"session": case.sessions[1], "on-maybe": "warn"}
        transcript = transcript | {"destination": there | {"capabilities": list(case.destination.capabilities)}}
        yield f"transcripts/{name}.json", json.dumps(transcript, indent=1) + "\n"


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
        "schema.json": json.dumps(schemas(), indent=1) + "\n",
        **dict(transcript_vectors()),
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
