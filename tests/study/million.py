"""A million handshakes: killed five times on two processes, then again on a Dask cluster, and the rows compared.

`make million` (about an hour and a half of two cores) writes data/results/million.md; `python -m tests.study.million
SWEEP.toml` tries it on a smaller sweep and prints it. What is measured: each kill with the rows that were kept, the
progress that a terminal showed, and the memory of the sweep's process and of its workers while the rows went by and
while they became one file, beside that of the same sweep with FEW repetitions.
"""

from __future__ import annotations

import os
import pty
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute
import pyarrow.parquet

from simlib.study import sweep as engine
from simlib.study.design import Design, load

ROOT = Path(__file__).resolve().parents[2]
SWEEP = ROOT / "data/sweeps/handshakes.toml"
RESULT = ROOT / "data/results/million.md"
KILLS = 5
SEED = 1
WATCH_S = 0.5
FEW = 20
BAR = re.compile(r"\d+%\|[^\r]*?(\d+)/\d+ \[[^\]]*\]")  # tqdm's
Sample = tuple[int, bool, float, float]  # rows done, merging?, MiB of the sweep's process, MiB of its largest worker


class Sweeping:
    """One `simlib sweep` on a terminal of its own."""

    def __init__(self, sweep: Path, out: Path, *more: str) -> None:
        self.screen, inside = pty.openpty()
        command = [sys.executable, "-m", "simlib", "sweep", str(sweep), "--out", str(out), *more]
        self.process = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, start_new_session=True)
        os.close(inside)
        os.set_blocking(self.screen, False)
        self.output, self.done = "", 0

    def look(self) -> Sample | None:
        """What its progress bar and the kernel say; None when it has ended."""
        ended = self.process.poll() is not None
        try:
            while more := os.read(self.screen, 65536):
                self.output = (self.output + more.decode())[-2000:]
        except OSError:  # nothing more now, or its other end is closed
            pass
        bars = [*BAR.finditer(self.output)]
        if ended or not bars:
            return None
        self.bar, self.done = bars[-1][0], int(bars[-1][1])
        try:
            own = psutil.Process(self.process.pid)
            below = [child.memory_info().rss for child in own.children()]
            merging = "\r  " in self.output[bars[-1].end() :]  # the bar was wiped away
            return self.done, merging, own.memory_info().rss / 2**20, max(below, default=0) / 2**20
        except psutil.Error:
            return None

    def close(self) -> None:
        self.process.wait()
        os.close(self.screen)


def killed(sweep: Path, design: Design, out: Path) -> Iterator[str]:
    """KILLS sweeps that are killed on the way: what each has shown last, and what was kept."""
    chance = random.Random(SEED)
    for n in range(KILLS):
        until = design.runs * (n + chance.uniform(0.5, 1)) / (KILLS + 1)
        running = Sweeping(sweep, out)
        while running.done < until:
            time.sleep(WATCH_S)
            running.look()
            assert running.process.poll() is None, running.output
        running.process.send_signal(signal.SIGKILL)
        running.close()
        assert not out.exists()
        log = engine.opened(engine.identity(design), out)
        yield f"killed at {running.done:,} rows, {log.done:,} kept; its screen said `{running.bar}`"
        log.close()


def ended(sweep: Path, out: Path, *more: str) -> tuple[list[Sample], str, float]:
    """A sweep that goes on to its end: its memory on the way, its last words, and its seconds."""
    began_s, running, seen = time.monotonic(), Sweeping(sweep, out, *more), []
    while running.process.poll() is None:
        time.sleep(WATCH_S)
        if sample := running.look():
            seen.append(sample)
    running.look()
    running.close()
    assert running.process.returncode == 0, running.output
    return seen, running.output.strip().splitlines()[-1].split("\r")[-1], time.monotonic() - began_s


@contextmanager
def dask(workers: int) -> Iterator[str]:
    """The README's cluster: a scheduler and workers, each a process of its own."""
    here = str(Path(sys.executable).parent / "dask")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        common = ("--scheduler-file", str(file), "--no-dashboard")
        up = [
            subprocess.Popen([here, *arguments, *common], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for arguments in (
                ("scheduler", "--host", "127.0.0.1", "--port", "0"),
                ("worker", "--nworkers", str(workers), "--nthreads", "1", "--local-directory", folder),
            )
        ]
        try:
            from distributed import Client

            make: Any = Client
            while not file.exists():
                time.sleep(0.2)
            client = make(scheduler_file=str(file))
            client.wait_for_workers(workers, timeout=60)
            address = client.scheduler.address
            client.close()
            yield address
        finally:
            for process in up:
                process.terminate()
                process.wait(30)


def memory(seen: list[Sample]) -> str:
    """Of the first fifth of what was seen while rows came, and of the last; and in the merge."""
    rows, merging = ([s for s in seen if s[1] is merged] for merged in (False, True))
    fifth = max(1, len(rows) // 5)
    own, worker = (f"{_peak(rows[:fifth], n)}, in the last {_peak(rows[-fifth:], n)}" for n in (2, 3))
    between = f"peak memory from {rows[0][0]:,} to {rows[-1][0]:,} rows"
    more = f"; its largest worker {worker}" if any(s[3] for s in rows) else ""
    return f"{between}: the sweep in the first fifth {own}{more}; while they become one file {_peak(merging, 2)}"


def _peak(seen: list[Sample], n: int) -> str:
    return f"{max(s[n] for s in seen):.0f} MiB" if seen else "not seen"


def report(sweep: Path) -> Iterator[str]:
    design = load(sweep)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        one, two = Path(folder) / "processes.parquet", Path(folder) / "dask.parquet"
        for line in killed(sweep, design, one):
            yield f"* {line}"
        seen, last, _ = ended(sweep, one)
        yield f"* gone on with to its end: {last.rpartition('/')[2]}"
        table = pyarrow.parquet.read_table(one)
        runs = table["run"].to_pylist()
        assert runs == list(range(design.runs)), "a row is missing, or twice"
        failed = pyarrow.compute.sum(pyarrow.compute.not_equal(table["error"], "")).as_py()
        yield f"* each of {len(runs):,} rows exactly once, in order; {failed:,} with an error"
        with dask(2) as address:
            again, last, took_s = ended(sweep, two, "--cluster", address)
        rate = f"{design.runs / took_s:,.0f} rows a second"
        yield f"* on Dask, a scheduler and two workers: {last.rpartition('/')[2]}; {rate}"
        assert pyarrow.parquet.read_table(two).equals(table), "Dask's rows differ"
        yield "* its rows are identical, column by column"
        yield f"* after the last kill, {memory(seen)}"
        yield f"* on Dask, {memory(again)}"
        short = Path(folder) / "short.toml"
        short.write_text(sweep.read_text().replace(f"repetitions = {design.repetitions}", f"repetitions = {FEW}"))
        seen, last, _ = ended(short, short.with_suffix(".parquet"))
        yield f"* with {FEW} repetitions: {last.rpartition('/')[2]}; {memory(seen)}"


def main(arguments: list[str]) -> None:
    sweep = Path(arguments[0]) if arguments else SWEEP
    (ROOT / "build").mkdir(exist_ok=True)
    head = f"# {load(sweep).title}\n\nWritten by `make million`: {load(sweep).runs:,} rows, {engine.commit()[:12]}.\n"
    lines = []
    for line in report(sweep):
        print(line, flush=True)
        lines.append(line)
    if not arguments:
        RESULT.write_text(head + "\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
