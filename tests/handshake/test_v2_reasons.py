"""The errors that a side reports of itself: code, item, both values, and when another attempt makes sense."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simlib.handshake.errors import Code, Error, Retry
from simlib.handshake.v2 import body, reasons
from tests.handshake.builders import HERE, small

NOISE = "reset\x1b[31m\n"


def facts(error: Error) -> tuple[str, str, str, str, str]:
    return error.code, error.item, error.source, error.destination, error.retry


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (reasons.cancelled("cancelled"), ("cancelled", "", "", "", "later")),
        (reasons.cancelled("deadline"), ("deadline", "", "", "", "later")),
        (
            reasons.channel_missing("multifd[1]"),
            ("channel-missing", "channel[multifd[1]]", "opened", "not bound", "later"),
        ),
        (reasons.channel_lost("main", NOISE), ("channel-lost", "channel[main]", "closed", "", "later")),
        (reasons.silent(35.0), ("peer-silent", "control", "", "", "later")),
        (
            reasons.handshake_timeout(10.0, "START"),
            ("handshake-timeout", "session", "", "waits for START", "later"),
        ),
        (reasons.uncertain(NOISE), ("connection-lost", "control", "GO sent", "no RUNNING", "never")),
    ],
    ids=lambda value: value.code if isinstance(value, Error) else "",
)
def test_an_error_has_its_item_its_values_and_its_retry(error: Error, expected: tuple[str, ...]) -> None:
    assert facts(error) == expected and error.severity == "error"
    assert error.text.isprintable() and error.text.endswith(".")


def test_texts_say_what_happened() -> None:
    assert reasons.cancelled("deadline").text == "The manager's deadline has passed."
    assert reasons.cancelled("cancelled").text == "The manager cancelled the migration."
    assert reasons.silent(35.0).text == "Nothing came from the peer for 35 s."
    assert reasons.silent(0.5).text == "Nothing came from the peer for 0.5 s."
    waits = "No READY within 10 s: the destination waits for main, multifd[0]."
    assert reasons.handshake_timeout(10.0, "main, multifd[0]").text == waits
    assert (
        reasons.channel_lost("main", NOISE, "before READY ").text == "Channel main was lost before READY (reset [31m )."
    )
    assert reasons.channel_missing("main").text == "Channel main was not bound by then."


def test_what_is_not_one_of_the_manager_s_reasons_is_none() -> None:
    with pytest.raises(KeyError):
        reasons.cancelled(Code.CONNECT)


@pytest.mark.parametrize(
    ("where", "recover", "resume"), [("here", "here", "there"), ("at the destination", "there", "here")]
)
def test_a_paused_postcopy_keeps_the_cause_and_says_which_side_recovers(where: str, recover: str, resume: str) -> None:
    cause = Error(Code.CHANNEL_LOST, item="channel[main]", source="closed", text=NOISE, retry=Retry.LATER)
    paused = reasons.postcopy_paused(cause, where)
    expected = ("channel-lost", "channel[main]", "has the rest of the memory", "has started the guest", "never")
    assert facts(paused) == expected
    assert paused.text == f"The guest was started {where}, and the rest of its memory can't follow (reset [31m )."
    assert paused.hint.endswith(f"migrate-recover {recover}, migrate with resume {resume}.")


def test_a_cause_without_a_sentence_is_named_by_its_code() -> None:
    assert (
        "(channel-lost at channel[main])"
        in reasons.postcopy_paused(Error(Code.CHANNEL_LOST, item="channel[main]"), "here").text
    )


def test_two_agreements_are_told_apart_by_the_beginnings_of_their_digests() -> None:
    ours, theirs = {"features": {}}, {"features": {"multifd": {}}}
    beginnings = [body.digest(one)[:16] for one in (ours, theirs)]
    assert facts(reasons.agreement_mismatch(ours, theirs)) == ("agreement-mismatch", "agreement", *beginnings, "never")


@pytest.mark.parametrize("relays", [False, True])
@pytest.mark.parametrize("forbid", [(), ("final-ack",), ("multifd",)])
@pytest.mark.parametrize("capability", ["x-colo", "multifd"])
def test_colo_and_relays_without_a_final_ack_can_not_be_had(
    relays: bool, forbid: tuple[str, ...], capability: str
) -> None:
    config = replace(HERE, relays=relays, forbid=forbid)
    text = reasons.not_carried(small(capability), config)
    if relays and forbid == ("final-ack",):
        assert text.startswith("final-ack can't be forbidden")
    else:
        assert text == ("COLO (x-colo) is not carried by this handshake." if capability == "x-colo" else "")
