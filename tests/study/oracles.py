"""Closed forms against the simulated world in a million runs each: `make oracles` writes data/results/oracles.md.

`python -m tests.study.oracles RUNS` does it in fewer, and writes nothing.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from simlib.study import sweep
from simlib.study.statistics import sigmas, there_and_back, wilson

from .test_statistics import BURSTS, LAWS, in_bursts, law, missed, with_back_off

RESULT = Path(__file__).resolve().parents[2] / "data/results/oracles.md"
RUNS = 1_000_000
CHUNK = 2_000
WORKERS = 2


@cache
def forms() -> dict[str, tuple[Any, ...]]:
    """What the timeout meets: how often it misses by the closed form, the scenario, and a path of its own if any."""
    legs = {
        f"{name}, 50 ms": (there_and_back(leg, leg)(0.05), law(*parameters, 0.05))
        for name, (leg, parameters) in LAWS.items()
    }
    bursts = {f"Gilbert-Elliott, {name} bursts, 1 s": in_bursts(them) for name, them in BURSTS.items()}
    return {**legs, "exponential, 30 % lost, kernel's back-off, 500 ms": with_back_off(), **bursts}


def hits(name: str, seeds: range) -> int:
    """How often the timeout misses in the runs of one chunk."""
    _, scenario, *path = forms()[name]
    return missed(scenario, seeds, *path)


def main(runs: int) -> list[str]:
    lines = [
        "| path, timeout | closed form | world | its 95 % interval | standard errors apart |",
        "|---|---:|---:|---|---:|",
    ]
    chunks = [range(first, min(first + CHUNK, runs)) for first in range(0, runs, CHUNK)]
    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        for name, (expected, *_) in forms().items():
            many = sum(pool.map(partial(hits, name), chunks))
            interval = wilson(many, runs)
            lines.append(
                f"| {name} | {expected:.6f} | {many / runs:.6f} | {interval.low:.6f} to {interval.high:.6f} "
                f"| {sigmas(many, runs, expected):+.2f} |"
            )
            print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    runs = int(sys.argv[1]) if sys.argv[1:] else RUNS
    table = main(runs)
    if runs == RUNS:
        head = f"# How often a timeout misses: closed form against the world, {runs:,} runs each"
        RESULT.write_text("\n".join([head, "", f"Written by `make oracles`, {sweep.commit()[:12]}.", "", *table, ""]))
