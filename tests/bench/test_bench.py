"""The benchmark compares like with like: what it times does what its line says. No time is tested here."""

from __future__ import annotations

import pytest

from simlib.explore import search
from simlib.explore.models import side, v1
from simlib.world import run
from simlib.world.run import play
from tests.bench import bare, clocks, engine, handshake, page, sweeps
from tests.bench.measure import Line, Missing
from tests.bench.search import accepts, copying


@pytest.mark.parametrize("exchange", [clocks.ours, clocks.idiomatic, clocks.raw_heap, clocks.on_asyncio])
def test_each_simulator_plays_the_exchange_to_its_end(exchange: object) -> None:
    exchange(40, 30)  # type: ignore[operator]


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize("channels", [0, 2])
def test_the_pump_and_the_world_run_the_same_handshake(protocol: str, channels: int) -> None:
    source, destination = bare.pair(protocol, channels)()
    bare.pump(source, destination)
    assert source.finished.status == destination.finished.status == "completed"
    world = handshake.world(protocol, channels)
    assert play(world).row.outcome == "migrated"
    assert world.source.endpoint.settings.channels == source.settings.channels == channels


def test_a_handshake_beside_tls_ends_at_ready() -> None:
    source, destination = bare.pair("v2", 0)()
    bare.pump(source, destination, until="active")
    assert source.state == destination.state == "ready"
    engine.tls_handshake(*engine.tls_contexts())


def test_an_offer_is_read_whole_and_without_findings() -> None:
    payload, settings = engine.offered(100)
    read = engine.parse(payload, engine.frames.Limits())
    assert len(read.devices) == 100 and not engine.inventory.compare(read, settings.machine)


def test_a_search_on_deep_copies_sees_the_same_states() -> None:
    model = v1("v1", "10.0", side(1))
    ours, theirs = search(model, plain=True, limit=300), copying(model, 300)
    assert (ours.states, ours.transitions) == (theirs.states, theirs.transitions)


def test_the_model_that_spin_has_too_is_searched_to_its_end() -> None:
    assert accepts().complete


def test_a_run_of_the_sweeps_line_is_one_of_the_worlds() -> None:
    assert sweeps.one_run(bare.scenario(1), 1).outcome == "migrated"


def test_the_most_channels_of_the_growth_lines_can_be_run() -> None:
    assert [run(bare.scenario(n), protocol=p, version="10.0").row.outcome for p, n in handshake.MOST] == [
        "migrated"
    ] * 2


def test_a_miss_is_said_in_words() -> None:
    lines = [
        Line(1, "ours", "theirs", (2.0, 3.0, 2.5), 2.0, 1.0),
        Line(1, "a", "b", (3.0,), 2.0, 4.0, True),
        Missing(5, "spin", "it is not installed"),
    ]
    text = page.table(lines) + page.markdown(list(lines), 3, "why")
    assert "**MISSED**" in text and "NOT MEASURED: spin: it is not installed" in text and text.count("| met |") == 1
