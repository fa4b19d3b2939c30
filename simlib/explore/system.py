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

from ..case.faults import Fault
from ..case.intruders import TLS_HEADER_BYTES
from ..case.registry import INTRUDERS
from ..handshake import interface as i
from . import symmetry
from .state import (
    DESTINATION,
    ORDERS,
    OVERHEARD,
    PASS_BYTES,
    PIPE,
    REFUSED,
    REPORTS,
    RESET,
    RIVAL,
    SIDES,
    SOURCE,
    STRANGER,
    Action,
    Does,
    Model,
    State,
    Step,
    Wire,
    with_back,
    with_there,
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
        ends = tuple(self._intern(side, self.model.wrap(endpoint)) for side, endpoint in enumerate(made))
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
        return before.rest == after.rest and after.local is not None

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


class Moment:
    """A state while one action changes it."""

    def __init__(self, system: System, state: State) -> None:
        self.system = system
        self.ends, self.wires, self.before = list(state.ends), list(state.wires), state.wires
        _, _, self.answers, self.alarms, self.runs, self.passes, self.faults, self.sink = state

    def state(self) -> State:
        one = self.system.wires.setdefault  # equal connections are one object: states share them, and hold the same
        wires = [w if w is old else one(w, w) for w, old in zip(self.wires, self.before, strict=False)]
        wires += [one(w, w) for w in self.wires[len(self.before) :]]
        return State(
            tuple(self.ends), tuple(wires), self.answers, self.alarms, self.runs, self.passes, self.faults, self.sink
        )

    # --- actions ----------------------------------------------------------------------------------------------------
    def do_connect(self, number: int) -> None:
        wire = self.wires[number]
        there = self.system.table[self.ends[DESTINATION]]
        closed = there.closed if there.finished is None else not there.finished.listening
        refused = self.system.link == "two-way" and closed and wire.accepted < 0
        self.wires[number] = wire._replace(connected=True, broken=wire.broken or refused)
        told = self.system.input(i.Broken(0, REFUSED)) if refused else self.system.opened
        if not wire.dropped[0]:
            self.tell(wire.owner, told, wire.number)

    def do_accept(self, number: int) -> None:
        conn = sum(w.accepted >= 0 for w in self.wires)
        self.wires[number] = self.wires[number]._replace(accepted=conn)
        self.tell(DESTINATION, self.system.opened, conn)

    def do_deliver(self, number: int, side: int) -> None:
        wire = self.wires[number]
        if side == DESTINATION:
            told, self.wires[number] = wire.there[0], with_there(wire, wire.there[1:])
            self._taken(number, 0)
            self.tell(side, told, wire.accepted)
        else:
            told, self.wires[number] = wire.back[0], with_back(wire, wire.back[1:])
            self._taken(number, 1)
            self.tell(side, told, wire.number)

    def do_guest(self, k: int) -> None:
        side, told = self.answers[k]
        self.answers = (*self.answers[:k], *self.answers[k + 1 :])
        self.tell(side, told)

    def do_alarm(self, side: int, name: str) -> None:
        self._stop(side, name)
        self.tell(side, self.system.input(i.AlarmRang(name)))

    def do_order(self, order: str) -> None:
        left = list(self.faults.orders)
        left.remove(order)
        self.faults = self.faults._replace(orders=tuple(left))
        self.tell(SOURCE, self.system.input(ORDERS[order]))

    def do_cut(self) -> None:
        self.faults = self.faults._replace(cuts=self.faults.cuts - 1)
        self.cut()

    def do_fault(self, fault: Fault) -> None:
        left = list(self.faults.hits)
        left.remove(fault)
        self.faults = self.faults._replace(hits=tuple(left))
        fault.strike(self)

    # --- what a fault may do (faults.Breaks) ------------------------------------------------------------------------
    def cut(self) -> None:
        """Every connection is reset; what was under way is gone."""
        for number in range(len(self.wires)):
            self._break(number)

    def reset(self, connection: str) -> None:
        """Those of that name are."""
        for number, wire in enumerate(self.wires):
            if wire.name == connection and not wire.broken:
                self._break(number)

    def do_lose(self, number: int) -> None:
        self.faults = self.faults._replace(losses=self.faults.losses - 1)
        self._break(number)

    def _break(self, number: int) -> None:
        wire, reset = self.wires[number], self.system.reset
        here = () if wire.dropped[0] or wire.owner == STRANGER else (reset,)
        self.wires[number] = wire._replace(broken=True, back=here, there=() if wire.dropped[1] else (reset,))

    def do_stranger(self, says: str) -> None:
        left = list(self.faults.strangers)
        left.remove(says)
        self.faults = self.faults._replace(strangers=tuple(left))
        leaves = says not in OVERHEARD and INTRUDERS.get(says).leaves
        sent = self.system.overheard(self.state(), says) if says in OVERHEARD else INTRUDERS.get(says).payload
        there: tuple[int, ...] = (self.system.input(i.Received(0, sent)),) if sent else ()
        there += (self.system.ended,) if leaves else ()
        number = sum(w.owner == STRANGER for w in self.wires)
        self.wires.append(Wire(f"stranger: {says}", STRANGER, number, connected=True, there=there))

    # --- an endpoint is told, and asks ------------------------------------------------------------------------------
    def tell(self, side: int, told: int, conn: int = -1) -> None:
        step = self.system.run(side, self.ends[side], told, conn)
        self.ends[side] = step.after
        if self.system.told is not None:
            self.system.told.append((side, self.system.inputs[told]))
            self.system.told += ((side, o) for o in step.reports)
        for does, ask in step.does:
            does(self, side, ask)
        if self.system.model.room:
            for c in dict.fromkeys(o.conn for o in step.asks if isinstance(o, i.Send)):
                self._may_drain(side, c)

    def _find(self, side: int, conn: int) -> int:
        if side != DESTINATION and conn < len(self.wires):  # mostly a source's are numbered as they stand here
            wire = self.wires[conn]
            if wire.number == conn and wire.owner == side:
                return conn
        for n, wire in enumerate(self.wires):
            if wire.accepted == conn if side == DESTINATION else wire.number == conn and wire.owner == side:
                return n
        raise LookupError(f"{SIDES[side]} has no connection {conn}")

    def _open(self, side: int, ask: i.Open) -> None:
        self.wires.append(Wire(ask.channel, side, ask.conn))

    def _send(self, side: int, sent: tuple[int, tuple[int, ...]]) -> None:
        self._put(self._find(side, sent[0]), side, *sent[1])

    def _put(self, number: int, side: int, *told: int) -> None:
        """Onto the wire. A socket that was dropped answers with a reset."""
        wire, at = self.wires[number], side == DESTINATION
        if wire.broken or wire.ended[at] or (wire.owner == STRANGER and at):
            return
        link = self.system.link
        if wire.dropped[not at]:
            if told != (self.system.ended,):
                self._hear(number, side, self.system.input(i.Broken(0, PIPE)))
        elif link == "one-way":
            self.sink = (*self.sink, *told) if wire.number == 0 else self.sink
        else:
            self._hear(number, side if link == "echo" else DESTINATION if side != DESTINATION else wire.owner, *told)

    def _hear(self, number: int, side: int, *told: int) -> None:
        """To the end of what is under way to a side."""
        wire = self.wires[number]
        if side == DESTINATION and self.system.table[self.ends[DESTINATION]].finished is None:
            self.wires[number] = with_there(wire, (*wire.there, *told))
        elif side != DESTINATION:
            back = wire.back
            for one in told:
                back = back if one in back[-1:] else (*back, one)
            self.wires[number] = with_back(wire, back)

    def _end(self, side: int, ask: i.End) -> None:
        number, at = self._find(side, ask.conn), side == DESTINATION
        self._put(number, side, self.system.ended)
        self.wires[number] = self.wires[number]._replace(ended=_at(self.wires[number].ended, at))

    def _drop(self, side: int, ask: i.Drop) -> None:
        number, at = self._find(side, ask.conn), side == DESTINATION
        wire = self.wires[number]
        if wire.dropped[at]:
            return
        unread = any(isinstance(self.system.inputs[m], i.Received) for m in (wire.there if at else wire.back))
        if (unread or ask.unread) and not wire.broken and self.system.link == "two-way":
            self._break(number)
        else:
            self._put(number, side, self.system.ended)
        wire = self.wires[number]
        gone: dict[str, Any] = {"there": ()} if at else {"back": ()}
        self.wires[number] = wire._replace(
            ended=_at(wire.ended, at), dropped=_at(wire.dropped, at), owed=_at(wire.owed, at, False), **gone
        )

    def _stoplistening(self, side: int, ask: i.StopListening) -> None:
        for number, wire in enumerate(self.wires):
            if wire.connected and wire.accepted < 0:
                self._break(number)

    def _pause(self, side: int, ask: i.Pause) -> None:
        self._paused(side, ask.conn, True)

    def _resume(self, side: int, ask: i.Resume) -> None:
        self._paused(side, ask.conn, False)

    def _paused(self, side: int, conn: int, value: bool) -> None:
        number = self._find(side, conn)
        wire = self.wires[number]
        if wire.paused[side == DESTINATION] != value:
            self.wires[number] = wire._replace(paused=_at(wire.paused, side == DESTINATION, value))

    # --- back-pressure ----------------------------------------------------------------------------------------------
    def _may_drain(self, side: int, conn: int) -> None:
        number, at = self._find(side, conn), side == DESTINATION
        wire = self.wires[number]
        queue = wire.back if at else wire.there
        full = len(queue) > self.system.model.room and not wire.broken and not wire.dropped[not at]
        self.wires[number] = wire._replace(owed=_at(wire.owed, at, full))
        if not full:
            self.tell(side, self.system.input(i.Drained(0)), conn)

    def _taken(self, number: int, at: int) -> None:
        """Something was read: who waited for room may go on."""
        wire = self.wires[number]
        if wire.owed[at]:
            self._may_drain(DESTINATION if at else wire.owner, wire.accepted if at else wire.number)

    # --- the guest, and time ----------------------------------------------------------------------------------------
    def _answer(self, side: int, told: i.Input) -> None:
        self.answers = (*self.answers, (side, self.system.input(told)))

    def _collectram(self, side: int, ask: i.CollectRam) -> None:
        first = side == SOURCE and self.passes == 0
        if side == SOURCE:
            self.passes += 1
        self._answer(side, i.RamCollected(PASS_BYTES if first else 0, ask.last or not ask.first))

    def _stopguest(self, side: int, ask: i.StopGuest) -> None:
        if side == SOURCE:
            self.runs = False, self.runs[DESTINATION]
        self._answer(side, i.GuestStopped())

    def _resumeguest(self, side: int, ask: i.ResumeGuest) -> None:
        if side == SOURCE:
            self.runs = True, self.runs[DESTINATION]

    def _apply(self, side: int, ask: i.Apply) -> None:
        there = self.system.model.setup.scenario.destination
        self._answer(side, i.Applied(there.apply_error, there.apply_code))

    def _load(self, side: int, ask: i.Load) -> None:
        self._answer(side, i.Loaded(self.system.model.setup.scenario.guest.post_load_error))

    def _runguest(self, side: int, ask: i.RunGuest) -> None:
        self.runs = self.runs[SOURCE], True
        self._answer(side, i.GuestRunning())

    def _setalarm(self, side: int, ask: i.SetAlarm) -> None:
        self.alarms = tuple(sorted({*self.alarms, (side, ask.name)}))

    def _stopalarm(self, side: int, ask: i.StopAlarm) -> None:
        self._stop(side, ask.name)

    def _stop(self, side: int, name: str) -> None:
        self.alarms = tuple(a for a in self.alarms if a != (side, name))

    def _finished(self, side: int, ask: i.Finished) -> None:
        """Whatever comes is not heard any more; a process that exits leaves its sockets to the kernel."""
        self.alarms = tuple(a for a in self.alarms if a[0] != side)
        self.answers = tuple(a for a in self.answers if a[0] != side)
        for number, wire in enumerate(self.wires):
            if side == DESTINATION and ask.exited:
                self._exit(number, wire)
            elif side == DESTINATION and wire.accepted < 0 and not wire.broken and not ask.listening:
                self._break(number)  # nobody listens any more
            elif side == DESTINATION:
                self.wires[number] = wire._replace(there=())
            elif wire.owner == side:
                self.wires[number] = wire._replace(back=())

    def _exit(self, number: int, wire: Wire) -> None:
        if wire.accepted < 0 and not wire.broken:
            self._break(number)
        elif not wire.dropped[1]:
            self._drop(DESTINATION, i.Drop(wire.accepted))
        self.wires[number] = self.wires[number]._replace(there=(), dropped=_at(self.wires[number].dropped, True))

    def _starttls(self, side: int, ask: i.StartTls) -> None:
        """Both sides are done once the destination takes part, before anything is sent; a stranger can't."""
        if side != DESTINATION:
            return
        number = self._find(side, ask.conn)
        wire = self.wires[number]
        if wire.owner != STRANGER:
            asks = self.system.table[self.ends[SOURCE]].offers_alpn  # once, with its first
            told = self.system.input(i.Secured(0, b"exporter", ask.alpn if asks else ""))
            self.wires[number] = wire._replace(there=(told, *wire.there), back=(told, *wire.back))
        elif wire.there and not self._too_short(wire.there[0]):
            told = self.system.input(i.TlsFailed(0, "An unexpected TLS packet was received."))
            self.wires[number] = wire._replace(there=(told,))

    def _too_short(self, told: int) -> bool:
        """Whether TLS waits for more before it judges."""
        said = self.system.inputs[told]
        return isinstance(said, i.Received) and len(said.data) < TLS_HEADER_BYTES


def _at(pair: tuple[bool, bool], at: bool, value: bool = True) -> tuple[bool, bool]:
    return (pair[0], value) if at else (value, pair[1])
