"""`simlib explore`: one scenario in every order, or everything that the lab has to say about order."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from .. import scenario
from ..endpoints import Setup
from ..registry import INTRUDERS, require
from . import report
from .search import Found, Search
from .state import ORDERS, OVERHEARD, Faults, Model
from .story import Story


def run(options: Any) -> int:
    """The exit status; ValueError for what was asked wrongly."""
    return _one(options) if options.scenario else _all(options)


def _model(options: Any) -> Model:
    found = scenario.find(options.scenario)
    protocol = options.protocol or found.protocols[0]
    setup = Setup(found, protocol, options.qemu or found.versions[0])
    setup.settings(True), setup.settings(False)
    for order in options.order:
        require("order", order, tuple(ORDERS))
    for intruder in options.stranger:
        if intruder not in INTRUDERS:
            require("stranger", intruder, (*INTRUDERS, *OVERHEARD))
    refused = setup.refused()
    if refused:
        raise ValueError(f"{found.name}: nothing to search, the {refused[0]} refuses: {refused[1].text}")
    faults = Faults(options.cuts, options.losses, tuple(options.order), tuple(options.stranger))
    return Model(setup, faults, ("detect", "guard") if options.timers else (), options.rival, options.room,
                 compatible=not (options.rival or _odd(found)))  # fmt: skip


def _odd(found: scenario.Scenario) -> bool:
    """Whether the two sides were set up differently, so that nobody expects the guest to arrive."""
    return found.source != found.destination or found.link.transport not in ("tcp", "unix", "exec-socat")


def _one(options: Any) -> int:
    model = _model(options)
    search = Search(model, options.plain)
    started, interrupted = time.monotonic(), False
    try:
        search.run(options.limit, _progress(started))
    except KeyboardInterrupt:
        interrupted = True
    found, seconds = search.found, time.monotonic() - started
    _clear()
    stories = [Story(model, violation) for violation in found.violations.values()]
    try:
        if options.out:
            for told in stories:
                _save(told, options.out)
    finally:  # a folder that can't be written takes none of it
        if options.json:
            json.dump(_as_json(options, found, stories), sys.stdout, indent=1)
            print()
        else:
            _tell(options, found, stories, seconds)
    return 130 if interrupted else 0


def _save(told: Story, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{told.name}.txt").write_text(f"{told}\n", encoding="utf-8")
    (out / f"{told.name}.svg").write_text(told._repr_svg_(), encoding="utf-8")
    if told.scenario:
        (out / f"{told.name}.toml").write_text(scenario.dumps(told.scenario), encoding="utf-8")


def _as_json(options: Any, found: Found, stories: list[Story]) -> dict[str, Any]:
    return {
        "scenario": options.scenario, "states": found.states, "transitions": found.transitions, "depth": found.depth,
        "complete": found.complete,
        "endings": [{"source": s, "guest_at": at, "states": n} for (s, at), n in sorted(found.endings.items())],
        "violations": [{"property": s.violation.name, "text": s.violation.text, "steps": s.violation.path,
                        "source": s.ending.source, "guest_at": s.ending.guest_at} for s in stories],
    }  # fmt: skip


def _tell(options: Any, found: Found, stories: list[Story], seconds: float) -> None:
    for told in stories:
        print(f"{told}\n")
    covered = "every state" if found.complete else f"not every state: stopped after {found.states:,}"
    print(f"{covered}: {found.states:,} states, {found.transitions:,} steps between them, at most {found.depth} deep, "
          f"in {seconds:.1f} s")  # fmt: skip
    for (status, at), count in sorted(found.endings.items()):
        print(f"  ends: source {status}, guest at {at} ({count} states)")
    for told in stories:
        print(f"  broken: {told.title} (after {len(told.violation.path)} steps, told above)")
    if not stories:
        print(f"  {'everything held' if found.complete else 'nothing was broken so far'}")
    if options.out and stories:
        print(f"texts and charts: {options.out}")
        if stories[0].scenario:
            print(f"again in the simulated world: simlib run {options.out}/{stories[0].name}.toml")


def _progress(started: float) -> Any:
    drawn = started

    def tell(found: Found, waiting: int) -> None:
        nonlocal drawn
        now = time.monotonic()
        if sys.stderr.isatty() and now - started > 2 and now - drawn > 0.2:
            drawn = now
            rate = found.states / (now - started)
            print(f"\r{found.states:,} states seen, {waiting:,} wait, {found.depth} deep, {rate:,.0f} a second  ",
                  end="", file=sys.stderr, flush=True)  # fmt: skip

    return tell


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r" + " " * 80 + "\r", end="", file=sys.stderr, flush=True)


def _all(options: Any) -> int:
    lines = []
    for line in report.search_cases():
        lines.append(line)
        if sys.stderr.isatty():
            print(f"\r{len(lines)} models searched", end="", file=sys.stderr, flush=True)
    _clear()
    killed = list(report.search_mutants())
    text = report.page(lines, killed)
    if options.json:
        told = [
            {"model": ln.case.name, "states": ln.found.states, "breaks": sorted(ln.found.violations)} for ln in lines
        ]
        dead = [{"rule": m.rule, "noticed_by": m.killed_by, "noticed": m.killed_by in f.violations} for m, f in killed]
        json.dump({"models": told, "mutants": dead}, sys.stdout, indent=1)
        print()
    elif options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "ordering.md").write_text(text, encoding="utf-8")
        print(f"written: {options.out}/ordering.md")
    else:
        print(text)
    wrong = [ln.case.name for ln in lines if not ln.as_expected] + [
        m.rule for m, f in killed if m.killed_by not in f.violations]  # fmt: skip
    for name in wrong:
        print(f"simlib: not as expected: {name}", file=sys.stderr)
    return 1 if wrong else 0
