"""What both sides of v2 do alike: greetings, GREASE, continued frames, PING, unknown frames, the keepalive."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake import interface as i
from simlib.handshake.errors import OurMistake
from simlib.handshake.machine import Device
from simlib.handshake.v2 import frames, messages, wire
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.frames import CRITICAL, PING, PONG, Limits, frame
from simlib.handshake.v2.session import KEEPALIVE
from simlib.handshake.v2.source import Source
from simlib.handshake.v2.states import Event
from tests.handshake.builders import (
    FEW,
    HERE,
    SMALL,
    Talk,
    errors_in,
    of_type,
    outputs,
    sent,
    small,
    spoken,
    spoken_in,
)

RING = i.AlarmRang(KEEPALIVE)
Side = Source | Destination
SIDES = pytest.mark.parametrize("at_source", [True, False], ids=["source", "destination"])


def side_in(at_source: bool, state: str = "", **kwargs: Any) -> tuple[Side, list[i.Output]]:
    """One side in its state after ACCEPT, or in this one; and all that it has done."""
    talk = Talk(**kwargs)
    talk.until(**{"source" if at_source else "destination": state or ("agreed" if at_source else "accepted")})
    side: Side = talk.source if at_source else talk.destination
    return side, talk.heard[side]


def hear(side: Side, *data: bytes) -> list[i.Output]:
    """What it does when it hears this on control."""
    return outputs(side, *(i.Received(0, part) for part in data))


# --- greetings ------------------------------------------------------------------------------------------------------
@SIDES
@FEW
@given(st.binary(min_size=32, max_size=32))
def test_with_grease_a_flag_an_ignorable_frame_and_keys_are_sent_that_change_nothing(
    at_source: bool, entropy: bytes
) -> None:
    greasy, plain = SessionConfig(entropy), SessionConfig(entropy, grease=False)
    talks = [Talk(here=config, there=config).until() for config in (greasy, plain)]
    assert all(t.source.status == t.destination.status == "completed" for t in talks)
    items = [spoken_in(t.heard[t.source if at_source else t.destination]) for t in talks]
    assert not any(isinstance(item, frames.Frame) for item in items[1])
    ignorable = items[0][1]
    assert isinstance(ignorable, frames.Frame) and ignorable.type >= 0x80 and len(ignorable.payload) <= 15
    assert ignorable.flags & (frames.CRITICAL | frames.MORE) == 0
    texts = [b"".join(d for d, _ in sent(t.heard[t.source if at_source else t.destination])) for t in talks]
    assert texts[0].count(b'"?grease-') == 2 and b"grease" not in texts[1], "HELLO, and OFFER or ACCEPT"
    assert texts[1][14:16] == bytes(2) and (b'{"name":"x-grease-' in texts[0]) == at_source
    assert "x-grease" not in str(talks[0].destination.negotiated())


def test_each_connection_has_a_nonce_of_its_own_and_each_side_its_own_bytes() -> None:
    talk = Talk(small("multifd"), here=HERE, there=replace(HERE)).until(source="ready")
    links = [link for side in (talk.source, talk.destination) for link in side.links.values()]
    assert len({link.nonce for link in links}) == 8 and all(len(link.nonce) == 16 for link in links)
    assert {link.peer_nonce for link in links} == {link.nonce for link in links}


@pytest.mark.parametrize("frame_bytes", [100, 200, 65536])
def test_a_body_beyond_the_frame_limit_is_sent_in_parts_that_the_peer_joins(frame_bytes: int) -> None:
    """An exact multiple of the limit has no empty part behind it."""
    config = replace(HERE, limits=Limits(frame_bytes=frame_bytes))
    talk = Talk(replace(small(), machine=replace(SMALL, devices=(Device("d" * 50),))), here=config)
    flight = b"".join(d for d, _ in sent(outputs(talk.source, i.Start(), i.Opened(0))))[32:]
    sizes = []
    while flight:
        size, flags = int.from_bytes(flight[:4], "big"), flight[5]
        sizes.append((size, flags))
        flight = flight[12 + size :]
    assert all(0 < size <= frame_bytes and flags in (CRITICAL, CRITICAL | frames.MORE) for size, flags in sizes)
    assert all(size == frame_bytes for size, flags in sizes if flags & frames.MORE)
    assert [flags for _, flags in sizes].count(CRITICAL) == 2
    assert Talk(here=config, there=config).until().source.status == "completed"


# --- frames ---------------------------------------------------------------------------------------------------------
@SIDES
@pytest.mark.parametrize("type", [0x03, 0x0D, 0x1F, 0x24, 0x3F, 0x41, 0x6F, 0x70, 0x7F, 0x80, 0xFF])
def test_an_unknown_frame_is_skipped_unless_it_is_critical(at_source: bool, type: int) -> None:
    side, _ = side_in(at_source)
    assert hear(side, frame(type, b"anything", 0xFC)) == []
    error = errors_in(hear(side, frame(type, b"", 0xFC | CRITICAL)))[0]
    assert (error.code, error.item) == ("unknown-critical", f"0x{type:02x}")


@SIDES
def test_a_known_message_counts_whatever_its_critical_and_reserved_fields_say(at_source: bool) -> None:
    side, _ = side_in(at_source)
    assert sent(hear(side, frame(PING, b"x", 0xFC, 7, 9))) == [(frame(PONG, b"x"), 0)]


@SIDES
@pytest.mark.parametrize("kind", [0x99, PING, PONG])
def test_ignorable_frames_and_pings_are_counted_together_until_ready_and_not_after(at_source: bool, kind: int) -> None:
    side, _ = side_in(at_source)
    one, other = frame(kind, b"", 0), frame(0x81, b"", 0)
    hear(side, one * 128, other * 128)
    error = errors_in(hear(side, one))[0]
    assert error.code == "too-much" and "256" in error.text
    side, _ = side_in(at_source, "ready")
    out = hear(side, one * 600)
    assert side.state == "ready" and len(of_type(out, i.Send)) == (600 if kind == PING else 0)


@SIDES
@pytest.mark.parametrize("size", [0, 64, 65])
def test_a_ping_is_answered_with_its_own_payload_of_at_most_64_bytes(at_source: bool, size: int) -> None:
    side, _ = side_in(at_source)
    payload = bytes(range(size))
    for kind in (PONG, PING):
        out = hear(side, frame(kind, payload))
        if size == 65:
            assert errors_in(out)[0].code == "frame-too-big"
            return
        assert sent(out) == ([(frame(PONG, payload), 0)] if kind == PING else [])


@SIDES
@pytest.mark.parametrize("kind", [PING, PONG])
def test_a_ping_before_accept_is_a_bad_state(at_source: bool, kind: int) -> None:
    side, _ = side_in(at_source, "offered" if at_source else "listening")
    magic = frames.RESPONDER if at_source else frames.INITIATOR
    outputs(side, *([] if at_source else [i.Opened(0)]))
    out = hear(side, frames.preface(magic, bytes(16)) + frame(kind, b""))
    error = errors_in(out)[0]
    assert (error.code, error.item) == ("bad-state", frames.name(kind))


@SIDES
def test_shape_is_checked_before_state_and_state_before_values(at_source: bool) -> None:
    talk = Talk().until(destination="accepted")
    said = spoken_in(talk.heard[talk.destination if at_source else talk.source])[-1]
    talk.until(source="agreed")
    side: Side = talk.source if at_source else talk.destination
    assert isinstance(said, messages.Accept | messages.Offer)
    content = wire.to_body(said)
    for change, code in (
        (None, "encoding"),
        ({"new": 1}, "unknown-key"),
        ({"verdict": "no", "on-maybe": "x"}, "bad-state"),
    ):
        content |= {key: value for key, value in (change or {}).items() if key == "new" or key in content}
        payload = b"{" if change is None else json.dumps(content).encode()
        error = errors_in(hear(side.fork(), frame(said.TYPE, payload)))[0]
        assert error.code == code
        content.pop("new", None)


@SIDES
def test_a_message_of_ones_own_role_is_a_bad_state(at_source: bool) -> None:
    side, _ = side_in(at_source)
    ours = messages.Start("", "") if at_source else messages.Ready((), "")
    error = errors_in(hear(side, spoken(ours)))[0]
    assert (error.code, error.item) == ("bad-state", ours.NAME)


@SIDES
def test_several_messages_in_one_piece_are_heard_in_order_and_none_after_the_end(at_source: bool) -> None:
    side, _ = side_in(at_source)
    out = hear(side, frame(PING, b"1") + frame(PING, b"2") + frame(0x70, b"") + frame(PING, b"3"))
    assert [d for d, _ in sent(out)][:2] == [frame(PONG, b"1"), frame(PONG, b"2")]
    assert frame(PONG, b"3") not in [d for d, _ in sent(out)]


@SIDES
@pytest.mark.parametrize(("transport", "state"), [("exec", ""), ("tcp", "ready")])
def test_data_before_ready_or_beside_a_channel_for_main_is_a_bad_state(
    at_source: bool, transport: str, state: str
) -> None:
    side, _ = side_in(at_source, state, ours=replace(small(), transport=transport))
    error = errors_in(hear(side, frame(frames.DATA, b"x")))[0]
    assert (error.code, error.item) == ("bad-state", "DATA")


# --- versions, states, silence --------------------------------------------------------------------------------------
def test_a_source_tells_both_ranges_with_its_own_first() -> None:
    side, _ = side_in(True, "offered")
    (error,) = errors_in(hear(side, frames.preface(frames.RESPONDER, bytes(16), 0, 0x0100, 0x0200)))
    assert (error.code, error.item, error.source, error.destination) == (
        "no-common-version",
        "version",
        "2.1..2.1",
        "1.0..2.0",
    )


@SIDES
@pytest.mark.parametrize("event", Event)
def test_an_event_that_its_state_does_not_expect_is_our_own_mistake(at_source: bool, event: Event) -> None:
    side: Side = Source(small()) if at_source else Destination(small())
    if event not in side.EVENTS:
        return
    for state in {s for states in side.EVENTS.values() for s in states}:
        side.state = state
        if state in side.EVENTS[event]:
            side._happened(event)
            assert side.state == side.EVENTS[event][state]
        else:
            with pytest.raises(OurMistake, match=f"is {state}, where {event} is not expected"):
                side._happened(event)
            assert side.state == state


@SIDES
def test_a_quiet_peer_is_asked_at_the_second_ring_and_any_byte_on_control_is_an_answer(at_source: bool) -> None:
    side, _ = side_in(at_source, "ready")
    again, asked = i.SetAlarm(KEEPALIVE, 5.0), [i.Said(0, "PING"), i.Send(0, frame(PING, b""))]
    hear(side, b"\0")
    assert outputs(side, RING) == [again]
    assert outputs(side, RING) == [*asked, again] == outputs(side, RING)
    outputs(side, i.Received(1, b""))
    assert outputs(side, RING) == [*asked, again], "a channel's bytes are no answer"
    hear(side, b"\0")
    assert outputs(side, RING) == [again]


@SIDES
@pytest.mark.parametrize("keepalive_s", [0.0, 2.5])
def test_the_keepalive_is_set_at_start_or_ready_unless_it_is_off(at_source: bool, keepalive_s: float) -> None:
    config = replace(HERE, keepalive_s=keepalive_s)
    for state, expected in (("offered", True), ("ready", True)) if at_source else (("started", False), ("ready", True)):
        _, out = side_in(at_source, state, here=config, there=config)
        alarms = [o for o in of_type(out, i.SetAlarm) if isinstance(o, i.SetAlarm) and o.name == KEEPALIVE]
        assert alarms == ([i.SetAlarm(KEEPALIVE, 2.5)] if keepalive_s and expected else [])


def test_a_source_asks_nothing_before_accept_and_a_destination_nothing_without_a_session() -> None:
    for state, asks in (("offered", False), ("agreed", True)):
        side, _ = side_in(True, state)
        out = outputs(side, RING, RING, RING)
        assert len(of_type(out, i.Send)) == (2 if asks else 0) and len(of_type(out, i.SetAlarm)) == 3
    side, _ = side_in(False, "listening")
    assert outputs(side, RING) == []
