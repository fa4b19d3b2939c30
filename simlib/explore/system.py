"""Real endpoints, the links between them and their guests as one value, and all that may happen to it next.

A link keeps order inside a connection and nowhere else: accepts come in any order, deliveries interleave in every way,
an alarm may ring at any moment at which it is set, a cut or a cancel may come at any step. Time is left out. A close
over unread bytes is a reset that destroys all that its sender still had under way: the worst that TCP may do.

Endpoints and inputs are interned: a state holds their numbers, and the real code runs once for each pair of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

from ..handshake import interface as i
from . import symmetry
from .moment import Moment
from .state import (
    DESTINATION,
    OVERHEARD,
    REPORTS,
    RESET,
    RIVAL,
    SOURCE,
    STRANGER,
    Action,
    Does,
    Model,
    State,
    Step,
    Wire,
)  # fmt: skip


class System:
    """The transition relation of a model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.link = model.link
        self.table: list[Any] = []  # endpoints by number
        self.inputs: list[i.Input] = []
        self.sides: list[Any] = []  # the same, or whom a prober has chosen
        self.canonical = symmetry.Canonical(self)
        self.shapes: list[tuple[Any, symmetry.Atoms]] = []  # of each input
        self.openings: list[bool] = []  # whether it opens a channel
        self._endpoints: dict[tuple[int, Any], int] = {}
        self._inputs: dict[i.Input, int] = {}
        self.wires: dict[Wire, Wire] = {}  # each by itself
        self.steps: dict[tuple[int, int, int], Step] = {}
        self.opened, self.ended, self.reset = (self.input(t) for t in (i.Opened(0), i.Ended(0), i.Broken(0, RESET)))
        self.told: list[tuple[int, i.Input | i.Output]] | None = None  # a replay listens

    def initial(self) -> State:
        setup = self.model.setup
        made = [setup.source(), setup.destination(), *([setup.source("rival")] if self.model.rival else [])]
        ends = tuple(self._intern(side, endpoint) for side, endpoint in enumerate(made))
        moment = Moment(self, State(ends, faults=self.model.faults))
        if self.link == "two-way":
            moment.tell(DESTINATION, self.input(i.Start()))
        for side in (SOURCE, RIVAL) if self.model.rival else (SOURCE,):
            moment.tell(side, self.input(i.Start()))
        return moment.state()

    def endpoint(self, state: State, side: int) -> Any:
        return self.table[state.ends[side]]

    def _intern(self, side: int, endpoint: Any) -> int:
        number = self._endpoints.setdefault((side, endpoint.key()), len(self.table))
        if number == len(self.table):
            self.table.append(endpoint)
            self.sides.append(getattr(endpoint, "chosen", None) or endpoint)
        return number

    def key(self, state: State) -> Any:
        """Equal for equal states: small numbers, since hashing every field of every connection is slow."""
        return (state.ends, *map(id, state.wires), state[2:])

    def input(self, told: i.Input) -> int:
        """The number of an input; those of the link have connection 0."""
        number = self._inputs.setdefault(told, len(self.inputs))
        if number == len(self.inputs):
            self.inputs.append(told)
            self.shapes.append(symmetry.shape(told))
            self.openings.append(symmetry.opens_channel(told))
        return number

    def run(self, side: int, before: int, told: int, conn: int) -> Step:
        """The real code, once for each endpoint and input."""
        key = before, told, conn
        found = self.steps.get(key)
        if found is None:
            endpoint = self.table[before].fork()
            told_as = self.inputs[told]
            outputs = list(endpoint.handle(told_as if conn < 0 else replace(told_as, conn=conn)))  # type: ignore[arg-type]
            if not self.model.room:  # buffers are endless: all that was sent has been taken
                fresh = outputs
                while sent := dict.fromkeys(o.conn for o in fresh if isinstance(o, i.Send)):
                    fresh = [o for c in sent for o in endpoint.handle(i.Drained(c))]
                    outputs += fresh
            after = self._intern(side, endpoint)
            asks = tuple(o for o in outputs if not isinstance(o, REPORTS) and not self._mute(o))
            reports = tuple(o for o in outputs if isinstance(o, (*REPORTS, i.Finished)))
            found = self.steps[key] = Step(after, asks, reports, tuple(self._does(asks)))
        return found

    def _does(self, asks: tuple[i.Output, ...]) -> Iterator[Does]:
        """What carries each ask out, looked up once; what is sent on one connection in a row, as numbers."""
        for kind, alike in groupby(asks, lambda o: (type(o), o.conn if isinstance(o, i.Send) else None)):
            if kind[0] is i.Send:
                yield Moment._send, (kind[1], tuple(self.input(i.Received(0, o.data, o.fill)) for o in alike))  # type: ignore[union-attr]
            else:
                yield from ((getattr(Moment, "_" + kind[0].__name__.lower()), ask) for ask in alike)

    def _mute(self, o: i.Output) -> bool:
        """An alarm that does not ring in this model."""
        return isinstance(o, (i.SetAlarm, i.StopAlarm)) and o.name.partition("-")[0] not in self.model.alarms

    # --- what may happen --------------------------------------------------------------------------------------------
    def actions(self, state: State) -> Iterator[Action]:
        """Everything that may happen next, in a fixed order; faults last."""
        listening = self.link == "two-way" and self.endpoint(state, DESTINATION).accepting
        for number, wire in enumerate(state.wires):
            if not wire.connected and wire.owner != STRANGER:
                yield "connect", number
            if wire.accepted < 0 and listening:
                yield "accept", number
            if wire.there and wire.accepted >= 0 and not wire.paused[1]:
                yield "deliver", number, DESTINATION
            if wire.back and wire.connected and not (wire.paused[0] and self._waits(wire.back[0])):
                yield "deliver", number, wire.owner
        for k in range(len(state.answers)):
            yield "guest", k
        for side, name in state.alarms:
            yield "alarm", side, name
        yield from self._faults(state)

    def _waits(self, told: int) -> bool:
        """A reset is noticed by who reads nothing, too: its next write fails."""
        return not isinstance(self.inputs[told], i.Broken)

    def _faults(self, state: State) -> Iterator[Action]:
        left = state.faults
        if self.endpoint(state, SOURCE).finished is not None:
            return
        if left.cuts and state.wires:
            yield ("cut",)
        if left.losses:
            for number, wire in enumerate(state.wires):
                if wire.owner == SOURCE and not wire.broken:
                    yield "lose", number
        for fault in dict.fromkeys(left.hits):
            yield "fault", fault
        for order in dict.fromkeys(left.orders):
            yield "order", order
        for says in dict.fromkeys(left.strangers):
            if says not in OVERHEARD or self.overheard(state, says):
                yield "stranger", says

    def step(self, state: State, action: Action) -> State:
        """The state after an action."""
        moment = Moment(self, state)
        getattr(moment, "do_" + action[0])(*action[1:])
        return moment.state()

    def acts(self, state: State, action: Action) -> int:
        """The side that an action is told to; -1 for those that concern all."""
        if action[0] in ("connect", "accept"):
            return state.wires[action[1]].owner if action[0] == "connect" else DESTINATION
        if action[0] in ("deliver", "guest"):
            return int(action[2] if action[0] == "deliver" else state.answers[action[1]][0])
        return SOURCE if action[0] == "order" else int(action[1]) if action[0] == "alarm" else -1

    def silent(self, state: State, action: Action) -> bool:
        """Whether an action changes nothing but what one side knows of one connection."""
        if action[0] not in ("accept", "deliver"):
            return False
        wire = state.wires[action[1]]
        if action[0] == "accept":
            side, told, conn = DESTINATION, self.opened, sum(w.accepted >= 0 for w in state.wires)
        else:
            side = action[2]
            told, conn = (wire.there[0], wire.accepted) if side == DESTINATION else (wire.back[0], wire.number)
        step = self.run(side, state.ends[side], told, conn)
        nobody = wire.owner == STRANGER or wire.dropped[action[0] == "deliver" and action[2] != DESTINATION]
        if (step.asks and not nobody) or not all(getattr(o, "conn", None) == conn for o in step.asks):
            return False
        before, after = self.canonical.parts(state.ends[side]), self.canonical.parts(step.after)
        if before.rest != after.rest or before.local is None or after.local is None:
            return False
        return {**before.local, conn: None} == {**after.local, conn: None}

    def overheard(self, state: State, says: str) -> bytes:
        """What a stranger can say on a plain link because it listens there: a channel's opening once more, while it is
        under way, or one made up; empty when there is nothing yet."""
        wires = [w for w in state.wires if w.owner == SOURCE and any(self.openings[m] for m in w.there)]
        for wire in wires[:1]:
            told = next(m for m in wire.there if self.openings[m])
            copied = self.inputs[told]
            assert isinstance(copied, i.Received)
            if says == "replay":
                return copied.data
            return symmetry.forged(copied.data)
        return b""
