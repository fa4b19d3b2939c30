"""v2's destination: who is heard, what is checked in which order, and what becomes of connections and attempts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from simlib.handshake import interface as i
from simlib.handshake import stream
from simlib.handshake.errors import Error
from simlib.handshake.machine import Device, Settings
from simlib.handshake.v2 import binding, frames, messages
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.frames import Limits
from simlib.handshake.v2.session import KEEPALIVE
from tests.handshake.builders import (
    FEW,
    HERE,
    SIZES,
    SMALL,
    THERE,
    Talk,
    cut,
    errors_in,
    finished,
    of_type,
    outputs,
    printed,
    sent,
    small,
    spoken,
    spoken_in,
    statuses,
)

PREFACE = frames.preface(frames.INITIATOR, bytes(16))
HELLO = messages.Hello("source", "separate", "x", "10.0")
MULTIFD = small("multifd", channels=2)
ALARMS = (i.SetAlarm, i.StopAlarm)
CHANNELS = {"main": 1, "multifd[0]": 2, "multifd[1]": 3}


def started(settings: Settings | None = None, config: SessionConfig = THERE) -> tuple[Destination, list[i.Output]]:
    destination = Destination(settings or small(), config)
    return destination, outputs(destination, i.Start())


def opened(*data: bytes, config: SessionConfig = THERE) -> tuple[Destination, list[i.Output]]:
    """A destination with connection 0, and what it does with these bytes there."""
    destination, _ = started(config=config)
    return destination, outputs(destination, i.Opened(0), *(i.Received(0, part) for part in data))


def facts(error: Error) -> tuple[str, str, str, str, str]:
    return error.code, error.item, error.source, error.destination, error.retry


def opening(talk: Talk, name: str, **changes: Any) -> bytes:
    """Preface and CHANNEL_OPEN of a good source, with these changes; a MAC over what is said."""
    nonce = bytes([7]) * 16
    fields = {"session_id": talk.source.session_id, "nonce": nonce.hex(), "exporter": b"", "key": talk.key} | changes
    key, exporter = fields.pop("key"), fields.pop("exporter")
    mac = binding.mac(key, "CHANNEL_OPEN", fields["session_id"], name, fields["nonce"], exporter)
    fields = {"name": name, "role": "anything", "index": 99, "mac": mac} | fields
    return frames.preface(frames.INITIATOR, nonce) + spoken(messages.ChannelOpen(**fields))


def bind(talk: Talk, *names: str) -> list[i.Output]:
    return [
        o
        for n in names
        for o in outputs(talk.destination, i.Opened(CHANNELS[n]), i.Received(CHANNELS[n], opening(talk, n)))
    ]


def start(talk: Talk, **changes: Any) -> messages.Start:
    digest = changes.get("agreement", talk.destination.digest)
    return messages.Start(digest, changes.get("mac", binding.mac(talk.key, "START", digest)))


# --- the command ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("transport", "bidirectional", "refused"),
    [
        ("file", True, True),
        ("exec", False, True),
        ("exec", True, False),
        ("fd", True, False),
        ("fd", False, True),
        ("tcp", False, False),
    ],
)
def test_where_nobody_can_answer_the_command_is_refused(transport: str, bidirectional: bool, refused: bool) -> None:
    settings = replace(small(), transport=transport)
    destination, out = started(settings, replace(THERE, bidirectional=bidirectional))
    end = finished(out)
    assert (end is not None) == refused and destination.accepting != refused
    if end:
        assert (end.status, end.listening) == ("rejected", False)
        assert facts(end.errors[0])[:2] == ("transport-one-way", "transport")
    else:
        assert out == [i.Entered(destination.status)] and destination.status == "setup"


def test_colo_is_refused_before_anything_is_listened_for() -> None:
    end = finished(started(small("x-colo"))[1])
    assert end is not None and end.errors[0].code == "feature-conflict" and end.errors[0].item == "config"
    assert Destination(small()).accepting is False


# --- connections of nobody ------------------------------------------------------------------------------------------
def test_nothing_is_said_before_a_whole_first_message() -> None:
    destination, out = opened(PREFACE, spoken(HELLO))
    assert sent(out) == [] and destination.state == "greeted"


@pytest.mark.parametrize("first", [b"QEVM", b"\x16\x03\x01\x02", frames.RESPONDER, PREFACE[:6] + b"x"])
def test_a_stranger_s_connection_is_closed_without_a_word(first: bytes) -> None:
    destination, out = opened(first)
    assert out[-2:] == [i.StopAlarm("guard-0"), i.Drop(0)] and not of_type(out, i.Send)
    assert printed(out).startswith("connection 0 refused: ") and destination.accepting and not destination.links


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (PREFACE[:10] + b"\2\2\3\0" + PREFACE[14:], "no-common-version"),
        (PREFACE[:10] + b"\1\0\2\0" + PREFACE[14:], "no-common-version"),
        (PREFACE[:10] + b"\2\0\2\1" + PREFACE[14:], "no-common-version"),  # a first flight of 2.0 can't be read
        (PREFACE[:10] + b"\3\0\1\0" + PREFACE[14:], "no-common-version"),
        (PREFACE[:8] + b"\xff\xff", "frame-too-big"),
        (PREFACE + spoken(messages.Go()), "bad-state"),
        (PREFACE + frames.frame(frames.PING, b""), "bad-state"),
        (PREFACE + frames.frame(0x70, b""), "unknown-critical"),
        (PREFACE + spoken(messages.ChannelOpen("0" * 16, "main", "main", 0, "", "")), "no-session"),
        (PREFACE + frames.frame(0x08, b"{}"), "unknown-value"),
    ],
)
def test_after_eight_good_bytes_a_mistake_is_answered_with_preface_and_reject(data: bytes, code: str) -> None:
    destination, out = opened(data)
    preface, reject = spoken_in(out)
    assert isinstance(preface, frames.Preface) and preface.magic == frames.RESPONDER
    assert isinstance(reject, messages.Reject) and reject.code == reject.errors[0].code == code
    assert out[-2:] == [i.End(0), i.SetAlarm("guard-0", 10.0)] and destination.state == "listening"
    assert outputs(destination, i.Received(0, b"more")) == []
    assert outputs(destination, i.Ended(0)) == [i.StopAlarm("guard-0"), i.Drop(0)]


@pytest.mark.parametrize(("lowest", "highest"), [(0x0201, 0x0201), (0x0201, 0x0202), (0x0201, 0xFFFF)])
def test_ranges_that_begin_with_our_version_are_fine(lowest: int, highest: int) -> None:
    data = frames.preface(frames.INITIATOR, bytes(16), 0xFFFF, lowest, highest)
    assert opened(data + spoken(HELLO))[0].state == "greeted"


def test_both_ranges_are_told_where_they_do_not_meet() -> None:
    error = errors_in(opened(frames.preface(frames.INITIATOR, bytes(16), 0, 0x0202, 0x0300))[1])[0]
    assert facts(error)[:4] == ("no-common-version", "version", "2.2..3.0", "2.1..2.1")


@pytest.mark.parametrize("guard_s", [0.0, 3.0])
def test_each_connection_has_a_guard_unless_there_is_none(guard_s: float) -> None:
    destination, out = opened(config=replace(THERE, limits=Limits(guard_s=guard_s)))
    assert out == ([i.SetAlarm("guard-0", 3.0)] if guard_s else [])
    out = outputs(destination, i.Ended(0))
    assert out == ([i.StopAlarm("guard-0")] if guard_s else []) + [i.Drop(0)]


def test_the_guard_closes_who_has_not_said_who_it_is_and_whom_it_refused() -> None:
    destination, _ = opened(PREFACE)
    out = outputs(destination, i.AlarmRang("guard-0"))
    assert out[-1] == i.Drop(0) and "connection 0 did not authenticate within 10.0 s" in printed(out)
    outputs(destination, i.Opened(1), i.Received(1, PREFACE + spoken(messages.Go())))
    assert outputs(destination, i.AlarmRang("guard-1"))[-1] == i.Drop(1)
    assert outputs(destination, i.AlarmRang("guard-1")) == [], "it is gone"


def test_the_oldest_of_too_many_unknown_connections_is_closed_and_control_is_none() -> None:
    talk = Talk(MULTIFD, there=replace(THERE, limits=Limits(unauthenticated=2))).until(source="agreed")
    out = outputs(talk.destination, *(i.Opened(conn) for conn in range(10, 15)))
    assert not of_type(out, i.Drop), "two, and three channels that are awaited"
    assert of_type(outputs(talk.destination, i.Opened(15)), i.Drop) == [i.Drop(10)]
    bind(talk, "main")
    out = outputs(talk.destination, i.Opened(16))
    assert of_type(out, i.Drop) == [i.Drop(12)], "one channel less is awaited"


def test_tls_comes_first_offers_its_name_and_fails_for_its_connection_alone() -> None:
    destination, _ = started(small(tls=True))
    assert i.StartTls(0, "qemu-migration/2") in outputs(destination, i.Opened(0))
    out = outputs(destination, i.TlsFailed(0, "no certificate"), i.TlsFailed(0, "again"), i.Secured(0, b"x"))
    assert of_type(out, i.Drop, i.Printed) == [i.Printed("TLS handshake failed: no certificate"), i.Drop(0)]
    assert destination.state == "listening"


# --- HELLO and OFFER ------------------------------------------------------------------------------------------------
def test_a_second_hello_on_control_is_a_bad_state_and_ends_the_attempt() -> None:
    destination, out = opened(PREFACE + spoken(HELLO), spoken(HELLO))
    assert errors_in(out)[0].code == "bad-state" and errors_in(out)[0].item == "HELLO"
    assert destination.state == "listening" and statuses(out)[-1] == "setup" and i.End(0) in out


def test_a_hello_while_a_session_is_on_is_told_busy_there_and_the_session_goes_on() -> None:
    talk = Talk().until(destination="accepted")
    out = outputs(talk.destination, i.Opened(9), i.Received(9, PREFACE + spoken(HELLO)))
    assert facts(errors_in(out, 9)[0]) == ("busy", "session", "new", "another is on", "later")
    assert not of_type(out, i.Drop) and i.End(9) in out
    assert talk.until().source.status == "completed"


@pytest.mark.parametrize(
    ("hello", "code", "item"),
    [
        (replace(HELLO, role="destination"), "reflected", "role"),
        (replace(HELLO, main="both"), "unknown-value", "HELLO.main"),
        (replace(HELLO, session="other"), "wrong-session", "session"),
    ],
)
def test_a_hello_that_is_not_meant_for_us_is_refused(hello: messages.Hello, code: str, item: str) -> None:
    destination, out = opened(PREFACE + spoken(hello), config=replace(THERE, session="ours"))
    error = errors_in(out)[0]
    assert (error.code, error.item) == (code, item) and destination.state == "listening"
    assert code != "wrong-session" or (error.source, error.destination) == ("other", "ours")


def test_all_errors_of_negotiation_are_told_before_all_of_the_verdict() -> None:
    theirs = replace(small(), machine=replace(SMALL, devices=(), vcpus=2, type="other"))
    talk = Talk(small(), theirs, here=replace(HERE, require=("xbzrle",)), there=replace(THERE, forbid=("xbzrle",)))
    codes = [e.code for e in talk.until().source.finished.errors]  # type: ignore[union-attr]
    assert codes == ["feature-required", "machine-type", "device-unknown"], "warnings are none"
    assert talk.destination.ended_as[0].code == "feature-required"


@pytest.mark.parametrize("here", ["warn", "reject"])
@pytest.mark.parametrize("there", ["warn", "reject"])
def test_either_side_may_want_certainty(here: str, there: str) -> None:
    theirs = replace(small(), machine=replace(SMALL, cpu="other"))
    talk = Talk(small(), theirs, replace(HERE, on_maybe=here), replace(THERE, on_maybe=there)).until()
    if here == there == "warn":
        assert talk.source.status == "completed" and [w.code for w in talk.source.warnings] == ["cpu-model"]
        return
    errors = talk.source.finished.errors  # type: ignore[union-attr]
    assert errors[0].code == "maybe-refused" and {e.severity for e in errors} == {"error"}
    assert ("machine.cpu", "qemu64", "other") in [(e.item, e.source, e.destination) for e in errors]


def test_a_certain_verdict_is_no_doubt_to_be_refused() -> None:
    assert Talk(here=replace(HERE, on_maybe="reject")).until().source.status == "completed"


def test_accept_has_the_plan_the_agreed_values_and_at_most_64_warnings() -> None:
    devices = tuple(Device(f"d{n}") for n in range(65))
    theirs = replace(small(tls=True), machine=replace(SMALL, devices=(*SMALL.devices, *devices)))
    talk = Talk(small("multifd", "xbzrle", version="8.1", channels=3, tls=True), theirs)
    talk.answers[i.StartTls] = i.Secured(0)
    accept = spoken_in(talk.until(destination="accepted").heard[talk.destination])[-1]
    assert isinstance(accept, messages.Accept)
    assert accept.channels == ("main", "multifd[0]", "multifd[1]", "multifd[2]") and accept.verdict == "maybe"
    assert accept.config == {"multifd-channels": 3, "multifd-compression": "none"}, "no names of TLS objects"
    assert len(accept.warnings) == 64 and accept.skipped == (("xbzrle", "excluded by multifd"),)
    assert len(accept.session_id) == 16 and talk.destination.negotiated() == {}


@FEW
@given(SIZES)
def test_the_conversation_is_the_same_however_it_was_cut(sizes: list[int]) -> None:
    talk = Talk()
    flight = sent(outputs(talk.source, i.Start(), i.Opened(0)))
    outputs(talk.destination, i.Start(), i.Opened(0))
    answer = [o for part, _ in cut(flight, sizes) for o in talk.to_destination(part)]
    talk.to_source(*(part for part, _ in cut(sent(answer), sizes)))
    assert talk.key == talk.destination.key_bytes


def test_each_attempt_has_its_own_session_and_secret_and_the_settings_from_before() -> None:
    talk = Talk(MULTIFD, small())
    outputs(talk.destination, i.Start())
    accepts = []
    for conn in (0, 1):
        source = Talk(MULTIFD).source
        flight = sent(outputs(source, i.Start(), i.Opened(0)))
        outputs(talk.destination, i.Opened(conn))
        out = [o for data, _ in flight for o in outputs(talk.destination, i.Received(conn, data))]
        accepts.append(spoken_in(out, conn)[-1])
        outputs(talk.destination, i.Ended(conn))
        assert talk.destination.settings == small() and talk.destination.state == "listening"
    one, other = accepts
    assert one.session_id != other.session_id and one.secret != other.secret  # type: ignore[union-attr]


# --- START and the channels -----------------------------------------------------------------------------------------
def test_start_on_another_agreement_or_after_another_conversation_is_refused() -> None:
    talk = Talk().until(source="agreed")
    digest = talk.destination.digest
    error = errors_in(talk.to_destination(start(talk, agreement="x" * 64)))[0]
    assert facts(error)[:4] == ("agreement-mismatch", "agreement", "x" * 16, digest[:16])
    talk = Talk().until(source="agreed")
    error = errors_in(talk.to_destination(start(talk, mac="0" * 64)))[0]
    assert (error.code, error.item, talk.destination.state) == ("transcript", "START", "listening")


def test_start_sets_what_was_agreed_and_twice_is_a_bad_state() -> None:
    talk = Talk(MULTIFD, small()).until(source="agreed")
    out = talk.to_destination(start(talk))
    values = (("multifd", True), ("multifd-channels", 2), ("multifd-compression", "none"))
    assert out[-1] == i.Apply(values) and talk.destination.unready()
    assert errors_in(talk.to_destination(start(talk)))[0].code == "bad-state"


def test_what_can_not_be_set_is_told_and_an_answer_to_an_attempt_that_is_over_is_none() -> None:
    talk = Talk().until(source="agreed")
    talk.to_destination(start(talk))
    out = outputs(talk.destination, i.Applied("no such thing", "port"))
    assert facts(errors_in(out)[0])[::3] == ("port", "no such thing") and errors_in(out)[0].item == "config"
    talk = Talk().until(source="agreed")
    talk.to_destination(start(talk))
    outputs(talk.destination, i.Ended(0))
    assert outputs(talk.destination, i.Applied("late")) == [] and talk.destination.state == "listening"


def test_a_channel_is_bound_before_start_too_with_a_mac_over_both_nonces() -> None:
    talk = Talk(MULTIFD).until(source="agreed")
    out = bind(talk, "multifd[1]")
    preface, answer = spoken_in(out, 3)
    assert isinstance(preface, frames.Preface) and isinstance(answer, messages.ChannelOk)
    assert answer.nonce == preface.nonce.hex() != (bytes([7]) * 16).hex()
    assert answer.mac == binding.mac(talk.key, "CHANNEL_OK", "multifd[1]", (bytes([7]) * 16).hex(), answer.nonce)
    assert of_type(out, *ALARMS) == [i.SetAlarm("guard-3", 10.0), i.StopAlarm("guard-3")]
    assert talk.destination.bound_channels() == (("multifd[1]", 3),)


@pytest.mark.parametrize(
    ("name", "changes", "code", "item", "values"),
    [
        ("x", {"session_id": "s", "key": b""}, "wrong-session", "session", ("s", None)),
        ("x", {"key": b""}, "channel-auth", "channel[x]", ("wrong MAC", "")),
        ("main", {"nonce": "07"}, "channel-auth", "channel[main]", ("wrong MAC", "")),
        ("main", {"exporter": b"e"}, "channel-auth", "channel[main]", ("wrong MAC", "")),
        ("x", {}, "channel-unplanned", "channel[x]", ("x", "main, multifd[0], multifd[1]")),
        ("main", {}, "channel-duplicate", "channel[main]", ("second", "first")),
    ],
)
def test_a_channel_is_checked_in_order_and_refused_alone(
    name: str, changes: dict[str, Any], code: str, item: str, values: tuple[str, str | None]
) -> None:
    talk = Talk(MULTIFD).until(source="agreed")
    bind(talk, "main")
    out = outputs(talk.destination, i.Opened(9), i.Received(9, opening(talk, name, **changes)))
    error = errors_in(out, 9)[0]
    other = values[1] if values[1] is not None else talk.source.session_id
    assert (error.code, error.item, error.source, error.destination) == (code, item, values[0], other)
    assert i.End(9) in out and not of_type(out, i.Drop) and talk.destination.bound_channels() == (("main", 1),)
    assert talk.destination.state == "accepted"


def test_a_channel_s_own_tls_is_part_of_its_mac() -> None:
    talk = Talk().until(source="agreed")
    outputs(talk.destination, i.Opened(9), i.Secured(9, b"e"))
    outputs(talk.destination, i.Received(9, opening(talk, "main", exporter=b"e")))
    assert talk.destination.bound_channels() == (("main", 9),)


@pytest.mark.parametrize("message", ["CHANNEL_OPEN", "CHANNEL_OK"])
def test_a_channel_s_message_on_control_is_a_bad_state(message: str) -> None:
    talk = Talk().until(source="agreed")
    type = 0x08 if message == "CHANNEL_OPEN" else 0x09
    error = errors_in(talk.to_destination(frames.frame(type, b"not even JSON")))[0]
    assert (error.code, error.item, talk.destination.state) == ("bad-state", message, "listening")


@pytest.mark.parametrize("at_once", [True, False])
def test_bytes_on_a_bound_channel_before_ready_end_the_attempt(at_once: bool) -> None:
    talk = Talk(MULTIFD).until(source="agreed")
    data = opening(talk, "main")
    parts = (data + b"Q",) if at_once else (data, b"Q")
    out = outputs(talk.destination, i.Opened(1), *(i.Received(1, part) for part in parts))
    assert (errors_in(out)[0].code, errors_in(out)[0].item) == ("bad-state", "channel[main]")
    assert of_type(out, i.Drop, i.End) == [i.End(0), i.Drop(1)] and talk.destination.state == "listening"


@pytest.mark.parametrize("last", ["START", "configuration", "multifd[0]"])
def test_ready_comes_when_start_the_configuration_and_every_channel_are_there(last: str) -> None:
    talk = Talk(MULTIFD).until(source="agreed")
    steps: dict[str, Callable[[], list[i.Output]]] = {
        "multifd[1]": lambda: bind(talk, "multifd[1]"),
        "START": lambda: talk.to_destination(start(talk)),
        "configuration": lambda: outputs(talk.destination, i.Applied()),
        "main": lambda: bind(talk, "main"),
        "multifd[0]": lambda: bind(talk, "multifd[0]"),
    }
    order = [*(name for name in steps if name != last), last]
    if last == "START":
        order = ["multifd[1]", "main", "multifd[0]", "START", "configuration"]
    outs = [steps[name]() for name in order]
    assert all("ready" not in str(o) for out in outs[:-1] for o in of_type(out, i.Entered))
    ready = spoken_in(outs[-1])[-1]
    assert isinstance(ready, messages.Ready) and statuses(outs[-1]) == ["active"]
    assert [name for name, _ in ready.channels] == list(CHANNELS)
    assert ready.mac == binding.mac(talk.key, "READY", *(part for row in ready.channels for part in row))
    alarms = of_type(outs[-1], *ALARMS)
    assert alarms[-2:] == [i.StopAlarm("guard-0"), i.SetAlarm(KEEPALIVE, 5.0)]
    assert talk.destination.state == "ready" and not talk.destination.unready()


# --- endings --------------------------------------------------------------------------------------------------------
def ready(settings: Settings = MULTIFD, *data: bytes) -> tuple[Talk, list[i.Output]]:
    """After READY, with these bytes on main."""
    talk = Talk(settings).until(destination="ready")
    return talk, outputs(talk.destination, *(i.Received(1, part) for part in data))


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("cause", ["control", "channel", "ABORT", "mistake", "cancel"])
def test_after_ready_a_failure_is_told_with_error_and_is_final_if_the_stream_has_begun(cause: str, begun: bool) -> None:
    talk, _ = ready(MULTIFD, *([stream.header(MULTIFD)] if begun else []))
    abort = messages.Abort.of((Error("new", text="x"),), "ready")
    code, item, out = {
        "control": lambda: ("connection-lost", "control", outputs(talk.destination, i.Broken(0, "reset"))),
        "channel": lambda: ("channel-lost", "channel[multifd[0]]", outputs(talk.destination, i.Ended(2))),
        "ABORT": lambda: ("new", "", talk.to_destination(abort)),
        "mistake": lambda: ("bad-state", "GO", talk.to_destination(messages.Go())),
        "cancel": lambda: ("deadline", "", outputs(talk.destination, i.Cancel("deadline"))),
    }[cause]()
    said = [o.text for o in out if isinstance(o, i.Said)]
    assert said == ([] if cause in ("control", "ABORT") else [f"ERROR {code}"])
    assert (i.End(0) in out) == bool(said) and i.StopAlarm(KEEPALIVE) in out
    assert {o.conn for o in out if isinstance(o, i.Drop)} >= {1, 2, 3}
    assert (talk.destination.ended_as[0].code, talk.destination.ended_as[0].item) == (code, item)
    end = finished(out)
    if begun:
        assert end is not None and (end.status, end.reason, end.errors[0].code) == ("failed", "specific", code)
        assert statuses(out) == ["failed"] and not talk.destination.accepting and talk.destination.state == "failed"
    elif cause == "cancel":
        assert end is not None and end.status == "cancelled" and statuses(out)[-1] == "cancelled"
    else:
        assert end is None and talk.destination.accepting and statuses(out) == ["setup"]


def test_a_lost_channel_is_told_with_what_each_side_sees_of_it() -> None:
    talk, _ = ready()
    error = errors_in(outputs(talk.destination, i.Broken(2, "reset\n")))[0]
    assert facts(error) == ("channel-lost", "channel[multifd[0]]", "closed", "open", "later")
    assert error.text == "Channel multifd[0] was lost (reset )."


@pytest.mark.parametrize("state", ["greeted", "accepted", "started"])
def test_before_ready_a_lost_control_or_an_abort_lets_it_listen_again(state: str) -> None:
    for abort in (False, True):
        talk = Talk(MULTIFD)
        if state == "greeted":
            talk.destination = opened(PREFACE + spoken(HELLO))[0]
        else:
            talk.until(destination=state)
        said = messages.Abort.of((Error("new"),), "offered")
        out = talk.to_destination(said) if abort else outputs(talk.destination, i.Ended(0))
        assert i.Drop(0) in out and not of_type(out, i.Send) and statuses(out) == ["setup"]
        assert talk.destination.state == "listening" and not talk.destination.occupied()
        assert [e.code for e in talk.destination.ended_as] == ["new" if abort else "connection-lost"]


def test_what_nobody_waits_for_changes_nothing() -> None:
    talk = Talk().until(destination="accepted")
    outputs(talk.destination, i.Opened(9))
    assert outputs(talk.destination, i.Broken(9, "reset"))[-1] == i.Drop(9)
    assert outputs(talk.destination, i.Ended(9), i.Ended(77), i.Received(77, b"x"), i.AlarmRang("guard-77")) == []
    assert talk.destination.state == "accepted"


def test_a_cancel_ends_the_command_with_or_without_an_attempt() -> None:
    destination, _ = started()
    out = outputs(destination, i.Opened(0), i.Cancel())
    assert of_type(out, i.Drop, i.Entered) == [i.Drop(0), i.Entered(destination.status)]
    assert destination.status == "cancelled" and facts(finished(out).errors[0])[::4] == ("cancelled", "later")  # type: ignore[union-attr]
    talk = Talk(MULTIFD).until(destination="accepted")
    out = outputs(talk.destination, i.Cancel())
    assert errors_in(out)[0].code == "cancelled" and finished(out) is not None and i.End(0) in out


def test_after_go_neither_a_cancel_nor_a_mistake_nor_a_lost_connection_says_a_word() -> None:
    talk = Talk(MULTIFD, answers={i.RunGuest: i.Cancel()}).until(destination="going")
    assert outputs(talk.destination, i.Cancel(), i.Ended(1), i.Ended(0)) == []
    (line,) = talk.to_destination(messages.Go())
    assert line == i.Printed("after GO: bad-state: GO while going")
    out = outputs(talk.destination, i.GuestRunning())
    assert [type(one) for one in spoken_in(out)] == [messages.Running] and talk.destination.status == "completed"
    assert finished(out) is not None and of_type(out, i.Drop)[0] == i.Drop(0)
