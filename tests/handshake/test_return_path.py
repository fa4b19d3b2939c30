"""Heads of return-path messages are checked as QEMU checks them, before their payloads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.names import Reason
from simlib.handshake.return_path import FIRST_PING, PACKAGE_LOADED, Reply, ended, wrong
from tests.handshake.builders import QUICK

FIXED = {Reply.SHUT: 4, Reply.PONG: 4, Reply.REQ_PAGES: 12, Reply.RESUME_ACK: 4, Reply.ACK: 0}
ANY_LENGTH = (Reply.REQ_PAGES_ID, Reply.RECV_BITMAP)  # up to what the source's buffer takes
BUFFER_BYTES = 512
SIZES = st.integers(0, 600) | st.integers(0, 0xFFFF)


def test_messages_have_qemu_s_numbers() -> None:
    assert [*Reply] == [1, 2, 3, 4, 5, 6, 7]
    names = " ".join(reply.name for reply in Reply)
    assert names == "SHUT PONG REQ_PAGES_ID REQ_PAGES RECV_BITMAP RESUME_ACK ACK"
    assert {*FIXED, *ANY_LENGTH} == {*Reply} and (FIRST_PING, PACKAGE_LOADED) == (1, 0x42)


@QUICK
@given(st.sampled_from(sorted(FIXED)), SIZES.filter(lambda size: size <= BUFFER_BYTES))
def test_a_message_of_one_length_is_in_order_with_that_length_alone(reply: Reply, size: int) -> None:
    expected = f"Received '{reply.name}' message (0x{reply.value:04x}) withincorrect length {size} expecting "
    assert wrong(reply, FIXED[reply]) == ""
    assert wrong(reply, size) == ("" if size == FIXED[reply] else expected + str(FIXED[reply]))


@QUICK
@given(st.sampled_from(ANY_LENGTH), SIZES)
def test_a_message_of_any_length_is_in_order_as_far_as_the_buffer_goes(reply: Reply, size: int) -> None:
    too_long = f"Received invalid message 0x{reply.value:04x} length 0x{size:04x}"
    assert wrong(reply, size) == (too_long if size > BUFFER_BYTES else "")


@pytest.mark.parametrize("reply", Reply)
def test_no_message_is_longer_than_the_buffer(reply: Reply) -> None:
    assert wrong(reply, 512).startswith("Received invalid message") is False
    assert wrong(reply, 513) == f"Received invalid message 0x{reply.value:04x} length 0x0201"


@QUICK
@given(st.integers(0, 0xFFFF).filter(lambda kind: not 1 <= kind <= 7), SIZES)
def test_a_message_of_another_number_is_invalid_whatever_its_length(kind: int, size: int) -> None:
    assert wrong(kind, size) == f"Received invalid message 0x{kind:04x} length 0x{size:04x}"


def test_an_end_without_shut_has_a_text_of_its_own_in_tls_alone() -> None:
    text = "Cannot read from TLS channel: The TLS connection was non-properly terminated."
    assert ended(tls=True) == (text, Reason.SPECIFIC)
    assert ended(tls=False) == ("Channel error: Input/output error", Reason.GENERIC)
