"""`simlib explore`: one scenario in every order, or everything that the lab has to say about order."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..case import scenario
from ..case.endpoints import Setup
from ..case.faults import Fault
from ..case.registry import FAULTS, INTRUDERS, ScenarioError, imported, require, require_whole
from ..case.scenario import Scenario
from . import report
from .properties import PROPERTIES, Property
from .search import Found, Search
from .state import ORDERS, OVERHEARD, Faults, Model
from .story import Story


def run(options: Any) -> int:
    """The exit status; ValueError for what was asked wrongly."""
    return _one(options) if options.scenario else _all(options)


def model_of(
    named: Scenario, *, protocol: str, version: str, faults: Faults, rival: bool, timers: bool, room: int
) -> Model:
    """What is searched of a scenario. Raises ScenarioError for what is not known or can't be searched."""
    setup = Setup(named, protocol, version)
    setup.settings(True), setup.settings(False)
    for what, count in (("cuts", faults.cuts), ("losses", faults.losses), ("room", room)):
        require_whole(what, count, 0)
    for order in faults.orders:
        require("order", order, tuple(ORDERS))
    for intruder in faults.strangers:
        if intruder not in INTRUDERS:
            require("stranger", intruder, (*INTRUDERS, *OVERHEARD))
    for fault in faults.hits:
        if type(fault).strike is Fault.strike:
            raise ScenarioError(f"a {fault.name!r} is about time, which a search leaves out: it has no `strike`")
    refused = setup.refused()
    if refused:
        raise ScenarioError(f"{named.name}: nothing to search, the {refused[0]} refuses: {refused[1].text}")
    alarms = ("detect", "guard") if timers else ()
    return Model(setup, faults, alarms, rival, room, compatible=not (rival or _odd(named)))


def _odd(found: Scenario) -> bool:
    """Whether the two sides were set up differently, so that nobody expects the guest to arrive."""
    return found.source != found.destination or found.link.transport not in ("tcp", "unix", "exec-socat")


class Searched:
    """A search that has ended: every state was visited, or it was interrupted, or came to its limit.

    Attributes:
        states: how many were visited.
        complete: whether these are all.
        violations: by property, what was wrong and the shortest way there.
    """

    def __init__(self, model: Model, properties: Sequence[Property], plain: bool, limit: int) -> None:
        require_whole("limit", limit, 1)
        for one in properties:
            if not isinstance(one, Property):
                raise ScenarioError(f"{one!r:.60} is no simlib.Property")
        self.model, self.interrupted = model, False
        search, began_s = Search(model, plain, properties=properties), time.monotonic()
        try:
            search.run(limit, _progress(began_s))
        except KeyboardInterrupt:
            self.interrupted = True
        self.found, self.seconds = search.found, time.monotonic() - began_s
        self.states, self.complete, self.violations = self.found.states, self.found.complete, self.found.violations
        _clear()

    def story(self, name: str) -> Story:
        """The shortest way to a violation of a property, by its name or its first word ("S4"). Raises ScenarioError."""
        for known, violation in self.violations.items():
            if name in (known, known.split()[0]):
                return Story(self.model, violation)
        raise ScenarioError(f"no order of events broke {name!r}; broken are {', '.join(self.violations) or 'none'}")

    def __repr__(self) -> str:
        covered = "every state" if self.complete else "not every state"
        broken = ", ".join(self.violations) or "nothing is broken"
        return f"{covered}: {self.states:,} states; {broken}"


def _hit(kind: str) -> Fault:
    """A fault of that kind, as its defaults have it. Raises ScenarioError."""
    make: Any = FAULTS.get(kind)
    try:
        return make()  # type: ignore[no-any-return]
    except TypeError as error:
        raise ScenarioError(f"--fault {kind}: its keys need defaults ({error})") from None


def _one(options: Any) -> int:
    named = scenario.find(options.scenario)
    faults = Faults(
        options.cuts,
        options.losses,
        tuple(options.order),
        tuple(options.stranger),
        tuple(_hit(kind) for kind in options.fault),
    )
    model = model_of(
        named,
        protocol=options.protocol or named.protocols[0],
        version=options.qemu or named.versions[0],
        faults=faults,
        rival=options.rival,
        timers=options.timers,
        room=options.room,
    )
    own = [imported(place) for place in options.property]
    search = Searched(model, (*PROPERTIES, *own), options.plain, options.limit)
    found, seconds = search.found, search.seconds
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
    return 130 if search.interrupted else 0


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
