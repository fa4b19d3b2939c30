"""Errors go over the wire in whole and come back as they were, and a peer's text is fit to be shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.errors import CODES, Code, Error, PeerError, Retry, clean
from tests.handshake.builders import QUICK

CATEGORIES = {"protocol", "config", "machine", "device", "resource", "session", "operational"}  # SPEC section 7
TEXTS = st.text("aZ9 -[]é\u2028\u202e\ud800\x00\x1b\x7f\n\N{DROMEDARY CAMEL}")
ERRORS = st.builds(
    Error,
    st.sampled_from(sorted(Code)) | TEXTS,
    item=TEXTS,
    source=TEXTS,
    destination=TEXTS,
    text=TEXTS,
    hint=TEXTS,
    retry=st.sampled_from(sorted(Retry)),
    severity=st.sampled_from(("error", "warning")),
)


@QUICK
@given(TEXTS, st.integers(0, 40))
def test_text_from_a_peer_is_shown_with_blanks_for_what_cannot_be_printed(text: str, limit: int) -> None:
    expected = text[:limit]
    shown = clean(text, limit)
    assert shown.isprintable() and len(shown) == len(expected)
    assert all(new == (old if old.isprintable() else " ") for new, old in zip(shown, expected, strict=True))


@pytest.mark.parametrize(("text", "shown"), [("a\x1b[31mb\nc", "a [31mb c"), ("größer", "größer"), ("\x7f", " ")])
def test_control_characters_do_not_reach_a_terminal(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_a_long_text_is_capped_at_a_thousand_characters() -> None:
    assert clean("x" * 1001) == clean("x" * 1000) == "x" * 1000


@QUICK
@given(ERRORS)
def test_an_error_can_be_read_back_from_its_body(error: Error) -> None:
    fields = {key: str(value) for key, value in error.body().items() if key != "category"}
    assert Error(fields.pop("code"), **fields) == error and error.body()["category"] == error.category


@QUICK
@given(ERRORS)
def test_an_error_is_shown_by_its_sentence_or_else_by_its_code_and_place(error: Error) -> None:
    expected = error.text if error.text else error.code + " at " + error.item
    assert str(error) == expected


@pytest.mark.parametrize("code", Code)
def test_every_code_is_its_own_text_and_has_one_of_the_categories(code: Code) -> None:
    assert code == code.value == str(code) and code.category in CATEGORIES
    assert CODES[code.value] is code and Error(code.value).category == code.category


@QUICK
@given(TEXTS.filter(lambda text: text not in set(Code)))
def test_a_code_of_a_newer_peer_counts_as_one_of_the_protocol(code: str) -> None:
    assert Error(code).category == "protocol"


@QUICK
@given(st.sampled_from(Code), TEXTS, TEXTS, TEXTS, TEXTS)
def test_a_peer_s_mistake_carries_the_error_that_answers_it(
    code: Code, text: str, item: str, source: str, destination: str
) -> None:
    mistake = PeerError(code, text, item=item, source=source, destination=destination)
    expected = {"code": code, "text": text, "item": item, "source": source, "destination": destination}
    assert {key: mistake.error.body()[key] for key in expected} == expected and str(mistake) == text


def test_an_error_forbids_the_migration_until_something_is_changed_unless_it_says_otherwise() -> None:
    body = Error(Code.VCPUS).body()
    assert (body["severity"], body["retry"]) == ("error", Retry.AFTER_CHANGE)
