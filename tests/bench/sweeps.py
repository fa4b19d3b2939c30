"""Item 6, sweeping: what a sweep of short runs costs beside the same runs in two forked halves, and its memory.

CPU of all processes is taken, not time: the machine is shared. Workers are up before anything is measured.
Run as `python -m tests.bench.sweeps ROWS` this file sweeps so many rows of nothing and prints its own peak memory.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from simlib import world
from simlib.outcome import Row
from simlib.result import Result
from simlib.scenario import Scenario
from simlib.study import sweep as engine
from simlib.study.design import Design, applied, load
from simlib.trace import Trace

from .measure import Line, Missing, middle, over

ROOT = Path(__file__).resolve().parents[2]
RUNS = 600
WORKERS = 2
FEW, MANY = 40_000, 160_000  # rows, for memory
TOML = """
scenario = "matched"
protocols = ["v1"]
versions = ["10.0"]
repetitions = {runs}
seed = {seed}
[set]
"guest.ram-mib" = 1
"""
_fresh = count()


def design(folder: Path, runs: int) -> Design:
    file = folder / f"{next(_fresh)}.toml"
    file.write_text(TOML.format(runs=runs, seed=1))
    return load(file)


def used_s() -> float:
    """CPU of this process and of all below it, alive or gone."""
    import psutil

    own = psutil.Process()
    below = own.children(recursive=True)
    alive = sum(sum(child.cpu_times()[:4]) for child in below)  # its children that are gone too
    return alive + sum(own.cpu_times()[:4])


def swept(run: Any, folder: Path, runs: int, place: engine.Place) -> None:
    """All that `simlib sweep` does between its start and its end."""
    made = design(folder, runs)
    identified = engine.identity(made)
    out = folder / f"{next(_fresh)}.parquet"
    log = engine.opened(identified, out)
    engine.sweep(run, made, place, log)
    assert engine.finish(made, identified, log, out, "bench") == runs


def loop(scenario: Scenario, seeds: range) -> None:
    for seed in seeds:
        world.run(scenario, protocol="v1", version="10.0", seed=seed)


def halves(scenario: Scenario, runs: int) -> None:
    """The least that two processes can do: each its half in a plain loop, and nothing kept."""
    children = []
    for n in range(WORKERS):
        child = os.fork()
        if not child:
            loop(scenario, range(n, runs, WORKERS))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def calls_of(folder: Path, stack: ExitStack) -> dict[str, Callable[[], object]]:
    base = design(folder, 1).base
    base = applied(base, (("guest.ram-mib", 1),), "bench")
    one = stack.enter_context(engine.processes(1))
    two = stack.enter_context(engine.processes(WORKERS))
    found: dict[str, Callable[[], object]] = {
        "halves": partial(halves, base, RUNS),
        "one": partial(swept, world.run, folder, RUNS, one), "two": partial(swept, world.run, folder, RUNS, two),
    }  # fmt: skip
    import distributed

    make: Any = distributed.LocalCluster
    many = stack.enter_context(make(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, silence_logs=50))
    dask = stack.enter_context(engine.cluster(many.scheduler_address))
    return found | {"dask": partial(swept, world.run, folder, RUNS, dask)}


def rates(times: int) -> Iterator[Line | Missing]:
    with tempfile.TemporaryDirectory() as told, ExitStack() as stack:
        calls = calls_of(Path(told), stack)
        for call in calls.values():
            call()
        found = []
        for _ in range(times):
            spent = {}
            for name, call in calls.items():
                before = used_s()
                call()
                spent[name] = used_s() - before
            found.append(spent)
    what = f"a sweep of {RUNS:,} short runs"
    note = f"{middle(found, 'halves') / RUNS * 1e3:.2f} ms a run in a plain loop"
    yield Line(6, f"{what} on two processes: CPU", "two forked halves", over(found, "two", "halves"), 1.10, 1.05,
               note=note)  # fmt: skip
    added = tuple((r["two"] - r["halves"]) / RUNS * 1e6 for r in found)
    yield Line(6, f"{what} on two processes: CPU added to a run", "one microsecond", added, 20, 5)
    yield Line(6, f"{what} on one process: CPU", "two forked halves", over(found, "one", "halves"))
    yield Line(6, f"{what} on Dask, two workers: CPU", "two forked halves", over(found, "dask", "halves"))
    yield Missing(6, f"{what} / joblib", "joblib is no dependency of the project")


# --- memory ---------------------------------------------------------------------------------------------------------
def nothing(scenario: Scenario, *, protocol: str, version: str, manager: str, seed: int) -> Result:
    """A run that costs nothing, with a row like any other."""
    row = Row(scenario.name, protocol, manager, version, version, seed, "migrated", "completed", "completed",
              "destination", "none", "", seed / 7, None, None, 0, None)  # fmt: skip
    return Result(row, Trace())


def peak_mib(rows: int) -> float:
    """Of a fresh process that sweeps so many rows in itself, so that all of a sweep's memory is its own."""
    got = subprocess.run([sys.executable, "-m", "tests.bench.sweeps", str(rows)], cwd=ROOT, check=True,
                         capture_output=True, text=True)  # fmt: skip
    return float(json.loads(got.stdout))


def memory() -> Iterator[Line]:
    few, many = peak_mib(FEW), peak_mib(MANY)
    yield Line(6, f"peak memory of a sweep of {MANY:,} rows", f"of {FEW:,} rows", (many / few,), 1.10, 1.05, exact=True,
               note=f"{few:.0f} and {many:.0f} MiB")  # fmt: skip


def lines(times: int) -> Iterator[Line | Missing]:
    try:
        import distributed
        import psutil  # noqa: F401
    except ModuleNotFoundError as error:
        yield Missing(6, "sweeps", f"{error.name} is not installed")
        return
    assert distributed
    yield from rates(times)
    yield from memory()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        swept(nothing, Path(folder), int(sys.argv[1]), engine.Place(engine.Here(), 1))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
