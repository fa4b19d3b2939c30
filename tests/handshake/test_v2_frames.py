"""The bytes around every message: in any pieces, each limit at its edge, each wrong beginning by its name."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.errors import Error, PeerError
from simlib.handshake.v2 import frames
from simlib.handshake.v2.frames import CRITICAL, DATA, INITIATOR, MORE, RESPONDER, Frame, Limits, Preface, Reader
from tests.handshake.builders import QUICK, SIZES, cut

NONCE = bytes(range(16))
HEAD = frames.preface(INITIATOR, NONCE)
FRAMES = st.builds(
    Frame,
    st.sampled_from((0x01, 0x0B, 0x99)),
    st.binary(max_size=60),
    st.sampled_from((0, CRITICAL, 0xFC)),
    st.integers(0, 65535),
    st.integers(0, (1 << 32) - 1),
)
TIGHT = Limits(frame_bytes=10, data_bytes=20, handshake_bytes=100, ignorable=3)


def read(data: bytes, limits: Limits = Limits(), **state: object) -> tuple[Reader, list[Preface | Frame]]:
    """All that these bytes complete, and the reader behind it."""
    reader, items = Reader(INITIATOR, limits)._replace(**state).add(data), []
    while True:
        reader, item = reader.next()
        if item is None:
            return reader, items
        items.append(item)


def refused(data: bytes, limits: Limits = Limits(), **state: object) -> Error:
    with pytest.raises(PeerError) as raised:
        read(data, limits, **state)
    return raised.value.error


def raw(one: Frame) -> bytes:
    return frames.frame(one.type, one.payload, one.flags, one.channel, one.request)


def test_a_preface_is_the_one_of_the_specification() -> None:
    assert HEAD.hex() == "89514d530d0a1a0a" + "0020020102010000" + NONCE.hex()
    assert frames.preface(RESPONDER, NONCE, 0xFFFF, 1, 2).hex() == "89514d440d0a1a0a002000010002ffff" + NONCE.hex()


def test_go_is_the_one_of_the_specification() -> None:
    assert frames.frame(0x21, b"{}").hex() == "000000022101000000000000" + b"{}".hex()


@QUICK
@given(st.lists(FRAMES, max_size=4), SIZES)
def test_frames_are_read_as_they_were_written_however_they_are_cut(sent: list[Frame], sizes: list[int]) -> None:
    reader, items = Reader(INITIATOR, Limits()), []
    for data, _ in cut([(HEAD + b"".join(map(raw, sent)), 0)], sizes):
        reader = reader.add(data)
        while True:
            reader, item = reader.next()
            if item is None:
                break
            items.append(item)
    assert items == [Preface(INITIATOR, 0x0201, 0x0201, NONCE), *sent] and len(reader.buffer) == 0


@QUICK
@given(st.binary(max_size=50), st.integers(0, 5000), SIZES)
def test_a_data_frame_is_passed_on_as_it_comes_and_its_stand_in_bytes_are_counted(
    data: bytes, fill: int, sizes: list[int]
) -> None:
    reader, real, zeros = Reader(INITIATOR, Limits(), got_preface=True), b"", 0
    behind = frames.frame(0x21, b"{}")
    for piece in cut([(frames.frame(DATA, data, fill=fill), fill), (behind, 0)], sizes):
        reader = reader.add(*piece)
        while True:
            reader, item = reader.next()
            if item is None:
                break
            assert isinstance(item, Frame)
            if item.type == 0x21:
                assert item.payload == b"{}" and (len(real), zeros) == (len(data), fill)
            real, zeros = real + (item.payload if item.type == DATA else b""), zeros + item.fill
    assert (real, zeros, reader.data_left, len(reader.buffer)) == (data, fill, 0, 0)


# --- the preface ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("size", "fine"), [(31, False), (32, True), (1024, True), (1025, False)])
def test_a_preface_has_32_to_1024_bytes_and_what_is_beyond_32_is_skipped(size: int, fine: bool) -> None:
    data = HEAD[:8] + size.to_bytes(2, "big") + HEAD[10:] + b"x" * (size - 32) + frames.frame(1, b"")
    if fine:
        reader, items = read(data)
        assert [type(item) for item in items] == [Preface, Frame] and reader.spent_bytes == size + 12
        assert read(data[: size - 1])[1] == []
    else:
        assert refused(data[:10]).code == "frame-too-big" and read(data[:9])[1] == []


@pytest.mark.parametrize("expected", [INITIATOR, RESPONDER])
@pytest.mark.parametrize(
    ("first", "code"),
    [
        (b"QEVM", "peer-v1"),
        (b"QEVX", "not-a-handshake"),
        (b"\x11\x22\x33\x44", "not-a-handshake"),
        (b"\x16\x03\x01\x02", "not-a-handshake"),
        (frames.MANIFEST[:4], "not-a-handshake"),
        (b"own", "reflected"),
    ],
)
def test_a_wrong_beginning_is_named_at_its_fourth_byte(expected: bytes, first: bytes, code: str) -> None:
    if first == b"own":
        first = (RESPONDER if expected == INITIATOR else INITIATOR)[:4]
    for size in range(4):
        assert Reader(expected, Limits()).add(first[:size]).next()[1] is None
    with pytest.raises(PeerError) as raised:
        Reader(expected, Limits()).add(first).next()
    assert raised.value.error.code == code


def test_the_first_bytes_of_a_stranger_are_shown() -> None:
    error = refused(b"HTTP/1.1")
    assert (error.source, error.text) == (b"HTTP/1.1".hex(), "the first bytes are 48 54 54 50 2f 31 2e 31")
    assert (refused(b"QEVM").source, refused(b"QEVM").destination) == ("v1", "v2")


def test_a_right_beginning_that_goes_wrong_is_noticed_at_its_first_wrong_byte() -> None:
    assert read(INITIATOR[:6])[1] == []
    assert refused(INITIATOR[:6] + b"\n").code == "not-a-handshake"


# --- limits ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("type", "limit"), [(0x01, 10), (0x99, 10), (DATA, 20)])
def test_a_frame_is_refused_by_its_length_before_its_payload_comes(type: int, limit: int) -> None:
    head = frames.frame(type, b"", fill=limit)
    assert read(head, TIGHT, got_preface=True)[1] == []
    error = refused(frames.frame(type, b"", fill=limit + 1), TIGHT, got_preface=True)
    assert error.code == "frame-too-big" and error.text.endswith(f"of {limit + 1} bytes; {limit} are allowed")


def test_all_frames_but_data_count_towards_the_handshake_and_its_last_byte_is_allowed() -> None:
    limits = replace(TIGHT, handshake_bytes=32 + 2 * 22)
    data = HEAD + frames.frame(0x99, bytes(10), 0) + frames.frame(0x01, bytes(10))
    reader, items = read(data + frames.frame(DATA, bytes(20)), limits)
    assert len(items) == 4 and reader.spent_bytes == 76
    assert refused(data + frames.frame(0x01, b""), limits).code == "too-much"


def test_after_ready_frames_come_without_end() -> None:
    data = frames.frame(0x0B, bytes(10)) * 50
    assert refused(data, TIGHT, got_preface=True).code == "too-much"
    reader, items = read(data, TIGHT, got_preface=True, unlimited=True)
    assert len(items) == 50 and reader.spent_bytes == 0


def test_ignorable_frames_are_counted_until_ready() -> None:
    reader = Reader(INITIATOR, TIGHT).skipped().skipped().skipped()
    with pytest.raises(PeerError) as raised:
        reader.skipped()
    assert raised.value.error.code == "too-much"
    unlimited = reader._replace(unlimited=True)
    assert unlimited.skipped() == unlimited


# --- continuation ---------------------------------------------------------------------------------------------------
def parts(*payloads: bytes, type: int = 1) -> bytes:
    *first, last = payloads
    return b"".join(frames.frame(type, part, CRITICAL | MORE) for part in first) + frames.frame(type, last)


@QUICK
@given(st.lists(st.binary(max_size=10), min_size=1, max_size=5))
def test_a_continued_payload_is_one_frame_with_the_flags_of_its_last_part(payloads: list[bytes]) -> None:
    (item,) = read(parts(*payloads) + frames.frame(2, b"")[:5], got_preface=True)[1]
    assert item == Frame(1, b"".join(payloads))


@pytest.mark.parametrize(("type", "flags"), [(0x02, CRITICAL), (0x99, 0), (0x0B, CRITICAL), (DATA, CRITICAL)])
def test_no_other_frame_may_stand_between_the_parts(type: int, flags: int) -> None:
    between = frames.frame(1, b"a", CRITICAL | MORE) + frames.frame(type, b"b", flags)
    error = refused(between, got_preface=True)
    assert error.code == "bad-state" and error.text == f"{frames.name(type)} inside a continued HELLO"


def test_a_continued_payload_obeys_the_limit_of_the_handshake_after_ready_too() -> None:
    many = [bytes(10)] * 10
    assert read(parts(*many), TIGHT, got_preface=True, unlimited=True)[1] == [Frame(1, bytes(100))]
    assert refused(parts(*many, b"x"), TIGHT, got_preface=True, unlimited=True).code == "too-much"


def test_a_type_without_a_name_is_shown_by_its_number() -> None:
    assert [frames.name(t) for t in (0x0B, DATA, 0x01, 0x7F, 0x05)] == ["PING", "DATA", "HELLO", "0x7f", "REJECT"]


@pytest.mark.parametrize("type", [frames.PING, frames.PONG])
def test_a_ping_is_refused_by_its_length_field(type: int) -> None:
    head = struct.pack(">IBBHI", 65, type, frames.CRITICAL, 0, 0)
    with pytest.raises(PeerError) as refused:
        Reader(INITIATOR, Limits(), got_preface=True).add(head).next()
    assert refused.value.error.code == "frame-too-big"
    assert Reader(INITIATOR, Limits(), got_preface=True).add(frames.frame(type, bytes(64))).next()[1] is not None


@pytest.mark.parametrize("size", [0, 5])
def test_more_means_nothing_on_data(size: int) -> None:
    data = frames.frame(frames.DATA, bytes(size), frames.MORE) + frames.frame(frames.DATA, b"next")
    reader, seen = Reader(INITIATOR, Limits(), got_preface=True).add(data), []
    for _ in range(2):
        reader, item = reader.next()
        assert isinstance(item, frames.Frame)
        seen.append(item.payload)
    assert seen == [bytes(size), b"next"]
