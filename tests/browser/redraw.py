"""Milliseconds from a slider's move to the first frame with the redrawn chart: python -m tests.browser.redraw

In JupyterLab with its kernel beside, and on the site, where Python runs in the browser. One JSON object on standard
output; what can't be measured here is null, and why stands beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import drive


def measured(url: str, moves: int) -> dict[str, Any]:
    with drive.watched() as watched:
        watched.page.goto(url)
        drive.run_all(watched.page)
        drive.redraws(watched.page, 3)  # warm
        times = sorted(drive.redraws(watched.page, moves))
        watched.page.goto("about:blank")
    return {
        "median_ms": round(statistics.median(times), 1),
        "p95_ms": round(times[int(len(times) * 0.95)], 1),
        "most_ms": round(times[-1], 1),
        "moves": moves,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.redraw", description=__doc__)
    parser.add_argument("--moves", type=int, default=40)
    parser.add_argument("--notebook", type=Path, help="another notebook with a slider and a chart")
    options = parser.parse_args()
    report: dict[str, Any] = {"jupyterlab": None, "site": None}
    if drive.program() is None:
        report["why"] = "no Chromium here"
    else:
        with (
            tempfile.TemporaryDirectory() as folder,
            drive.lab(Path(folder), options.notebook or drive.with_slider()) as url,
        ):
            report["jupyterlab"] = measured(url, options.moves)
        if (drive.SITE / "lite" / "index.html").exists():
            with drive.served(drive.SITE) as url:
                report["site"] = measured(f"{url}/lite/lab/index.html?path=try_it.ipynb", options.moves)
        else:
            report["why"] = "no build/site here; `make site` makes it"
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
