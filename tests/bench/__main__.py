"""`make bench`: how close to the limit. Every line is a ratio against its anchor, measured in the same run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from . import clocks, engine, handshake, page, peers, promises, search, startup, sweeps, widget
from .measure import Line, Missing

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "bench"
RESULTS = ROOT / "data" / "results" / "bench.md"
WORDS = Path(__file__).with_name("misses.md")  # what the misses are about: written by people, beside the numbers
PARTS: dict[str, Callable[[int], Iterator[Line | Missing]]] = {
    "handshake": handshake.lines,
    "clocks": clocks.lines,
    "seedloop": peers.lines,
    "engine": engine.lines,
    "search": search.lines,
    "startup": startup.lines,
    "sweeps": sweeps.lines,
    "promises": promises.lines,
    "widget": widget.lines,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(PARTS)}; all of them without")
    parser.add_argument("--json", action="store_true", help="for machines, on standard output")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    lines: list[Line | Missing] = []
    if not options.json:
        print(f"{page.machine()}\nCPU time, ours / anchor, median of {options.rounds} rounds [spread], goals, verdict")
    for name in options.parts or PARTS:
        part = list(PARTS[name](options.rounds))
        lines += part
        if not options.json:
            print(page.table(part), flush=True)
    lines.sort(key=lambda line: line.item)
    page.plot(lines, BUILD / "bench.svg")
    if options.json:
        json.dump(page.as_json(lines, options.rounds), sys.stdout, indent=1)
    else:
        print(f"\nplot: {(BUILD / 'bench.svg').relative_to(ROOT)}")
    if options.results:
        words = WORDS.read_text(encoding="utf-8") if WORDS.exists() else ""
        RESULTS.write_text(page.markdown(lines, options.rounds, words), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
