"""Bodies follow from dataclasses: every kind of field there and back, and every row of another form refused."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.errors import PeerError
from simlib.handshake.machine import Device, Machine, RamBlock, Subsection
from simlib.handshake.v2 import body, wire
from tests.handshake.builders import DEVICES, MACHINES, QUICK


@dataclass(frozen=True)
class Row:
    IS_ROW: ClassVar[bool] = True

    name: str
    number: int = 1

    def __post_init__(self) -> None:
        if self.number > 99:
            raise ValueError(f"{self.name}\x1b is too much")


@dataclass(frozen=True)
class Inner:
    label: str = field(metadata={"clean": 4})
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Outer:
    plain_name: str
    other: int = field(metadata={"key": "key"})
    local: int = field(default=5, metadata={"unsent": 7})
    maybe: int | None = None
    hint: str | None = None
    inner: tuple[Inner, ...] = ()
    triples: tuple[tuple[str, int, bool], ...] = ()
    words: tuple[str, ...] = ()
    anything: dict[str, Any] = field(default_factory=dict)
    codec: str = field(default="", metadata={"codec": wire.Codec([str], list, lambda v, path: path + "".join(v))})


@dataclass(frozen=True)
class Single:
    only: int


@dataclass(frozen=True)
class Empty:
    pass


ROWS = st.lists(st.builds(Row, st.text(max_size=3), st.integers(0, 99)), max_size=2).map(tuple)
TRIPLES = st.lists(st.tuples(st.text(max_size=3), st.integers(0, 9), st.booleans()), max_size=2).map(tuple)
OUTERS = st.builds(
    Outer,
    st.text(max_size=3),
    st.integers(0, 9),
    local=st.just(7),
    maybe=st.none() | st.integers(0, 9),
    hint=st.none() | st.text(max_size=3),
    inner=st.lists(st.builds(Inner, st.text("ab", max_size=4), ROWS), max_size=2).map(tuple),
    triples=TRIPLES,
    words=st.lists(st.text(max_size=3), max_size=3).map(tuple),
    anything=st.just({}) | st.just({"a": [1]}),
    codec=st.just("at.codec"),
)


def loaded(cls: type, content: dict[str, Any]) -> Any:
    """As a message is read that came as bytes."""
    return wire.from_body(cls, body.load(body.dump(content), wire.shape(cls), "at"), "at")


def refused(cls: type, content: dict[str, Any]) -> tuple[str, str, str]:
    with pytest.raises(PeerError) as raised:
        wire.from_body(cls, content, "at")
    return raised.value.error.code, raised.value.error.item, raised.value.error.text


@QUICK
@given(OUTERS)
def test_a_message_is_read_as_it_was_written(message: Outer) -> None:
    content = wire.to_body(message)
    content["codec"] = []
    assert loaded(Outer, content) == message
    assert [key for key in ("maybe", "hint") if key in content] == [
        key for key in ("maybe", "hint") if getattr(message, key) is not None
    ]


def test_the_shape_has_a_key_for_each_field_that_is_sent() -> None:
    assert wire.shape(Outer) == {
        "plain-name": str,
        "key": int,
        "maybe?": int,
        "hint?": str,
        "inner": [{"label": str, "rows": [[None]]}],
        "triples": [[None]],
        "words": [str],
        "anything": dict,
        "codec": [str],
    }


def test_a_body_has_no_field_that_is_not_sent_and_rows_are_lists() -> None:
    message = Outer("a", 1, 99, None, None, (Inner("l", (Row("r", 2),)),), (("t", 3, True),), ("w",), {"x": 1}, "yz")
    assert wire.to_body(message) == {
        "plain-name": "a",
        "key": 1,
        "inner": [{"label": "l", "rows": [["r", 2]]}],
        "triples": [["t", 3, True]],
        "words": ["w"],
        "anything": {"x": 1},
        "codec": ["y", "z"],
    }


def test_messages_of_one_field_and_of_none_are_objects_too() -> None:
    assert wire.to_body(Single(3)) == {"only": 3} and loaded(Single, {"only": 3}) == Single(3)
    assert wire.to_body(Empty()) == {} and loaded(Empty, {}) == Empty()


@pytest.mark.parametrize(
    "row", [["a"], ["a", 1, 2], [1, "a"], ["a", True], ["a", None], ["a", "1"], ["a", -1], [], {"a": 1}, "a1", 7, None]
)
def test_a_row_of_another_form_is_refused_with_its_list(row: Any) -> None:
    code, item, text = refused(Inner, {"label": "", "rows": [["a", 1], row]})
    assert (code, item, text) == ("unknown-value", "at.rows", "at.rows holds something that is not 2 values")


def test_a_row_of_three_needs_all_three() -> None:
    content = wire.to_body(Outer("a", 1)) | {"codec": [], "triples": [["t", 3]]}
    assert refused(Outer, content)[1:] == ("at.triples", "at.triples holds something that is not 3 values")


def test_a_row_whose_value_makes_no_sense_is_refused_in_its_own_words_cleaned() -> None:
    expected = ("unknown-value", "at.rows", "at.rows: b  is too much")
    assert refused(Inner, {"label": "", "rows": [["a", 99], ["b", 100]]}) == expected


def test_a_path_leads_to_the_list_of_the_row_in_question() -> None:
    inner = [{"label": "", "rows": []}, {"label": "", "rows": [["x"]]}]
    assert refused(Outer, wire.to_body(Outer("a", 1)) | {"codec": [], "inner": inner})[1] == "at.inner[1].rows"


def test_a_text_for_people_is_cut_and_cleaned() -> None:
    assert loaded(Inner, {"label": "a\x1b\ncdef", "rows": []}).label == "a  c"


@QUICK
@given(MACHINES, DEVICES)
def test_a_machine_keeps_what_the_wire_carries_of_it(machine: Machine, device: Device) -> None:
    machine = replace(machine, aliases=("q35",), cpu_features=("avx2",))
    assert loaded(Machine, wire.to_body(machine)) == replace(machine, aliases=(), ram_blocks=(), devices=())
    device = replace(device, nested=(("core", 2, 1),), features=("packed",), post_load="fails")
    assert loaded(Device, wire.to_body(device)) == replace(device, size_bytes=0, post_load="")
    block = RamBlock("pc.ram", 4096, 2 << 20, resizable=True)
    assert loaded(RamBlock, wire.to_body(block)) == RamBlock("pc.ram", 4096, 2 << 20, resizable=False)


def test_a_subsection_is_a_row_and_what_it_may_be_is_checked() -> None:
    assert wire.to_body(Device("d", subsections=(Subsection("s", 2, "always"),)))["subsections"] == [["s", 2, "always"]]
    content = wire.to_body(Device("d")) | {"subsections": [["s", 1, "often"]]}
    code, item, text = refused(Device, content)
    assert (code, item) == ("unknown-value", "at.subsections") and "not 'often'" in text
