"""What QMP refuses before anything starts, the simulated QEMU refuses too, in the same words."""

from __future__ import annotations

import asyncio
import random
from itertools import combinations
from pathlib import Path

import pytest

from simlib.handshake.capabilities import known_capabilities, refusal
from simlib.handshake.machine import Machine, Settings
from simlib.real_qemu.monitor import Refused
from simlib.real_qemu.process import Qemu

from .conftest import HERE, needs

NOTHING = ("-M", "none", "-nodefaults", "-display", "none", "-S")
LATER = "Migration requires seekable transport (e.g. file)"  # said by `migrate`, not when capabilities are set


async def answers(version: str, at_source: bool, folder: Path) -> dict[tuple[str, ...], str]:
    """What a QEMU says to each of its capabilities, each pair, and some threes and fours."""
    async with Qemu(HERE[version], (*NOTHING, *(() if at_source else ("-incoming", "defer"))), folder, "QEMU") as qemu:
        names = sorted(c["capability"] for c in await qemu.ask("query-migrate-capabilities"))
        assert names == sorted(known_capabilities(version))
        chance, results = random.Random(version), {}
        more = [tuple(sorted(chance.sample(names, many))) for many in (3, 4) for _ in range(150)]
        for asked in [*((n,) for n in names), *combinations(names, 2), *more]:
            try:
                await qemu.ask("migrate-set-capabilities", capabilities=[_set(n, True) for n in asked])
                await qemu.ask("migrate-set-capabilities", capabilities=[_set(n, False) for n in asked])
                results[asked] = ""
            except Refused as error:
                results[asked] = error.why
    return results


def _set(name: str, state: bool) -> dict[str, object]:
    return {"capability": name, "state": state}


@pytest.mark.parametrize("at_source", [True, False])
@pytest.mark.parametrize("version", ["5.2", "7.2", "10.0", "11.1"])
def test_every_pair_of_capabilities_is_refused_by_both_or_by_neither(
    version: str, at_source: bool, tmp_path: Path
) -> None:
    needs(version)
    real = asyncio.run(answers(version, at_source, tmp_path))
    ours = {asked: refusal(Settings(version, Machine(), asked, (), "tcp"), at_source) for asked in real}
    assert {k: v.replace(LATER, "") for k, v in ours.items()} == real
    assert "" in real.values() and len(set(real.values())) > 1
