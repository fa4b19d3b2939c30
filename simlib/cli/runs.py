"""The commands `simlib compare`, `simlib run` and `simlib list`: what they print and write."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from .. import world
from ..case import checks, files
from ..record import capture, chart
from ..record import compare as comparing
from ..record.outcome import Row
from ..record.result import Result
from .terminal import line, progress


def compare(options: Namespace) -> int:
    chosen = [files.find(n) for n in options.scenario] if options.scenario else files.load_all()
    options.out = options.out or Path("build/compare-some" if options.scenario else "build/compare")
    work = comparing.jobs(chosen)
    rows: list[Row] = []
    command = "simlib " + " ".join(["compare", *options.scenario, "--seed", str(options.seed)])
    try:
        for row in progress(comparing.run_all(world.run, work, options.out, options.seed), len(work), "runs"):
            rows.append(row)
    finally:
        if rows:
            try:
                comparing.finish(rows, chosen, options.out, command)
            finally:  # a full disk takes none of it
                _print_rows(rows, options, command)
    return 0


def _print_rows(rows: list[Row], options: Namespace, command: str) -> None:
    if options.json:
        json.dump({"command": command, "rows": [r.as_dict() for r in rows]}, sys.stdout, indent=1)
        print()
        return
    for text in (*comparing.text_table(rows), "", *comparing.summary(rows)):
        print(text)
    print(f"\npictures, table and traces: {options.out}/index.html (seed {options.seed})")


def run(options: Namespace) -> int:
    scenario = files.find(options.scenario)
    arguments = {
        "protocol": options.protocol or scenario.protocols[0],
        "version": options.qemu or scenario.versions[0],
        "manager": options.manager or scenario.managers[0],
    }
    for number, at_source in zip(checks.pair(arguments["version"]), (True, False), strict=True):
        scenario.settings(at_source, number)
    result = world.run(scenario, seed=options.seed, **arguments)
    try:
        if options.out:
            _write(options.out, result)
    finally:  # a folder that can't be written takes none of it
        if options.json:
            json.dump({"row": result.row.as_dict(), "steps": result.trace.rows()}, sys.stdout, indent=1)
            print()
        else:
            again = f"simlib run {options.scenario} --protocol {arguments['protocol']} --qemu '{arguments['version']}'"
            _print_run(result, scenario.title, f"{again} --manager {arguments['manager']} --seed {options.seed}")
    return 0


def _print_run(result: Result, title: str, again: str) -> None:
    print(result.trace)
    print(f"\n{line(title)}: {result.row.outcome}, the guest is at: {result.row.guest_at}")
    if result.row.source_text:
        print(f"the source is told: {result.row.source_text}")
    print(f"again: {again}")


def _write(out: Path, result: Result) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "trace.txt").write_text(f"{result.trace}\n", encoding="utf-8")
    (out / "chart.svg").write_text(chart.sequence_svg(result.trace, result.row.outcome), encoding="utf-8")
    (out / "row.json").write_text(json.dumps(result.row.as_dict(), indent=1), encoding="utf-8")
    capture.write(out / "capture.pcapng", capture.segments(result.trace.packets), result.trace.title)


def show_list(options: Namespace) -> int:
    scenarios = files.load_all()
    if options.json:
        rows = [{"name": s.name, "title": s.title, "claims": s.claims, "versions": s.versions} for s in scenarios]
        json.dump(rows, sys.stdout, indent=1)
        print()
    else:
        for s in scenarios:
            print(f"{s.name:40} {line(s.title)} ({', '.join(s.claims)})")
    return 0
