"""`simlib explore`: one scenario in every order, or all models, all mutants and the argument about detection."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from ..case import files
from ..case.faults import Fault
from ..case.registry import FAULTS, ScenarioError, imported
from ..explore import report
from ..explore.models import cases
from ..explore.properties import PROPERTIES
from ..explore.request import Searched, model_of
from ..explore.search import SearchResult
from ..explore.state import Faults
from ..explore.story import Story
from .terminal import progress


def explore(options: Namespace) -> int:
    """Returns the exit status. Raises ValueError for wrong options."""
    return _one(options) if options.scenario else _all(options)


def _hit(kind: str) -> Fault:
    """A fault of that kind, as its defaults have it. Raises ScenarioError."""
    make: Callable[[], Fault] = FAULTS.get(kind)
    try:
        return make()
    except TypeError as error:
        raise ScenarioError(f"--fault {kind}: its keys need defaults ({error})") from None


def _one(options: Namespace) -> int:
    named = files.find(options.scenario)
    faults = Faults(
        options.cuts,
        options.losses,
        tuple(options.order),
        tuple(options.intruder),
        tuple(_hit(kind) for kind in options.fault),
        tuple(options.silence),
        tuple(options.freeze),
    )
    model = model_of(
        named,
        protocol=options.protocol or named.protocols[0],
        version=options.qemu or named.versions[0],
        faults=faults,
        rival=options.rival,
        timers=options.timers,
        send_buffer_messages=options.send_buffer_messages,
    )
    own = [imported(place) for place in options.property]
    search = Searched(model, (*PROPERTIES, *own), options.plain, options.limit)
    result, seconds = search.result, search.seconds
    stories = [Story(model, violation) for violation in result.violations.values()]
    try:
        if options.out:
            for story in stories:
                _save(story, options.out)
    finally:  # a folder that can't be written takes none of it
        if options.json:
            json.dump(_as_json(options, result, stories), sys.stdout, indent=1)
            print()
        else:
            _print_result(options, result, stories, seconds)
    return 130 if search.interrupted else 0


def _save(story: Story, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{story.name}.txt").write_text(f"{story}\n", encoding="utf-8")
    (out / f"{story.name}.svg").write_text(story._repr_svg_(), encoding="utf-8")
    if story.scenario:
        (out / f"{story.name}.toml").write_text(files.dumps(story.scenario), encoding="utf-8")


def _as_json(options: Namespace, result: SearchResult, stories: list[Story]) -> dict[str, object]:
    return {
        "scenario": options.scenario,
        "states": result.states,
        "transitions": result.transitions,
        "depth": result.depth,
        "complete": result.complete,
        "endings": [{"source": s, "guest_at": at, "states": n} for (s, at), n in sorted(result.endings.items())],
        "violations": [
            {
                "property": s.violation.name,
                "text": s.violation.text,
                "steps": s.violation.path,
                "source": s.ending.source,
                "guest_at": s.ending.guest_at,
            }
            for s in stories
        ],
    }


def _print_result(options: Namespace, result: SearchResult, stories: list[Story], seconds: float) -> None:
    for story in stories:
        print(f"{story}\n")
    covered = "every state" if result.complete else f"not every state: stopped after {result.states:,}"
    print(
        f"{covered}: {result.states:,} states, {result.transitions:,} steps between them, at most {result.depth} deep, "
        f"in {seconds:.1f} s"
    )
    for (status, at), count in sorted(result.endings.items()):
        print(f"  ends: source {status}, guest at {at} ({count} states)")
    for story in stories:
        print(f"  broken: {story.title} (after {len(story.violation.path)} steps, told above)")
    if not stories:
        print(f"  {'everything held' if result.complete else 'nothing was broken so far'}")
    if options.out and stories:
        print(f"texts and charts: {options.out}")
        if stories[0].scenario:
            print(f"again in the simulated world: simlib run {options.out}/{stories[0].name}.toml")


def _all(options: Namespace) -> int:
    lines = list(progress(report.search_cases(), len(cases()), "models"))
    killed = list(report.search_mutants())
    text = report.page(lines, killed)
    if options.json:
        models = [
            {"model": ln.case.name, "states": ln.result.states, "breaks": sorted(ln.result.violations)} for ln in lines
        ]
        dead = [{"rule": m.rule, "noticed_by": m.killed_by, "noticed": m.killed_by in f.violations} for m, f in killed]
        json.dump({"models": models, "mutants": dead}, sys.stdout, indent=1)
        print()
    elif options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "ordering.md").write_text(text, encoding="utf-8")
        print(f"written: {options.out}/ordering.md")
    else:
        print(text)
    wrong = [ln.case.name for ln in lines if not ln.as_expected] + [
        m.rule for m, f in killed if m.killed_by not in f.violations
    ]
    for name in wrong:
        print(f"simlib: not as expected: {name}", file=sys.stderr)
    return 1 if wrong else 0
