"""What was measured, as a table for the terminal, as the page of results, as JSON, and as a plot."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .measure import Line, Missing

ITEMS = {
    1: "World / bare engine",
    2: "The clock and the world / other simulators",
    3: "Growth",
    4: "Engine",
    5: "Explore",
    6: "Sweep and start-up",
    7: "Widget",
}


def machine() -> str:
    """Interpreter and machine, in one line."""
    name = next(
        (line.partition(":")[2].strip() for line in _read("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    load = os.getloadavg()[0]
    return (
        f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()}), "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} x {name or 'an unnamed CPU'}, load {load:.1f}"
    )


def _read(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


def number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def spread(line: Line) -> str:
    return "exact" if line.exact else f"{number(min(line.values))}..{number(max(line.values))}"


def goal(line: Line) -> str:
    sign = "≥" if line.more_is_better else "≤"
    goals = [f"{sign} {g:g}" for g in (line.must, line.stretch) if g is not None]
    return ", ".join(goals)


def table(results: Iterable[Line | Missing]) -> str:
    """For a terminal: a block an item."""
    output, item = [], 0
    for line in results:
        if line.item != item:
            item = line.item
            output += ["", f"{item}. {ITEMS[item]}"]
        if isinstance(line, Missing):
            output.append(f"  !! NOT MEASURED: {line.what}: {line.why}")
            continue
        output.append(
            f"  {number(line.value):>7} [{spread(line):>14}] {goal(line):>14} {line.verdict:7} "
            f"{line.what} / {line.anchor}{f' ({line.note})' if line.note else ''}"
        )
    return "\n".join(output)


def markdown(results: list[Line | Missing], rounds: int, words: str) -> str:
    lines = [f for f in results if isinstance(f, Line) and f.must is not None]
    counts = {v: sum(line.verdict == v for line in lines) for v in ("stretch", "met", "MISSED")}
    output = [
        "# How close to the limit",
        "",
        "Written by `make bench-results`. Each number is ours / anchor, both measured in turn within one round: CPU "
        f"time, the median of {rounds} rounds and their spread.",
        f"Measured on {machine()}.",
        "",
        f"Of {len(lines)} lines with a goal {counts['stretch']} meet the stretch goal, {counts['met']} more what they "
        f"must, {counts['MISSED']} miss it.",
    ]
    for item, title in ITEMS.items():
        output += ["", f"## {item}. {title}", ""]
        rows = [f for f in results if f.item == item]
        if rows:
            output += ["| what | / anchor | ratio | spread | must, stretch | | |", "|---|---|---:|---|---|---|---|"]
        for row in rows:
            if isinstance(row, Missing):
                output.append(f"| {row.what} | | **not measured** | | | | {row.why} |")
            else:
                output.append(
                    f"| {row.what} | {row.anchor} | {number(row.value)} | {spread(row)} | {goal(row)} "
                    f"| {f'**{row.verdict}**' if row.verdict == 'MISSED' else row.verdict} | {row.note} |"
                )
    return "\n".join(output) + "\n" + (f"\n{words}" if words else "")


def as_json(results: list[Line | Missing], rounds: int) -> dict[str, Any]:
    return {
        "machine": machine(),
        "rounds": rounds,
        "lines": [
            asdict(f) | ({"value": f.value, "verdict": f.verdict} if isinstance(f, Line) else {"missing": True})
            for f in results
        ],
    }


def plot(results: list[Line | Missing], path: Path) -> None:
    """Each line with a goal as a share of it: right of 1 is missed, whatever its unit."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    lines = [f for f in results if isinstance(f, Line) and f.must][::-1]  # of a goal of 0 nothing is a share
    figure, axes = plt.subplots(figsize=(11, 1 + 0.34 * len(lines)))
    for y, line in enumerate(lines):
        assert line.must is not None
        shares = [(line.must / v if line.more_is_better else v / line.must) for v in line.values]
        share = line.must / line.value if line.more_is_better else line.value / line.must
        colour = {"stretch": "#2a7f3f", "met": "#6aa84f", "MISSED": "#c0392b"}[line.verdict]
        axes.plot([min(shares), max(shares)], [y, y], color=colour, lw=2)
        axes.plot([share], [y], "o", color=colour)
        if line.stretch:
            mark = line.must / line.stretch if line.more_is_better else line.stretch / line.must
            axes.plot([mark], [y], "|", color="grey", ms=10)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(lines)), [f"{line.what} / {line.anchor}" for line in lines], fontsize=7)
    axes.set_xlabel("share of what must be met (left of 1 is better; | is the stretch goal)")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
