"""A buffer holds what bytes would hold, however large: each operation is compared with the same one on bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.buffer import MOST, Buffer
from tests.handshake.builders import QUICK

PIECES = st.lists(st.tuples(st.binary(max_size=6), st.integers(0, 6)), max_size=8)
STEPS = st.lists(st.tuples(st.binary(max_size=6), st.integers(0, 6)) | st.integers(0, 20), max_size=12)


def filled(pieces: list[tuple[bytes, int]]) -> Buffer:
    buffer = Buffer()
    for data, fill in pieces:
        buffer = buffer.add(data, fill)
    return buffer


def plain(pieces: list[tuple[bytes, int]]) -> bytes:
    return b"".join(data + bytes(fill) for data, fill in pieces)


@QUICK
@given(PIECES)
def test_a_buffer_returns_the_bytes_in_the_order_in_which_they_came(pieces: list[tuple[bytes, int]]) -> None:
    expected = plain(pieces)
    assert filled(pieces).peek(len(expected)) == expected


@QUICK
@given(PIECES)
def test_its_length_is_the_number_of_bytes_that_came(pieces: list[tuple[bytes, int]]) -> None:
    assert len(filled(pieces)) == len(plain(pieces))


@QUICK
@given(PIECES, st.integers(0, 60))
def test_a_look_ahead_returns_fewer_bytes_when_fewer_are_there(pieces: list[tuple[bytes, int]], size: int) -> None:
    assert filled(pieces).peek(size) == plain(pieces)[:size]


@QUICK
@given(STEPS)
def test_bytes_that_are_skipped_between_arrivals_are_the_oldest_ones(steps: list[tuple[bytes, int] | int]) -> None:
    buffer, expected = Buffer(), b""
    for step in steps:
        if isinstance(step, int):
            buffer, expected = buffer.skip(step), expected[step:]
        else:
            buffer, expected = buffer.add(*step), expected + plain([step])
        assert (len(buffer), buffer.peek(200)) == (len(expected), expected)


@QUICK
@given(STEPS)
def test_the_head_has_all_real_bytes_up_to_the_first_stand_in(steps: list[tuple[bytes, int] | int]) -> None:
    """Readers of small numbers look at the head alone."""
    buffer, expected = Buffer(), ""
    for step in steps:
        if isinstance(step, int):
            buffer, expected = buffer.skip(step), expected[step:]
        else:
            buffer, expected = buffer.add(*step), expected + "r" * len(step[0]) + "s" * step[1]
        assert len(buffer.head) == len(expected.partition("s")[0])


@QUICK
@given(PIECES, st.binary(min_size=1, max_size=4), st.integers(0, 9))
def test_a_buffer_that_was_added_to_or_skipped_is_itself_unchanged(
    pieces: list[tuple[bytes, int]], data: bytes, size: int
) -> None:
    buffer = filled(pieces)
    buffer.add(data, 3)
    buffer.skip(size)
    assert buffer == filled(pieces) and hash(buffer) == hash(filled(pieces))


@QUICK
@given(st.integers(MOST - 9, 3 * MOST), st.binary(min_size=1, max_size=5))
def test_stand_in_bytes_beyond_what_len_can_say_are_counted_and_never_made(fill: int, end: bytes) -> None:
    buffer = Buffer().add(b"QEVM", fill).add(b"", fill).add(end)
    assert len(buffer) == MOST and buffer.peek(6) == b"QEVM\0\0"
    left = buffer.skip(4 + 2 * fill - 1)
    assert len(left) == 1 + len(end) and left.peek(99) == b"\0" + end
    assert left.skip(1) == Buffer(end) and left.skip(1 + len(end)) == Buffer()


def test_stand_in_bytes_that_follow_each_other_are_one_number() -> None:
    """A guest's memory comes in millions of pieces."""
    buffer = Buffer()
    for _ in range(100):
        buffer = buffer.add(b"", 4096)
    assert buffer == Buffer(b"", (409600,))
