"""The defaults of a session are those of the specification (2.5, 5.10), and nobody changes them on the way."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake import interface as i
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.session import KEEPALIVE
from simlib.handshake.v2.source import Source
from tests.handshake.builders import QUICK, outputs, small


def test_the_limits_are_those_of_the_specification() -> None:
    limits = SessionConfig().limits
    assert (limits.frame_bytes, limits.data_bytes, limits.handshake_bytes) == (65_536, 262_144, 4 << 20)
    assert (limits.ignorable, limits.errors, limits.channels, limits.unauthenticated) == (256, 64, 64, 16)
    assert limits.guard_s == 10


def test_nothing_is_required_forbidden_or_limited_and_doubts_are_warnings() -> None:
    config = SessionConfig()
    assert (config.require, config.forbid, config.memory_limit_bytes, config.on_maybe) == ((), (), 0, "warn")
    assert (config.session, config.psk, config.relays, config.bidirectional, config.grease) == (
        "",
        b"",
        False,
        True,
        True,
    )


def test_a_silent_peer_is_noticed_within_35_seconds() -> None:
    assert SessionConfig().silence_s == 35


@QUICK
@given(st.floats(0.1, 100), st.integers(0, 10))
def test_the_longest_silence_is_that_of_as_many_alarms_as_ring_in_vain(interval_s: float, count: int) -> None:
    """The first may ring just before the last byte, so that the second is the first to notice."""
    source = Source(small(), SessionConfig(keepalive_s=interval_s, keepalive_count=count))
    outputs(source, i.Start())
    rings = 0
    while source.finished is None:
        outputs(source, i.AlarmRang(KEEPALIVE))
        rings += 1
    assert source.session_config.silence_s == interval_s * rings


def test_a_configuration_can_not_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        SessionConfig().psk = b"other"  # type: ignore[misc]
