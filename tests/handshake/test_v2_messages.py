"""Messages: their numbers, their limits, and a peer's texts and values before anybody sees them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.errors import Code, Error, OurMistake, PeerError, Retry
from simlib.handshake.machine import Device, RamBlock, Settings
from simlib.handshake.v2 import body, frames, messages, wire
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.features import FeatureOffer, stances
from simlib.handshake.v2.frames import Limits
from tests.handshake.builders import HERE, QUICK, SMALL, small

OFFER = wire.to_body(messages.offer(small(), HERE, stances(small(), True)))
ACCEPT = wire.to_body(messages.Accept((), {}, "00", "ab" * 32, (), "yes", (), (), {}))
ERROR = Error(Code.VCPUS, text="too few").body()
DEVICE, BLOCK = wire.to_body(Device("d")), wire.to_body(RamBlock("r", 4096))


def read(type: int, content: dict[str, Any]) -> Any:
    """As a message is read that came as bytes."""
    return messages.read(type, body.load(body.dump(content), messages.SHAPES[type], frames.name(type)))


def refused(type: int, content: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(PeerError) as raised:
        read(type, content)
    return raised.value.error.code, raised.value.error.item


def stance(name: str = "multifd", need: str = "prefer", **parameters: Any) -> dict[str, Any]:
    return {"name": name, "need": need, "parameters": parameters}


def test_a_number_is_given_to_one_message_only() -> None:
    before = dict(messages.MESSAGES)
    for taken in (messages.Go.TYPE, frames.PING, frames.DATA):
        with pytest.raises(OurMistake, match=f"0x{taken:02x} is {frames.name(taken)}'s already"):
            messages.message(taken, "ANOTHER")(type("Another", (messages.Message,), {}))
    assert before == messages.MESSAGES


# --- stances --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], (1, 2)),
        ([0, 0], (0, 0)),
        (["a"], ("a",)),
        (["a", "b"], ("a", "b")),
        ({"set": ["b", "a"]}, frozenset("ab")),
    ],
)
def test_a_parameter_is_a_range_a_choice_or_a_set(value: Any, expected: Any) -> None:
    assert messages.read_stances([stance(p=value)]) == (FeatureOffer("multifd", "prefer", (("p", expected),)),)


NEITHER = [
    [],
    [1],
    [1, 2, 3],
    [True, False],
    [1, "a"],
    ["a", 1],
    [1, None],
    [["a"]],
    [2, 1],
    [-1, 1],
    ["a", "a"],
    7,
    "a",
    None,
    True,
]
NO_SETS = [{}, {"set": []}, {"set": ["a", "a"]}, {"set": [1]}, {"set": "ab"}, {"set": ["a"], "b": 1}, {"sets": ["a"]}]


@pytest.mark.parametrize("value", [*NEITHER, *NO_SETS])
def test_any_other_parameter_is_an_unknown_value(value: Any) -> None:
    with pytest.raises(PeerError) as raised:
        messages.read_stances([stance(p=value, good=[1, 2])])
    error = raised.value.error
    assert (error.code, error.item) == ("unknown-value", "feature[multifd]")


@pytest.mark.parametrize("parameters", [[], 7, None, "a"])
def test_parameters_are_an_object_and_may_be_absent_or_empty(parameters: Any) -> None:
    assert refused(0x02, OFFER | {"features": [{"name": "a", "need": "allow", "parameters": parameters}]}) == (
        "unknown-value",
        "feature[a]",
    )
    assert messages.read_stances([{"name": "a", "need": "allow"}]) == messages.read_stances([stance("a", "allow")])


def test_a_stance_is_one_of_four_and_a_name_is_shown_cleaned() -> None:
    assert refused(0x02, OFFER | {"features": [stance("x\x1b" + "y" * 99, "want")]}) == (
        "unknown-value",
        f"feature[x {'y' * 78}]",
    )
    for need in ("forbid", "allow", "prefer", "require"):
        assert messages.read_stances([stance(need=need)])[0].need == need


def test_there_are_at_most_512_features_and_none_twice() -> None:
    many = [stance(f"f{n}") for n in range(513)]
    assert len(read(0x02, OFFER | {"features": many[:512]}).features) == 512
    assert refused(0x02, OFFER | {"features": many}) == ("too-much", "OFFER.features")
    assert refused(0x04, ACCEPT | {"features": [many[0], many[1], many[0]]}) == ("unknown-value", "ACCEPT.features")


@QUICK
@given(st.lists(st.sampled_from([("n", (1, 4)), ("c", ("b", "a")), ("s", frozenset("ba"))]), unique=True))
def test_stances_are_read_as_they_were_written(parameters: list[tuple[str, Any]]) -> None:
    offered = (FeatureOffer("multifd", "prefer", tuple(sorted(parameters))), FeatureOffer("xbzrle", "forbid"))
    content = wire.to_body(messages.offer(small(), HERE, offered))
    assert read(0x02, content).features == offered and "parameters" not in content["features"][1]


# --- errors ---------------------------------------------------------------------------------------------------------
def test_a_peer_s_texts_are_cut_and_cleaned() -> None:
    long = dict.fromkeys(("text", "hint", "item", "source", "destination"), "\x1b" + "x" * 5000)
    (error,) = messages.read_errors([ERROR | long])
    assert error.text == " " + "x" * 3999
    assert error.hint == error.item == error.source == error.destination == " " + "x" * 999
    reject = messages.Reject((error,), False, "c\n" + "d" * 99, "t\n" + "u" * 2000, 1, "later")
    again = read(0x05, wire.to_body(reject))
    assert (again.code, again.text) == ("c " + "d" * 78, "t " + "u" * 998)


@pytest.mark.parametrize(("retry", "expected"), [*((r, r) for r in Retry), ("soon", "never"), ("", "never")])
def test_an_unknown_retry_is_never_and_known_ones_stay(retry: str, expected: str) -> None:
    assert messages.read_errors([ERROR | {"retry": retry}])[0].retry == expected


def test_an_unknown_code_stays_what_it_is_and_the_category_is_our_own() -> None:
    known, unknown = messages.read_errors([ERROR | {"category": "x"}, ERROR | {"code": "new\x1b" + "w" * 99}])
    assert known.code is Code.VCPUS and known.category == "machine"
    assert unknown.code == "new " + "w" * 76 and unknown.category == "protocol"


def test_of_a_peer_s_errors_the_first_64_are_read() -> None:
    errors = messages.read_errors([ERROR | {"item": str(n)} for n in range(65)])
    assert [e.item for e in errors] == [str(n) for n in range(64)]


@pytest.mark.parametrize("type", [0x05, 0x0A, 0x23])
def test_a_message_that_says_what_is_wrong_has_an_error(type: int) -> None:
    content = {"errors": [], "more": False, "code": "", "text": "", "version": 0, "retry": "", "phase": ""}
    content = {key: value for key, value in content.items() if key in messages.SHAPES[type]}
    assert refused(type, content) == ("unknown-value", f"{frames.name(type)}.errors")
    assert len(read(type, content | {"errors": [ERROR]}).errors) == 1


@pytest.mark.parametrize(
    ("retries", "expected"),
    [
        (("later", "after-change"), "after-change"),
        (("with-version", "later"), "later"),
        (("with-version", "never", "later"), "never"),
        (("with-version",), "with-version"),
        (("-later",), "never"),
        (("-never", "later"), "later"),
    ],
)
def test_a_reject_has_the_first_retry_in_order_of_its_errors_without_the_warnings(
    retries: tuple[str, ...], expected: str
) -> None:
    errors = tuple(Error("x", retry=r.lstrip("-"), severity="warning" if r[0] == "-" else "error") for r in retries)
    assert messages.Reject.of(errors, Limits()).retry == expected


@pytest.mark.parametrize(("count", "told", "more"), [(63, 63, False), (64, 64, False), (65, 64, True)])
def test_a_reject_tells_at_most_64_errors_and_says_if_there_are_more(count: int, told: int, more: bool) -> None:
    reject = messages.Reject.of(tuple(Error(str(n), text=f"t{n}") for n in range(count)), Limits())
    assert (len(reject.errors), reject.more, reject.code, reject.text) == (told, more, "0", "t0")
    assert reject.version == 0x0201
    assert messages.Reject.of((Error("a"), Error("b")), Limits(errors=1)).more


def test_an_abort_repeats_its_first_error_with_its_phase() -> None:
    errors = tuple(Error(str(n), text=f"t{n}", retry=Retry.LATER if n == 0 else Retry.NEVER) for n in range(65))
    abort = messages.Abort.of(errors, "agreed")
    assert (abort.code, abort.text, abort.version, abort.phase, abort.retry) == ("0", "t0", 0x0201, "agreed", "later")
    assert len(abort.errors) == 64


# --- values of single messages --------------------------------------------------------------------------------------
def test_a_hello_has_the_other_role_and_a_known_way_to_carry_main() -> None:
    hello = messages.Hello("source", "inline", "x", "10.0")
    hello.check_role("source")
    for one, role, code, item in (
        (hello, "destination", "reflected", "role"),
        (messages.Hello("source", "both", "x", "10.0"), "source", "unknown-value", "HELLO.main"),
        (messages.Hello("?", "both", "x", "10.0"), "source", "reflected", "role"),
    ):
        with pytest.raises(PeerError) as raised:
            one.check_role(role)
        assert (raised.value.error.code, raised.value.error.item) == (code, item)


@pytest.mark.parametrize(
    ("type", "good", "change", "item"),
    [
        (0x02, OFFER, {"on-maybe": "ask"}, "OFFER.on-maybe"),
        (0x04, ACCEPT, {"verdict": "no"}, "ACCEPT.verdict"),
        (0x04, ACCEPT, {"secret": "ab" * 31}, "ACCEPT.secret"),
        (0x04, ACCEPT, {"secret": "AB" * 32}, "ACCEPT.secret"),
        (0x04, ACCEPT, {"secret": "ab" * 33}, "ACCEPT.secret"),
        (0x20, {"bytes": 0}, {"bytes": -1}, "LOADED.bytes"),
        (0x02, OFFER, {"config": []}, "OFFER.config"),
        (0x04, ACCEPT, {"config": "none"}, "ACCEPT.config"),
        (0x04, ACCEPT, {"agreement": []}, "ACCEPT.agreement"),
        (0x02, OFFER, {"devices": [DEVICE | {"subsections": [["s", -1, "maybe"]]}]}, "OFFER.devices[0].subsections"),
        (0x02, OFFER, {"devices": [DEVICE | {"nested": [["n", 1, -1]]}]}, "OFFER.devices[0].nested"),
        (0x02, OFFER, {"devices": [DEVICE, DEVICE]}, "OFFER.devices"),
        (0x02, OFFER, {"ram-blocks": [BLOCK, BLOCK | {"size": 1}]}, "OFFER.ram-blocks"),
        *(
            (0x02, OFFER, {"devices": [DEVICE | {key: -1}]}, f"OFFER.devices[0].{key}")
            for key in ("instance", "version", "minimum-version")
        ),
        *(
            (0x02, OFFER, {"ram-blocks": [BLOCK | {key: -1}]}, f"OFFER.ram-blocks[0].{key}")
            for key in ("size", "page-size")
        ),
        *(
            (0x02, OFFER, {"machine": OFFER["machine"] | {key: -1}}, f"OFFER.machine.{key}")
            for key in ("page-bits", "vcpus")
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_where_it_stands(
    type: int, good: dict[str, Any], change: dict[str, Any], item: str
) -> None:
    assert read(type, good)
    assert refused(type, good | change) == ("unknown-value", item)


def test_zero_is_no_negative_number_and_two_instances_are_two_devices() -> None:
    device = DEVICE | {"instance": 0, "version": 0, "minimum-version": 0}
    read(0x02, OFFER | {"devices": [device, device | {"instance": 1}], "ram-blocks": [BLOCK | {"size": 0}]})
    assert read(0x04, ACCEPT | {"verdict": "maybe"}).verdict == "maybe"
    assert read(0x02, OFFER | {"on-maybe": "reject"}).on_maybe == "reject"


@pytest.mark.parametrize(("key", "limit", "one"), [("devices", 4096, DEVICE), ("ram-blocks", 1024, BLOCK)])
def test_devices_and_memory_blocks_are_limited(key: str, limit: int, one: dict[str, Any]) -> None:
    name = "id" if key == "devices" else "name"
    content = OFFER | {key: [one | {name: str(n)} for n in range(limit)]}
    messages.check_facts(content, "OFFER")
    content[key].append(one)
    with pytest.raises(PeerError) as raised:
        messages.check_facts(content, "OFFER")
    assert raised.value.error.code == "too-much"


# --- made of settings -----------------------------------------------------------------------------------------------
def test_parameters_that_name_local_objects_are_not_shown() -> None:
    assert messages.public((("tls-creds", "psk"), ("multifd-channels", 2), ("tls-hostname", "h"))) == {
        "multifd-channels": 2
    }
    settings = small("multifd", tls=True)
    assert messages.offer(settings, HERE, ()).config == {"multifd-channels": 2}


def test_hello_and_offer_say_what_the_side_is() -> None:
    hello = messages.hello("source", Settings("9.2"), SessionConfig(session="vm"), "inline")
    assert (hello.role, hello.main, hello.qemu_version, hello.session) == ("source", "inline", "9.2", "vm")
    assert "session" not in wire.to_body(messages.hello("source", small(), SessionConfig(), "separate"))
    offer = messages.offer(small(), SessionConfig(on_maybe="reject"), ())
    assert (offer.on_maybe, offer.machine, offer.ram_blocks) == ("reject", SMALL, SMALL.ram_blocks)
    read_back = messages.whole_machine(read(0x02, wire.to_body(offer)))
    assert [d.id for d in read_back.devices] == ["timer"] and read_back.ram_blocks == SMALL.ram_blocks


def test_texts_of_errors_are_cut_so_that_the_peer_reads_them() -> None:
    long = Error("device-features", item="i" * 9000, source="s" * 5000, text="t" * 4500)
    content = wire.to_body(messages.Reject.of((long,), Limits()))
    read = messages.read(
        messages.Reject.TYPE, body.load(body.dump(content), messages.SHAPES[messages.Reject.TYPE], "R")
    )
    assert isinstance(read, messages.Reject) and len(read.errors[0].source) <= 4000
