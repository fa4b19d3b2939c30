"""What v2 costs and saves, version skew and growth: the tables say what the runs say, and the pictures show it."""

from __future__ import annotations

from functools import cache
from xml.etree import ElementTree

import pandas
import pytest

from simlib import world
from simlib.case.files import find
from simlib.study import costs, figures, growth, order

FAR = find("matched_multifd").vary(link__delay_ms=5)


@cache
def prices() -> pandas.DataFrame:
    return costs.prices(world.run, (1.0, 100.0), (0, 8))


@cache
def savings() -> pandas.DataFrame:
    names = ("device_only_at_source", "device_only_at_source_return_path", "machine_type_differs")
    return costs.savings(world.run, [find(n) for n in names], (64.0, 131072.0))


@cache
def endings() -> pandas.DataFrame:
    return costs.endings(world.run)


def test_round_trips_under_v2_do_not_grow_with_channels_or_distance() -> None:
    table = prices()
    assert set(table[table.protocol == "v2"].round_trips) == {3}
    assert set(table[table.protocol == "v1"].round_trips) == {0, 1}


def test_the_downtime_grows_by_one_round_trip() -> None:
    wide = costs.side_by_side(prices()).loc[100.0]
    assert (wide["downtime_ms", "v2"] - wide["downtime_ms", "v1"]).tolist() == pytest.approx([100, 100], rel=0.01)


def test_what_v1_wastes_grows_with_the_guest_and_v2_wastes_nothing() -> None:
    table = savings().set_index(["scenario", "protocol", "ram_mib"])
    for name in ("device_only_at_source", "device_only_at_source_return_path"):
        assert table.wasted_bytes[name, "v1", 131072.0] > 128 << 30
    assert (table.xs("v2", level="protocol").wasted_bytes == 0).all()
    assert (table.xs("v2", level="protocol").knows_s < 0.001).all()


def test_a_source_that_is_told_nothing_never_knows() -> None:
    table = savings().set_index(["scenario", "protocol", "ram_mib"]).knows_s
    assert table["device_only_at_source", "v1", 64.0] == costs.NEVER
    assert 100 < table["device_only_at_source_return_path", "v1", 131072.0] < 120


def test_what_a_broken_connection_never_took_is_not_counted_as_moved() -> None:
    row = savings().set_index(["scenario", "protocol", "ram_mib"]).loc[("machine_type_differs", "v1", 131072.0)]
    assert row.knows_s < 0.01 and row.wasted_bytes <= row.knows_s * costs.RATE_MIB_S * 2**20 < 1 << 30


def test_every_mismatch_is_refused_by_v2_and_is_not_by_v1() -> None:
    scenarios = costs.mismatches(world.run)
    assert len(scenarios) > 10 and all(not s.faults for s in scenarios)
    for scenario in scenarios:
        two, one = (world.run(scenario, protocol=p, version="10.0").row for p in ("v2", "v1"))
        assert two.outcome == "refused" and one.outcome not in ("refused", "migrated")
    ended = endings()
    assert (ended[ended.protocol == "v2"].knows_s < costs.NEVER).all()
    assert (ended[ended.protocol == "v1"].knows_s == costs.NEVER).sum() > 50
    count = (ended.protocol == "v2").sum()
    assert f"{count} of {count} ever" in figures.known_by(ended, "").data


@pytest.mark.parametrize(
    ("draw", "shows"),
    [
        (lambda: figures.prices(prices()), ("first guest byte after", "v2, handshake, 8 channels")),
        (lambda: figures.waste(savings()), ("v1: 1 of 3, never", "v2: 3 of 3")),
        (lambda: figures.known_by(endings(), "Who knows?"), ("Who knows?",)),
        (lambda: figures.searched(order.recorded(), "Searched"), ("3 of 48 break", "nothing breaks")),
        (
            lambda: figures.time_space({"v2": world.run(FAR, protocol="v2").trace}, "To scale", 0.06),
            ("5 × CHANNEL_OPEN", "guest memory", "READY"),
        ),
    ],
)
def test_a_picture_shows_what_was_counted_and_has_the_same_bytes_twice(draw, shows) -> None:  # type: ignore[no-untyped-def]
    first = draw().data
    ElementTree.fromstring(first)
    assert all(text in first for text in shows)
    assert first == draw().data


def test_what_was_searched_is_read_from_what_was_recorded() -> None:
    table = order.recorded()
    assert set(table.kind) == {"v1", "v2", "detection"} and len(table) > 100
    assert (
        table[table.breaks & (table.kind == "v2")]
        .model.str.contains("told v1|called two-way|adaptive destination, intruder")
        .all()
    )


def test_a_newer_peer_migrates_or_is_refused_by_name_in_every_order() -> None:
    table = growth.peers()
    assert set(table.breaks) == {"nothing"}
    goes_on, ends = (table[table["ends, in every order"] == how] for how in ("completed", "failed"))
    assert len(goes_on) == 4 and len(ends) == 5 and set(ends["guest at"]) == {"source"}
    for word in ("2.2..2.3", "observer", "warm-cache", "0x70", "encrypt"):
        assert ends["the source is told"].str.contains(word, regex=False).sum() == 1


def test_pairs_of_versions_stand_in_the_order_of_the_versions() -> None:
    pairs = growth.skew(world.run, ("5.2", "7.2", "10.0"), ("matched", "skew_new_feature"))
    v1, v2 = (growth.matrix(pairs, p) for p in ("v1", "v2"))
    assert list(v2.columns) == ["5.2", "7.2", "10.0"]
    assert v1.loc[("skew_new_feature", "10.0"), "7.2"] == "hung"
    assert v2.loc[("skew_new_feature", "10.0"), "7.2"] == "migrated"


def test_a_side_that_was_told_wrongly_moves_no_guest_memory() -> None:
    table = growth.sides(world.run)
    assert (table.outcome == "migrated").sum() == 5
    assert (table[table.outcome != "migrated"].guest_bytes == 0).all()
