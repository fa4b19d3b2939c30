"""A sweep from its design to its file: what is missing is run, with progress, and everything is kept."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from ..record.compare import Runner
from . import sweep as engine
from .design import Design
from .extras import install_command
from .store import StoreError


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with the message to print."""


def computed(
    run: Runner, design: Design, out: Path, command: str, *, workers: int = 0, cluster: str = ""
) -> int | None:
    """Run what a sweep's file lacks, with progress on stderr.

    Args:
        out: the Parquet file; while it is incomplete, a log of the finished rows is beside it.
        command: the command line, stored in the file's metadata.
        workers: processes; 0: one for each processor.
        cluster: address of a Dask scheduler, used instead of processes.

    Returns:
        The number of rows of the file; None if it was complete already.

    Raises:
        StoreError: if a library or the cluster is missing, a worker dies, the disk is full, or the file or its log
            is damaged or belongs to another sweep.
        Interrupted: after Ctrl-C; the finished rows are kept.
    """
    try:
        import pyarrow  # noqa: F401  # now, not after hours of runs
    except ModuleNotFoundError:
        raise StoreError(f"pyarrow is missing; `{install_command('study')}` brings it, `make` has it") from None
    from tqdm import tqdm

    identified = engine.identity(design)
    if engine.complete(design, identified, out):
        engine.log_path(out).unlink(missing_ok=True)  # killed between the last two steps
        return None
    log = engine.opened(identified, out)
    try:
        before = log.done
        if log.damaged_bytes:
            print(
                f"{log.path}: {log.damaged_bytes:,} bytes were damaged; what stood there is run again", file=sys.stderr
            )
        if before:
            print(f"going on: {before:,} of {design.runs:,} rows are there", file=sys.stderr)
        if before < design.runs:
            bar = tqdm(total=design.runs, initial=before, unit=" runs", delay=0.2, disable=None, leave=False)
            with bar, _place(cluster, workers, design.runs - before) as pool:
                engine.sweep(run, design, pool, log, lambda done: bar.update(done - bar.n))
        return engine.finish(design, identified, log, out, command)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; {log.done:,} of {design.runs:,} rows are kept, and the same command goes on"
        ) from None
    finally:
        log.close()


def _place(cluster: str, workers: int, runs: int) -> AbstractContextManager[engine.Pool]:
    if cluster:
        return engine.cluster(cluster)
    return engine.processes(min(workers or os.cpu_count() or 1, runs))
