"""Random faults under v2: nothing hangs, nothing runs twice, in the world and on sockets (`make campaign`)."""

from __future__ import annotations

import pytest

from ..seeds import fresh
from .campaign import drawn, played

FIRST = fresh(1_000_000)


@pytest.mark.parametrize("number", range(150))
def test_no_run_with_random_faults_hangs_or_has_two_guests(number: int) -> None:
    seed = FIRST + number
    finding = played(seed)
    assert not finding.wrong, f"make campaign FIRST={seed} COUNT=1: {drawn(seed)}"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(50))
def test_nor_does_one_on_real_sockets(number: int) -> None:
    seed = FIRST + number
    finding = played(seed, "sockets")
    assert not finding.wrong, f"make campaign FIRST={seed} COUNT=1 ON=sockets: {drawn(seed, 'sockets')}"
