"""The facts before a saved stream: where the stream begins, what is refused, and what is compared without a peer."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.errors import Error, PeerError
from simlib.handshake.machine import Device, RamBlock, Settings
from simlib.handshake.v2 import body, manifest, wire
from simlib.handshake.v2.manifest import LIMIT_BYTES, Manifest
from tests.handshake.builders import FEW, SETTINGS, SMALL, small

GOOD = manifest.write(small("multifd"))


def file(content: bytes, size: int | None = None) -> bytes:
    """A manifest of this body, with the right checksum."""
    data = b"\x89QMF\r\n\x1a\n" + (len(content) if size is None else size).to_bytes(4, "big") + content
    return data + hashlib.sha256(data).digest()


def refused(data: bytes) -> Error:
    with pytest.raises(PeerError) as raised:
        manifest.read(data)
    return raised.value.error


@FEW
@given(SETTINGS, st.integers(0, 5000), st.binary(max_size=20))
def test_what_is_written_is_read_back_and_the_stream_follows_at_once(
    settings: Settings, size: int, stream: bytes
) -> None:
    data = manifest.write(settings, size)
    machine, capabilities, end = manifest.read(data + stream)
    assert end == len(data) == max(size, len(manifest.write(settings)))
    assert capabilities == settings.capabilities
    devices = tuple(replace(d, size_bytes=0) for d in settings.machine.devices)
    blocks = tuple(replace(b, resizable=False) for b in settings.machine.ram_blocks)
    assert machine == replace(settings.machine, devices=devices, ram_blocks=blocks)


def test_the_file_is_magic_length_body_and_checksum() -> None:
    content = body.dump(wire.to_body(Manifest.of(small("multifd"))))
    assert file(content) == GOOD
    assert file(content + b" " * 7) == manifest.write(small("multifd"), len(GOOD) + 7)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no manifest: the file begins "),
        (b"QEVM\0\0\0\3more", "no manifest: the file begins 51 45 56 4d 00 00 00 03"),
        (GOOD[:7], "no manifest: the file begins 89 51 4d 46 0d 0a 1a"),
        (GOOD[:11], "the manifest is cut short"),
        (GOOD[:-1], f"the manifest is cut short: {len(GOOD) - 1} of {len(GOOD)} bytes"),
        (GOOD[:-1] + bytes([GOOD[-1] ^ 1]), "the manifest's checksum is wrong"),
        (GOOD[:20] + bytes([GOOD[20] ^ 1]) + GOOD[21:], "the manifest's checksum is wrong"),
        (GOOD[:8] + b"\0\x40\0\1", f"a manifest of {LIMIT_BYTES + 1} bytes; {LIMIT_BYTES} are allowed"),
        (GOOD[:8] + b"\0\x40\0\0", f"the manifest is cut short: 12 of {LIMIT_BYTES + 44} bytes"),
    ],
)
def test_what_is_no_manifest_is_refused_in_words(data: bytes, text: str) -> None:
    error = refused(data)
    assert (error.code, error.text) == ("manifest", text)
    assert manifest.check(data, small()) == (error,)


def test_a_manifest_of_four_mebibytes_is_read() -> None:
    data = manifest.write(small(), LIMIT_BYTES + 12 + 32)
    assert manifest.read(data)[2] == LIMIT_BYTES + 44


@pytest.mark.parametrize(
    ("change", "code", "item"),
    [
        ({"new": 1}, "unknown-key", "manifest.new"),
        ({"devices": {}}, "unknown-value", "manifest.devices"),
        ({"devices": [wire.to_body(Device("d"))] * 2}, "unknown-value", "manifest.devices"),
        ({"ram-blocks": [wire.to_body(RamBlock("r", 1))] * 2}, "unknown-value", "manifest.ram-blocks"),
        ({"ram-blocks": [wire.to_body(RamBlock("r", -1))]}, "unknown-value", "manifest.ram-blocks[0].size"),
        (
            {"devices": [wire.to_body(Device("d")) | {"subsections": [["s"]]}]},
            "unknown-value",
            "manifest.devices[0].subsections",
        ),
    ],
)
def test_a_bad_body_has_its_own_code(change: dict[str, object], code: str, item: str) -> None:
    error = refused(file(body.dump(wire.to_body(Manifest.of(small())) | change)))
    assert (error.code, error.item) == (code, item)


@pytest.mark.parametrize("name", ["mapped-ram", "x-ignore-shared"])
def test_what_changes_the_bytes_of_a_file_must_be_set_alike(name: str) -> None:
    for saved, here in ((True, False), (False, True)):
        data = manifest.write(small(*[name] * saved))
        (error,) = manifest.check(data, small(*[name] * here))
        words = {True: "on", False: "off"}
        assert (error.code, error.item) == ("feature-required", f"feature[{name}]")
        assert (error.source, error.destination) == (words[saved], words[here])
        assert error.text == f"The stream was saved with {name} {words[saved]}."
        assert manifest.check(data, small(*[name] * saved)) == ()


def test_other_capabilities_may_differ_and_both_of_these_are_told() -> None:
    assert manifest.check(GOOD, small("postcopy-ram")) == ()
    errors = manifest.check(GOOD, small("x-ignore-shared", "mapped-ram"))
    assert [e.item for e in errors] == ["feature[mapped-ram]", "feature[x-ignore-shared]"]


def test_the_verdict_needs_no_agreement_and_comes_before_the_features() -> None:
    saved = replace(small("validate-uuid", "postcopy-ram"), machine=replace(SMALL, uuid="a" * 32, vcpus=2))
    blocks = (replace(SMALL.ram_blocks[0], page_bytes=2 << 20),)
    here = replace(small("x-ignore-shared"), machine=replace(SMALL, uuid="b" * 32, ram_blocks=blocks))
    codes = [e.code for e in manifest.check(manifest.write(saved), here)]
    assert codes == ["vcpus", "feature-required"]
