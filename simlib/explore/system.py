"""Real endpoints, the links between them and their guests as one value, and all that may happen to it next.

A link keeps order inside a connection and nowhere else: accepts come in any order, deliveries interleave in every way,
an alarm may ring at any moment at which it is set, a cut or a cancel may come at any step. Time is left out. A close
over unread bytes is a reset that destroys all that its sender still had under way: the worst that TCP may do.

Endpoints and inputs are interned: a state holds their numbers, and the real code runs once for each pair of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..handshake import interface as i
from ..handshake.v2.session import KEEPALIVE
from . import symmetry
from .interning import Interner
from .state import (
    DESTINATION,
    INTRUDER,
    OVERHEARD,
    RIVAL,
    SILENCE_ALARMS,
    SOURCE,
    Action,
    Model,
    State,
)
from .transition import ACTIONS, EFFECTS, Transition


class System(Interner):
    """The transition relation of a model."""

    def __init__(self, model: Model) -> None:
        super().__init__(model, EFFECTS)
        self.canonical = symmetry.Canonical(self)

    def initial(self) -> State:
        setup = self.model.setup
        endpoints = [setup.source(), setup.destination(), *([setup.source("rival")] if self.model.rival else [])]
        ends = tuple(self.intern(side, endpoint) for side, endpoint in enumerate(endpoints))
        transition = Transition(self, State(ends, faults=self.model.faults))
        if self.link == "two-way":
            transition.tell(DESTINATION, self.input(i.Start()))
        for side in (SOURCE, RIVAL) if self.model.rival else (SOURCE,):
            transition.tell(side, self.input(i.Start()))
        return transition.state()

    # --- what may happen --------------------------------------------------------------------------------------------
    def actions(self, state: State) -> Iterator[Action]:
        """Everything that may happen next, in a fixed order; faults last."""
        enabled = list(self._progress(state))
        if any(state.silent) or any(state.frozen):
            enabled = [action for action in enabled if self._is_possible(state, action)]
        yield from enabled
        for side, name in state.alarms:
            if self._rings(state, side, name, idle=not enabled):
                yield "alarm", side, name
        yield from self._faults(state)

    def _progress(self, state: State) -> Iterator[Action]:
        """What the two sides and the path between them do, if nothing is silent or frozen."""
        listening = self.link == "two-way" and self.endpoint(state, DESTINATION).accepting
        for number, connection in enumerate(state.connections):
            if not connection.connected and connection.owner != INTRUDER:
                yield "connect", number
            if connection.accepted < 0 and listening:
                yield "accept", number
            if connection.there and connection.accepted >= 0 and not connection.paused[1]:
                yield "deliver", number, DESTINATION
            if (
                connection.back
                and connection.connected
                and not (connection.paused[0] and self._waits(connection.back[0]))
            ):
                yield "deliver", number, connection.owner
        for k in range(len(state.pending_replies)):
            yield "guest", k

    def _is_possible(self, state: State, action: Action) -> bool:
        """A frozen process does nothing. On a silent path nothing arrives, and no connection is made; others than the
        source have paths of their own."""
        side = self.acting_side(state, action)
        if side < len(state.frozen) and state.frozen[side]:
            return False
        if action[0] == "guest" or state.connections[action[1]].owner != SOURCE:
            return True
        return not any(state.silent) if action[0] == "connect" else not state.silent[side]

    def _rings(self, state: State, side: int, name: str, idle: bool) -> bool:
        """Whether an alarm may ring now: those against silence, where nothing will come from the peer any more."""
        if side < len(state.frozen) and state.frozen[side]:
            return False
        kind = name.partition("-")[0]
        if kind in self.model.alarms or kind not in SILENCE_ALARMS:
            return True
        peer = SOURCE if side == DESTINATION else DESTINATION
        if side == RIVAL or (side == DESTINATION and self._control_owner(state) != SOURCE):
            return state.frozen[peer] and side == RIVAL
        if state.silent[side] or state.frozen[peer]:
            return True
        return any(state.silent) and idle and (peer, KEEPALIVE) not in state.alarms  # nobody will answer

    def _control_owner(self, state: State) -> int:
        """Who opened the destination's control connection; -1 without one."""
        control = getattr(self.sides[state.ends[DESTINATION]], "control", None)
        return next((w.owner for w in state.connections if w.accepted == control and w.accepted >= 0), -1)

    def _waits(self, input_number: int) -> bool:
        """A reset is noticed by who reads nothing, too: its next write fails."""
        return not isinstance(self.inputs[input_number], i.Broken)

    def _faults(self, state: State) -> Iterator[Action]:
        left = state.faults
        if self.endpoint(state, SOURCE).finished is not None:
            return
        if left.cuts and state.connections:
            yield ("cut",)
        if left.losses:
            for number, connection in enumerate(state.connections):
                if connection.owner == SOURCE and not connection.broken:
                    yield "lose", number
        for fault in dict.fromkeys(left.hits):
            yield "fault", fault
        for direction in dict.fromkeys(left.silences):
            yield "silence", direction
        for side in dict.fromkeys(left.freezes):
            yield "freeze", side
        for order in dict.fromkeys(left.orders if not state.frozen[SOURCE] else ()):
            yield "order", order
        for intruder in dict.fromkeys(left.intruders):
            if intruder not in OVERHEARD or self.overheard(state, intruder):
                yield "intruder", intruder

    def step(self, state: State, action: Action) -> State:
        """The state after an action."""
        transition = Transition(self, state)
        ACTIONS[action[0]](transition, *action[1:])
        return transition.state()

    def acting_side(self, state: State, action: Action) -> int:
        """The side that receives an action; -1 for those that concern all."""
        if action[0] in ("connect", "accept"):
            return state.connections[action[1]].owner if action[0] == "connect" else DESTINATION
        if action[0] in ("deliver", "guest"):
            return int(action[2] if action[0] == "deliver" else state.pending_replies[action[1]][0])
        return SOURCE if action[0] == "order" else int(action[1]) if action[0] == "alarm" else -1

    def is_local_step(self, state: State, action: Action) -> bool:
        """Whether an action changes nothing but what one side knows of one connection."""
        if action[0] not in ("accept", "deliver"):
            return False
        connection = state.connections[action[1]]
        if action[0] == "accept":
            side, input_number, conn = DESTINATION, self.opened, sum(w.accepted >= 0 for w in state.connections)
        else:
            side = action[2]
            input_number, conn = (
                (connection.there[0], connection.accepted)
                if side == DESTINATION
                else (connection.back[0], connection.number)
            )
        step = self.run(side, state.ends[side], input_number, conn)
        nobody = connection.owner == INTRUDER or connection.dropped[action[0] == "deliver" and action[2] != DESTINATION]
        if (step.asks and not nobody) or not all(getattr(o, "conn", None) == conn for o in step.asks):
            return False
        before, after = self.canonical.parts(state.ends[side]), self.canonical.parts(step.after)
        if before.shared != after.shared or before.per_connection is None or after.per_connection is None:
            return False
        return {**before.per_connection, conn: None} == {**after.per_connection, conn: None}
