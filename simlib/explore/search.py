"""Breadth first, each state once; the shortest counterexample of each property, as a trace that people read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..handshake import interface as i
from ..trace import Trace
from .properties import PROPERTIES, Violation
from .system import DESTINATION, SOURCE, Action, Report, State, System

SIDES = {SOURCE: "source", DESTINATION: "destination"}


@dataclass(slots=True)
class Found:
    """What a search saw. `complete`: every reachable state was visited."""

    states: int = 0
    transitions: int = 0
    depth: int = 0
    complete: bool = True
    violations: dict[str, tuple[Violation, tuple[Action, ...]]] = field(default_factory=dict)
    endings: dict[tuple[str, str], int] = field(default_factory=dict)  # source's status, where the guest is


def search(
    system: System, limit: int = 1_000_000, tell: Callable[[Found, int], None] = lambda found, waiting: None
) -> Found:
    """Visit every state, or `limit` of them. `tell(found, waiting)` is called now and then."""
    first = system.initial()
    parents: dict[State, tuple[State, Action] | None] = {first: None}
    depths = {first: 0}
    queue = deque([first])
    found = Found()
    while queue:
        state = queue.popleft()
        found.states += 1
        found.depth = depths[state]
        actions = list(system.actions(state))
        final = all(a[0] in ("cut", "cancel", "alarm", "stranger") for a in actions)
        _check(system, state, final, parents, found)
        for action in actions:
            found.transitions += 1
            after = system.step(state, action)
            if after not in parents:
                if len(parents) >= limit:
                    found.complete = False
                    continue
                parents[after] = state, action
                depths[after] = depths[state] + 1
                queue.append(after)
        if found.states % 5000 == 0:
            tell(found, len(queue))
    return found


def _check(
    system: System, state: State, final: bool, parents: dict[State, tuple[State, Action] | None], found: Found
) -> None:
    for name, holds in PROPERTIES.items():
        if name not in found.violations:
            wrong = holds(system, state, final)
            if wrong:
                found.violations[name] = Violation(name, wrong), _path(state, parents)
    if final:
        end = system.endpoint(state, SOURCE).finished
        at = {(True, True): "both", (True, False): "source", (False, True): "destination"}.get(state.runs, "paused")
        key = (end.status if end else "waits", at)
        found.endings[key] = found.endings.get(key, 0) + 1


def _path(state: State, parents: dict[State, tuple[State, Action] | None]) -> tuple[Action, ...]:
    actions = []
    while (step := parents[state]) is not None:
        state, action = step
        actions.append(action)
    return tuple(reversed(actions))


def replay(system: System, path: tuple[Action, ...], title: str = "") -> Trace:
    """The steps of a path as a trace; one millisecond a step, since there is no time in it."""
    trace = Trace(title)
    state = system.initial()
    for number, action in enumerate(path):
        wire = state.wires[action[1]].name if action[0] in ("connect", "accept", "deliver") else ""
        text = f"a message reaches the {SIDES[action[-1]]}" if action[0] == "deliver" else str(action[0])
        trace.note(number / 1e3, "link", "link", wire, text)
        system.told = []
        state = system.step(state, action)
        for side, output in system.told:
            trace.note(number / 1e3, SIDES[side], *_reported(output))
    system.told = None
    return trace


def _reported(o: Report) -> tuple[str, str, str]:
    if isinstance(o, (i.Said, i.Heard)):
        return ("say" if isinstance(o, i.Said) else "hear"), str(o.conn), o.text
    if isinstance(o, i.Entered):
        return "state", "", o.status
    if isinstance(o, i.Finished):
        return "end", "", f"{o.status}: {o.text}" if o.text else o.status
    return "print", "", o.text
