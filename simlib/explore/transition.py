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
    INTRUDER,
    ORDERS,
    OVERHEARD,
    PASS_BYTES,
    PIPE,
    REFUSED,
    SIDES,
    SILENCES,
    SOURCE,
    ConnectionState,
    State,
    with_back,
    with_there,
)


class Transition:
    """A state while one action changes it."""

    def __init__(self, system: Interner, state: State) -> None:
        self.system = system
        self.ends, self.connections, self.before = list(state.ends), list(state.connections), state.connections
        _, _, self.pending_replies, self.alarms, self.guest_running, self.ram_passes, self.faults = state[:7]
        self.pipe_output, self.silent, self.frozen = state[7:]

    def state(self) -> State:
        one = (
            self.system.connections.setdefault
        )  # equal connections are one object: states share them, and hold the same
        connections = [w if w is old else one(w, w) for w, old in zip(self.connections, self.before, strict=False)]
        connections += [one(w, w) for w in self.connections[len(self.before) :]]
        return State(
            tuple(self.ends),
            tuple(connections),
            self.pending_replies,
            self.alarms,
            self.guest_running,
            self.ram_passes,
            self.faults,
            self.pipe_output,
            self.silent,
            self.frozen,
        )

    # --- actions ----------------------------------------------------------------------------------------------------
    def do_connect(self, number: int) -> None:
        connection = self.connections[number]
        there = self.system.table[self.ends[DESTINATION]]
        closed = there.closed if there.finished is None else not there.finished.listening
        refused = self.system.link == "two-way" and closed and connection.accepted < 0
        self.connections[number] = connection._replace(connected=True, broken=connection.broken or refused)
        input_number = self.system.input(i.Broken(0, REFUSED)) if refused else self.system.opened
        if not connection.dropped[0]:
            self.tell(connection.owner, input_number, connection.number)

    def do_accept(self, number: int) -> None:
        conn = sum(w.accepted >= 0 for w in self.connections)
        self.connections[number] = self.connections[number]._replace(accepted=conn)
        self.tell(DESTINATION, self.system.opened, conn)

    def do_deliver(self, number: int, side: int) -> None:
        connection = self.connections[number]
        if side == DESTINATION:
            input_number, self.connections[number] = connection.there[0], with_there(connection, connection.there[1:])
            self._taken(number, 0)
            self.tell(side, input_number, connection.accepted)
        else:
            input_number, self.connections[number] = connection.back[0], with_back(connection, connection.back[1:])
            self._taken(number, 1)
            self.tell(side, input_number, connection.number)

    def do_guest(self, k: int) -> None:
        side, input_number = self.pending_replies[k]
        self.pending_replies = (*self.pending_replies[:k], *self.pending_replies[k + 1 :])
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

    def do_silence(self, direction: str) -> None:
        left = list(self.faults.silences)
        left.remove(direction)
        self.faults = self.faults._replace(silences=tuple(left))
        to_source, to_destination = SILENCES[direction]
        self.silent = self.silent[SOURCE] or to_source, self.silent[DESTINATION] or to_destination

    def do_freeze(self, side: str) -> None:
        left = list(self.faults.freezes)
        left.remove(side)
        self.faults = self.faults._replace(freezes=tuple(left))
        self.frozen = _at(self.frozen, side == SIDES[DESTINATION])

    def do_fault(self, fault: Fault) -> None:
        left = list(self.faults.hits)
        left.remove(fault)
        self.faults = self.faults._replace(hits=tuple(left))
        fault.strike(self)

    # --- what a fault may do (faults.Breaks) ------------------------------------------------------------------------
    def cut(self) -> None:
        """Every connection is reset; what was under way is gone."""
        for number in range(len(self.connections)):
            self._break(number)

    def reset(self, name: str) -> None:
        """Those of that name are."""
        for number, connection in enumerate(self.connections):
            if connection.name == name and not connection.broken:
                self._break(number)

    def do_lose(self, number: int) -> None:
        self.faults = self.faults._replace(losses=self.faults.losses - 1)
        self._break(number)

    def _break(self, number: int) -> None:
        connection, reset = self.connections[number], self.system.reset
        here = () if connection.dropped[0] or connection.owner == INTRUDER else (reset,)
        self.connections[number] = connection._replace(
            broken=True, back=here, there=() if connection.dropped[1] else (reset,)
        )

    def do_intruder(self, payload: str) -> None:
        left = list(self.faults.intruders)
        left.remove(payload)
        self.faults = self.faults._replace(intruders=tuple(left))
        leaves = payload not in OVERHEARD and INTRUDERS.get(payload).leaves
        sent = self.system.overheard(self.state(), payload) if payload in OVERHEARD else INTRUDERS.get(payload).payload
        there: tuple[int, ...] = (self.system.input(i.Received(0, sent)),) if sent else ()
        there += (self.system.ended,) if leaves else ()
        number = sum(w.owner == INTRUDER for w in self.connections)
        self.connections.append(ConnectionState(f"intruder: {payload}", INTRUDER, number, connected=True, there=there))

    # --- inputs and outputs of an endpoint --------------------------------------------------------------------------
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
        if side != DESTINATION and conn < len(self.connections):  # mostly a source's are numbered as they stand here
            connection = self.connections[conn]
            if connection.number == conn and connection.owner == side:
                return conn
        for n, connection in enumerate(self.connections):
            if (
                connection.accepted == conn
                if side == DESTINATION
                else connection.number == conn and connection.owner == side
            ):
                return n
        raise LookupError(f"{SIDES[side]} has no connection {conn}")

    def _open(self, side: int, ask: i.Open) -> None:
        self.connections.append(ConnectionState(ask.channel, side, ask.conn))

    def _send(self, side: int, sent: tuple[int, tuple[int, ...]]) -> None:
        self._put(self._find(side, sent[0]), side, *sent[1])

    def _put(self, number: int, side: int, *inputs: int) -> None:
        """Onto the wire. A socket that was dropped answers with a reset."""
        connection, at = self.connections[number], side == DESTINATION
        if connection.broken or connection.ended[at] or (connection.owner == INTRUDER and at):
            return
        link = self.system.link
        if connection.dropped[not at]:
            if inputs != (self.system.ended,):
                self._hear(number, side, self.system.input(i.Broken(0, PIPE)))
        elif link == "one-way":
            self.pipe_output = (*self.pipe_output, *inputs) if connection.number == 0 else self.pipe_output
        else:
            self._hear(
                number, side if link == "echo" else DESTINATION if side != DESTINATION else connection.owner, *inputs
            )

    def _hear(self, number: int, side: int, *inputs: int) -> None:
        """To the end of what is under way to a side."""
        connection = self.connections[number]
        if side == DESTINATION and self.system.table[self.ends[DESTINATION]].finished is None:
            self.connections[number] = with_there(connection, (*connection.there, *inputs))
        elif side != DESTINATION:
            back = connection.back
            for one in inputs:
                back = back if one in back[-1:] else (*back, one)
            self.connections[number] = with_back(connection, back)

    def _end(self, side: int, ask: i.End) -> None:
        number, at = self._find(side, ask.conn), side == DESTINATION
        self._put(number, side, self.system.ended)
        self.connections[number] = self.connections[number]._replace(ended=_at(self.connections[number].ended, at))

    def _drop(self, side: int, ask: i.Drop) -> None:
        number, at = self._find(side, ask.conn), side == DESTINATION
        connection = self.connections[number]
        if connection.dropped[at]:
            return
        unread = any(
            isinstance(self.system.inputs[m], i.Received) for m in (connection.there if at else connection.back)
        )
        if (unread or ask.unread) and not connection.broken and self.system.link == "two-way":
            self._break(number)
        else:
            self._put(number, side, self.system.ended)
        connection = self.connections[number]
        gone: dict[str, Any] = {"there": ()} if at else {"back": ()}
        self.connections[number] = connection._replace(
            ended=_at(connection.ended, at),
            dropped=_at(connection.dropped, at),
            owed=_at(connection.owed, at, False),
            **gone,
        )

    def _stop_listening(self, side: int, ask: i.StopListening) -> None:
        for number, connection in enumerate(self.connections):
            if connection.connected and connection.accepted < 0:
                self._break(number)

    def _pause(self, side: int, ask: i.Pause) -> None:
        self._paused(side, ask.conn, True)

    def _resume(self, side: int, ask: i.Resume) -> None:
        self._paused(side, ask.conn, False)

    def _paused(self, side: int, conn: int, value: bool) -> None:
        number = self._find(side, conn)
        connection = self.connections[number]
        if connection.paused[side == DESTINATION] != value:
            self.connections[number] = connection._replace(paused=_at(connection.paused, side == DESTINATION, value))

    # --- back-pressure ----------------------------------------------------------------------------------------------
    def _may_drain(self, side: int, conn: int) -> None:
        number, at = self._find(side, conn), side == DESTINATION
        connection = self.connections[number]
        queue = connection.back if at else connection.there
        full = (
            len(queue) > self.system.model.send_buffer_messages
            and not connection.broken
            and not connection.dropped[not at]
        )
        self.connections[number] = connection._replace(owed=_at(connection.owed, at, full))
        if not full:
            self.tell(side, self.system.input(i.Drained(0)), conn)

    def _taken(self, number: int, at: int) -> None:
        """Something was read: who waited for room may go on."""
        connection = self.connections[number]
        if connection.owed[at]:
            self._may_drain(DESTINATION if at else connection.owner, connection.accepted if at else connection.number)

    # --- the guest, and time ----------------------------------------------------------------------------------------
    def _answer(self, side: int, reply: i.Input) -> None:
        self.pending_replies = (*self.pending_replies, (side, self.system.input(reply)))

    def _collect_ram(self, side: int, ask: i.CollectRam) -> None:
        first = side == SOURCE and self.ram_passes == 0
        if side == SOURCE:
            self.ram_passes += 1
        self._answer(side, i.RamCollected(PASS_BYTES if first else 0, ask.last or not ask.first))

    def _stop_guest(self, side: int, ask: i.StopGuest) -> None:
        if side == SOURCE:
            self.guest_running = False, self.guest_running[DESTINATION]
        self._answer(side, i.GuestStopped())

    def _resume_guest(self, side: int, ask: i.ResumeGuest) -> None:
        if side == SOURCE:
            self.guest_running = True, self.guest_running[DESTINATION]

    def _apply(self, side: int, ask: i.Apply) -> None:
        there = self.system.model.setup.scenario.destination
        self._answer(side, i.Applied(there.apply_error, there.apply_code))

    def _load(self, side: int, ask: i.Load) -> None:
        self._answer(side, i.Loaded(self.system.model.setup.scenario.guest.post_load_error))

    def _run_guest(self, side: int, ask: i.RunGuest) -> None:
        self.guest_running = self.guest_running[SOURCE], True
        self._answer(side, i.GuestRunning())

    def _watch_faults(self, side: int, ask: i.WatchFaults) -> None:
        block = self.system.model.setup.settings(at_source=side == SOURCE).machine.ram_blocks[0]
        self._answer(side, i.PageFault(block.name, 0, block.page_bytes))

    def _leave(self, side: int, ask: i.MoveGuest | i.SwitchGuest) -> None:
        """No QEMU stands beside a searched endpoint: whoever asks for its stream waits."""

    def _set_alarm(self, side: int, ask: i.SetAlarm) -> None:
        self.alarms = tuple(sorted({*self.alarms, (side, ask.name)}))

    def _stop_alarm(self, side: int, ask: i.StopAlarm) -> None:
        self._stop(side, ask.name)

    def _stop(self, side: int, name: str) -> None:
        self.alarms = tuple(a for a in self.alarms if a != (side, name))

    def _finished(self, side: int, ask: i.Finished) -> None:
        """Whatever comes is not heard any more; a process that exits leaves its sockets to the kernel."""
        self.alarms = tuple(a for a in self.alarms if a[0] != side)
        self.pending_replies = tuple(a for a in self.pending_replies if a[0] != side)
        for number, connection in enumerate(self.connections):
            if side == DESTINATION and ask.exited:
                self._exit(number, connection)
            elif side == DESTINATION and connection.accepted < 0 and not connection.broken and not ask.listening:
                self._break(number)  # nobody listens any more
            elif side == DESTINATION:
                self.connections[number] = connection._replace(there=())
            elif connection.owner == side:
                self.connections[number] = connection._replace(back=())

    def _exit(self, number: int, connection: ConnectionState) -> None:
        if connection.accepted < 0 and not connection.broken:
            self._break(number)
        elif not connection.dropped[1]:
            self._drop(DESTINATION, i.Drop(connection.accepted))
        self.connections[number] = self.connections[number]._replace(
            there=(), dropped=_at(self.connections[number].dropped, True)
        )

    def _start_tls(self, side: int, ask: i.StartTls) -> None:
        """Both sides are done once the destination takes part, before anything is sent; an intruder can't."""
        if side != DESTINATION:
            return
        number = self._find(side, ask.conn)
        connection = self.connections[number]
        if connection.owner != INTRUDER:
            asks = self.system.table[self.ends[SOURCE]].offers_alpn  # once, with its first
            input_number = self.system.input(i.Secured(0, b"exporter", ask.alpn if asks else ""))
            self.connections[number] = connection._replace(
                there=(input_number, *connection.there), back=(input_number, *connection.back)
            )
        elif connection.there and not self._too_short(connection.there[0]):
            input_number = self.system.input(i.TlsFailed(0, "An unexpected TLS packet was received."))
            self.connections[number] = connection._replace(there=(input_number,))

    def _too_short(self, input_number: int) -> bool:
        """Whether TLS waits for more before it judges."""
        input_value = self.system.inputs[input_number]
        return isinstance(input_value, i.Received) and len(input_value.data) < TLS_HEADER_BYTES


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
    "silence": Transition.do_silence,
    "freeze": Transition.do_freeze,
    "lose": Transition.do_lose,
    "intruder": Transition.do_intruder,
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
    i.WatchFaults: Transition._watch_faults,
    i.MoveGuest: Transition._leave,
    i.SwitchGuest: Transition._leave,
    i.SetAlarm: Transition._set_alarm,
    i.StopAlarm: Transition._stop_alarm,
    i.Finished: Transition._finished,
}
