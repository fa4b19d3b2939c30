"""Item 6, sweeping: what a sweep of short runs costs beside the same runs in two forked halves, and its memory.

CPU of all processes is taken, not time: the machine is shared. Each way of running them is measured in a fresh process,
so that none carries the others' libraries with it; its workers are up before anything is measured.
`python -m tests.bench.sweeps WAY` measures one of WAYS, or memory=ROWS.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from simlib import world
from simlib.case.scenario import Scenario
from simlib.record.outcome import Row
from simlib.record.result import Result
from simlib.record.trace import Trace
from simlib.study import sweep as engine
from simlib.study.design import Design, applied, load

from .measure import Line, Missing, cpu_s, middle, over

ROOT = Path(__file__).resolve().parents[2]
RUNS = 1500
MS_RUNS = 10_000  # of a_millisecond
WORKERS = 2
WAYS = ("halves", "two", "one", "joblib", "dask", "ms-halves", "ms-two")
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
    """CPU of this process and of all below it, alive or gone, to the nanosecond where they are alive."""
    return cpu_s() + sum(_alive_s(child) for child in _below(os.getpid()))


def _below(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            yield child
            yield from _below(child)


def _alive_s(pid: int) -> float:
    threads = [file.read_text().split()[0] for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(map(int, threads)) / 1e9


# --- the ways -------------------------------------------------------------------------------------------------------
def one_run(scenario: Scenario, seed: int, run: Any = world.run) -> Any:
    return run(scenario, protocol="v1", version="10.0", manager="naive", seed=seed).row


def halves(run: Any, scenario: Scenario, runs: int) -> None:
    """The least that two processes can do: each its half in a plain loop, and nothing kept."""
    children = []
    for n in range(WORKERS):
        child = os.fork()
        if not child:
            for seed in range(n, runs, WORKERS):
                one_run(scenario, seed, run)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def joblib(scenario: Scenario, runs: int) -> None:
    """What people write who have joblib: rows in a list."""
    from joblib import Parallel, delayed

    rows = Parallel(WORKERS)(delayed(one_run)(scenario, seed) for seed in range(runs))
    assert len(rows) == runs


def swept(run: Any, folder: Path, runs: int, place: engine.Pool) -> None:
    """All that `simlib sweep` does between its start and its end."""
    plan = design(folder, runs)
    identified = engine.identity(plan)
    out = folder / f"{next(_fresh)}.parquet"
    log = engine.opened(identified, out)
    engine.sweep(run, plan, place, log)
    assert engine.finish(plan, identified, log, out, "bench") == runs


def way(name: str, folder: Path, stack: ExitStack) -> Callable[[int], object]:
    """What takes a number of runs, with its workers up."""
    base = applied(design(folder, 1).base, (("guest.ram-mib", 1),), "bench")
    run = a_millisecond if name.startswith("ms-") else world.run
    if name == "joblib":
        return partial(joblib, base)
    if name.endswith("halves"):
        return partial(halves, run, base)
    if name == "dask":
        import distributed

        make: Any = distributed.LocalCluster
        many = stack.enter_context(make(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None))
        place = stack.enter_context(engine.cluster(many.scheduler_address))
    else:
        place = stack.enter_context(engine.processes(1 if name == "one" else WORKERS))
    return lambda runs: swept(run, folder, runs, place)


def measured(name: str) -> dict[str, float]:
    """CPU and time of RUNS runs."""
    runs = MS_RUNS if name.startswith("ms-") else RUNS
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        call = way(name, Path(folder), stack)
        call(RUNS // 10)
        cpu, began_s = used_s(), time.perf_counter()
        call(runs)
        return {"cpu_s": used_s() - cpu, "time_s": time.perf_counter() - began_s}


def fresh(name: str) -> Any:
    command = [sys.executable, "-m", "tests.bench.sweeps", name]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


def rates(times: int) -> Iterator[Line]:
    samples = [{name: fresh(name) for name in WAYS} for _ in range(times)]
    cpu = [{name: cost["cpu_s"] for name, cost in r.items()} for r in samples]
    took = [{name: cost["time_s"] for name, cost in r.items()} for r in samples]
    what = f"a sweep of {RUNS:,} short runs"
    plain = f"{middle(cpu, 'halves') / RUNS * 1e3:.2f} ms a run in a plain loop"

    def rows(name: str) -> str:
        return f"{RUNS / middle(took, name):,.0f} rows a second"

    yield Line(
        6,
        f"{what} on two processes: CPU",
        "two forked halves",
        over(cpu, "two", "halves"),
        1.10,
        1.05,
        note=f"{rows('two')}; {plain}",
    )
    added = tuple((r["ms-two"] - r["ms-halves"]) / MS_RUNS * 1e6 for r in cpu)
    yield Line(
        6,
        f"a sweep of {MS_RUNS:,} runs that take 1 ms of CPU each, on two processes: CPU added to a run",
        "one microsecond",
        added,
        20,
        5,
    )
    yield Line(6, f"{what} on one process: CPU", "two forked halves", over(cpu, "one", "halves"), note=rows("one"))
    yield Line(
        6,
        f"{what} on two processes: CPU",
        "joblib, rows in a list",
        over(cpu, "two", "joblib"),
        note=f"joblib: {rows('joblib')}",
    )
    yield Line(
        6, f"{what} on Dask, two workers: CPU", "two forked halves", over(cpu, "dask", "halves"), note=rows("dask")
    )


# --- memory ---------------------------------------------------------------------------------------------------------
def nothing(scenario: Scenario, *, protocol: str, version: str, manager: str, seed: int) -> Result:
    """A run that costs nothing, with a row like any other."""
    row = Row(
        scenario.name,
        protocol,
        manager,
        version,
        version,
        seed,
        "migrated",
        "completed",
        "completed",
        "destination",
        "none",
        "",
        seed / 7,
        None,
        None,
        0,
        None,
    )
    return Result(row, Trace())


def a_millisecond(scenario: Scenario, **named: Any) -> Result:
    """The same at a known cost: two runs of the machine differ by more than a sweep adds to a run."""
    end_ns = time.thread_time_ns() + 1_000_000
    result = nothing(scenario, **named)
    while time.thread_time_ns() < end_ns:
        pass
    return result


def peak_mib(rows: int) -> float:
    """Of a process that sweeps so many rows in itself, so that all of a sweep's memory is its own."""
    with tempfile.TemporaryDirectory() as folder:
        swept(nothing, Path(folder), rows, engine.Pool(engine.InlineExecutor(), 1))
    # not getrusage's: that one begins with what the process that started us had
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) / 1024


def memory() -> Iterator[Line]:
    few, many = (float(fresh(f"memory={rows}")) for rows in (FEW, MANY))
    yield Line(
        6,
        f"peak memory of a sweep of {MANY:,} rows",
        f"of {FEW:,} rows",
        (many / few,),
        1.10,
        1.05,
        exact=True,
        note=f"{few:.0f} and {many:.0f} MiB; data/results/million.md has a million",
    )


def lines(times: int) -> Iterator[Line | Missing]:
    try:
        import distributed  # noqa: F401
        import joblib  # noqa: F401
    except ModuleNotFoundError as error:
        yield Missing(6, "sweeps", f"{error.name} is not installed")
        return
    yield from rates(times)
    yield from memory()


if __name__ == "__main__":
    name, _, rows = sys.argv[1].partition("=")
    print(json.dumps(peak_mib(int(rows)) if rows else measured(name)))
