"""The verbs `sweep` and `claims` of the command line; runners come as arguments."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..extras import install_command
from ..record.compare import Runner
from . import sweep as engine
from .design import Design, load
from .store import StoreError


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what is to be said."""


def sweep(options: Any, runners: Mapping[str, Callable[[], Runner]]) -> int:
    """`simlib sweep`. Raises ValueError for what was asked wrongly, StoreError for what could not be done."""
    design = load(options.sweep)
    run = runners[design.runner]()
    command = shlex.join(["simlib", "sweep", str(options.sweep), "--out", str(options.out)])
    made = computed(run, design, options.out, command, workers=options.workers, cluster=options.cluster)
    if made is None:
        print(f"{options.out}: {design.runs:,} rows are there already")
    else:
        print(f"{options.out}: {made:,} rows of {len(design.points):,} points (seed {design.seed})")
    return 0


def computed(
    run: Runner, design: Design, out: Path, command: str, *, workers: int = 0, cluster: str = ""
) -> int | None:
    """Run what a sweep's file lacks, with progress; how many rows it has, None if all were there. Raises StoreError."""
    try:
        import pyarrow  # noqa: F401  # now, not after hours of runs
    except ModuleNotFoundError:
        raise StoreError(f"pyarrow is missing; `{install_command('study')}` brings it, `make` has it") from None
    identified = engine.identity(design)
    if engine.complete(design, identified, out):
        engine.log_path(out).unlink(missing_ok=True)  # killed between the last two steps
        return None
    log = engine.opened(identified, out)
    try:
        before, bar = log.done, _Bar()
        if log.damaged_bytes:
            print(
                f"{log.path}: {log.damaged_bytes:,} bytes were damaged; what stood there is run again", file=sys.stderr
            )
        if before:
            print(f"going on: {before:,} of {design.runs:,} rows are there", file=sys.stderr)
        if before < design.runs:
            with _place(cluster, workers, design.runs - before) as place:
                engine.sweep(run, design, place, log, bar)
        bar.clear()
        return engine.finish(design, identified, log, out, command)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {log.done:,} of {design.runs:,} rows are kept, and the same command goes on"
                          ) from None  # fmt: skip
    finally:
        log.close()


def _place(cluster: str, workers: int, runs: int) -> AbstractContextManager[engine.Place]:
    if cluster:
        return engine.cluster(cluster)
    return engine.processes(min(workers or os.cpu_count() or 1, runs))


class _Bar:
    """Progress with the rate and the time left; on a terminal alone."""

    def __init__(self) -> None:
        self.shows, self.drawn_s = sys.stderr.isatty(), 0.0

    def __call__(self, done: int, runs: int, rate: float) -> None:
        now = time.monotonic()
        if self.shows and now - self.drawn_s > 0.2:
            self.drawn_s = now
            left_s = (runs - done) / rate if rate else 0
            left = f"{left_s:.0f} s" if left_s < 120 else f"{left_s / 60:.0f} min"
            bar = "#" * (30 * done // runs)
            print(f"\r[{bar:30}] {done:,}/{runs:,} runs, {rate:,.0f}/s, {left} left    ", end="", file=sys.stderr,
                  flush=True)  # fmt: skip

    def clear(self) -> None:
        if self.drawn_s:
            print("\r" + " " * 90 + "\r", end="", file=sys.stderr, flush=True)


def claims(options: Any, run: Runner) -> int:
    """`simlib claims`. Raises ValueError for what was asked wrongly."""
    from . import claims as kept
    from .registry import CLAIMS

    unknown = [name for name in options.claim if name not in CLAIMS]
    if unknown:
        raise ValueError(f"there is no claim {unknown[0]!r}; choose among {', '.join(CLAIMS)}")
    if options.claim and (options.readme or options.out):
        raise ValueError("--readme and --out take all claims at once; name none")
    chosen = {name: CLAIMS[name] for name in options.claim or CLAIMS}
    decided = []
    for claim, found in kept.decide(run, chosen, options.full):
        decided.append((claim, found))
        if not options.json:
            print("\n".join(kept.as_text(claim, found)), flush=True)
    if options.json:
        json.dump([kept.as_dict(c, f) for c, f in decided], sys.stdout, indent=1, ensure_ascii=False)
        print()
    if options.out:
        options.out.write_text(kept.as_page(decided), encoding="utf-8")
    if options.readme:
        page = options.readme.read_text(encoding="utf-8")
        options.readme.write_text(kept.with_summary(page, kept.as_summary(decided)), encoding="utf-8")
    return 0
