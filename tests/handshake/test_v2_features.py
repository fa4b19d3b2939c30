"""Negotiation: what a QEMU offers by version, transport and wish, and what each refusal says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.errors import Error
from simlib.handshake.v2.features import (
    ALLOW,
    CONFLICTS,
    DEPENDS,
    FORBID,
    NEEDS,
    OWN_CHANNELS,
    PREFER,
    REQUIRE,
    SHARED,
    Agreement,
    FeatureOffer,
    Parameters,
    resolve,
    stances,
)
from tests.handshake.builders import QUICK, small

NEED = st.sampled_from(NEEDS)


def needs(*args: object, **kwargs: object) -> dict[str, str]:
    return {s.feature: s.need for s in stances(*args, **kwargs)}  # type: ignore[arg-type]


def of(*features: tuple[str, str] | tuple[str, str, Parameters]) -> tuple[FeatureOffer, ...]:
    return tuple(FeatureOffer(*feature) for feature in features)


def strings(error: Error) -> tuple[str, str, str, str]:
    return error.code, error.item, error.source, error.destination


# --- stances --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("version", "absent"),
    [
        ("7.2", {"switchover-ack"}),
        ("9.0", set()),
        ("10.0", {"compress"}),
        ("5.2", {"zero-copy-send", "postcopy-preempt", "switchover-ack"}),
    ],
)
def test_what_a_version_does_not_know_it_does_not_list(version: str, absent: set[str]) -> None:
    listed = stances(small(version=version), True)
    assert {s.feature for s in listed} == set(SHARED) - absent
    assert [s.feature for s in listed] == [name for name in DEPENDS if name in SHARED and name not in absent]


def test_what_is_set_is_preferred_and_what_is_possible_allowed() -> None:
    assert needs(small("multifd", version="10.1"), True) == {
        "final-ack": REQUIRE,
        "multifd": PREFER,
        "postcopy-ram": ALLOW,
        "postcopy-preempt": ALLOW,
        "switchover-ack": ALLOW,
        "xbzrle": ALLOW,
        "zero-copy-send": ALLOW,
        "x-ignore-shared": ALLOW,
        "validate-uuid": ALLOW,
    }


def test_compression_of_pages_is_possible_only_where_it_is_set() -> None:
    assert needs(small(version="9.0"), True)["compress"] == FORBID
    assert needs(small("compress", version="9.0"), True)["compress"] == PREFER


@pytest.mark.parametrize("at_source", [True, False])
@pytest.mark.parametrize("transport", ["exec", "fd", "file", "tcp", "unix"])
def test_features_with_connections_of_their_own_need_a_transport_that_makes_them(
    transport: str, at_source: bool
) -> None:
    need = needs(replace(small(version="10.1"), transport=transport), at_source)
    assert {need[name] for name in OWN_CHANNELS} == {ALLOW if transport in ("tcp", "unix") else FORBID}
    assert need["postcopy-ram"] == need["xbzrle"] == ALLOW


@pytest.mark.parametrize(("version", "excluded"), [("10.0", True), ("10.1", False)])
def test_multifd_and_postcopy_are_offered_together_only_where_a_destination_tells_their_connections_apart(
    version: str, excluded: bool
) -> None:
    expected = FORBID if excluded else ALLOW
    assert needs(small("multifd", version=version), True)["postcopy-ram"] == expected
    assert needs(small("postcopy-ram", version=version), True)["multifd"] == expected
    assert needs(small("postcopy-ram", version=version), True)["postcopy-preempt"] == ALLOW


@pytest.mark.parametrize("name", ["xbzrle", "multifd", "postcopy-ram"])
def test_the_manager_s_word_wins_over_the_settings_and_require_over_forbid(name: str) -> None:
    for settings in (small(), small(name)):
        assert needs(settings, True, (name,))[name] == REQUIRE
        assert needs(settings, True, (), (name,))[name] == FORBID
        assert needs(settings, True, (name,), (name,))[name] == REQUIRE


def test_only_the_manager_forbids_the_final_ack() -> None:
    assert needs(small(), False)["final-ack"] == REQUIRE
    assert needs(small(), False, (), ("final-ack",))["final-ack"] == FORBID


def test_the_source_offers_what_it_wants_of_multifd_and_the_destination_all_that_it_has() -> None:
    settings = small("multifd", version="8.2", channels=5)
    settings = replace(settings, parameters=(*settings.parameters, ("multifd-compression", "zlib")))
    source, destination = (next(s for s in stances(settings, at) if s.feature == "multifd") for at in (True, False))
    assert source.parameters == (("channels", (1, 5)), ("compression", ("zlib",)))
    assert destination.parameters == (("channels", (1, 64)), ("compression", ("none", "zlib", "zstd")))
    unset = next(s for s in stances(small(channels=5), True) if s.feature == "multifd")
    assert unset.parameters == (("channels", (1, 2)), ("compression", ("none",)))
    assert all(not s.parameters for s in stances(settings, True) if s.feature != "multifd")


# --- the agreement --------------------------------------------------------------------------------------------------
@QUICK
@given(NEED, NEED)
def test_each_pair_of_stances_has_its_outcome(one: str, other: str) -> None:
    agreed = resolve(of(("new", one)), of(("new", other)))
    assert agreed == resolve(of(("new", one), ("b", FORBID)), of(("new", other)))
    if FORBID in (one, other):
        assert not agreed.has("new")
        assert len(agreed.errors) == (REQUIRE in (one, other))
        skipped = REQUIRE not in (one, other) and PREFER in (one, other)
        assert agreed.skipped == ((("new", f"source: {one}, destination: {other}"),) if skipped else ())
    else:
        assert agreed.has("new") == (one != ALLOW or other != ALLOW)
        assert agreed.errors == agreed.skipped == ()


@pytest.mark.parametrize(
    ("source", "destination", "who"),
    [(REQUIRE, FORBID, "source"), (FORBID, REQUIRE, "destination"), (REQUIRE, "", "source")],
)
def test_who_requires_what_the_other_lacks_is_named_with_both_stances(source: str, destination: str, who: str) -> None:
    theirs = of(("xbzrle", destination)) if destination else ()
    (error,) = resolve(of(("xbzrle", source)), theirs).errors
    assert strings(error) == ("feature-required", "feature[xbzrle]", source, destination or FORBID)
    assert error.text == f"The {who} requires xbzrle; the other side lacks or forbids it."


@pytest.mark.parametrize("name", OWN_CHANNELS)
@pytest.mark.parametrize("need", NEEDS)
def test_with_main_inline_nothing_has_a_connection_of_its_own(name: str, need: str) -> None:
    base = of(("postcopy-ram", PREFER), ("multifd", ALLOW)) if name != "multifd" else of(("postcopy-ram", PREFER))
    agreed = resolve((*base, FeatureOffer(name, need)), (*base, FeatureOffer(name, ALLOW)), inline=True)
    assert not agreed.has(name) and agreed.has("postcopy-ram")
    assert agreed.skipped == (((name, "main is inline"),) if need == PREFER else ())
    if need == REQUIRE:
        assert strings(agreed.errors[0]) == ("feature-required", f"feature[{name}]", REQUIRE, ALLOW)
        assert "inline" in agreed.errors[0].text and "several connections" in agreed.errors[0].hint
    else:
        assert agreed.errors == ()


@pytest.mark.parametrize(
    ("ours", "theirs", "shown"),
    [
        ((1, 4), (5, 9), ("1..4", "5..9")),
        (("zlib", "zstd"), ("none",), ("zlib or zstd", "none")),
        (frozenset("ba"), frozenset("dc"), ("a and b", "c and d")),
        ((1, 4), ("none",), ("1..4", "none")),
        (frozenset("a"), ("a",), ("a", "a")),
        (("a",), frozenset("a"), ("a", "a")),
    ],
)
def test_a_parameter_without_a_common_value_skips_a_wish_and_refuses_a_demand(
    ours: object, theirs: object, shown: tuple[str, str]
) -> None:
    def agreed(need: str) -> Agreement:
        return resolve(of(("new", need, (("p", ours),))), of(("new", ALLOW, (("p", theirs),))))  # type: ignore[arg-type]

    assert agreed(REQUIRE).skipped == () and not agreed(REQUIRE).has("new")
    assert strings(agreed(REQUIRE).errors[0]) == ("parameter", "feature[new].p", *shown)
    assert agreed(PREFER).errors == () and [name for name, _ in agreed(PREFER).skipped] == ["new"]


@QUICK
@given(*[st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda ends: tuple(sorted(ends)))] * 2)
def test_of_two_ranges_the_highest_common_number_is_taken(one: tuple[int, int], other: tuple[int, int]) -> None:
    agreed = resolve(of(("new", PREFER, (("n", one),))), of(("new", ALLOW, (("n", other),))))
    common = set(range(one[0], one[1] + 1)) & set(range(other[0], other[1] + 1))
    assert agreed.parameter("new", "n", -1) == max(common, default=-1)


def test_of_two_choices_the_source_s_first_and_of_two_sets_all_common_ones_are_taken() -> None:
    one = of(("new", PREFER, (("c", ("x", "b", "a")), ("s", frozenset("cab")), ("only", (1, 2)))))
    other = of(("new", ALLOW, (("c", ("a", "b")), ("s", frozenset("bcd")))))
    assert resolve(one, other).on == (("new", (("c", "b"), ("s", ("b", "c")))),)
    assert resolve(other, one).on == (("new", (("c", "a"), ("s", ("b", "c")))),)


@pytest.mark.parametrize(("one", "other"), CONFLICTS)
def test_of_two_that_exclude_each_other_the_weaker_goes_and_the_second_of_equals(one: str, other: str) -> None:
    for stronger, expected in (((PREFER, PREFER), one), ((ALLOW, REQUIRE), other), ((PREFER, REQUIRE), other)):
        both = of((one, stronger[0]), (other, stronger[1]))
        agreed = resolve(both, of((one, PREFER), (other, PREFER)))
        dropped = other if expected == one else one
        assert agreed.has(expected) and not agreed.has(dropped) and agreed.errors == ()
        assert agreed.skipped == ((dropped, f"excluded by {expected}"),)
    (error,) = resolve(of((one, REQUIRE), (other, ALLOW)), of((one, ALLOW), (other, REQUIRE))).errors
    assert strings(error) == ("feature-conflict", f"feature[{one}]", one, other)


def test_what_something_required_depends_on_weighs_as_if_it_were_required() -> None:
    source = of(("multifd", ALLOW), ("zero-copy-send", REQUIRE), ("xbzrle", PREFER))
    destination = of(("multifd", ALLOW), ("zero-copy-send", ALLOW), ("xbzrle", PREFER))
    agreed = resolve(source, destination)
    assert agreed.has("multifd") and agreed.has("zero-copy-send") and not agreed.has("xbzrle")


def test_what_depends_on_something_off_goes_with_the_reason_and_is_an_error_if_it_was_required() -> None:
    theirs = of(("postcopy-preempt", ALLOW))
    agreed = resolve(of(("postcopy-preempt", PREFER)), theirs)
    assert agreed == Agreement((), (("postcopy-preempt", "depends on postcopy-ram, which is off"),))
    (error,) = resolve(of(("postcopy-preempt", REQUIRE)), theirs).errors
    item, missing = "feature[postcopy-preempt]", "postcopy-ram off"
    assert strings(error) == ("feature-dependency", item, "postcopy-preempt required", missing)


def test_features_come_in_the_order_of_the_registry_and_others_behind_by_name() -> None:
    names = ("zzz", "aaa", "zero-copy-send", "multifd", "postcopy-ram", "final-ack")
    agreed = resolve(of(*((name, PREFER) for name in names)), of(*((name, PREFER) for name in reversed(names))))
    order = ["final-ack", "multifd", "postcopy-ram", "zero-copy-send", "aaa", "zzz"]
    assert [name for name, _ in agreed.on] == order


def test_a_parameter_of_a_feature_that_is_off_or_has_none_has_the_default() -> None:
    agreement = Agreement((("multifd", (("channels", 4),)),))
    assert [agreement.parameter(*key, 9) for key in (("multifd", "channels"), ("multifd", "x"), ("x", "y"))] == [
        4,
        9,
        9,
    ]
