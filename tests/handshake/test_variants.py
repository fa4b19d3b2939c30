"""The detection variants: what each sends first, what each takes for which protocol, and that nothing of v1 is lost."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake import interface as i
from simlib.handshake import stream
from simlib.handshake.detect import Adaptive
from simlib.handshake.loader import Loader
from simlib.handshake.machine import Settings
from simlib.handshake.names import Reason, Status
from simlib.handshake.pump import pump
from simlib.handshake.v1.destination import Destination as V1Destination
from simlib.handshake.v1.source import Source as V1Source
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.frames import ALPN, INITIATOR
from simlib.handshake.variants import (
    ACK2,
    ANSWER,
    COOKIE,
    GREET,
    HEADER_4,
    MAIN,
    PROBE,
    K,
    ProbingDestination,
    ProbingSource,
)
from tests.handshake.builders import FEW, SIZES, cut, expanded, main_stream, outputs, sent, small

WAIT_S = 2.5
LETTERS = ("a", "b", "c", "d", "d'")
CAPABILITIES = st.sets(st.sampled_from(("return-path", "postcopy-ram"))) | st.sets(
    st.sampled_from(("return-path", "x-ignore-shared"))
)
TO_THE_END: tuple[i.Input, ...] = (i.RamCollected(8192, True), i.GuestStopped(), i.RamCollected(0, True))


def source(variant: str, *capabilities: str, timeout_s: float = WAIT_S) -> ProbingSource:
    return ProbingSource(small(*capabilities), SessionConfig(), variant, timeout_s)


def destination(variant: str, *capabilities: str, timeout_s: float = WAIT_S) -> ProbingDestination:
    return ProbingDestination(small(*capabilities), SessionConfig(), variant, timeout_s)


def begun(endpoint: ProbingSource | ProbingDestination, *more: i.Input) -> list[i.Output]:
    return outputs(endpoint, i.Start(), i.Opened(MAIN), *more)


def pong(value: int) -> bytes:
    """As it stands on v1's return path: type 2, 4 bytes."""
    return struct.pack(">HHI", 2, 4, value)


def read(data: bytes, ours: Settings) -> list[tuple[object, ...]]:
    """All events of a main stream, without the values of its PINGs."""
    loader, events = Loader(ours), []
    loader.feed(data)
    while (event := loader.next_event()) is not None:
        events.append(event[:2] if event[:2] == ("command", stream.PING) else event)
    return events


# --- pairs ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("variant", ["b", "c", "d'"])
def test_two_new_sides_find_each_other_without_a_timer(variant: str) -> None:
    one, other = source(variant, "return-path", timeout_s=0), destination(variant, "return-path", timeout_s=0)
    pump(one, other)
    assert (one.speaks, other.speaks) == ("v2", "v2")
    assert (one.status, other.status) == (Status.COMPLETED, Status.COMPLETED)


@pytest.mark.parametrize("variant", ["a", "b", "c", "d", "d'"])
def test_an_old_source_migrates_to_a_new_destination(variant: str) -> None:
    ours = small("return-path")
    one, other = V1Source(ours), destination(variant, "return-path", timeout_s=0)
    # (a) and (c) say something at once, which v1's source takes for its return path
    pump(one, other, ram_bytes=8192)
    if variant in ("a", "c"):
        assert one.finished is not None and one.finished.text.startswith("Received invalid message 0x8951")
    else:
        assert (one.status, other.speaks, other.status) == (Status.COMPLETED, "v1", Status.COMPLETED)
        assert other.ram_bytes == 8192


@pytest.mark.parametrize("variant", ["a", "d", "d'"])
@pytest.mark.parametrize("capabilities", [("return-path",), ("return-path", "postcopy-ram"), ()])
def test_a_new_source_migrates_to_an_old_destination_that_answers(variant: str, capabilities: tuple[str, ...]) -> None:
    one, other = source(variant, *capabilities, timeout_s=0), V1Destination(small(*capabilities))
    pump(one, other, ram_bytes=8192)
    assert (one.speaks, one.status, other.status) == ("v1", Status.COMPLETED, Status.COMPLETED)
    assert other.ram_bytes == 8192


def test_alpn_decides_for_the_handshake_or_for_v1() -> None:
    for alpn, protocol in ((ALPN, "v2"), ("", "v1"), ("h2", "v1")):
        one = ProbingSource(small(tls=True), SessionConfig(), "f", WAIT_S)
        out = outputs(one, i.Start(), i.Opened(MAIN))
        assert [o for o in out if not isinstance(o, i.Entered)] == [i.Open(MAIN, "main"), i.StartTls(MAIN, ALPN)]
        out = outputs(one, i.Secured(MAIN, b"x" * 32, alpn))
        assert one.speaks == protocol and one.offers_alpn
        assert not [o for o in out if isinstance(o, (i.Open, i.StartTls))]
        assert expanded(sent(out)).startswith(stream.MAGIC if protocol == "v1" else INITIATOR)


# --- what is sent first ---------------------------------------------------------------------------------------------
FIRST = {
    "b": b"QEVM\0\0\0\4",
    "c": b"",
    "d": stream.header(small()) + bytes.fromhex("0800010000 0800020004 5eed1234"),
    "d'": stream.header(small()) + bytes.fromhex("0800010000 0800020004 5eed1234"),
}


@pytest.mark.parametrize("variant", FIRST)
@pytest.mark.parametrize("timeout_s", [WAIT_S, 0])
def test_a_source_probes_and_then_waits_for_as_long_as_it_was_configured_to(variant: str, timeout_s: float) -> None:
    endpoint = source(variant, timeout_s=timeout_s)
    assert endpoint.status == Status.NONE
    assert endpoint.handle(i.Start()) == [i.Open(MAIN, "main")]
    out = endpoint.handle(i.Opened(MAIN))
    assert expanded(sent(out)) == FIRST[variant]
    assert [o for o in out if isinstance(o, i.SetAlarm)] == ([i.SetAlarm("detect", WAIT_S)] if timeout_s else [])
    assert (endpoint.speaks, endpoint.status, endpoint.finished, endpoint.blocked) == ("", Status.SETUP, None, None)


@pytest.mark.parametrize(("variant", "first"), [("a", PROBE), ("b", b""), ("c", GREET), ("d", b""), ("d'", b"")])
def test_a_destination_of_two_variants_speaks_first(variant: str, first: bytes) -> None:
    endpoint = destination(variant)
    assert not endpoint.accepting and endpoint.handle(i.Start()) == [] and endpoint.accepting
    out = endpoint.handle(i.Opened(MAIN))
    assert expanded(sent(out)) == first and not endpoint.accepting
    assert [o for o in out if isinstance(o, i.SetAlarm)] == ([i.SetAlarm("detect", WAIT_S)] if variant == "a" else [])
    assert (endpoint.speaks, endpoint.ram_bytes) == ("", 0)


# --- what comes back ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("variant", "answer", "protocol"),
    [
        ("b", ANSWER, "v2"),
        ("c", GREET, "v2"),
        ("d", pong(COOKIE), "v1"),
        ("d", pong(COOKIE ^ K), "v1"),
        ("d", b"8 bytes.", "v1"),
        ("d'", pong(COOKIE), "v1"),
        ("d'", pong(COOKIE ^ K), "v2"),
        ("d'", b"8 bytes.", "v1"),
    ],
)
@FEW
@given(sizes=SIZES)
def test_a_source_decides_at_the_eighth_byte_of_an_answer(
    variant: str, answer: bytes, protocol: str, sizes: list[int]
) -> None:
    endpoint = source(variant, "return-path")
    begun(endpoint)
    for data, _ in cut([(answer, 0)], sizes):
        assert endpoint.speaks == ""
        out = outputs(endpoint, i.Received(MAIN, data))
    assert endpoint.speaks == protocol and i.StopAlarm("detect") in out


@FEW
@given(st.sampled_from(("b", "c")), st.binary(min_size=8, max_size=20).filter(lambda d: d[:8] not in (ANSWER, GREET)))
def test_other_bytes_are_no_answer_and_the_timer_decides_for_v1(variant: str, data: bytes) -> None:
    endpoint = source(variant)
    out = begun(endpoint, i.Received(MAIN, data))
    assert endpoint.speaks == "" and i.StopAlarm("detect") not in out
    outputs(endpoint, i.AlarmRang("detect"))
    assert endpoint.speaks == "v1"


@pytest.mark.parametrize("variant", ["b", "c", "d", "d'"])
def test_a_source_whose_timer_rings_goes_on_with_v1_and_a_late_bell_changes_nothing(variant: str) -> None:
    endpoint = source(variant, "return-path")
    begun(endpoint)
    out = outputs(endpoint, i.AlarmRang("detect"))
    assert endpoint.speaks == "v1" and Status.ACTIVE in [o.status for o in out if isinstance(o, i.Entered)]
    before = endpoint.key()
    assert endpoint.handle(i.AlarmRang("detect")) == [] and endpoint.key() == before


@FEW
@given(st.sampled_from(("d", "d'")), CAPABILITIES, st.sampled_from((b"", pong(COOKIE))))
def test_a_probe_that_is_part_of_v1_s_stream_is_not_sent_again(
    variant: str, capabilities: set[str], answer: bytes
) -> None:
    """All that it sends is one good stream. A peer that has answered is taken to have a return path."""
    endpoint = source(variant, *capabilities)
    decisive: i.Input = i.Received(MAIN, answer) if answer else i.AlarmRang("detect")
    actual = expanded(sent(begun(endpoint, decisive, *TO_THE_END)))
    plain = V1Source(small(*capabilities, "return-path"))
    expected = expanded(sent(outputs(plain, i.Start(), i.Opened(MAIN), *TO_THE_END)))
    return_path = bool(answer) or not capabilities.isdisjoint({"return-path", "postcopy-ram"})
    assert endpoint.speaks == "v1" and endpoint.chosen.settings.return_path == return_path
    assert read(actual, endpoint.settings) == read(expected, plain.settings)
    assert struct.pack(">I", COOKIE) in actual and len(actual) == len(expected)


def test_a_source_that_has_begun_v1_goes_over_to_the_handshake_when_it_is_probed() -> None:
    endpoint = source("a")
    out = begun(endpoint)
    assert endpoint.speaks == "v1" and not [o for o in out if isinstance(o, i.Pause)]
    assert outputs(endpoint, i.Received(MAIN, PROBE[:5])) == []
    out = outputs(endpoint, i.Received(MAIN, PROBE[5:]))
    assert endpoint.speaks == "v2" and expanded(sent(out)).startswith(ACK2 + INITIATOR)


def test_a_source_that_listens_for_a_probe_passes_everything_else_on_to_v1() -> None:
    endpoint, plain = source("a", "return-path"), V1Source(small("return-path"))
    begun(endpoint)
    outputs(plain, i.Start(), i.Opened(MAIN))
    shut = i.Received(MAIN, bytes.fromhex("00010004 00000007"))
    for one in (shut, *TO_THE_END):
        assert outputs(endpoint, one) == outputs(plain, one)
    assert endpoint.finished == plain.finished is not None


@pytest.mark.parametrize("lost", [i.Broken(MAIN, "Connection refused"), i.Cancel()])
def test_a_source_that_never_connects_ends_as_v1_does(lost: i.Input) -> None:
    endpoint = source("c")
    endpoint.handle(i.Start())
    out = endpoint.handle(lost)
    assert endpoint.speaks == "v1" and endpoint.finished is not None
    assert endpoint.finished in out and endpoint.finished.status != Status.COMPLETED


# --- what a destination takes for what ------------------------------------------------------------------------------
@pytest.mark.parametrize("variant", LETTERS)
@FEW
@given(sizes=SIZES)
def test_a_destination_that_takes_its_peer_for_an_old_one_has_lost_none_of_its_bytes(
    variant: str, sizes: list[int]
) -> None:
    endpoint = destination(variant, "return-path")
    begun(endpoint)
    for data, fill in cut(main_stream(small("return-path")), sizes):
        outputs(endpoint, i.Received(MAIN, data, fill))
    if variant in ("a", "b", "c"):  # the first two wait for an answer
        outputs(endpoint, i.AlarmRang("detect"))
    out = outputs(endpoint, i.Loaded(), i.GuestRunning())
    assert (endpoint.speaks, endpoint.ram_bytes) == ("v1", 8192)
    assert i.Finished(Status.COMPLETED) in out and endpoint.finished == i.Finished(Status.COMPLETED)


@pytest.mark.parametrize(("variant", "first"), [("a", ACK2), ("b", HEADER_4), ("c", b""), ("d", b"")])
@FEW
@given(sizes=SIZES)
def test_a_destination_takes_the_right_first_bytes_for_a_new_peer(variant: str, first: bytes, sizes: list[int]) -> None:
    endpoint = destination(variant)
    begun(endpoint)
    out = []
    for data, _ in cut([(first + INITIATOR, 0)], sizes):
        out += outputs(endpoint, i.Received(MAIN, data))
    assert endpoint.speaks == "v2" and expanded(sent(out)).startswith(ANSWER if variant == "b" else b"")


def test_an_answer_to_a_probe_may_stand_behind_the_beginning_of_v1_s_stream() -> None:
    endpoint = destination("a")
    begun(endpoint, i.Received(MAIN, stream.header(small()) + ACK2[:3]))
    assert endpoint.speaks == ""
    outputs(endpoint, i.Received(MAIN, ACK2[3:] + INITIATOR))
    assert endpoint.speaks == "v2"


@pytest.mark.parametrize(
    ("after", "protocol"), [(b"", ""), (INITIATOR, "v2"), (bytes.fromhex("0800030000"), "v1")], ids=("none", "v2", "v1")
)
def test_a_ping_is_answered_once_and_transformed_and_the_next_byte_says_who_is_there(
    after: bytes, protocol: str
) -> None:
    endpoint = destination("d'", "return-path")
    opening = stream.command(stream.OPEN_RETURN_PATH) + stream.command(stream.PING, struct.pack(">I", COOKIE))
    out = begun(endpoint, i.Received(MAIN, stream.header(small()) + opening))
    assert expanded(sent(out)) == pong(COOKIE ^ K) and endpoint.speaks == ""
    out = outputs(endpoint, i.Received(MAIN, after))
    assert endpoint.speaks == protocol and b"\0\2\0\4" not in expanded(sent(out))


def test_a_destination_whose_peer_ends_before_it_has_decided_ends_as_v1_s_does() -> None:
    endpoint, plain = destination("d"), V1Destination(small())
    begun(endpoint, i.Received(MAIN, b"QEV"), i.Ended(MAIN))
    outputs(plain, i.Start(), i.Opened(MAIN), i.Received(MAIN, b"QEV"), i.Ended(MAIN))
    assert endpoint.finished == plain.finished
    assert endpoint.finished is not None and endpoint.finished.reason == Reason.SPECIFIC


def test_the_adaptive_destination_takes_each_new_source_but_those_that_begin_with_v1() -> None:
    for variant in ("b", "d", "d'"):
        endpoint = Adaptive(small("return-path"), SessionConfig())
        first = expanded(sent(begun(source(variant, "return-path"))))
        outputs(endpoint, i.Start(), i.Opened(MAIN), i.Received(MAIN, first))
        assert endpoint.speaks == "v1"
