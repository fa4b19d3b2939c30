"""What holds in every order of events, and the shortest story of what does not. State counts are pinned: a changed one
means a changed protocol, and is read before it is rewritten."""

from __future__ import annotations

import pytest

from simlib.explore import Budget, Found, System, search
from simlib.explore.search import replay
from simlib.handshake.machine import Machine, Settings
from simlib.handshake.v1.destination import Destination as V1Destination
from simlib.handshake.v1.source import Source as V1Source
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.frames import Limits
from simlib.handshake.v2.messages import Identity
from simlib.handshake.v2.source import Source

PLAIN = Identity(grease=False, limits=Limits(guard_s=0))


def settings(version: str, channels: int) -> Settings:
    if not channels:
        return Settings(version, Machine())
    return Settings(version, Machine(), ("multifd",), (("multifd-channels", channels),))


def v1(version: str, channels: int) -> System:
    return System(lambda: (V1Source(settings(version, channels)), V1Destination(settings(version, channels))), Budget())


def v2(channels: int, budget: Budget) -> System:
    ours = settings("10.0", channels)
    return System(lambda: (Source(ours, PLAIN), Destination(ours, PLAIN)), budget)


def clean(found: Found) -> None:
    assert found.complete and found.violations == {}


@pytest.mark.parametrize(("channels", "states"), [(1, 144), (2, 1804)])
def test_7_2_takes_multifd_for_main_in_some_order_and_loses_the_guest(channels: int, states: int) -> None:
    system = v1("7.2", channels)
    found = search(system)
    assert found.states == states and set(found.violations) == {"S4 no loss", "S6 same channels"}
    violation, path = found.violations["S6 same channels"]
    assert violation.text == "multifd[0] is taken for main" and len(path) == 2
    story = str(replay(system, found.violations["S4 no loss"][1]))
    assert "ends: completed" in story


@pytest.mark.parametrize("version", ["10.0", "11.1"])
@pytest.mark.parametrize(("channels", "states"), [(0, 35), (1, 222), (2, 3650)])
def test_a_peek_at_the_magic_orders_v1_where_nobody_else_connects(version: str, channels: int, states: int) -> None:
    found = search(v1(version, channels))
    clean(found)
    assert found.states == states


@pytest.mark.parametrize(
    ("channels", "budget", "states"),
    [(0, Budget(), 118), (1, Budget(), 4025), (0, Budget(cuts=1), 14466), (0, Budget(cancels=1), 1501)],
)
def test_v2_holds_in_every_order(channels: int, budget: Budget, states: int) -> None:
    found = search(v2(channels, budget))
    clean(found)
    assert found.states == states


def test_a_cut_after_go_leaves_the_source_uncertain_and_one_guest_at_most() -> None:
    found = search(v2(0, Budget(cuts=1)))
    assert {at for status, at in found.endings if status == "uncertain"} == {"paused", "destination"}
    assert {at for status, at in found.endings if status == "failed"} == {"source"}


def test_a_search_that_is_cut_short_says_so() -> None:
    assert not search(v2(1, Budget(cuts=1)), limit=500).complete
