"""Section 9 of data/vectors/SPEC.md, who may say what in which state, against the engine's tables and what it does."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from simlib.handshake.v2 import frames, session, states
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.messages import MESSAGES, Message
from simlib.handshake.v2.session import Session
from simlib.handshake.v2.source import Source
from tests.world.campaign import played

SPEC = Path(__file__).resolve().parents[2] / "data/vectors/SPEC.md"
ROLES: dict[str, type[Session]] = {states.SOURCE: Source, states.DESTINATION: Destination}
RUNS = 120
OWN_CONNECTION = ("CHANNEL_OPEN", "CHANNEL_OK")  # they change no state of the session


class Row(NamedTuple):
    """States with the state after each, or None."""

    said: dict[str, str | None]
    read: dict[str, str | None]


def cell(text: str) -> dict[str, str | None]:
    return {a: b or None for a, b in re.findall(r"`([a-z-]+)`(?: → `([a-z-]+)`)?", text)}


def table() -> dict[tuple[str, str], Row]:
    section = SPEC.read_text().partition("## 9 States")[2].partition("## 10")[0]
    rows = re.findall(r"^\| `([A-Z_]+)` \| (source|destination) \| (.*) \| (.*) \|$", section, re.MULTILINE)
    return {(name, by): Row(cell(said), cell(read)) for name, by, said, read in rows}


TABLE = table()
BY_NAME = {cls.NAME: cls for cls in MESSAGES.values()}


def test_the_table_has_every_message() -> None:
    assert {name for name, _ in TABLE} == {*BY_NAME, "DATA"}


@pytest.mark.parametrize(("name", "by"), [key for key in TABLE if key[0] not in (*OWN_CONNECTION, "DATA")])
def test_what_a_message_does_to_its_reader_is_what_the_engine_s_table_says(name: str, by: str) -> None:
    reader = ROLES[states.DESTINATION if by == states.SOURCE else states.SOURCE]
    receive = {str(a): str(b) for a, b in reader.RECEIVES[BY_NAME[name]].states.items()}
    assert {state: after or state for state, after in TABLE[name, by].read.items()} == receive


def test_the_engine_reads_nothing_else() -> None:
    for role, reader in ROLES.items():
        peer = states.DESTINATION if role == states.SOURCE else states.SOURCE
        assert {kind.NAME for kind in reader.RECEIVES} == {name for name, by in TABLE if by == peer} - {"DATA"}


@pytest.mark.parametrize("by", ROLES)
def test_speaking_leads_where_the_engine_s_table_says(by: str) -> None:
    sends = {(kind.NAME, str(a)): str(b) for kind, after in ROLES[by].SENDS.items() for a, b in after.items()}
    in_table = {(name, a): b for (name, who), row in TABLE.items() if who == by for a, b in row.said.items() if b}
    assert in_table == sends


def test_data_is_read_in_the_states_of_the_table() -> None:
    for by, reader in ((states.SOURCE, Destination), (states.DESTINATION, Source)):
        assert set(TABLE["DATA", by].read) == set(map(str, reader.DATA_STATES))


def test_nothing_is_said_in_a_state_that_the_table_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    say = session.Session._say

    def noted(self: Session, conn: int, message: Message, before: bytes = b"", note: str = "") -> bytes:
        seen[message.NAME, self.role].add(str(self.state))
        return say(self, conn, message, before, note)

    monkeypatch.setattr(session.Session, "_say", noted)
    for seed in range(1, RUNS + 1):
        played(seed)
    assert len(seen) >= 12
    assert {key: said - set(TABLE[key].said) for key, said in seen.items() if said - set(TABLE[key].said)} == {}


def test_every_frame_type_has_its_number_in_the_table_of_messages() -> None:
    section = SPEC.read_text().partition("## 5 Messages")[2].partition("### 5.1")[0]
    numbers = {
        name: int(number, 16)
        for cells in re.findall(r"^\| (0x.*?) \| (`.*?`) \|", section, re.MULTILINE)
        for number, name in zip(cells[0].split(", "), re.findall("[A-Z_]+", cells[1]), strict=True)
    }
    assert numbers == {name: number for number, name in frames.NAMES.items()}
