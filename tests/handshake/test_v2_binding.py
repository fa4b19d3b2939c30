"""Keys and MACs: every part of them counts, and the specification's example comes out."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.v2 import binding
from tests.handshake.builders import QUICK

VECTORS = Path(__file__).resolve().parents[2] / "data" / "vectors"
PARTS = st.lists(st.text("ab", max_size=3), max_size=4)
BYTES = st.binary(max_size=4)


def test_channel_open_of_the_specification_has_its_mac() -> None:
    key = bytes.fromhex(json.loads((VECTORS / "mac.json").read_text())[0]["key"])
    parts = ("CHANNEL_OPEN", "0123456789abcdef", "multifd[1]", "6e340b9cffb37a989ca544e6bb780a2c", b"")
    assert binding.mac(key, *parts) == "c3106af0d257518c5ec5b9439d2d25dd04aba980b45fbb590094e12d04337fd3"


@QUICK
@given(PARTS, PARTS)
def test_other_parts_have_another_mac_wherever_they_are_cut(one: list[str], other: list[str]) -> None:
    assert (binding.mac(b"key", *one) == binding.mac(b"key", *other)) == (one == other)


@QUICK
@given(st.text(max_size=5))
def test_text_and_its_utf8_bytes_are_the_same_part(text: str) -> None:
    assert binding.mac(b"key", text) == binding.mac(b"key", text.encode())


def test_a_mac_is_64_lower_case_digits_and_depends_on_the_key() -> None:
    mac = binding.mac(b"key", "part")
    assert len(mac) == 64 and mac == mac.lower() and int(mac, 16) and mac != binding.mac(b"yek", "part")


@QUICK
@given(st.tuples(BYTES, BYTES, BYTES))
def test_secret_psk_and_exporter_are_joined_in_this_order(keys: tuple[bytes, bytes, bytes]) -> None:
    expected = hmac.digest(b"".join(keys), b"SourceDestination", "sha256")
    assert binding.session_key(*keys, b"Source", b"Destination") == expected


def test_the_two_transcripts_are_not_interchangeable() -> None:
    one, other = binding.transcript(b"one"), binding.transcript(b"other")
    assert one == hashlib.sha256(b"one").digest()
    assert binding.session_key(b"s", b"", b"", one, other) != binding.session_key(b"s", b"", b"", other, one)


@QUICK
@given(st.text("0123456789abcdefé", max_size=4), st.text("0123456789abcdefé", max_size=4))
def test_two_macs_are_the_same_if_their_texts_are(one: str, other: str) -> None:
    assert binding.same(one, other) == (one == other)
    assert binding.same(one, one)


@pytest.mark.parametrize("size", [1, 8, 16, 32])
def test_random_bytes_are_derived_for_each_purpose(size: int) -> None:
    one = binding.derive(bytes(32), "source nonce 0", size)
    assert len(one) == size
    assert len({binding.derive(e, label, 32) for e in (bytes(32), b"e" * 32) for label in ("a", "b")}) == 4
    assert binding.derive(bytes(32), "source nonce 0", 32).startswith(one)
