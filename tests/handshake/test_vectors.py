"""The vectors in data/vectors: fresh, replayed through the implementation, and the frozen ones still understood."""

from __future__ import annotations

import hmac
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from simlib.handshake.errors import Code
from simlib.handshake.v2 import binding, body, features, frames, manifest, messages, states

VECTORS = Path(__file__).resolve().parents[2] / "data" / "vectors"
_SPEC = importlib.util.spec_from_file_location("make_vectors", VECTORS / "make.py")
assert _SPEC is not None and _SPEC.loader is not None
make = importlib.util.module_from_spec(_SPEC)
sys.modules["make_vectors"] = make
_SPEC.loader.exec_module(make)
import conversations  # noqa: E402
import schema  # noqa: E402


def read(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def named(cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in cases]


def test_the_vectors_are_what_the_implementation_gives() -> None:
    assert make.stale() == ""


def test_the_check_names_the_file_that_differs(tmp_path: Path) -> None:
    for path in (*VECTORS.glob("*"), *VECTORS.glob("*/*")):
        if path.suffix in (".json", ".py"):
            copy = tmp_path / path.relative_to(VECTORS)
            copy.parent.mkdir(exist_ok=True)
            copy.write_text(path.read_text())
    (tmp_path / "mac.json").write_text("[]")
    checked = subprocess.run([sys.executable, tmp_path / "make.py", "--check"], capture_output=True, text=True)
    assert checked.returncode == 1
    assert checked.stderr == f"{tmp_path / 'mac.json'} differs from what the implementation gives; run python " + (
        "data/vectors/make.py.\n"
    )


@pytest.mark.parametrize("case", named(read("frames.json")))
def test_bytes_are_framed_or_refused_as_expected(case: dict[str, Any]) -> None:
    data, expected = bytes.fromhex(case["hex"]), case["expect"]
    if "items" in expected:
        assert make.read_frames(case["reader"], data) == expected["items"]
    else:
        assert make.refusal(case["reader"], data) == expected


@pytest.mark.parametrize("case", named(read("bodies.json")["bodies"]))
def test_a_body_is_read_or_refused_as_expected(case: dict[str, Any]) -> None:
    assert make.read_body(case["message"], bytes.fromhex(case["hex"])) == case["expect"]


@pytest.mark.parametrize("case", named(read("bodies.json")["canonical"]))
def test_the_canonical_form_of_a_value_is_the_one_expected(case: dict[str, Any]) -> None:
    assert body.dump(case["value"]).decode() == case["canonical"]
    assert body.digest(case["value"]) == case["sha256"]


@pytest.mark.parametrize("case", named(read("negotiation.json")))
def test_two_lists_of_stances_give_the_expected_agreement(case: dict[str, Any]) -> None:
    assert make.negotiated(case["source"], case["destination"], case["main"] == "inline") == case["expect"]


@pytest.mark.parametrize("case", named(read("negotiation.json")))
def test_the_order_of_the_lists_does_not_change_an_agreement(case: dict[str, Any]) -> None:
    inline = case["main"] == "inline"
    assert make.negotiated(case["source"][::-1], case["destination"][::-1], inline) == case["expect"]


@pytest.mark.parametrize("case", named(read("verdict.json")))
def test_two_machines_give_the_expected_verdict(case: dict[str, Any]) -> None:
    assert make.judged(case["source"], case["destination"], case["memory-limit"], case["agreed"]) == case["expect"]


@pytest.mark.parametrize("code", [c for c in Code if c.category in ("machine", "device")])
def test_every_code_of_a_machine_or_a_device_has_a_verdict(code: str) -> None:
    assert any(code == finding[0] for case in read("verdict.json") for finding in case["expect"]["findings"])


@pytest.mark.parametrize("case", named(read("mac.json")))
def test_keys_and_macs_are_the_ones_expected(case: dict[str, Any]) -> None:
    inputs = (bytes.fromhex(case[k]) for k in ("secret", "psk", "exporter", "h_S", "h_D"))
    key = binding.session_key(*inputs)
    assert key.hex() == case["key"]
    assert [hmac.digest(key, bytes.fromhex(m["input"]), "sha256").hex() for m in case["macs"]] == [
        m["mac"] for m in case["macs"]
    ]


@pytest.mark.parametrize("case", named(read("manifest.json")))
def test_a_manifest_is_accepted_or_refused_as_expected(case: dict[str, Any]) -> None:
    errors = manifest.check(bytes.fromhex(case["hex"]), make.settings_of(case["destination"]))
    assert [e.code for e in errors] == case["expect"]


@pytest.mark.parametrize("at_a_time", [1, 7, 1 << 30])
@pytest.mark.parametrize("role", ["source", "destination"])
@pytest.mark.parametrize("name", conversations.CONVERSATIONS)
def test_a_transcript_replays_to_the_byte_however_it_is_cut(name: str, role: str, at_a_time: int) -> None:
    transcript = read(f"transcripts/{name}.json")
    side = conversations.replayed(conversations.CONVERSATIONS[name], role, transcript["steps"], at_a_time)
    own = [s for s in transcript["steps"] if s["from"] == role]
    assert conversations.bytes_of(side.wire) == conversations.bytes_of(own)
    assert side.outcome() == transcript["outcome"][role]


@pytest.mark.parametrize("path", sorted(VECTORS.glob("offers/*.json")), ids=lambda p: p.stem)
def test_a_frozen_offer_is_still_understood_with_its_frozen_verdict(path: Path) -> None:
    offer = json.loads(path.read_text())
    flight = bytes.fromhex(offer["hex"])
    answers = [make.answered(flight, e["destination"], offer["configuration"]) for e in offer["expect"]]
    assert answers == offer["expect"]


def bodies_of(steps: list[dict[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """Every body in the frames of a transcript, with the name of its message, continued frames joined."""
    for by, conn in {(s["from"], s["connection"]) for s in steps if "hex" in s}:
        own = [s for s in steps if s["from"] == by and s.get("connection") == conn]
        data = b"".join(bytes.fromhex(s["hex"]) for s in own if "hex" in s)
        at, payload = int.from_bytes(data[8:10]), b""
        while at + 12 <= len(data) and (data[at + 4] in frames.NAMES or data[at + 4] >= 0x80):
            size, type, flags = int.from_bytes(data[at : at + 4]), data[at + 4], data[at + 5]
            at += 12 + size
            if type not in messages.MESSAGES:
                continue
            payload += data[at - size : at]
            if not flags & frames.MORE:
                yield frames.NAMES[type], payload
                payload = b""
            if type in (messages.ChannelOpen.TYPE, messages.ChannelOk.TYPE):
                break  # what follows is no frame


def fits(message: str, payload: bytes) -> bool:
    """Whether a stock validator of JSON Schema accepts a body."""
    return VALIDATORS[message].is_valid(json.loads(payload))


SCHEMA = schema.bodies()
VALIDATORS = {name: jsonschema.Draft202012Validator(SCHEMA | {"$ref": f"#/$defs/{name}"}) for name in SCHEMA["$defs"]}


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["$defs"]) == {*(m.NAME for m in messages.MESSAGES.values()), "manifest"}


@pytest.mark.parametrize("name", conversations.CONVERSATIONS)
def test_the_schema_accepts_every_body_of_a_transcript(name: str) -> None:
    seen = list(bodies_of(read(f"transcripts/{name}.json")["steps"]))
    assert "HELLO" in {message for message, _ in seen}
    assert [message for message, payload in seen if not fits(message, payload)] == []


@pytest.mark.parametrize("case", named(read("bodies.json")["bodies"]))
def test_the_schema_refuses_what_the_implementation_refuses_as_far_as_a_schema_can_tell(case: dict[str, Any]) -> None:
    payload = bytes.fromhex(case["hex"])
    beyond = (
        "twice",
        "257 ignorable keys",
        "17 levels",
        "surrogate",
        "exponent",
        "65 bits below",
        "upside down",
    )  # rules that a schema can't express
    try:
        value = json.loads(payload.decode())
    except ValueError:
        assert case["expect"]["error"] == "encoding"
        return
    if "error" not in case["expect"]:
        assert VALIDATORS[case["message"]].is_valid(value)
    elif not any(words in case["name"] for words in beyond):
        assert not VALIDATORS[case["message"]].is_valid(value)


def test_every_code_that_crosses_the_wire_or_ends_a_side_occurs_in_a_vector() -> None:
    local = {"port", "connect", "transport-one-way"}  # reserved, or of what no bytes lead to
    text = "".join(path.read_text() for path in VECTORS.glob("**/*.json"))
    text += "".join(bytes.fromhex(h).decode("latin-1") for h in re.findall(r'"hex": "([0-9a-f]+)"', text))
    assert sorted(code for code in set(Code) - local if f'"{code}"' not in text) == []


def test_the_specification_names_all_that_the_implementation_knows() -> None:
    text = (VECTORS / "SPEC.md").read_text()
    words = set(re.findall(r"[A-Z_]{2,}|`[^`]+`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    keys = {key.rstrip("?") for shape in messages.SHAPES.values() for key in shape}
    marked = {*Code, *features.DEPENDS, *states.SourceState, *states.DestinationState, *keys} - {"none"}
    wanted = {*frames.NAMES.values(), *(f"`{word}`" for word in marked)}
    assert sorted(wanted - words) == []


def test_the_specification_explains_every_code_once() -> None:
    text = (VECTORS / "SPEC.md").read_text().partition("## 6 ")[2].partition("## 8 ")[0]
    codes = re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE)
    assert sorted(codes) == sorted(Code)
