"""All that passes between an endpoint and its runner is a value, and goes one way."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simlib.handshake import interface
from simlib.handshake.errors import Error
from simlib.handshake.names import Reason, Status
from tests.handshake.builders import QUICK

KINDS = [
    kind
    for _, kind in inspect.getmembers(interface, inspect.isclass)
    if kind.__module__ == interface.__name__ and not kind.__name__.startswith("_")
]
BY_TYPE: dict[str, st.SearchStrategy[object]] = {
    "int": st.integers(0, 2),
    "float": st.sampled_from((0.5, 10.0)),
    "bool": st.booleans(),
    "str": st.sampled_from(("", "Connection reset by peer", "it's \\ \n")),
    "bytes": st.sampled_from((b"", b"QEVM")),
    "Status": st.sampled_from(Status),
    "Reason": st.sampled_from(Reason),
    "tuple[Error, ...]": st.sampled_from(((), (Error("busy", item="session"),))),
    "tuple[tuple[str, int], ...]": st.sampled_from(((), (("main", 1), ("multifd[0]", 2)))),
    "tuple[tuple[str, object], ...]": st.sampled_from(((), (("multifd", True), ("multifd-channels", 2)))),
}


def values(kind: type) -> st.SearchStrategy[object]:
    return st.builds(kind, **{field.name: BY_TYPE[str(field.type)] for field in fields(kind)})


VALUES = st.sampled_from(KINDS).flatmap(values)
NAMES = {**vars(interface), "Error": Error}


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_each_kind_is_either_an_input_or_an_output(kind: type) -> None:
    assert (kind in get_args(interface.Input)) != (kind in get_args(interface.Output))
    assert [other for other in KINDS if issubclass(kind, other)] == [kind]


@QUICK
@given(VALUES)
def test_a_value_is_written_as_the_expression_that_builds_it(value: object) -> None:
    """Traces and failed searches show inputs that way."""
    copy = eval(repr(value), NAMES)
    assert copy == value and type(copy) is type(value) and hash(copy) == hash(value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@settings(QUICK, max_examples=3)
@given(data=st.data())
def test_two_values_are_equal_only_if_their_kinds_and_all_their_fields_are(kind: type, data: st.DataObject) -> None:
    value: Any = data.draw(values(kind))
    for field in fields(kind):
        changed = data.draw(BY_TYPE[str(field.type)])
        assert (replace(value, **{field.name: changed}) == value) == (getattr(value, field.name) == changed)
    other = data.draw(values(KINDS[KINDS.index(kind) - 1]))
    assert value != other


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
@settings(QUICK, max_examples=1)
@given(data=st.data())
def test_no_field_of_a_value_can_be_changed_or_added(kind: type, data: st.DataObject) -> None:
    value = data.draw(values(kind))
    for name in [field.name for field in fields(kind)]:
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, None)
    with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
        object.__setattr__(value, "another", None)


def test_a_status_and_a_reason_are_passed_as_their_texts() -> None:
    finished = interface.Finished(Status.FAILED, "no", Reason.SPECIFIC)
    assert repr(finished).startswith("Finished(status='failed', text='no', reason='specific', errors=(),")
