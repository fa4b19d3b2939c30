"""v2's source: when its guest goes on, stays paused or is gone; what it believes; and what it reports of each loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from simlib.handshake import interface as i
from simlib.handshake.errors import Error, Retry
from simlib.handshake.machine import Settings
from simlib.handshake.v2 import binding, frames, messages
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.session import KEEPALIVE
from simlib.handshake.v2.source import Source
from tests.handshake.builders import (
    HERE,
    SMALL,
    THERE,
    Talk,
    errors_in,
    finished,
    of_type,
    outputs,
    printed,
    sent,
    small,
    spoken_in,
    statuses,
)

MULTIFD = small("multifd")
POSTCOPY = small("postcopy-ram", "postcopy-preempt")
PREFACE = frames.preface(frames.RESPONDER, bytes(16))
HELLO = messages.Hello("destination", "separate", "x", "9.2")
REASON = Error("new", item="there", text="A reason.", retry=Retry.LATER)


def started(settings: Settings | None = None, config: SessionConfig = HERE) -> tuple[Source, list[i.Output]]:
    source = Source(settings or small(), config)
    return source, outputs(source, i.Start())


def said(out: list[i.Output]) -> list[str]:
    return [o.text for o in out if isinstance(o, i.Said)]


def facts(error: Error) -> tuple[str, str, str, str, str]:
    return error.code, error.item, error.source, error.destination, error.retry


def in_state(state: str, settings: Settings | None = None, **kwargs: Any) -> Talk:
    """A talk whose source has this state; one of a postcopy's states, if it is told to switch."""
    talk = Talk(settings or (POSTCOPY if state in ("package-sent", "package-loaded", "postcopy") else None), **kwargs)
    if talk.source.settings == POSTCOPY:
        outputs(talk.source, i.SwitchToPostcopy())
    if state == "greeted":
        talk.until(source="offered").to_source(PREFACE, HELLO)
    elif state == "closing":
        outputs(talk.until(source="agreed").source, i.Broken(1, "reset"))
    else:
        talk.until(source=state)
    assert talk.source.state == state
    return talk


def goes_on(out: list[i.Output], status: str, code: str, item: str) -> Error:
    """The attempt is over, the guest runs here, and everything is closed; the error of the report."""
    end = finished(out)
    assert end is not None and (end.status, end.errors[0].code, end.errors[0].item) == (status, code, item)
    assert of_type(out, i.ResumeGuest) == [i.ResumeGuest()] and statuses(out) == [status]
    assert not of_type(out, i.StopGuest) and end.reason == "specific" and not end.listening
    return end.errors[0]


# --- the command ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "changes", "code", "item", "value"),
    [
        (replace(small(), transport="file"), {}, "transport-one-way", "transport", "file"),
        (replace(small(), transport="exec"), {"bidirectional": False}, "transport-one-way", "transport", "exec"),
        (replace(small(), transport="fd"), {"bidirectional": False}, "transport-one-way", "transport", "fd"),
        (small(), {"require": ("xbzrle", "compress")}, "feature-required", "feature[compress]", "require"),
        (small("x-colo"), {}, "feature-conflict", "config", "COLO (x-colo) is not carried by this handshake."),
        (
            small("zero-copy-send"),
            {},
            "feature-conflict",
            "config",
            "Zero copy only available for non-compressed non-TLS multifd migration",
        ),
        (small("mapped-ram"), {}, "feature-conflict", "config", "Migration requires seekable transport (e.g. file)"),
    ],
)
def test_a_command_that_can_not_work_is_refused_before_anything_is_connected(
    settings: Settings, changes: dict[str, Any], code: str, item: str, value: str
) -> None:
    source, out = started(settings, replace(HERE, **changes))
    (end,) = out
    assert isinstance(end, i.Finished) and (end.status, end.listening) == ("rejected", True)
    assert facts(end.errors[0])[:3] == (code, item, value) and end.text == end.errors[0].text
    assert outputs(source, i.Opened(0), i.Cancel()) == []


@pytest.mark.parametrize("transport", ["tcp", "unix", "exec", "fd"])
def test_control_is_opened_and_watched(transport: str) -> None:
    source, out = started(replace(small("switchover-ack"), transport=transport))
    assert out == [i.Entered(source.status), i.Open(0, "control"), i.SetAlarm(KEEPALIVE, 5.0)]
    preface, hello, offer = spoken_in(outputs(source, i.Opened(0)))
    assert isinstance(preface, frames.Preface) and preface.magic == frames.INITIATOR
    assert isinstance(hello, messages.Hello) and hello.role == "source"
    assert hello.main == ("separate" if transport in ("tcp", "unix") else "inline")
    assert isinstance(offer, messages.Offer) and source.state == "offered" and not source.sends_guest()


# --- TLS ------------------------------------------------------------------------------------------------------------
def test_with_tls_each_connection_is_secured_before_its_first_byte_and_a_channel_proves_its_own() -> None:
    source, _ = started(small(tls=True))
    assert outputs(source, i.Opened(0)) == [i.StartTls(0, "qemu-migration/2")]
    assert len(spoken_in(outputs(source, i.Secured(0, b"c")))) == 3
    talk = Talk(small(tls=True))
    talk.answers[i.StartTls] = i.Secured(0, b"c" * 32)
    talk.until(source="agreed")
    assert outputs(talk.source, i.Opened(1)) == [i.StartTls(1, "qemu-migration/2")]
    preface, opening = spoken_in(outputs(talk.source, i.Secured(1, b"e" * 32)), 1)
    assert isinstance(preface, frames.Preface) and isinstance(opening, messages.ChannelOpen)
    assert opening.nonce == preface.nonce.hex() and opening.session_id == talk.source.session_id
    parts = ("CHANNEL_OPEN", opening.session_id, "main", opening.nonce, b"e" * 32)
    assert opening.mac == binding.mac(talk.key, *parts)


def test_the_exporter_of_control_is_part_of_the_key() -> None:
    keys = []
    for exporter in (b"a" * 32, b"b" * 32):
        talk = Talk(small(tls=True))
        talk.answers[i.StartTls] = i.Secured(0, exporter)
        keys.append(talk.until(source="agreed").key)
    assert keys[0] != keys[1]


def test_tls_that_fails_on_control_is_no_connection() -> None:
    source, _ = started(small(tls=True))
    outputs(source, i.Opened(0))
    error = goes_on(outputs(source, i.TlsFailed(0, "bad\ncert")), "failed", "connect", "control")
    assert error.text == "The TLS handshake failed: bad cert" and "tls-creds" in error.hint


# --- losses ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("connecting", "connect"),
        ("offered", "peer-closed"),
        ("greeted", "peer-closed"),
        ("agreed", "connection-lost"),
        ("ready", "connection-lost"),
        ("package-sent", "connection-lost"),
    ],
)
def test_before_go_a_lost_control_leaves_the_guest_here_and_nothing_is_said(state: str, code: str) -> None:
    talk = in_state(state) if state != "connecting" else Talk()
    if state == "connecting":
        outputs(talk.source, i.Start())
    out = outputs(talk.source, i.Broken(0, "re\nset"))
    error = goes_on(out, "failed", code, "control")
    assert error.retry == "later" and "re set" in error.text and said(out) == []
    assert {o.conn for o in out if isinstance(o, i.Drop)} == set(talk.source.links)


@pytest.mark.parametrize("state", ["loaded", "package-loaded"])
@pytest.mark.parametrize("cause", ["control", "mistake", "silence"])
def test_between_go_and_running_the_source_is_uncertain_and_its_guest_paused(state: str, cause: str) -> None:
    talk = in_state(state)
    if cause == "control":
        out = outputs(talk.source, i.Ended(0))
    elif cause == "mistake":
        out = talk.to_source(messages.Ready((), ""))
    else:
        out = outputs(talk.source, *[i.AlarmRang(KEEPALIVE)] * 7)
    end = finished(out)
    assert end is not None and end.status == "uncertain" and statuses(out) == ["uncertain"]
    assert facts(end.errors[0]) == ("connection-lost", "control", "GO sent", "no RUNNING", "never")
    assert not of_type(out, i.ResumeGuest) and {o.conn for o in out if isinstance(o, i.Drop)} == set(talk.source.links)
    assert not [text for text in said(out) if text != "PING"]


@pytest.mark.parametrize(
    ("state", "when"),
    [("agreed", "before READY "), ("ready", "while the guest moved "), ("package-sent", "while the guest moved ")],
)
def test_a_lost_channel_is_told_with_abort_and_reported_when_control_has_ended(state: str, when: str) -> None:
    talk = in_state(state)
    out = outputs(talk.source, i.Broken(1, "reset"))
    (abort,) = spoken_in(out)
    assert isinstance(abort, messages.Abort) and (abort.code, abort.phase) == ("channel-lost", state)
    assert i.ResumeGuest() in out and finished(out) is None and out[-1] == i.End(0)
    assert [o.conn for o in out if isinstance(o, i.Drop)] == [conn for conn in talk.source.links if conn]
    assert outputs(talk.source, i.Ended(1), i.GuestStopped(), i.RamCollected(0, True)) == []
    end = finished(outputs(talk.source, i.Ended(0)))
    assert end is not None and (end.status, end.errors[0].item) == ("failed", "channel[main]")
    assert facts(end.errors[0]) == ("channel-lost", "channel[main]", "closed", "", "later")
    assert end.text == f"Channel main was lost {when}(reset)."


@pytest.mark.parametrize(
    ("last", "status", "code"),
    [
        (messages.Reject.of((REASON,), HERE.limits), "failed", "new"),
        (messages.Failure((REASON,)), "failed", "new"),
        (i.Cancel(), "cancelled", "cancelled"),
        (i.Broken(0, "reset"), "failed", "channel-lost"),
        (messages.Go(), "failed", "bad-state"),
    ],
)
def test_while_it_closes_control_s_own_reason_counts(last: Any, status: str, code: str) -> None:
    talk = in_state("closing")
    assert talk.to_source(messages.Ready((), "")) == [i.Heard(0, "READY")]
    assert talk.to_source(messages.Loaded(0)) == [i.Heard(0, "LOADED")]
    out = talk.to_source(last) if isinstance(last, messages.Message) else outputs(talk.source, last)
    end = finished(out)
    assert end is not None and (end.status, end.errors[0].code) == (status, code) and said(out) == []


def test_a_silent_destination_does_not_hold_up_the_report_and_is_not_asked() -> None:
    out = outputs(in_state("closing").source, *[i.AlarmRang(KEEPALIVE)] * 7)
    end = finished(out)
    assert end is not None and end.errors[0].code == "channel-lost" and said(out) == []


@pytest.mark.parametrize("late", [i.Opened(2), i.Secured(2), i.TlsFailed(2, "bad"), i.Received(2, b"QEVM")])
def test_while_it_closes_nothing_counts_on_a_channel_that_was_dropped(late: i.Input) -> None:
    talk = in_state("agreed", MULTIFD)
    outputs(talk.source, i.Opened(1), i.Broken(1, "reset"))
    assert talk.source.state == "closing" and outputs(talk.source, late) == []


def test_a_channel_without_tls_ends_the_attempt_when_control_has_spoken() -> None:
    talk = in_state("agreed")
    out = outputs(talk.source, i.TlsFailed(1, "bad certificate"))
    assert said(out) == ["ABORT connect"] and talk.source.state == "closing"
    error = goes_on(outputs(talk.source, i.Ended(0)), "failed", "connect", "channel[main]")
    assert error.retry == "after-change"


# --- negotiation ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("hello", "code", "item"),
    [
        (replace(HELLO, role="source"), "reflected", "role"),
        (replace(HELLO, main="inline"), "unknown-value", "HELLO.main"),
        (replace(HELLO, main="other"), "unknown-value", "HELLO.main"),
    ],
)
def test_a_hello_that_does_not_answer_ours_ends_the_attempt_with_abort(
    hello: messages.Hello, code: str, item: str
) -> None:
    talk = in_state("offered")
    out = talk.to_source(PREFACE, hello)
    assert goes_on(out, "failed", code, item) and said(out) == [f"ABORT {code}"]
    (abort,) = spoken_in(out)
    assert isinstance(abort, messages.Abort) and abort.phase == "greeted"


def test_a_second_hello_is_a_bad_state_and_the_first_one_s_version_is_kept() -> None:
    talk = in_state("greeted")
    assert talk.source.peer_version == "9.2"
    goes_on(talk.to_source(HELLO), "failed", "bad-state", "HELLO")


def accept(talk: Talk, **changes: Any) -> messages.Accept:
    """The destination's own ACCEPT, changed."""
    flight = sent(outputs(talk.source, i.Start(), i.Opened(0)))
    outputs(talk.destination, i.Start(), i.Opened(0))
    answer = spoken_in([o for data, _ in flight for o in talk.to_destination(data)])[-1]
    assert isinstance(answer, messages.Accept)
    return replace(answer, **changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: {"agreement": a.agreement | {"features": {}}},
        lambda a: {"agreement": a.agreement | {"session-id": "f" * 16}},
        lambda a: {"agreement": a.agreement | {"channels": ["main"]}},
        lambda a: {"agreement": a.agreement | {"new": 1}},
        lambda a: {"channels": a.channels[::-1]},
        lambda a: {"channels": ()},
        lambda a: {"session_id": "f" * 16},
        lambda a: {"features": a.features[:1]},
    ],
)
def test_an_accept_whose_agreement_is_not_ours_is_refused(change: Callable[[messages.Accept], dict[str, Any]]) -> None:
    talk = Talk(MULTIFD)
    answer = accept(talk)
    out = talk.to_source(PREFACE, HELLO, replace(answer, **change(answer)))
    error = goes_on(out, "failed", "agreement-mismatch", "agreement")
    assert error.retry == "never" and len(error.source) == len(error.destination) == 16
    assert said(out) == ["ABORT agreement-mismatch"] and not of_type(out, i.Open)


def test_an_accept_of_what_we_forbid_is_refused_with_our_own_errors() -> None:
    talk = Talk(here=replace(HERE, require=("xbzrle",)))
    answer = accept(talk)
    features = tuple(f for f in answer.features if f.feature != "xbzrle")
    goes_on(
        talk.to_source(PREFACE, HELLO, replace(answer, features=features)),
        "failed",
        "feature-required",
        "feature[xbzrle]",
    )


def test_a_good_accept_is_answered_with_start_and_all_channels_are_opened() -> None:
    theirs = replace(MULTIFD, machine=replace(SMALL, cpu="other"))
    talk = Talk(MULTIFD, theirs).until(source="agreed")
    start = spoken_in(talk.heard[talk.source])[-1]
    digest = talk.destination.digest
    assert start == messages.Start(digest, binding.mac(talk.key, "START", digest))
    assert of_type(talk.heard[talk.source], i.Open) == [
        i.Open(n, name) for n, name in enumerate(("control", "main", "multifd[0]", "multifd[1]"))
    ]
    assert [w.code for w in talk.source.warnings] == ["cpu-model"]
    opening = spoken_in(outputs(talk.source, i.Opened(3)), 3)[-1]
    assert isinstance(opening, messages.ChannelOpen)
    assert (opening.name, opening.role, opening.index) == ("multifd[1]", "multifd", 1)
    main = spoken_in(outputs(talk.source, i.Opened(1)), 1)[-1]
    assert isinstance(main, messages.ChannelOpen) and (main.role, main.index) == ("main", 0)


# --- channels and READY ---------------------------------------------------------------------------------------------
def channel_ok(talk: Talk, conn: int, **changes: Any) -> bytes:
    """Preface and CHANNEL_OK of a good destination."""
    ours, theirs = talk.source.links[conn].nonce.hex(), bytes([conn]) * 16
    nonce = changes.get("nonce", theirs.hex())
    mac = binding.mac(changes.get("key", talk.key), "CHANNEL_OK", talk.source.channels[conn], ours, nonce)
    body = f'{{"mac":"{mac}","nonce":"{nonce}"}}'.encode()
    return frames.preface(frames.RESPONDER, theirs) + frames.frame(0x09, body)


def ready(talk: Talk, **changes: Any) -> messages.Ready:
    rows = tuple((n, talk.source.links[c].nonce.hex()) for c, n in enumerate(talk.source.channels) if c)
    rows = changes.get("channels", rows)
    return messages.Ready(rows, binding.mac(changes.get("key", talk.key), "READY", *(p for row in rows for p in row)))


@pytest.mark.parametrize("order", ["READY first", "READY between", "READY last"])
def test_the_guest_moves_after_ready_and_a_good_answer_on_every_channel(order: str) -> None:
    talk = in_state("agreed", MULTIFD)
    outputs(talk.source, *(i.Opened(conn) for conn in (1, 2, 3)))
    inputs = [i.Received(conn, channel_ok(talk, conn)) for conn in (3, 1, 2)]
    at = {"READY first": 0, "READY between": 2, "READY last": 3}[order]
    from_control = i.Received(0, frames.frame(0x07, b""))
    steps: list[i.Input] = [*inputs[:at], from_control, *inputs[at:]]
    for n, step in enumerate(steps):
        out = talk.to_source(ready(talk)) if step is from_control else outputs(talk.source, step)
        assert talk.source.sends_guest() == (n == 3) == bool(of_type(out, i.CollectRam))
    assert statuses(out) == ["active"] and talk.source.agreed == ("multifd[1]", "main", "multifd[0]")


@pytest.mark.parametrize("changes", [{"key": b"x"}, {"nonce": "01" * 15}, {"nonce": "ff" * 16}])
def test_an_answer_that_is_not_our_peer_s_is_refused(changes: dict[str, Any]) -> None:
    talk = in_state("agreed", MULTIFD)
    out = outputs(talk.source, i.Opened(1), i.Received(1, channel_ok(talk, 1, **changes)))
    goes_on(out, "failed", "channel-auth", "channel[main]")
    assert said(out)[-1] == "ABORT channel-auth"


@pytest.mark.parametrize(
    "changes",
    [
        {"key": b"x"},
        {"channels": ()},
        {"channels": (("main", "00"),)},
        {"channels": (("multifd[0]", "00"), ("main", "00"))},
    ],
)
def test_a_ready_that_names_other_channels_or_comes_from_somebody_else_is_refused(changes: dict[str, Any]) -> None:
    talk = in_state("agreed", MULTIFD)
    goes_on(talk.to_source(ready(talk, **changes)), "failed", "transcript", "READY")


def test_bytes_behind_a_channel_s_answer_or_on_another_channel_than_main_are_a_bad_state() -> None:
    for conn, early in ((1, True), (2, True), (2, False), (1, False)):
        talk = in_state("agreed", MULTIFD)
        parts = [channel_ok(talk, conn) + b"x"] if early else [channel_ok(talk, conn), b"x"]
        out = outputs(talk.source, i.Opened(conn), *(i.Received(conn, part) for part in parts))
        goes_on(out, "failed", "bad-state", f"channel[{talk.source.channels[conn]}]")


def test_another_message_on_a_channel_is_a_bad_state() -> None:
    for message in (messages.Loaded(0), messages.Running()):
        talk = in_state("agreed", MULTIFD)
        out = talk.to_source(PREFACE, message, conn=1)
        goes_on(out, "failed", "bad-state", message.NAME)
    goes_on(in_state("agreed").to_source(messages.ChannelOk("", "")), "failed", "bad-state", "CHANNEL_OK")


def test_a_refused_channel_is_answered_on_control_with_its_reasons() -> None:
    talk = in_state("agreed", MULTIFD)
    outputs(talk.source, i.Opened(2))
    out = talk.to_source(PREFACE, messages.Reject.of((REASON,), HERE.limits), conn=2)
    assert said(out) == ["ABORT new"] and finished(out) is None and talk.source.state == "closing"
    assert errors_in(out) == (REASON,)


def test_a_refusal_on_control_is_reported_as_it_is_and_not_answered() -> None:
    talk = in_state("offered")
    out = talk.to_source(PREFACE, messages.Reject.of((REASON, Error("other")), HERE.limits))
    goes_on(out, "failed", "new", "there")
    assert talk.source.finished is not None and len(talk.source.finished.errors) == 2 and said(out) == []
    assert talk.source.finished.text == "A reason.; other at "


# --- the hand-over --------------------------------------------------------------------------------------------------
def test_loaded_before_the_end_of_the_stream_is_not_believed() -> None:
    talk = in_state("ready")
    goes_on(talk.to_source(messages.Loaded(0)), "failed", "bad-state", "LOADED")


def test_after_go_a_cancel_and_a_lost_channel_have_no_effect_and_running_completes() -> None:
    talk = in_state("loaded")
    assert outputs(talk.source, i.Cancel("deadline"), i.Broken(1, "reset"), i.SwitchToPostcopy()) == []
    out = talk.to_source(messages.Running())
    end = finished(out)
    assert end == i.Finished(talk.source.status) and statuses(out) == ["completed"] and end.reason == "none"
    assert {o.conn for o in out if isinstance(o, i.Drop)} == {0, 1} and not of_type(out, i.ResumeGuest)


@pytest.mark.parametrize("state", ["ready", "loaded", "package-sent", "package-loaded"])
def test_a_destination_that_failed_gives_the_guest_back(state: str) -> None:
    out = in_state(state).to_source(messages.Failure((REASON,)))
    assert goes_on(out, "failed", "new", "there") == REASON and said(out) == []


@pytest.mark.parametrize("code", ["cancelled", "deadline"])
@pytest.mark.parametrize("state", ["offered", "greeted", "agreed", "ready", "package-sent"])
def test_before_go_a_cancel_is_told_with_abort(state: str, code: str) -> None:
    talk = in_state(state)
    out = outputs(talk.source, i.Cancel(code))
    goes_on(out, "cancelled", code, "")
    (abort,) = spoken_in(out)
    assert isinstance(abort, messages.Abort) and (abort.phase, abort.retry) == (state, "later")
    missing = ["channel[main]"] if state == "agreed" else []
    assert [e.item for e in abort.errors[1:]] == missing


def test_a_cancel_before_the_connection_is_made_is_told_to_nobody() -> None:
    source, _ = started()
    out = outputs(source, i.Cancel())
    goes_on(out, "cancelled", "cancelled", "")
    assert said(out) == []


# --- postcopy -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("conn", "name"), [(1, "main"), (2, "postcopy-preempt")])
def test_a_lost_memory_channel_is_told_once_and_control_decides(conn: int, name: str) -> None:
    talk = in_state("postcopy")
    assert said(outputs(talk.source, i.Broken(conn, "reset"), i.Broken(3 - conn, "reset"))) == ["ERROR channel-lost"]
    out = outputs(talk.source, i.Ended(0))
    end = finished(out)
    assert end is not None and end.status == "postcopy-paused" and "at the destination" in end.text
    assert (end.errors[0].code, end.errors[0].item) == ("channel-lost", f"channel[{name}]")
    assert not of_type(out, i.ResumeGuest) and statuses(out) == ["postcopy-paused"]


def test_in_postcopy_an_error_or_a_lost_control_pauses_and_a_second_loaded_completes() -> None:
    talk = in_state("postcopy")
    end = finished(talk.to_source(messages.Failure((REASON,))))
    assert end is not None and (end.status, end.errors[0].code) == ("postcopy-paused", "new")
    talk = in_state("postcopy")
    out = outputs(talk.source, i.Broken(0, "reset"))
    end = finished(out)
    assert end is not None and (end.status, end.errors[0].code) == ("postcopy-paused", "connection-lost")
    assert said(out) == [] and end.errors[0].retry == "never"
    talk = in_state("postcopy")
    out = talk.to_source(messages.Running())
    end = finished(out)
    assert end is not None and (end.status, end.errors[0].code) == ("postcopy-paused", "bad-state")
    assert said(out) == ["ERROR bad-state"]
    talk = in_state("postcopy")
    outputs(talk.source, i.RamCollected(0, True))
    end = finished(talk.to_source(messages.Loaded(0)))
    assert end is not None and end.status == "completed"


def test_an_order_to_switch_that_comes_too_late_has_no_effect_and_one_that_was_not_agreed_is_answered_once() -> None:
    talk = Talk(small("postcopy-ram"))
    talk.until(source="ready")
    outputs(talk.source, i.Drained(1), i.RamCollected(0, True), i.GuestStopped())
    assert talk.source.stage == "collect-last"
    assert outputs(talk.source, i.SwitchToPostcopy()) == [] and not talk.source.postcopy
    talk = Talk(there=replace(THERE, forbid=("postcopy-ram",)))
    assert outputs(talk.source, i.SwitchToPostcopy()) == []
    talk.until(source="ready")
    assert printed(talk.heard[talk.source]) == "postcopy-ram was not agreed: the migration goes on as precopy"
