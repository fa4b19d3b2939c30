"""Urgent pages are passed over however they are cut; a multifd channel's first packet is checked in QEMU's order."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake import stream
from simlib.handshake.buffer import Buffer
from simlib.handshake.machine import Machine, Settings
from simlib.handshake.v1.channels import skip_urgent_pages, wrong_initial
from simlib.handshake.versions import Behaviour, behaviour
from tests.handshake.builders import QUICK, SIZES, cut

UUID = "00112233445566778899aabbccddeeff"
CHANNELS = 3
OURS = Settings("11.1", Machine(uuid=UUID), ("multifd",), (("multifd-channels", CHANNELS),))
OLD, NEW = behaviour("11.0"), behaviour("11.1")  # the latter looks at the number first
RECORDS = st.lists(st.integers(0, 40).map(lambda pages: 4096 * pages), max_size=5)


def record(size_bytes: int) -> stream.Piece:
    return struct.pack(">Q", size_bytes | stream.RAM_PAGE) + b"\x06pc.ram", size_bytes


def packet(number: int = 0, *, magic: bytes = stream.MULTIFD_MAGIC, version: int = 1, uuid: str = UUID) -> bytes:
    return magic + struct.pack(">I", version) + bytes.fromhex(uuid) + bytes([number]) + bytes(39)


@QUICK
@given(RECORDS, SIZES)
def test_all_urgent_pages_are_counted_however_they_are_cut(records: list[int], sizes: list[int]) -> None:
    buffer, left, passed = Buffer(), 0, 0
    for data, fill in cut([record(size) for size in records], sizes):
        buffer, left, more = skip_urgent_pages(buffer.add(data, fill), left)
        passed += more
    assert (len(buffer), left, passed) == (0, 0, sum(records))


@QUICK
@given(st.integers(1, 14))
def test_a_record_whose_head_is_incomplete_waits(size: int) -> None:
    head, _ = record(4096)
    buffer, left, passed = skip_urgent_pages(Buffer(head[:size]), 0)
    assert (buffer, left, passed) == (Buffer(head[:size]), 0, 0)
    assert skip_urgent_pages(buffer.add(head[size:]), left) == (Buffer(), 4096, 0)


@QUICK
@given(st.integers(0, 8191))
def test_pages_that_are_on_their_way_are_still_awaited(came: int) -> None:
    head, size = record(8192)
    assert skip_urgent_pages(Buffer().add(head, came), 0) == (Buffer(), size - came, came)


@pytest.mark.parametrize("rules", [OLD, NEW])
@QUICK
@given(number=st.integers(0, CHANNELS - 1), taken=st.sets(st.integers(0, CHANNELS - 1)))
def test_a_packet_with_a_number_that_is_free_is_in_order(rules: Behaviour, number: int, taken: set[int]) -> None:
    text, index = wrong_initial(packet(number), OURS, rules, tuple(taken))
    assert index == number and text == (f"received id '{number}' already setup'" if number in taken else "")


@pytest.mark.parametrize(
    ("data", "text", "index"),
    [
        (packet(2, magic=b"QEVM"), "received packet magic 5145564d expected 11223344", 1),
        (packet(2, version=2), "received packet version 2 expected 1", 2),
        (packet(2, uuid="f" * 32), f"received uuid '{'f' * 32}' and expected uuid '{UUID}'", 2),
        (packet(0), "received id '0' already setup'", 0),
        # the first mistake counts
        (packet(9, magic=b"QEVM", version=2, uuid="f" * 32), "received packet magic 5145564d expected 11223344", 1),
        (packet(9, version=2, uuid="f" * 32), "received packet version 2 expected 1", 9),
        (packet(9, uuid="f" * 32), f"received uuid '{'f' * 32}' and expected uuid '{UUID}'", 9),
    ],
)
def test_a_wrong_packet_is_refused_with_its_number_or_with_the_next_one(data: bytes, text: str, index: int) -> None:
    for rules in (OLD, NEW):
        assert wrong_initial(data, OURS, rules, (0,)) == (text, index)


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        (CHANNELS - 1, "", ""),
        (CHANNELS, "received id '3' already setup'", "received channel id 3 exceeds channel count 3"),
        (
            CHANNELS + 1,
            "received channel id 4 is greater than number of channels 3",
            "received channel id 4 exceeds channel count 3",
        ),
    ],
)
def test_a_number_beyond_the_channels_is_noticed_at_their_count_from_11_1_on(number: int, old: str, new: str) -> None:
    assert wrong_initial(packet(number), OURS, OLD, ()) == (old, number)
    assert wrong_initial(packet(number), OURS, NEW, ()) == (new, number)


@pytest.mark.parametrize("uuid", [UUID, "0" * 32])
def test_a_machine_without_a_uuid_expects_zeros(uuid: str) -> None:
    text, _ = wrong_initial(packet(uuid=uuid), replace(OURS, machine=Machine()), NEW, ())
    assert text == ("" if uuid == "0" * 32 else f"received uuid '{uuid}' and expected uuid '{'0' * 32}'")
