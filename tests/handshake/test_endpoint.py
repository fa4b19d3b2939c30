"""An endpoint is a value that can be forked and compared, and has one door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake import interface as i
from simlib.handshake.endpoint import (
    BaseEndpoint,
    ConnectionTable,
    State,
    as_overridden,
    declare,
    declared,
    is_reducible,
    reducible,
    state_fields,
)
from simlib.handshake.machine import Settings
from simlib.handshake.names import Status
from tests.handshake.builders import QUICK

VALUES = st.dictionaries(
    st.sampled_from("abcd"),
    st.integers(0, 2) | st.binary(max_size=1) | st.tuples(st.integers(0, 1)) | st.frozensets(st.integers(0, 1)),
)


class Box(State):
    """A state with whatever fields, of which `_scratch` is none of the state."""

    NON_STATE: ClassVar[Mapping[str, str]] = {"_scratch": "only for the test"}

    def __init__(self, fields: Mapping[str, object], scratch: object = None) -> None:
        vars(self).update(fields)
        self._scratch = scratch


class Counting(BaseEndpoint):
    """Counts what it receives, and ends at the third Ended."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.received = self.ends = 0

    def _received(self, received: i.Received) -> None:
        self.received += len(received.data)
        self._out.append(i.Printed(f"{self.received} bytes"))

    def _ended(self, _: i.Ended) -> None:
        self.ends += 1
        self._report_status(Status.ACTIVE)
        if self.ends == 3:
            self._finish(i.Finished(Status.COMPLETED))

    HANDLERS: ClassVar[Mapping[type, Callable[..., None]]] = {i.Received: _received, i.Ended: _ended}


class Doubling(Counting):
    """Overrides a handler of its base's table."""

    def _received(self, received: i.Received) -> None:
        super()._received(i.Received(received.conn, 2 * received.data))


# --- keys and forks -------------------------------------------------------------------------------------------------
@QUICK
@given(VALUES, VALUES, st.integers(), st.integers())
def test_two_states_have_equal_keys_when_their_fields_are_equal_but_for_those_that_are_no_state(
    one: dict[str, object], other: dict[str, object], scratch: int, another: int
) -> None:
    """Of one class, and with the same fields."""
    other = {name: other.get(name, value) for name, value in one.items()}
    keys = Box(one, scratch).key(), Box(other, another).key()
    assert (keys[0] == keys[1]) == (one == other)


@QUICK
@given(VALUES, st.permutations("abcd"))
def test_a_key_does_not_depend_on_the_order_in_which_fields_were_set(fields: dict[str, object], order: str) -> None:
    assert Box({n: fields[n] for n in order if n in fields}).key() == Box(fields).key()
    assert state_fields(Box, (*order, "_scratch")) == ("a", "b", "c", "d")


@QUICK
@given(VALUES, st.sampled_from("abcd"))
def test_a_state_inside_a_state_is_part_of_its_key_and_is_forked_with_it(fields: dict[str, object], name: str) -> None:
    outer = Box({"inner": Box(fields), "table": ConnectionTable({1: b"x"})})
    fork = outer.fork()
    assert fork.key() == outer.key() and hash(fork.key()) == hash(outer.key())
    before = outer.key()
    vars(vars(fork)["inner"])[name] = "changed"
    assert outer.key() == before != fork.key()
    fork = outer.fork()
    vars(fork)["table"][1] = b"y"
    assert outer.key() == before != fork.key()


def test_a_fork_has_the_class_and_the_scratch_of_what_was_forked() -> None:
    fork = Box({"a": 1}, "scratch").fork()
    assert type(fork) is Box and vars(fork) == {"a": 1, "_scratch": "scratch"}


@QUICK
@given(st.dictionaries(st.integers(0, 9), st.binary(max_size=2)), st.randoms(use_true_random=False))
def test_a_table_of_connections_is_compared_in_the_order_in_which_they_came(table: dict[int, bytes], _: object) -> None:
    forwards = ConnectionTable(table)
    assert forwards.key() == tuple((conn, table[conn]) for conn in table)
    backwards = ConnectionTable(reversed(table.items()))
    assert (forwards.key() == backwards.key()) == (len(table) < 2)
    assert type(forwards.fork()) is ConnectionTable and forwards.fork() == forwards is not forwards.fork()


def test_a_class_declares_fields_in_addition_to_its_bases() -> None:
    class More(Box):
        NON_STATE: ClassVar[Mapping[str, str]] = {"cache": "a cache", "_scratch": "another reason"}

    class Bare:
        pass

    declare(Bare, RANDOM={"nonce": "a random number"})
    assert declared(More, "NON_STATE") == {"_scratch": "another reason", "cache": "a cache"}
    assert declared(Box, "NON_STATE") == {"_scratch": "only for the test"} and declared(Box, "RANDOM") == {}
    assert declared(Bare, "RANDOM") == {"nonce": "a random number"} and declared(Bare, "NON_STATE") == {}


def test_a_subclass_of_a_reducible_class_is_not_reducible_by_that() -> None:
    @reducible
    class Base:
        pass

    class Derived(Base):
        pass

    assert is_reducible(Base) and not is_reducible(Derived) and is_reducible(reducible(Derived))


# --- handlers -------------------------------------------------------------------------------------------------------
def test_an_input_without_a_handler_has_no_effect() -> None:
    endpoint = Counting()
    before = endpoint.key()
    for input in (i.Start(), i.Cancel(), i.Opened(0), i.GuestStopped()):
        assert endpoint.handle(input) == [] and endpoint.key() == before


def test_what_an_input_led_to_is_returned_once_and_is_no_part_of_the_state() -> None:
    one, other = Counting(), Counting()
    assert one.handle(i.Received(0, b"ab")) == [i.Printed("2 bytes")]
    other.handle(i.Received(0, b"a"))
    assert other.handle(i.Received(0, b"b")) == [i.Printed("2 bytes")] and one.key() == other.key()
    assert one.handle(i.Start()) == []
    assert one.key() == other.key()


def test_nothing_is_handled_after_the_end() -> None:
    endpoint = Counting()
    outputs = [endpoint.handle(i.Ended(0)) for _ in range(4)]
    assert outputs[1:] == [[i.Entered(Status.ACTIVE)], [i.Entered(Status.ACTIVE), i.Finished(Status.COMPLETED)], []]
    assert endpoint.handle(i.Received(0, b"x")) == [] and endpoint.received == 0
    assert (endpoint.status, endpoint.finished) == (Status.ACTIVE, i.Finished(Status.COMPLETED))


def test_a_subclass_may_override_a_handler_of_its_base_s_table() -> None:
    assert Doubling().handle(i.Received(0, b"abc")) == [i.Printed("6 bytes")]
    assert Counting().handle(i.Received(0, b"abc")) == [i.Printed("3 bytes")]


def test_a_function_that_is_no_method_stays_as_it_is_in_a_table() -> None:
    def _received() -> str:
        return "a function that happens to have a method's name"

    table: dict[str, Callable[..., object]] = {
        "function": _received,
        "method": Counting._received,
        "ended": Counting._ended,
    }
    assert as_overridden(Doubling, table) == {
        "function": _received,
        "method": Doubling._received,
        "ended": Counting._ended,
    }


def test_a_new_endpoint_has_no_status_and_has_not_ended() -> None:
    endpoint = BaseEndpoint(Settings(version="9.2"))
    assert (endpoint.status, endpoint.finished, endpoint.settings.version) == (Status.NONE, None, "9.2")


def test_an_endpoint_that_has_no_handshake_of_its_own_answers_that_questions_do_not_apply() -> None:
    endpoint = BaseEndpoint(Settings())
    properties = endpoint.accepting, endpoint.closed, endpoint.ram_bytes, endpoint.ended_as, endpoint.blocked
    assert properties == (False, False, 0, (), None)
    assert (endpoint.sends_guest(), endpoint.unready(), endpoint.hears_itself(), endpoint.postcopy) == (False,) * 4
    assert (endpoint.negotiated(), endpoint.bound_channels()) == ({}, ())
    assert (endpoint.occupied(), endpoint.decomposition()) == ("", None)
