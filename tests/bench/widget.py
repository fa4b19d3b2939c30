"""Item 7: from a slider's move to the first frame with the redrawn chart, in a real browser. Time, not CPU: it is what
a person waits for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .measure import Line, Missing

ROOT = Path(__file__).resolve().parents[2]


def lines(times: int) -> Iterator[Line | Missing]:
    command = [sys.executable, "-m", "tests.browser.redraw", "--moves", str(8 * times)]
    report = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    for name, where in (("jupyterlab", "in JupyterLab"), ("site", "on the site, Python in the browser")):
        what = f"slider to chart, {where}: median time"
        if report[name] is None:
            yield Missing(7, what, report["why"])
        else:
            goal = (50.0, None) if name == "jupyterlab" else (None, None)
            yield Line(
                7,
                what,
                "one millisecond",
                (report[name]["median_ms"],),
                *goal,
                note="95 % within {p95_ms:.0f}, the most {most_ms:.0f}; {moves} moves".format(**report[name]),
            )
