"""Goals that are no ratio: each is shown by tests, which are run here and counted. A line holds how many failed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .measure import Line, Missing

ROOT = Path(__file__).resolve().parents[2]
SHOWN_BY = (
    (
        5,
        "reduced = unreduced verdicts and endings: tests that fail",
        ("tests/explore/test_search.py", "-k", "reductions or plain_search"),
    ),
    (
        6,
        "digests equal in other processes, for other hash seeds and versions of Python: tests that fail",
        ("tests/world/test_cost.py", "-k", "same or process or version_of_python"),
    ),
    (
        6,
        "digests equal in a browser (WebAssembly, Python 3.14): tests that fail",
        ("tests/browser/test_browser.py", "-k", "without_a_server"),
    ),
    (
        6,
        "rows equal for other chunks, processes and Dask workers: tests that fail",
        ("tests/study/test_sweep.py", "-k", "chunks_and_processes or dask_cluster or runs_it_again"),
    ),
    (
        6,
        "closed forms against the world, within 4 sigma (data/results/oracles.md: a million runs): tests that fail",
        ("tests/study/test_statistics.py", "-k", "closed_form or main_comes_first"),
    ),
)


def lines(times: int) -> Iterator[Line | Missing]:
    """Once each, however many rounds: nothing here is a time."""
    for item, what, arguments in SHOWN_BY:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
        passed, failed = (int(n[1]) if (n := re.search(rf"(\d+) {word}", said)) else 0 for word in ("passed", "failed"))
        shown = "pytest " + " ".join(f'"{a}"' if " " in a else a for a in arguments)
        if not passed:
            yield Missing(item, what, f"`{shown}` ran nothing")
        else:
            yield Line(item, what, "none", (float(failed),), 0, 0, exact=True, note=f"{passed} passed: `{shown}`")
