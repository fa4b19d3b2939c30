"""What is asked of a search, checked, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ..case.endpoints import Case
from ..case.faults import Fault
from ..case.registry import INTRUDERS, ScenarioError, require, require_whole
from ..case.scenario import Scenario
from .properties import Property
from .search import Search, SearchResult
from .state import ORDERS, OVERHEARD, SIDES, SILENCES, Faults, Model
from .story import Story


def model_of(
    named: Scenario,
    *,
    protocol: str,
    version: str,
    faults: Faults,
    rival: bool,
    timers: bool,
    send_buffer_messages: int,
) -> Model:
    """What is searched of a scenario. Raises ScenarioError for what is not known or can't be searched."""
    setup = Case(named, protocol, version)
    setup.settings(True), setup.settings(False)
    counts = {"cuts": faults.cuts, "losses": faults.losses, "send_buffer_messages": send_buffer_messages}
    for what, count in counts.items():
        require_whole(what, count, 0)
    for order in faults.orders:
        require("order", order, tuple(ORDERS))
    for direction in faults.silences:
        require("silence", direction, tuple(SILENCES))
    for side in faults.freezes:
        require("side to freeze", side, SIDES[:2])
    for intruder in faults.intruders:
        if intruder not in INTRUDERS:
            require("intruder", intruder, (*INTRUDERS, *OVERHEARD))
    for fault in faults.hits:
        if type(fault).strike is Fault.strike:
            raise ScenarioError(f"a {fault.name!r} is about time, which a search leaves out: it has no `strike`")
    refused = setup.refused()
    if refused:
        raise ScenarioError(f"{named.name}: nothing to search, the {refused[0]} refuses: {refused[1].text}")
    alarms = ("detect", "guard") if timers else ()
    return Model(setup, faults, alarms, rival, send_buffer_messages, compatible=not (rival or _odd(named)))


def _odd(scenario: Scenario) -> bool:
    """Whether the two sides were set up differently, so that nobody expects the guest to arrive."""
    return scenario.source != scenario.destination or scenario.link.transport not in ("tcp", "unix", "exec-socat")


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
        with _progress() as progress:
            try:
                search.run(limit, progress)
            except KeyboardInterrupt:
                self.interrupted = True
        self.result, self.seconds = search.result, time.monotonic() - began_s
        self.states, self.complete, self.violations = self.result.states, self.result.complete, self.result.violations

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


@contextmanager
def _progress() -> Iterator[Callable[[SearchResult, int], None]]:
    """Draws how far a search has come: on a terminal, and after two seconds. How far it is to the end nobody knows."""
    from tqdm import tqdm

    with tqdm(unit=" states", delay=2, disable=None, leave=False) as bar:

        def draw(result: SearchResult, waiting: int) -> None:
            bar.set_postfix_str(f"{waiting:,} to visit, {result.depth} deep", refresh=False)
            bar.update(result.states - bar.n)

        yield draw
