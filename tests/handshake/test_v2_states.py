"""The tables of v2's states and stages are what the engine does: each transition is taken by somebody, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from simlib.handshake import interface as i
from simlib.handshake import return_path
from simlib.handshake.errors import OurMistake
from simlib.handshake.v2 import messages
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.outgoing import Outgoing
from simlib.handshake.v2.source import Source
from simlib.handshake.v2.states import STAGES, DestinationState, Event, SourceState, Stage
from tests.handshake.builders import HERE, Talk, outputs, small, spoken

LOADED, RUNNING = (i.Received(0, spoken(m)) for m in (messages.Loaded(0), messages.Running()))
PAGE = i.Received(1, return_path.page_request("pc.ram", 0, 4096))
MOVED, PACKAGE = i.GuestMoved(), i.GuestMoved(postcopy=True)
SWITCH = i.SwitchToPostcopy()
PASSES = (i.RamCollected(4096, False), i.RamCollected(0, True), i.GuestStopped())


def migrations() -> Iterator[tuple[bool, tuple[i.Input, ...]]]:
    """Inputs of a source after READY, with the stream its own or a QEMU's."""
    yield False, (*PASSES, i.RamCollected(0, True), LOADED, RUNNING)
    yield False, (SWITCH, *PASSES, PAGE, LOADED, RUNNING, PAGE, i.RamCollected(0, True), LOADED)
    yield True, (MOVED, LOADED, RUNNING)
    yield True, (LOADED, MOVED, RUNNING)
    yield True, (SWITCH, PACKAGE, LOADED, RUNNING, MOVED, LOADED)
    yield True, (SWITCH, LOADED, PACKAGE, RUNNING, LOADED, MOVED)
    yield True, (SWITCH, PACKAGE, PACKAGE)
    yield True, (SWITCH, PACKAGE, LOADED, RUNNING, LOADED, PACKAGE)


def ready(relays: bool) -> Source:
    config = replace(HERE, relays=relays)
    talk = Talk(small("postcopy-ram"), here=config, there=config).until(source="ready")
    outputs(talk.source, i.Drained(1))
    return talk.source


def test_each_transition_of_a_source_s_stages_is_taken_by_some_migration_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: set[tuple[Stage, Stage]] = set()
    stage_to = Outgoing._stage_to

    def noted(self: Outgoing, stage: Stage) -> None:
        taken.add((self.stage, stage))
        stage_to(self, stage)

    monkeypatch.setattr(Outgoing, "_stage_to", noted)
    for relays, inputs in migrations():
        outputs(ready(relays), *inputs)
    assert taken == {(stage, follower) for stage, followers in STAGES.items() for follower in followers}


@pytest.mark.parametrize("stage", Stage)
def test_a_stage_that_does_not_follow_is_our_own_mistake(stage: Stage) -> None:
    for follower in Stage:
        source = Source(small())
        source.stage = stage
        if follower in STAGES[stage]:
            source._stage_to(follower)
            assert source.stage == follower
        else:
            with pytest.raises(OurMistake, match=f"stage {follower} after {stage}"):
                source._stage_to(follower)
            assert source.stage == stage


def test_only_the_whole_stream_sent_has_no_stage_behind_it() -> None:
    assert set(STAGES) == set(Stage) and [s for s, followers in STAGES.items() if not followers] == [Stage.SENT]


@pytest.mark.parametrize(("side", "states"), [(Source, SourceState), (Destination, DestinationState)])
def test_every_state_is_reached_and_every_event_is_some_side_s(
    side: type[Source] | type[Destination], states: type[SourceState] | type[DestinationState]
) -> None:
    tables = [receive.states for receive in side.RECEIVES.values()] + [*side.SENDS.values(), *side.EVENTS.values()]
    first = {"connecting", "none"}
    assert {after for table in tables for after in table.values()} | first >= set(states)
    assert {state for table in tables for state in table} <= set(states)
    assert set(Event) - set(Source.EVENTS) - set(Destination.EVENTS) <= {"late-refusal"}


@pytest.mark.parametrize("side", [Source, Destination])
def test_an_end_is_an_end(side: type[Source] | type[Destination]) -> None:
    """A destination's RESET is legal everywhere, and asked for only where an attempt is over."""
    tables = [receive.states for receive in side.RECEIVES.values()] + list(side.SENDS.values())
    tables += [after for event, after in side.EVENTS.items() if event != Event.RESET]
    changes = {(a, b) for table in tables for a, b in table.items()}
    ends = {"completed", "failed", "postcopy-paused"}
    assert {(a, b) for a, b in changes if a in ends and a != b} == set()


def test_a_destination_that_has_acted_on_go_listens_for_nobody_again() -> None:
    reset = {s for s in DestinationState if Destination.EVENTS[Event.RESET][s] == DestinationState.LISTENING}
    assert reset == set(DestinationState)
    go = {a for receive in Destination.RECEIVES.values() for a, b in receive.states.items() if b == "going" != a}
    assert go == {DestinationState.LOADED} and Destination.EVENTS[Event.GIVEN_UP] == {"loading": "going"}
    assert Destination.EVENTS[Event.RUN_FAILED] == {"going": "loaded"}
    talk = Talk().until(destination="going")
    outputs(talk.destination, i.Ended(1), i.Ended(0))
    assert talk.destination.state == "going"
