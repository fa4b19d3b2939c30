"""Item 6, the part of it that is not sweeping: what starting costs, in CPU seconds of a fresh interpreter that finds
everything compiled, as every start but the first one does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from .measure import Line, cpu_s, middle, one

COMPILED = Path(__file__).resolve().parents[2] / "build" / "bench" / "compiled"
HEAVY = ("numpy", "pandas", "matplotlib", "dask")


def fresh(*arguments: str) -> Callable[[], object]:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(COMPILED)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # some machines forbid it, and every start would compile anew
    return lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)


def lines(times: int) -> Iterator[Line]:
    core = "import simlib, simlib.world, simlib.handshake.detect"
    heavy = f"{core}, sys; assert not {{*{HEAVY!r}}} & set(sys.modules)"
    calls = {
        "nothing": fresh("-c", "pass"),
        "help": fresh("-m", "simlib", "--help"),
        "core": fresh("-c", heavy),
        "run": fresh("-m", "simlib", "run", "matched"),
        "list": fresh("-m", "simlib", "list"),
        "scipy": fresh("-c", "import simlib.study.design, scipy.stats"),
        "design": fresh(
            "-c",
            "from pathlib import Path; from simlib.study.design import load; load(Path('data/sweeps/handshakes.toml'))",
        ),
    }
    for call in calls.values():
        call()
    samples = [{name: one(call, 2, cpu_s) for name, call in calls.items()} for _ in range(times)]
    for name, what, must, stretch in (
        ("help", "simlib --help", 0.25, 0.15),
        ("core", "importing simlib and the core, no numpy or pandas", 0.15, 0.1),
        ("run", "simlib run matched", None, None),
        ("list", "simlib list", None, None),
    ):
        bare = middle(samples, name) / middle(samples, "nothing")
        yield Line(
            6,
            f"{what}: CPU",
            "one second",
            tuple(r[name] for r in samples),
            must,
            stretch,
            note=f"{bare:.1f} x an interpreter that does nothing",
        )
    loading = tuple(r["design"] - r["scipy"] for r in samples)
    yield Line(
        6, "loading data/sweeps/handshakes.toml: CPU", "one second", loading, 1.0, 0.5, note="scipy's import apart"
    )
