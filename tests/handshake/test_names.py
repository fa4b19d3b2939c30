"""Names are texts: in comparisons, dictionaries and output nobody notices that they are members of an enumeration."""

from __future__ import annotations

import json

import pytest

from simlib.handshake.errors import Code, Retry
from simlib.handshake.loader import Position
from simlib.handshake.names import Name, Reason, Status
from simlib.handshake.v1.states import Kind, Stage

MEMBERS = [member for kind in (Code, Kind, Position, Reason, Retry, Stage, Status) for member in kind]
STATUSES = (
    "none setup cancelling cancelled active postcopy-device postcopy-active postcopy-paused completed failed failing "
    "pre-switchover device"
)  # MigrationStatus (qapi/migration.json, 11.1) without those of COLO, of recovery and of VFIO's wait for unplug


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: f"{type(m).__name__}.{m.name}")
def test_a_member_equals_its_text_and_is_looked_up_and_shown_as_it(member: Name) -> None:
    text = str.__str__(member)
    by_text: dict[str, int] = {text: 1}
    by_member: dict[str, int] = {member: 1}
    assert member == text and by_text == by_member and by_text[member] == by_member[text] == 1
    assert (f"{member}", repr(member), json.dumps(member)) == (text, repr(text), json.dumps(text))


def test_two_members_of_an_enumeration_have_different_texts() -> None:
    """Otherwise one would be the other's alias."""
    for kind in (Code, Kind, Position, Reason, Retry, Stage, Status):
        assert len(kind) == len(kind.__members__)


def test_the_statuses_are_those_of_query_migrate_and_two_of_our_own() -> None:
    assert sorted(Status) == sorted([*STATUSES.split(), "rejected", "uncertain"])


def test_the_reasons_are_the_words_that_rows_of_earlier_runs_have() -> None:
    assert [*Reason] == ["none", "generic", "specific"]
