"""Two real endpoints, the link between them and their guests as one value, and what may happen next.

The link keeps order inside a connection and nowhere else: accepts come in any order, deliveries interleave in every
way, an alarm may ring at any moment at which it is set, a cut or a cancel may come at any step. Time is left out.

Endpoints are interned: a state holds their numbers, and the real code runs once for each (endpoint state, input).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..handshake import interface as i

SOURCE, DESTINATION = 0, 1
PAGE = 4096
RESET = "Connection reset by peer"


@dataclass(frozen=True, slots=True)
class Wire:
    """One connection: what is under way in each direction, and who has closed or accepted it."""

    name: str
    connected: bool = False  # the source knows
    accepted: int = -1  # the destination's number for it
    there: tuple[i.Input, ...] = ()  # inputs for the destination, with the source's connection number
    back: tuple[i.Input, ...] = ()
    closed: tuple[bool, bool] = (False, False)  # by the source, by the destination
    paused: tuple[bool, bool] = (False, False)


@dataclass(frozen=True, slots=True)
class Budget:
    """How often what may go wrong may go wrong."""

    cuts: int = 0
    cancels: int = 0
    strangers: int = 0
    alarms: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """One moment. Equal states behave alike."""

    ends: tuple[int, int]  # interned endpoints
    wires: tuple[Wire, ...] = ()
    answers: tuple[tuple[int, i.Input], ...] = ()  # of guests, on their way to a side
    alarms: tuple[tuple[int, str], ...] = ()
    runs: tuple[bool, bool] = (True, False)
    passes: int = 0
    budget: Budget = Budget()


Action = tuple[Any, ...]
Report = i.Said | i.Heard | i.Entered | i.Finished | i.Printed  # what a side says of itself


class System:
    """The transition relation. `make` gives fresh endpoints."""

    def __init__(self, make: Callable[[], tuple[Any, Any]], budget: Budget, stranger: bytes = b"") -> None:
        self.make, self.budget, self.stranger = make, budget, stranger
        self.table: list[Any] = []
        self.numbers: dict[tuple[int, Any], int] = {}
        self.steps: dict[tuple[int, i.Input], tuple[int, tuple[i.Output, ...]]] = {}
        self.told: list[tuple[int, Report]] | None = None

    def initial(self) -> State:
        source, destination = self.make()
        ends = self._intern(SOURCE, source), self._intern(DESTINATION, destination)
        state = State(ends, budget=self.budget)
        return self._tell(self._tell(state, DESTINATION, i.Start()), SOURCE, i.Start())

    def endpoint(self, state: State, side: int) -> Any:
        return self.table[state.ends[side]]

    def _intern(self, side: int, endpoint: Any) -> int:
        key = side, endpoint.key()
        number = self.numbers.setdefault(key, len(self.table))
        if number == len(self.table):
            self.table.append(endpoint)
        return number

    # --- what may happen --------------------------------------------------------------------------------------------
    def actions(self, state: State) -> Iterator[Action]:
        """Everything that may happen next, in a fixed order."""
        destination = self.endpoint(state, DESTINATION)
        for number, wire in enumerate(state.wires):
            if not wire.connected and wire.name != "stranger":
                yield "connect", number
            if wire.accepted < 0 and destination.accepting:
                yield "accept", number
            if wire.there and wire.accepted >= 0 and not wire.paused[1]:
                yield "deliver", number, DESTINATION
            if wire.back and wire.connected and not wire.paused[0]:
                yield "deliver", number, SOURCE
        for k in range(len(state.answers)):
            yield "guest", k
        if state.budget.alarms:
            for side, name in state.alarms:
                yield "alarm", side, name
        if self.endpoint(state, SOURCE).finished is None:
            if state.budget.cuts and state.wires:
                yield ("cut",)
            if state.budget.cancels:
                yield ("cancel",)
        if state.budget.strangers and destination.finished is None:
            yield ("stranger",)

    def step(self, state: State, action: Action) -> State:
        """The state after an action."""
        return getattr(self, "_do_" + action[0])(state, *action[1:])  # type: ignore[no-any-return]

    def _do_connect(self, state: State, number: int) -> State:
        return self._tell(_wire(state, number, connected=True), SOURCE, i.Opened(number))

    def _do_accept(self, state: State, number: int) -> State:
        conn = sum(w.accepted >= 0 for w in state.wires)
        return self._tell(_wire(state, number, accepted=conn), DESTINATION, i.Opened(conn))

    def _do_deliver(self, state: State, number: int, side: int) -> State:
        wire = state.wires[number]
        if side == DESTINATION:
            told, state = wire.there[0], _wire(state, number, there=wire.there[1:])
            told = replace(told, conn=wire.accepted)  # type: ignore[arg-type]
        else:
            told, state = wire.back[0], _wire(state, number, back=wire.back[1:])
        return self._tell(state, side, told)

    def _do_guest(self, state: State, k: int) -> State:
        side, told = state.answers[k]
        state = replace(state, answers=state.answers[:k] + state.answers[k + 1 :])
        return self._tell(state, side, told)

    def _do_alarm(self, state: State, side: int, name: str) -> State:
        state = replace(state, alarms=tuple(a for a in state.alarms if a != (side, name)))
        return self._tell(state, side, i.AlarmRang(name))

    def _do_cut(self, state: State) -> State:
        """Every connection is reset; what was under way is gone."""
        wires = tuple(
            replace(
                w, there=() if w.closed[1] else (i.Broken(n, RESET),), back=() if w.closed[0] else (i.Broken(n, RESET),)
            )
            for n, w in enumerate(state.wires)
        )
        return replace(state, wires=wires, budget=replace(state.budget, cuts=state.budget.cuts - 1))

    def _do_cancel(self, state: State) -> State:
        state = replace(state, budget=replace(state.budget, cancels=state.budget.cancels - 1))
        return self._tell(state, SOURCE, i.Cancel())

    def _do_stranger(self, state: State) -> State:
        said: tuple[i.Input, ...] = (i.Received(len(state.wires), self.stranger),) if self.stranger else ()
        wire = Wire("stranger", connected=True, there=said, closed=(True, False))
        budget = replace(state.budget, strangers=state.budget.strangers - 1)
        return replace(state, wires=(*state.wires, wire), budget=budget)

    # --- an endpoint is told, and asks ------------------------------------------------------------------------------
    def _tell(self, state: State, side: int, told: i.Input) -> State:
        before = state.ends[side]
        known = self.steps.get((before, told))
        if known is None:
            endpoint = self.table[before].fork()
            outputs = tuple(endpoint.handle(told))
            known = self.steps[before, told] = self._intern(side, endpoint), outputs
        after, outputs = known
        state = replace(state, ends=(after, state.ends[1]) if side == SOURCE else (state.ends[0], after))
        if self.told is not None:  # a replay listens
            self.told += ((side, o) for o in outputs if isinstance(o, Report))
        for output in outputs:
            state = self._ask(state, side, output)
        for conn in dict.fromkeys(o.conn for o in outputs if isinstance(o, i.Send)):
            state = self._tell(state, side, i.Drained(conn))  # buffers are endless here
        return state

    def _ask(self, state: State, side: int, o: i.Output) -> State:
        if isinstance(o, i.Open):
            return replace(state, wires=(*state.wires, Wire(o.channel)))
        if isinstance(o, (i.Send, i.Drop, i.End, i.Pause, i.Resume)):
            return self._ask_link(state, side, o)
        if isinstance(o, i.CollectRam):
            last = o.last or state.passes > 0
            told: i.Input = i.RamCollected(0 if state.passes else PAGE, last)
            return replace(state, answers=(*state.answers, (side, told)), passes=state.passes + 1)
        if isinstance(o, i.StopGuest):
            return _answer(_runs(state, side, False), side, i.GuestStopped())
        if isinstance(o, i.ResumeGuest):
            return _runs(state, side, True)
        if isinstance(o, i.RunGuest):
            return _answer(_runs(state, side, True), side, i.GuestRunning())
        if isinstance(o, i.Apply):
            return _answer(state, side, i.Applied())
        if isinstance(o, i.Load):
            return _answer(state, side, i.Loaded())
        if isinstance(o, i.SetAlarm):
            return replace(state, alarms=tuple(sorted({*state.alarms, (side, o.name)})))
        if isinstance(o, i.StopAlarm):
            return replace(state, alarms=tuple(a for a in state.alarms if a != (side, o.name)))
        if isinstance(o, i.Finished):
            return replace(state, alarms=tuple(a for a in state.alarms if a[0] != side))
        return state

    def _ask_link(self, state: State, side: int, o: i.Send | i.Drop | i.End | i.Pause | i.Resume) -> State:
        number = o.conn if side == SOURCE else next(n for n, w in enumerate(state.wires) if w.accepted == o.conn)
        wire = state.wires[number]
        if isinstance(o, (i.Pause, i.Resume)):
            return _wire(state, number, paused=_at(wire.paused, side, isinstance(o, i.Pause)))
        if isinstance(o, i.Send):
            if wire.closed[side]:
                return state
            return self._put(state, number, side, i.Received(number, o.data, o.fill))
        if not wire.closed[side]:
            state = self._put(state, number, side, i.Ended(number))
            wire = state.wires[number]
        if isinstance(o, i.Drop):
            mine = {"back": ()} if side == SOURCE else {"there": ()}
            return _wire(state, number, closed=_at(wire.closed, side, True), **mine)
        return _wire(state, number, closed=_at(wire.closed, side, True))

    def _put(self, state: State, number: int, side: int, told: i.Input) -> State:
        """Onto the wire, unless the other side has dropped it."""
        wire = state.wires[number]
        if wire.name == "stranger" and side == DESTINATION:
            return state
        queue = "there" if side == SOURCE else "back"
        return _wire(state, number, **{queue: (*getattr(wire, queue), told)})


def _wire(state: State, number: int, **changes: Any) -> State:
    wires = state.wires
    return replace(state, wires=(*wires[:number], replace(wires[number], **changes), *wires[number + 1 :]))


def _at(pair: tuple[bool, bool], side: int, value: bool) -> tuple[bool, bool]:
    return (value, pair[1]) if side == SOURCE else (pair[0], value)


def _runs(state: State, side: int, value: bool) -> State:
    return replace(state, runs=_at(state.runs, side, value))


def _answer(state: State, side: int, told: i.Input) -> State:
    return replace(state, answers=(*state.answers, (side, told)))
