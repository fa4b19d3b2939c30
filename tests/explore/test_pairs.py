"""Thirty pairs of faults, drawn anew each time; all of them: `make pairs`."""

from __future__ import annotations

import random

import pytest

from simlib.explore.properties import PROPERTIES

from ..seeds import fresh
from .pairs import KINDS, PAGE, pairs, searched

SEED = fresh(1_000_000)
LIMIT = 15_000  # states: CI's share


@pytest.mark.slow
@pytest.mark.parametrize("number", range(30))
def test_no_pair_of_faults_breaks_a_property(number: int) -> None:
    pair = random.Random(SEED).sample(list(pairs()), 30)[number]
    assert searched(pair, LIMIT).violations == (), str(pair)


def test_there_are_at_least_300_pairs_over_every_kind() -> None:
    listed = list(pairs())
    assert len({str(p) for p in listed}) == len(listed) >= 300
    assert {p.kind for p in listed} == set(KINDS)


@pytest.mark.skipif(not PAGE.exists(), reason="make pairs has not been run")
def test_the_page_has_every_pair_and_no_broken_safety_property() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for pair in pairs():
        assert f"| {' and '.join(pair.faults)} |" in text
    broken = [p.name for p in PROPERTIES if p.name.startswith("S") and f"| {p.name}" in text]
    assert broken == []
