"""What follows from an agreement: the channel plan, the body that both sides digest, the settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.machine import Settings
from simlib.handshake.v2 import body
from simlib.handshake.v2.agreement import agreed_settings, agreement_body, as_config, channel_plan, multifd_channels
from simlib.handshake.v2.features import DEPENDS, SHARED, Agreement
from tests.handshake.builders import QUICK, small

MULTIFD = ("multifd", (("channels", 2), ("compression", "none")))
FEATURES = st.lists(st.sampled_from(sorted(DEPENDS)), unique=True)


def test_the_specification_s_example_has_its_digest() -> None:
    agreement = Agreement((("final-ack", ()), MULTIFD))
    content = agreement_body(agreement, channel_plan(agreement, False), "0123456789abcdef")
    assert body.digest(content) == "14ed536ac9f299f2b4d7758836b3268c881f3eba8bbfc120f4fd1e8bce5b57be"


def test_the_value_of_a_set_is_an_array_in_the_agreement() -> None:
    content = agreement_body(Agreement((("new", (("names", ("a", "b")),)),)), ("main",), "00")
    assert content == {"features": {"new": {"names": ["a", "b"]}}, "channels": ["main"], "session-id": "00"}


@QUICK
@given(st.integers(1, 64), FEATURES, st.booleans())
def test_the_plan_is_main_then_multifd_by_number_then_preempt(count: int, on: list[str], inline: bool) -> None:
    agreement = Agreement(tuple((name, (("channels", count),) if name == "multifd" else ()) for name in on))
    expected = [] if inline else ["main"]
    if "multifd" in on and not inline:
        expected += [f"multifd[{n}]" for n in range(count)]
    if "postcopy-preempt" in on and not inline:
        expected.append("postcopy-preempt")
    assert list(channel_plan(agreement, inline)) == expected


@pytest.mark.parametrize(("parameters", "count"), [((), 2), ((("compression", "zlib"),), 2), ((("channels", 1),), 1)])
def test_multifd_has_two_channels_where_their_number_was_left_out(
    parameters: tuple[tuple[str, str | int], ...], count: int
) -> None:
    agreement = Agreement((("multifd", parameters),))
    assert multifd_channels(agreement) == count
    assert len(channel_plan(agreement, False)) == 1 + count


@QUICK
@given(FEATURES, FEATURES)
def test_of_shared_features_the_settings_have_what_was_agreed_and_of_others_their_own(
    own: list[str], on: list[str]
) -> None:
    settings = agreed_settings(small(*own), Agreement(tuple((name, ()) for name in on)))
    expected = {name for name in own if name not in SHARED} | set(on) - {"final-ack"}
    assert set(settings.capabilities) == expected


def test_a_feature_that_qemu_does_not_know_is_no_capability_to_set() -> None:
    settings = agreed_settings(small(), Agreement((("x-grease-123456", ()), ("final-ack", ()), ("xbzrle", ()))))
    assert settings.capabilities == ("xbzrle",)


def test_multifd_s_values_are_the_agreed_ones_beside_the_other_parameters_in_order() -> None:
    ours = Settings(parameters=(("multifd-channels", 8), ("downtime-limit", 300), ("multifd-compression", "zlib")))
    agreed = agreed_settings(ours, Agreement((("multifd", (("channels", 3), ("compression", "zstd"))),)))
    expected = (("downtime-limit", 300), ("multifd-channels", 3), ("multifd-compression", "zstd"))
    assert agreed.parameters == expected
    assert agreed_settings(ours, Agreement((("multifd", ()),))).parameters[1:] == (
        ("multifd-channels", 2),
        ("multifd-compression", "none"),
    )


def test_without_multifd_its_parameters_stay_as_they_are() -> None:
    ours = Settings(parameters=(("multifd-channels", 8),))
    assert agreed_settings(ours, Agreement()).parameters == ours.parameters


def test_what_is_to_be_set_is_every_capability_as_true_then_the_parameters() -> None:
    ours = Settings(capabilities=("multifd", "xbzrle"), parameters=(("multifd-channels", 8),))
    assert as_config(ours) == (("multifd", True), ("xbzrle", True), ("multifd-channels", 8))
