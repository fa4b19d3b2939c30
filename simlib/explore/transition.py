"""A state while one action changes it: what the action does, and what the endpoints ask for then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..case.faults import Fault
from ..case.intruders import TLS_HEADER_BYTES
from ..case.registry import INTRUDERS
from ..handshake import interface as i
from .interning import Interner
from .state import (
    DESTINATION,
    ORDERS,
    OVERHEARD,
    PASS_BYTES,
    PIPE,
    REFUSED,
    SIDES,
    SOURCE,
    STRANGER,
    ConnectionState,
    State,
    with_back,
    with_there,
)


class Transition:
    """A state while one action changes it."""

    def __init__(self, system: Interner, state: State) -> None:
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
        input_number = self.system.input(i.Broken(0, REFUSED)) if refused else self.system.opened
        if not wire.dropped[0]:
            self.tell(wire.owner, input_number, wire.number)

    def do_accept(self, number: int) -> None:
        conn = sum(w.accepted >= 0 for w in self.wires)
        self.wires[number] = self.wires[number]._replace(accepted=conn)
        self.tell(DESTINATION, self.system.opened, conn)

    def do_deliver(self, number: int, side: int) -> None:
        wire = self.wires[number]
        if side == DESTINATION:
            input_number, self.wires[number] = wire.there[0], with_there(wire, wire.there[1:])
            self._taken(number, 0)
            self.tell(side, input_number, wire.accepted)
        else:
            input_number, self.wires[number] = wire.back[0], with_back(wire, wire.back[1:])
            self._taken(number, 1)
            self.tell(side, input_number, wire.number)

    def do_guest(self, k: int) -> None:
        side, input_number = self.answers[k]
        self.answers = (*self.answers[:k], *self.answers[k + 1 :])
        self.tell(side, input_number)

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
        self.wires.append(ConnectionState(f"stranger: {says}", STRANGER, number, connected=True, there=there))

    # --- an endpoint is told, and asks ------------------------------------------------------------------------------
    def tell(self, side: int, input_number: int, conn: int = -1) -> None:
        step = self.system.run(side, self.ends[side], input_number, conn)
        self.ends[side] = step.after
        if self.system.observed is not None:
            self.system.observed.append((side, self.system.inputs[input_number]))
            self.system.observed += ((side, o) for o in step.reports)
        for does, ask in step.does:
            does(self, side, ask)
        if self.system.model.send_buffer_messages:
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
        self.wires.append(ConnectionState(ask.channel, side, ask.conn))

    def _send(self, side: int, sent: tuple[int, tuple[int, ...]]) -> None:
        self._put(self._find(side, sent[0]), side, *sent[1])

    def _put(self, number: int, side: int, *inputs: int) -> None:
        """Onto the wire. A socket that was dropped answers with a reset."""
        wire, at = self.wires[number], side == DESTINATION
        if wire.broken or wire.ended[at] or (wire.owner == STRANGER and at):
            return
        link = self.system.link
        if wire.dropped[not at]:
            if inputs != (self.system.ended,):
                self._hear(number, side, self.system.input(i.Broken(0, PIPE)))
        elif link == "one-way":
            self.sink = (*self.sink, *inputs) if wire.number == 0 else self.sink
        else:
            self._hear(number, side if link == "echo" else DESTINATION if side != DESTINATION else wire.owner, *inputs)

    def _hear(self, number: int, side: int, *inputs: int) -> None:
        """To the end of what is under way to a side."""
        wire = self.wires[number]
        if side == DESTINATION and self.system.table[self.ends[DESTINATION]].finished is None:
            self.wires[number] = with_there(wire, (*wire.there, *inputs))
        elif side != DESTINATION:
            back = wire.back
            for one in inputs:
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

    def _stop_listening(self, side: int, ask: i.StopListening) -> None:
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
        full = len(queue) > self.system.model.send_buffer_messages and not wire.broken and not wire.dropped[not at]
        self.wires[number] = wire._replace(owed=_at(wire.owed, at, full))
        if not full:
            self.tell(side, self.system.input(i.Drained(0)), conn)

    def _taken(self, number: int, at: int) -> None:
        """Something was read: who waited for room may go on."""
        wire = self.wires[number]
        if wire.owed[at]:
            self._may_drain(DESTINATION if at else wire.owner, wire.accepted if at else wire.number)

    # --- the guest, and time ----------------------------------------------------------------------------------------
    def _answer(self, side: int, reply: i.Input) -> None:
        self.answers = (*self.answers, (side, self.system.input(reply)))

    def _collect_ram(self, side: int, ask: i.CollectRam) -> None:
        first = side == SOURCE and self.passes == 0
        if side == SOURCE:
            self.passes += 1
        self._answer(side, i.RamCollected(PASS_BYTES if first else 0, ask.last or not ask.first))

    def _stop_guest(self, side: int, ask: i.StopGuest) -> None:
        if side == SOURCE:
            self.runs = False, self.runs[DESTINATION]
        self._answer(side, i.GuestStopped())

    def _resume_guest(self, side: int, ask: i.ResumeGuest) -> None:
        if side == SOURCE:
            self.runs = True, self.runs[DESTINATION]

    def _apply(self, side: int, ask: i.Apply) -> None:
        there = self.system.model.setup.scenario.destination
        self._answer(side, i.Applied(there.apply_error, there.apply_code))

    def _load(self, side: int, ask: i.Load) -> None:
        self._answer(side, i.Loaded(self.system.model.setup.scenario.guest.post_load_error))

    def _run_guest(self, side: int, ask: i.RunGuest) -> None:
        self.runs = self.runs[SOURCE], True
        self._answer(side, i.GuestRunning())

    def _set_alarm(self, side: int, ask: i.SetAlarm) -> None:
        self.alarms = tuple(sorted({*self.alarms, (side, ask.name)}))

    def _stop_alarm(self, side: int, ask: i.StopAlarm) -> None:
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

    def _exit(self, number: int, wire: ConnectionState) -> None:
        if wire.accepted < 0 and not wire.broken:
            self._break(number)
        elif not wire.dropped[1]:
            self._drop(DESTINATION, i.Drop(wire.accepted))
        self.wires[number] = self.wires[number]._replace(there=(), dropped=_at(self.wires[number].dropped, True))

    def _start_tls(self, side: int, ask: i.StartTls) -> None:
        """Both sides are done once the destination takes part, before anything is sent; a stranger can't."""
        if side != DESTINATION:
            return
        number = self._find(side, ask.conn)
        wire = self.wires[number]
        if wire.owner != STRANGER:
            asks = self.system.table[self.ends[SOURCE]].offers_alpn  # once, with its first
            input_number = self.system.input(i.Secured(0, b"exporter", ask.alpn if asks else ""))
            self.wires[number] = wire._replace(there=(input_number, *wire.there), back=(input_number, *wire.back))
        elif wire.there and not self._too_short(wire.there[0]):
            input_number = self.system.input(i.TlsFailed(0, "An unexpected TLS packet was received."))
            self.wires[number] = wire._replace(there=(input_number,))

    def _too_short(self, input_number: int) -> bool:
        """Whether TLS waits for more before it judges."""
        said = self.system.inputs[input_number]
        return isinstance(said, i.Received) and len(said.data) < TLS_HEADER_BYTES


def _at(pair: tuple[bool, bool], at: bool, value: bool = True) -> tuple[bool, bool]:
    return (pair[0], value) if at else (value, pair[1])


ACTIONS: Mapping[str, Callable[..., None]] = {
    "connect": Transition.do_connect,
    "accept": Transition.do_accept,
    "deliver": Transition.do_deliver,
    "guest": Transition.do_guest,
    "alarm": Transition.do_alarm,
    "order": Transition.do_order,
    "cut": Transition.do_cut,
    "fault": Transition.do_fault,
    "lose": Transition.do_lose,
    "stranger": Transition.do_stranger,
}
EFFECTS: Mapping[type, Callable[..., None]] = {
    i.Open: Transition._open,
    i.StartTls: Transition._start_tls,
    i.Send: Transition._send,
    i.Pause: Transition._pause,
    i.Resume: Transition._resume,
    i.End: Transition._end,
    i.Drop: Transition._drop,
    i.StopListening: Transition._stop_listening,
    i.CollectRam: Transition._collect_ram,
    i.StopGuest: Transition._stop_guest,
    i.ResumeGuest: Transition._resume_guest,
    i.Apply: Transition._apply,
    i.Load: Transition._load,
    i.RunGuest: Transition._run_guest,
    i.SetAlarm: Transition._set_alarm,
    i.StopAlarm: Transition._stop_alarm,
    i.Finished: Transition._finished,
}
