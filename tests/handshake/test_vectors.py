"""The vectors in data/vectors: fresh, replayed through the implementation, and the frozen ones still understood."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simlib.handshake.errors import Code
from simlib.handshake.v2 import binding, body, features, frames, manifest, messages, states

VECTORS = Path(__file__).resolve().parents[2] / "data" / "vectors"
_SPEC = importlib.util.spec_from_file_location("make_vectors", VECTORS / "make.py")
assert _SPEC is not None and _SPEC.loader is not None
make = importlib.util.module_from_spec(_SPEC)
sys.modules["make_vectors"] = make
_SPEC.loader.exec_module(make)


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
    assert make.negotiated(case["source"], case["destination"]) == case["expect"]


@pytest.mark.parametrize("case", named(read("negotiation.json")))
def test_the_order_of_the_lists_does_not_change_an_agreement(case: dict[str, Any]) -> None:
    assert make.negotiated(case["source"][::-1], case["destination"][::-1]) == case["expect"]


@pytest.mark.parametrize("case", named(read("verdict.json")))
def test_two_machines_give_the_expected_verdict(case: dict[str, Any]) -> None:
    assert make.judged(case["source"], case["destination"], case["memory-limit"]) == case["expect"]


@pytest.mark.parametrize("code", [c for c in Code if c.category in ("machine", "device")])
def test_every_code_of_a_machine_or_a_device_has_a_verdict(code: str) -> None:
    assert any(code == finding[0] for case in read("verdict.json") for finding in case["expect"]["findings"])


@pytest.mark.parametrize("case", named(read("mac.json")))
def test_keys_and_macs_are_the_ones_expected(case: dict[str, Any]) -> None:
    inputs = (bytes.fromhex(case[k]) for k in ("secret", "psk", "exporter", "h_S", "h_D"))
    key = binding.session_key(*inputs)
    assert key.hex() == case["key"]
    assert [binding.mac(key, *m["parts"]) for m in case["macs"]] == [m["mac"] for m in case["macs"]]


@pytest.mark.parametrize("case", named(read("manifest.json")))
def test_a_manifest_is_accepted_or_refused_as_expected(case: dict[str, Any]) -> None:
    errors = manifest.check(bytes.fromhex(case["hex"]), make.settings_of(case["destination"]))
    assert [e.code for e in errors] == case["expect"]


@pytest.mark.parametrize("at_a_time", [1, 7, 1 << 30])
@pytest.mark.parametrize("role", ["source", "destination"])
@pytest.mark.parametrize("name", make.CONVERSATIONS)
def test_a_transcript_replays_to_the_byte_however_it_is_cut(name: str, role: str, at_a_time: int) -> None:
    transcript = read(f"transcripts/{name}.json")
    side = make.replayed(make.CONVERSATIONS[name], role, transcript["steps"], at_a_time)
    assert make.bytes_of(side.wire) == make.bytes_of([s for s in transcript["steps"] if s["from"] == role])
    assert side.outcome() == transcript["outcome"][role]


@pytest.mark.parametrize("path", sorted(VECTORS.glob("offers/*.json")), ids=lambda p: p.stem)
def test_a_frozen_offer_is_still_understood_with_its_frozen_verdict(path: Path) -> None:
    offer = json.loads(path.read_text())
    flight = bytes.fromhex(offer["hex"])
    answers = [make.answered(flight, e["destination"], offer["configuration"]) for e in offer["expect"]]
    assert answers == offer["expect"]


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
