"""Strict JSON: each limit at its edge, each mark, and where an error says that the mistake is."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.errors import Error, PeerError
from simlib.handshake.v2 import body
from tests.handshake.builders import QUICK

SHAPE = {"name": str, "count?": int, "flag?": bool, "rows?": [{"n": int}], "any?": None, "map?": dict}
SLOW = '"count":1,"?\\u0061":0,'  # an escape: nothing is passed at a glance
KEYS = st.text("ab?é\U0001f42a", max_size=3)
VALUES = st.recursive(
    st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=5) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def load(text: str, shape: Any = SHAPE) -> dict[str, Any]:
    return body.load(text.encode("utf-8", "surrogatepass"), shape, "BODY")


def refused(text: str, shape: Any = SHAPE) -> Error:
    with pytest.raises(PeerError) as raised:
        load(text, shape)
    return raised.value.error


def code_and_item(text: str, shape: Any = SHAPE) -> tuple[str, str]:
    error = refused(text, shape)
    return error.code, error.item


@QUICK
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_what_is_written_is_read_back_in_every_spelling(content: dict[str, Any]) -> None:
    for text in (json.dumps(content), json.dumps(content, ensure_ascii=False, indent=1), body.dump(content).decode()):
        assert load(f'{{"any":{text}}}', {"any": None}) == {"any": content}


@QUICK
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_the_canonical_form_is_ascii_without_spaces_and_with_sorted_keys(content: dict[str, Any]) -> None:
    text = body.dump(content).decode()
    assert text.isascii() and text == json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert body.digest(content) == hashlib.sha256(text.encode()).hexdigest()
    assert body.dump(dict(reversed(content.items()))) == body.dump(content)


@pytest.mark.parametrize("slow", ["", SLOW])
@pytest.mark.parametrize(
    ("members", "code", "item"),
    [
        ('"name":1', "unknown-value", "BODY.name"),
        ('"name":null', "unknown-value", "BODY.name"),
        ('"name":"a","flag":1', "unknown-value", "BODY.flag"),
        ('"name":"a","rows":[{"n":-1}]', "unknown-value", "BODY.rows[0].n"),
        ('"name":"a","map":[]', "unknown-value", "BODY.map"),
        ('"name":"a","map":{"k":{"b":1,"b":2}}', "encoding", "BODY"),
        ('"name":"a","rows":{}', "unknown-value", "BODY.rows"),
        ('"name":"a","rows":[{"n":1},7]', "unknown-value", "BODY.rows[1]"),
        ('"name":"a","rows":[{"n":1},{"n":true}]', "unknown-value", "BODY.rows[1].n"),
        ('"name":"a","rows":[{}]', "unknown-value", "BODY.rows[0].n"),
        ('"flag":true', "unknown-value", "BODY.name"),
        ('"name":"a","new":1', "unknown-key", "BODY.new"),
        ('"name":"a","rows":[{"n":1,"m":2}]', "unknown-key", "BODY.rows[0].m"),
        ('"name":"a","flag?":true', "unknown-key", "BODY.flag?"),
        ('"name":"a","?name":"a"', "encoding", "BODY"),
        ('"name":"a","rows":[{"n":1,"?n":1}]', "encoding", "BODY.rows[0]"),
        ('"name":"a","name":"a"', "encoding", "BODY"),
        ('"name":"a","any":{"b":1,"b":1}', "encoding", "BODY"),
        ('"name":"a","any":1.0', "encoding", "BODY"),
        ('"name":"a","any":1e2', "encoding", "BODY"),
        ('"name":"a","any":Infinity', "encoding", "BODY"),
    ],
)
def test_an_error_names_the_path_of_the_mistake(members: str, slow: str, code: str, item: str) -> None:
    assert code_and_item(f"{{{slow}{members}}}") == (code, item)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"{}"', '{"name":"a"}x', "\ufeff{}", '{"name":"\ud800"}'])
def test_what_is_no_json_object_is_an_encoding_error_of_the_whole_body(text: str) -> None:
    assert code_and_item(text) == ("encoding", "BODY")


def test_an_escaped_half_of_a_surrogate_pair_is_an_error_of_its_own_value() -> None:
    assert code_and_item(r'{"name":"\ud83d\ude00\ude00"}') == ("encoding", "BODY.name")
    assert code_and_item(r'{"name":"a","any":["x",{"k":"\ud800"}]}') == ("encoding", "BODY.any.k")
    assert load(r'{"name":"\ud83d\ude00"}') == {"name": "\U0001f600"}


@pytest.mark.parametrize("letter", ["x", "é", "\\n"])
def test_a_string_has_at_most_4096_characters_wherever_it_stands(letter: str) -> None:
    for members, item in (('"name":"{}"', "BODY.name"), ('"name":"","any":["{}"]', "BODY.any")):
        longest = "{" + members.format(letter * 4096) + "}"
        assert load(longest)
        assert code_and_item(longest.replace(letter * 4096, letter * 4097)) == ("too-much", item)


def test_a_list_and_an_object_have_at_most_8192_items() -> None:
    rows, keys = ['{"n":1}'] * 8192, [f'"k{n}":0' for n in range(8192)]
    assert load(f'{{"name":"","rows":[{",".join(rows)}]}}') and load(f'{{"name":"","any":{{{",".join(keys)}}}}}')
    for members in ("[" + ",".join(["0"] * 8193) + "]", "{" + ",".join([*keys, '"more":0']) + "}"):
        assert code_and_item(f'{{"name":"","any":{members}}}') == ("too-much", "BODY.any")
    assert code_and_item(f'{{"name":"","rows":[{",".join([*rows, "{}"])}]}}') == ("too-much", "BODY.rows")


@pytest.mark.parametrize("slow", ["", SLOW])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"k":', "}")])
def test_a_body_has_at_most_16_levels_and_brackets_in_strings_are_none(slow: str, opening: str, closing: str) -> None:
    deepest = f'{{{slow}"name":"[[{{","any":{opening * 15}0{closing * 15}}}'
    assert load(deepest)
    assert code_and_item(deepest.replace("0" + closing, f"{opening}0{closing}{closing}", 1)) == ("encoding", "BODY")


@pytest.mark.parametrize("number", [-(1 << 63), (1 << 64) - 1, 0, -1])
def test_an_integer_of_64_bits_with_a_sign_or_without_is_read_exactly(number: int) -> None:
    assert load(f'{{"name":"","any":{number}}}')["any"] == number


@pytest.mark.parametrize("number", ["-9223372036854775809", "18446744073709551616", "9" * 5000])
def test_an_integer_beyond_64_bits_is_refused_with_its_length(number: str) -> None:
    error = refused(f'{{"name":"","any":{number}}}')
    assert error.code == "encoding" and f" {len(number)} digits " in error.text


def test_ignorable_keys_are_counted_over_the_whole_body_and_gone_afterwards() -> None:
    most = [f'"?{n}":[]' for n in range(128)]
    text = f'{{"name":"",{",".join(most)},"rows":[{{"n":1,{",".join(most)}}}]}}'
    assert load(text) == {"name": "", "rows": [{"n": 1}]}
    assert code_and_item(text.replace('"n":1', '"n":1,"?x":1')) == ("too-much", "BODY.rows[0]")


def test_a_marked_key_is_the_key_it_names_and_one_mark_is_enough() -> None:
    assert load('{"?name":"a","?count":3}') == {"name": "a", "count": 3}
    assert code_and_item('{"?name":1}') == ("unknown-value", "BODY.name")
    assert load('{"name":"a","??count":3}') == {"name": "a"}


def test_inside_any_there_are_no_marks() -> None:
    for key in ("any", "map"):
        assert load(f'{{"name":"a","{key}":{{"?a":{{"?b":-1}}}}}}')[key] == {"?a": {"?b": -1}}


def test_an_unknown_key_is_shown_cleaned_and_cut_to_80_characters() -> None:
    error = refused(f'{{"name":"a","\\u001b{"k" * 100}":1}}')
    assert error.item == "BODY. " + "k" * 79
    assert "\x1b" not in error.text and "k" * 80 not in error.text


def test_a_wrong_type_is_named_with_the_right_one() -> None:
    assert refused('{"name":7}').text == "BODY.name must be of type str, not int"
    assert "0.5 is not an integer" in refused('{"name":0.5}').text
    assert "12345678901234567890123456789012345678.0" not in refused('{"any":' + "1" * 50 + ".5}").text
