"""The table of stages is what v1's source does: some migration takes each transition, and none takes another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, product

import pytest

from simlib.handshake import interface as i
from simlib.handshake.errors import OurMistake
from simlib.handshake.machine import Settings
from simlib.handshake.v1.source import Source
from simlib.handshake.v1.states import NEXT, Stage
from tests.handshake.builders import ACK, PONG, SHUT, SMALL, small

ENDS = {Stage.DONE, Stage.PAUSED}  # any stage may end there


class Recording(Source):
    """A source that keeps the stages through which it came."""

    path: tuple[Stage, ...] = (Stage.NONE,)

    def _to(self, stage: Stage) -> None:
        super()._to(stage)
        self.path = (*self.path, stage)


def migrations() -> Iterator[tuple[Settings, Sequence[i.Input]]]:
    """Of each kind that has stages of its own; versions differ in the order of header and connections."""
    last = (i.RamCollected(4096, True), i.GuestStopped(), i.RamCollected(0, True), i.Received(0, SHUT))
    for version, tls in product(("7.2", "10.0"), (False, True)):
        main, second = (((i.Opened(c), i.Secured(c)) if tls else (i.Opened(c),)) for c in (0, 1))
        both = (*main, *second)
        for capabilities, inputs in (
            (("multifd", "return-path"), (*both, i.RamCollected(4096, False), *last)),
            (("multifd",), (*both, *last)),
            (("return-path", "switchover-ack"), (*both, last[0], i.Received(0, ACK), *last)),
            (("background-snapshot",), (*both, i.GuestStopped(), last[0])),
            (
                ("postcopy-ram", "postcopy-preempt"),
                (*both, i.SwitchToPostcopy(), i.RamCollected(4096, False), i.Received(0, PONG), *second, *last[1:]),
            ),
        ):
            yield small(*capabilities, version=version, channels=1, tls=tls), inputs


def played(settings: Settings, inputs: Sequence[i.Input]) -> Recording:
    """A source after these inputs: what it sends is taken at once, each connection that it asks for is made once."""
    source = Recording(settings)
    for one in (i.Start(), *inputs):
        late = isinstance(one, (i.Opened, i.Secured)) and one.conn in source.ready
        if getattr(one, "conn", 0) < len(source.channels) and not late:
            waiting = source.handle(one)
            while sends := [o for o in waiting if isinstance(o, i.Send)]:
                waiting = [o for send in sends for o in source.handle(i.Drained(send.conn))]
    return source


def test_each_transition_of_the_table_is_taken_by_some_migration_and_no_other() -> None:
    paths = [played(*migration).path for migration in migrations()]
    taken = {step for path in paths for step in pairwise(path) if step[1] not in ENDS}
    assert taken == {(stage, follower) for stage, followers in NEXT.items() for follower in followers}


def test_every_stage_has_its_followers_in_the_table() -> None:
    assert set(NEXT) == set(Stage)
    assert [stage for stage, followers in NEXT.items() if not followers] == [Stage.WAIT_SHUT, Stage.PAUSED, Stage.DONE]


@pytest.mark.parametrize("stage", Stage)
def test_a_transition_that_is_not_in_the_table_is_our_own_mistake(stage: Stage) -> None:
    for follower in set(Stage) - ENDS:
        source = Source(Settings(machine=SMALL))
        source.stage = stage
        if follower in NEXT[stage]:
            source._to(follower)
            assert source.stage == follower
        else:
            with pytest.raises(OurMistake, match=f"stage {follower} after {stage}"):
                source._to(follower)
            assert source.stage == stage


@pytest.mark.parametrize("stage", Stage)
def test_a_migration_may_end_in_any_stage(stage: Stage) -> None:
    for end in ENDS:
        source = Source(Settings(machine=SMALL))
        source.stage = stage
        source._to(end)
        assert source.stage == end
