"""The command that mutates the engine: what it changes, and that the tests notice it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import mutation
from tests.seeds import fresh


def test_each_mutant_differs_from_the_engine_and_can_be_compiled() -> None:
    for mutant in mutation.drawn(1, 12):
        text = mutation.mutated(mutant)
        compile(text, mutant.file, "exec")
        assert text != mutation.mutated(mutation.Mutant(mutant.file, -1, 0, ""))


def test_the_same_seed_draws_the_same_mutants() -> None:
    assert mutation.drawn(7, 20) == mutation.drawn(7, 20) != mutation.drawn(8, 20)


@pytest.mark.slow
def test_of_three_new_mutants_one_is_killed_by_the_quickest_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutation, "STAGES", mutation.STAGES[:1])
    (folder,) = mutation.copies(tmp_path, 1)
    assert any(mutation.killer(mutant, folder) for mutant in mutation.drawn(fresh(1 << 20), 3))
