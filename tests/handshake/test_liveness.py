"""v2's clocks (SPEC 2.5, 5.9, 5.10): a peer that answers is waited for, one that does not never holds anybody."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simlib.handshake import interface as i
from simlib.handshake.machine import Machine, Settings
from simlib.handshake.pump import pump
from simlib.handshake.v2 import frames
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.frames import frame
from simlib.handshake.v2.messages import Failure, Hello, Loaded, hello
from simlib.handshake.v2.session import KEEPALIVE
from simlib.handshake.v2.source import Source

PRECOPY = Settings(machine=Machine())
POSTCOPY = replace(PRECOPY, capabilities=("postcopy-ram",))
PONG = frame(frames.PONG, b"")
RING = i.AlarmRang(KEEPALIVE)
Side = Source | Destination


def pair(side: Settings = PRECOPY, until: str = "active") -> tuple[Source, Destination]:
    """Both sides, pumped until the source has that status."""
    source = Source(side, SessionConfig(b"a" * 32))
    destination = Destination(side, SessionConfig(b"b" * 32))
    pump(source, destination, until=until)
    return source, destination


def in_postcopy() -> tuple[Source, Destination]:
    """The guest runs at the destination, and its memory has yet to be sent."""
    source = Source(POSTCOPY, SessionConfig(b"a" * 32))
    destination = Destination(POSTCOPY, SessionConfig(b"b" * 32))
    source.handle(i.SwitchToPostcopy())
    pump(source, destination, until="postcopy-active")
    assert source.status == "postcopy-active" and source.stage == "collect-last"
    return source, destination


def control(side: Side) -> int:
    return 0 if isinstance(side, Source) else next(iter(side.links))


def rings_until_the_end(side: Side, answers: int = 0) -> int:
    """How often the alarm rings until the side has ended or listens again, if the peer answers the first PINGs."""
    rings = 0
    while side.finished is None and side.state != "listening":
        rings += 1
        assert rings < 1000
        for output in side.handle(RING):
            if isinstance(output, i.Said) and output.text == "PING" and answers:
                answers -= 1
                side.handle(i.Received(control(side), PONG))
    return rings


@pytest.mark.parametrize("at_source", [True, False])
@given(answers=st.integers(0, 20), count=st.integers(0, 6))
@settings(max_examples=25, deadline=None)
def test_a_peer_is_silent_after_so_many_pings_without_an_answer(at_source: bool, answers: int, count: int) -> None:
    side: Side = pair()[0 if at_source else 1]
    side.session_config = replace(side.session_config, keepalive_count=count)
    asked = answers if count else 0
    # for each PING that is answered one ring finds nothing wrong, since something had come, and the next one asks
    assert rings_until_the_end(side, asked) == 2 * asked + count + 2
    errors = side.finished.errors if side.finished else side.ended_as
    assert [e.code for e in errors] == ["peer-silent"]


def test_before_go_a_silent_destination_costs_the_source_nothing() -> None:
    source, _ = pair()
    outputs: list[i.Output] = []
    while source.finished is None:
        outputs += source.handle(RING)
    assert any(isinstance(o, i.ResumeGuest) for o in outputs)
    assert [o.text for o in outputs if isinstance(o, i.Said)][-1] == "ABORT peer-silent"


@pytest.mark.parametrize("status", ["setup", "active"])
def test_a_source_gives_up_on_silence_in_every_state_before_go(status: str) -> None:
    source = Source(PRECOPY)
    if status == "setup":
        source.handle(i.Start())
    else:
        source = pair()[0]
    assert rings_until_the_end(source) == 7
    assert source.finished is not None and source.finished.status == "failed"


def test_a_destination_that_waits_for_data_listens_again() -> None:
    _, destination = pair()
    rings_until_the_end(destination)
    assert destination.state == "listening" and destination.accepting


def test_a_second_loaded_before_all_memory_was_sent_is_not_believed() -> None:
    source, _ = in_postcopy()
    outputs = source.handle(i.Received(0, frame(Loaded.TYPE, b'{"bytes":0}')))
    assert "ERROR bad-state" in [o.text for o in outputs if isinstance(o, i.Said)]
    assert source.finished is not None and source.finished.status == "postcopy-paused"
    assert not any(isinstance(o, i.ResumeGuest) for o in outputs)


def test_an_order_to_switch_is_kept_until_the_agreement() -> None:
    source, destination = Source(POSTCOPY, SessionConfig(b"a" * 32)), Destination(POSTCOPY, SessionConfig(b"b" * 32))
    source.handle(i.SwitchToPostcopy())
    pump(source, destination)
    assert destination.postcopy and source.finished is not None and source.finished.status == "completed"


def test_an_order_to_switch_that_was_not_agreed_is_answered() -> None:
    source, _ = pair()
    outputs = source.handle(i.SwitchToPostcopy())
    assert [o for o in outputs if isinstance(o, i.Printed)] and not source.postcopy


@pytest.mark.parametrize("what", ["OFFER", "START", "main"])
def test_the_guard_ends_an_attempt_that_does_not_come_to_ready_and_names_what_was_awaited(what: str) -> None:
    source = Source(PRECOPY, SessionConfig(b"a" * 32))
    destination = Destination(PRECOPY, SessionConfig(b"b" * 32))
    destination.handle(i.Start())
    destination.handle(i.Opened(7))
    source.handle(i.Start())
    to_destination = [o for o in source.handle(i.Opened(0)) if isinstance(o, i.Send)]
    if what == "OFFER":
        ours = frames.preface(frames.INITIATOR, bytes(16))
        body = Source(PRECOPY)._frame(hello("source", PRECOPY, SessionConfig(grease=False), "separate"))
        destination.handle(i.Received(7, ours + body))
    else:
        for sent in to_destination:
            for answer in destination.handle(i.Received(7, sent.data)):
                if isinstance(answer, i.Send) and what == "main":
                    for start in source.handle(i.Received(0, answer.data)):
                        if isinstance(start, i.Send):
                            destination.handle(i.Received(7, start.data))
        destination.handle(i.Applied())
    outputs = destination.handle(i.AlarmRang("guard-7"))
    assert "REJECT handshake-timeout" in [o.text for o in outputs if isinstance(o, i.Said)]
    assert what in destination.ended_as[0].text
    assert destination.state == "listening"


@pytest.mark.parametrize("code", ["cancelled", "deadline"])
@pytest.mark.parametrize("status", ["setup", "active"])
def test_the_destinations_manager_may_end_an_attempt_too_and_the_source_reads_why(code: str, status: str) -> None:
    source, destination = pair(until=status) if status == "active" else (Source(PRECOPY), Destination(PRECOPY))
    if status == "setup":
        destination.handle(i.Start())
    outputs = destination.handle(i.Cancel(code))
    assert destination.finished is not None and destination.finished.status == "cancelled"
    if status == "active":
        sent = b"".join(o.data for o in outputs if isinstance(o, i.Send))
        source.handle(i.Received(0, sent))
        assert source.finished is not None and source.finished.errors[0].code == code


def test_a_memory_channel_lost_in_postcopy_pauses_both_sides_and_control_decides() -> None:
    source, _ = in_postcopy()
    outputs = source.handle(i.Broken(source.channels.index("main"), "reset"))
    assert [o.text for o in outputs if isinstance(o, i.Said)] == ["ERROR channel-lost"]
    assert source.finished is None, "LOADED may be on the way"
    source.handle(i.Received(0, frame(Failure.TYPE, b'{"errors":[]}')))
    assert source.finished is not None and source.finished.status == "postcopy-paused"


def test_a_secret_that_is_no_hexadecimal_number_is_the_peers_mistake() -> None:
    """The length alone would let a ValueError out of `handle`."""
    from .test_codes import Pair, in_accept

    codes = [e.code for e in Pair(edit=in_accept(lambda accept: accept.update(secret="zz" * 32))).run()]
    assert codes == ["unknown-value"]


@pytest.mark.parametrize(("ours", "theirs", "same"), [("a", "a", True), ("a", "b", False), ("a", "", True)])
def test_sessions_of_two_managers_meet_if_their_names_do_not_differ(ours: str, theirs: str, same: bool) -> None:
    source = Source(PRECOPY, SessionConfig(b"a" * 32, session=ours))
    pump(source, Destination(PRECOPY, SessionConfig(b"b" * 32, session=theirs)))
    assert source.finished is not None
    assert [e.code for e in source.finished.errors] == ([] if same else ["wrong-session"])
    assert Hello.NAME == "HELLO"
