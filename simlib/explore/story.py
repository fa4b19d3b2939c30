"""A path through the states as people read it, and as a scenario that other runners replay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..case.faults import Fault
from ..case.scenario import Scenario, Timing
from ..handshake import interface as i
from ..record.chart import as_html, sequence_svg
from ..record.trace import Trace
from .properties import Ending, ending
from .search import FAULTS, Violation
from .state import DESTINATION, SIDES, SOURCE, Action, ConnectionState, Model, State
from .system import System

STEP_MS = 200.0  # between two steps of a replay: longer than any guest takes for its part
NEVER_MS, LOST_MS = 1e9, -1.0  # still under way at the end; lost in its sender's buffer
RAM_MIB = 0.5  # small enough to be one message
Path = tuple[Action, ...]


def to_the_end(model: Model, path: Path) -> Path:
    """The path, and on from there to where nothing more can happen; timers ring last, and no more faults come."""
    system = System(model)
    state = system.initial()
    for action in path:
        state = system.step(state, action)
    more = list(path)
    while actions := [a for a in system.actions(state) if a[0] not in FAULTS]:
        action = next((a for a in actions if a[0] != "alarm"), actions[0])
        state = system.step(state, action)
        more.append(action)
    return tuple(more)


def replay(model: Model, path: Path, title: str = "") -> tuple[Trace, Ending]:
    """The steps of a path as a trace, STEP_MS apart, since there is no time in it; and how it ends."""
    system, trace = System(model), Trace(title)
    state = system.initial()
    for number, action in enumerate(path, 1):
        time_s = number * STEP_MS / 1e3
        if action[0] != "deliver":
            connection = state.connections[action[1]].name if action[0] in ("connect", "accept", "lose") else ""
            what = (
                f"the guest of the {SIDES[state.pending_replies[action[1]][0]]} goes on" if action[0] == "guest" else ""
            )
            what = what or " ".join(getattr(part, "name", str(part)) for part in action if not isinstance(part, int))
            trace.note(time_s, "link", "guest" if action[0] == "guest" else "link", connection, what)
        system.observed = []
        state = system.step(state, action)
        for side, output in system.observed:
            if isinstance(output, i.Input):
                continue
            trace.note(time_s, SIDES[side], *_reported(state, side, output))
    return trace, ending(system, state)


def _reported(after: State, side: int, o: i.Output) -> tuple[str, str, str]:
    if isinstance(o, (i.Said, i.Heard)):
        number = [w.accepted if side == 1 else w.number for w in after.connections if side == 1 or w.owner == side]
        named = [w.name for w in after.connections if side == 1 or w.owner == side]
        name = named[number.index(o.conn)] if o.conn in number else str(o.conn)
        return ("say" if isinstance(o, i.Said) else "hear"), name, o.text
    if isinstance(o, i.Entered):
        return "state", "", o.status
    if isinstance(o, i.Finished):
        return "end", "", f"{o.status}: {o.text}" if o.text else o.status
    assert isinstance(o, i.Printed)
    return "print", "", o.text


def as_scenario(model: Model, path: Path, name: str, title: str) -> Scenario:
    """A scenario in which the simulated world takes these steps in this order, STEP_MS apart."""
    system = System(model)
    state, times = system.initial(), _Times(system)
    for number, action in enumerate(path, 1):
        after = system.step(state, action)
        times.note(number * STEP_MS, action, state, after)
        state = after
    times.leave_the_rest(state)
    setup = model.setup
    return replace(
        setup.scenario,
        name=name,
        title=title,
        versions=(setup.version,),
        protocols=(setup.protocol,),
        guest=replace(
            setup.scenario.guest,
            ram_mib=RAM_MIB,
            source_ms=(*times.guests[0], NEVER_MS),
            destination_ms=(*times.guests[1], NEVER_MS),
        ),
        faults=tuple(times.faults),
        management=replace(setup.scenario.management, observe_s=len(path) * STEP_MS / 1e3 + 60, **times.orders),
        schedule=tuple(Timing(name, *timing) for name, timing in times.connections.items() if system.link == "two-way"),
        detect_timeout_s=times.timeout_s if model.alarms else setup.scenario.detect_timeout_s,
    )


class Story:
    """A violation as a sequence of steps: the shortest way there, and on to the end. A notebook shows it as a
    sequence chart."""

    def __init__(self, model: Model, violation: Violation) -> None:
        self.violation = violation
        self.name = f"{model.setup.scenario.name}-{violation.name.split()[0]}"
        self.title = f"{violation.name}: {violation.text}"
        self.path = to_the_end(model, violation.path)
        self.trace, self.ending = replay(model, self.path, self.title)
        # the simulated world has one source, and its alarms ring at their own times
        untimed = model.rival or model.faults.silences or model.faults.freezes
        self.scenario = None if untimed else as_scenario(model, self.path, self.name, self.title)

    def __repr__(self) -> str:
        return str(self.trace)

    def _repr_svg_(self) -> str:
        return sequence_svg(self.trace, self.violation.name)

    def _repr_html_(self) -> str:
        return as_html(self._repr_svg_(), self.title)


class _Times:
    """When each thing happens, collected along a path."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.connections: dict[str, list[Any]] = {}
        self.faults: list[Fault] = []
        self.orders: dict[str, Any] = {}
        self.set_ms = 0.0  # when the timer of detection was set
        self.timeout_s = 1e4  # it never rings
        self.guests: list[tuple[float, ...]] = [(), ()]

    def note(self, at_ms: float, action: Action, before: State, after: State) -> None:
        kind = action[0]
        if kind in ("connect", "accept"):
            connection = before.connections[action[1]]
            refused = (
                after.connections[action[1]].broken and not connection.broken
            )  # nobody listens: to the source that is a reset
            self._given(connection)[5 if refused else 0 if kind == "connect" else 1] = at_ms
        elif kind == "guest":
            side = before.pending_replies[action[1]][0]
            self.guests[side] = (*self.guests[side], at_ms)
        elif kind == "order":
            key = {"cancel": "cancel_at_s", "deadline": "deadline_s", "postcopy": "postcopy_at_s"}[action[1]]
            self.orders[key] = at_ms / 1e3
        elif kind == "intruder":
            self.faults.append(Fault("intruder", payload=action[1], at_s=at_ms / 1e3))
        elif kind == "fault":
            self.faults.append(replace(action[1], at_s=at_ms / 1e3))
        elif kind == "cut":
            self.faults.append(Fault("cut", at_s=at_ms / 1e3))
        elif kind == "alarm":
            self.timeout_s = (at_ms - self.set_ms) / 1e3
        for number, (old, new) in enumerate(zip(before.connections, after.connections, strict=False)):
            for at, queue in ((2, "there"), (3, "back")):
                taken = kind == "deliver" and action[1] == number and (action[2] != DESTINATION) == (at == 3)
                self._arrivals(at_ms, at, taken, old, new, queue)
        if {name for _, name in after.alarms} > {name for _, name in before.alarms}:
            self.set_ms = at_ms

    def _arrivals(
        self, at_ms: float, at: int, taken: bool, old: ConnectionState, new: ConnectionState, queue: str
    ) -> None:
        """What was delivered arrived now. What a reset destroyed never left its sender. What the source closed over
        had arrived if it did not care to read it, and else is still under way."""
        waiting, left = getattr(old, queue), getattr(new, queue)
        timing = self._given(old)
        if taken and isinstance(self.system.inputs[waiting[0]], i.Broken):
            timing[at + 2], waiting = at_ms, waiting[1:]
            timing[at] = (*timing[at], NEVER_MS)
        elif taken:
            timing[at], waiting = (*timing[at], at_ms), waiting[1:]
        if left[: len(waiting)] == waiting:
            return
        if at == 3 and new.dropped[0] and not old.dropped[0]:
            wanted = old.paused[0] and all(isinstance(self.system.inputs[m], i.Received) for m in waiting)
            timing[at] = (*timing[at], at_ms - STEP_MS / 2 if wanted else NEVER_MS, NEVER_MS, NEVER_MS)
        elif at == 3 or not new.dropped[1]:
            timing[at] = (*timing[at], *(LOST_MS for _ in waiting))

    def leave_the_rest(self, state: State) -> None:
        """What nobody has read at the end is still under way."""
        for connection in state.connections:
            timing = self._given(connection)
            timing[3] = (*timing[3], NEVER_MS, NEVER_MS)

    def _given(self, connection: ConnectionState) -> list[Any]:
        name = connection.name if connection.owner == SOURCE else f"intruder[{connection.number}]"
        return self.connections.setdefault(name, [-1.0, -1.0, (), (), -1.0, -1.0])
