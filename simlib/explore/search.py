"""Breadth first, each state once: every order of events, and the shortest way to whatever goes wrong.

Two reductions, both switched off by `plain=True`, and used for endpoints alone that declare what they require
(`handshake.endpoint.reducible`). Symmetry reduction: states that differ only in names are one (symmetry.py).
Partial-order reduction: a step that only changes what one side knows of one connection goes first, alone
(`System.is_local_step`), since nobody could tell when it happened; it is an ample set by itself.
"""

from __future__ import annotations

import gc
from array import array
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .properties import PROPERTIES, Ending, Property, ending
from .state import SOURCE, Action, Model, State
from .system import System

FAULTS = (
    "cut",
    "lose",
    "fault",
    "order",
    "intruder",
    "silence",
    "freeze",
)  # may happen, need not; an alarm that is set will ring


@dataclass(frozen=True, slots=True)
class Violation:
    """A property, what was wrong, and the shortest way there."""

    name: str
    text: str
    path: tuple[Action, ...]


@dataclass(slots=True)
class SearchResult:
    """What a search saw. `complete`: every reachable state was visited."""

    states: int = 0
    transitions: int = 0
    depth: int = 0
    complete: bool = True
    violations: dict[str, Violation] = field(default_factory=dict)
    endings: dict[Ending, int] = field(default_factory=dict)


ProgressCallback = Callable[[SearchResult, int], None]


class Search:
    """One search of a model. `run` may be interrupted: `result` then has what was covered."""

    def __init__(
        self, model: Model, plain: bool = False, stop_at: str = "", properties: Sequence[Property] = PROPERTIES
    ) -> None:
        self.system = System(model)
        self.plain = plain
        self.stop_at = stop_at  # a property whose first violation is enough
        self.properties = tuple(properties)
        self.always = tuple(p for p in self.properties if p.when == "always")
        self.result = SearchResult(complete=False)
        self.numbers: dict[Any, int] = {}
        self.parents = array("l")
        self.actions: list[Action] = []
        self.targets: list[int] = []  # of the transitions of all states visited, one state's after the other's
        self.first = array("l")  # of them, a state
        self.waiting: deque[State] = deque()  # in the order of their numbers

    def run(self, limit: int = 5_000_000, progress: ProgressCallback = lambda result, waiting: None) -> SearchResult:
        """Visit every state, or `limit` of them. `progress(found, waiting)` is called now and then."""
        gc.disable()  # nothing here is a cycle, and millions of tuples would be looked at again and again
        try:
            return self._run(limit, progress)
        finally:
            gc.enable()

    def _run(self, limit: int, progress: ProgressCallback) -> SearchResult:
        result, waiting, numbers = self.result, self.waiting, self.numbers
        step, key_of = self.system.step, self.system.key if self.plain else self.system.canonical.key
        reach, number_of = self.targets.append, numbers.get
        initial = self.system.initial()
        self._add(key_of(initial), initial, -1, ())
        deeper = 1  # the first state that is a step further away
        while waiting and not self._enough():
            number, result.states = result.states, result.states + 1
            if number == deeper:
                result.depth, deeper = result.depth + 1, len(numbers)
            state = waiting.popleft()
            for action in self._actions(number, state):
                after = step(state, action)
                key = key_of(after)
                target = number_of(key)
                if target is None:
                    target = len(numbers)
                    if target >= limit:
                        continue
                    self._add(key, after, number, action)
                reach(target)
            if result.states % 1000 == 0:
                progress(result, len(waiting))
        result.complete = not waiting and len(numbers) < limit
        if result.complete:
            self._check_cycles()
        return result

    def _enough(self) -> bool:
        return bool(self.stop_at) and self.stop_at in self.result.violations

    def _add(self, key: Hashable, state: State, parent: int, action: Action) -> None:
        """A state that was not seen before."""
        self.numbers[key] = len(self.parents)
        self.parents.append(parent)
        self.actions.append(action)
        self.waiting.append(state)

    def _actions(self, number: int, state: State) -> list[Action]:
        """What is tried next from a state, once it has been checked."""
        actions = list(self.system.actions(state))
        final = not actions or actions[0][0] in FAULTS  # those come last
        self._check(number, state, final)
        if not self.plain:
            actions = self._ample_set(state, actions)
        self.result.transitions += len(actions)
        self.first.append(len(self.targets))
        return actions

    def _ample_set(self, state: State, actions: list[Action]) -> list[Action]:
        """An ample set of the actions, sufficient for every property. Before a silence or a freeze it matters which
        messages have arrived by then."""
        if state.faults.silences or state.faults.freezes:
            return actions
        for action in actions:
            if self.system.is_local_step(state, action):
                return [action]
        if state.connections and all(w.broken for w in state.connections):  # the sides can't reach each other any more
            own = [a for a in actions if self.system.acting_side(state, a) == SOURCE]
            return own or actions
        return actions

    def _check(self, number: int, state: State, final: bool) -> None:
        violations = self.result.violations
        for one in self.properties if final else self.always:
            if one.name not in violations and (wrong := one.check(self.system, state, final)):
                violations[one.name] = Violation(one.name, wrong, self._path(number))
        if final:
            key = ending(self.system, state)
            self.result.endings[key] = self.result.endings.get(key, 0) + 1

    def _path(self, number: int) -> tuple[Action, ...]:
        path = []
        while self.parents[number] >= 0:
            path.append(self.actions[number])
            number = self.parents[number]
        return tuple(reversed(path))

    def _check_cycles(self) -> None:
        """A livelock is a cycle: take away, one by one, states that nothing leads to any more; a cycle stays."""
        into = array("l", [0]) * len(self.first)
        for target in self.targets:
            into[target] += 1
        ends = (*self.first[1:], len(self.targets))
        free = [n for n, count in enumerate(into) if count == 0]
        left = len(into) - len(free)
        while free:
            number = free.pop()
            for target in self.targets[self.first[number] : ends[number]]:
                into[target] -= 1
                if into[target] == 0:
                    free.append(target)
                    left -= 1
        if left > 0:
            first = next(n for n, count in enumerate(into) if count > 0)
            text = f"{left} states lead to one another for ever"
            self.result.violations["L2 no livelock"] = Violation("L2 no livelock", text, self._path(first))


def search(
    model: Model,
    *,
    plain: bool = False,
    limit: int = 5_000_000,
    stop_at: str = "",
    properties: Sequence[Property] = PROPERTIES,
) -> SearchResult:
    """Visit every state of a model; the whole search in one call."""
    return Search(model, plain, stop_at, properties).run(limit)
