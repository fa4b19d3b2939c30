"""Endpoints, inputs and connections by number: a state holds numbers, and the real code runs once for each pair of an
endpoint and an input.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from ..handshake import interface as i
from ..handshake.endpoint import Endpoint
from . import symmetry
from .state import REPORTS, RESET, SOURCE, ConnectionState, Effect, Model, State, Step


class Interner:
    """The values of one model, each with its number.

    Args:
        model: what is searched.
        effects: what carries out each kind of output: `transition.EFFECTS`.
    """

    def __init__(self, model: Model, effects: Mapping[type, Callable[..., None]]) -> None:
        self.model, self.effects = model, effects
        self.link = model.link
        self.table: list[Endpoint] = []  # endpoints by number
        self.inputs: list[i.Input] = []
        self.sides: list[Endpoint] = []  # the same, or the endpoint that a prober has chosen
        self.shapes: list[tuple[Any, symmetry.Atoms]] = []  # of each input
        self.openings: list[bool] = []  # whether it opens a channel
        self._endpoints: dict[tuple[int, Any], int] = {}
        self._inputs: dict[i.Input, int] = {}
        self.connections: dict[ConnectionState, ConnectionState] = {}  # each by itself
        self.steps: dict[tuple[int, int, int], Step] = {}
        self.opened, self.ended, self.reset = (self.input(t) for t in (i.Opened(0), i.Ended(0), i.Broken(0, RESET)))
        self.observed: list[tuple[int, i.Input | i.Output]] | None = None  # a replay listens

    def endpoint(self, state: State, side: int) -> Endpoint:
        return self.table[state.ends[side]]

    def intern(self, side: int, endpoint: Endpoint) -> int:
        number = self._endpoints.setdefault((side, endpoint.key()), len(self.table))
        if number == len(self.table):
            self.table.append(endpoint)
            self.sides.append(getattr(endpoint, "chosen", None) or endpoint)
        return number

    def key(self, state: State) -> Hashable:
        """Equal for equal states: small numbers, since hashing every field of every connection is slow."""
        return (state.ends, *map(id, state.connections), state[2:])

    def input(self, value: i.Input) -> int:
        """The number of an input; those of the link have connection 0."""
        number = self._inputs.setdefault(value, len(self.inputs))
        if number == len(self.inputs):
            self.inputs.append(value)
            self.shapes.append(symmetry.shape(value))
            self.openings.append(symmetry.opens_channel(value))
        return number

    def run(self, side: int, before: int, input_number: int, conn: int) -> Step:
        """The real code, once for each endpoint and input."""
        key = before, input_number, conn
        step = self.steps.get(key)
        if step is None:
            endpoint = self.table[before].fork()
            told_as = self.inputs[input_number]
            outputs = list(endpoint.handle(told_as if conn < 0 else replace(told_as, conn=conn)))  # type: ignore[arg-type]
            if not self.model.send_buffer_messages:  # buffers are endless: all that was sent has been taken
                fresh = outputs
                while sent := dict.fromkeys(o.conn for o in fresh if isinstance(o, i.Send)):
                    fresh = [o for c in sent for o in endpoint.handle(i.Drained(c))]
                    outputs += fresh
            after = self.intern(side, endpoint)
            asks = tuple(o for o in outputs if not isinstance(o, REPORTS) and not self._mute(o))
            reports = tuple(o for o in outputs if isinstance(o, (*REPORTS, i.Finished)))
            step = self.steps[key] = Step(after, asks, reports, tuple(self._effects(asks)))
        return step

    def _effects(self, asks: tuple[i.Output, ...]) -> Iterator[Effect]:
        """What carries each ask out, looked up once; what is sent on one connection in a row, as numbers."""
        for kind, alike in groupby(asks, lambda o: (type(o), o.conn if isinstance(o, i.Send) else None)):
            effect = self.effects[kind[0]]
            if kind[0] is i.Send:
                yield effect, (kind[1], tuple(self.input(i.Received(0, o.data, o.fill)) for o in alike))  # type: ignore[union-attr]
            else:
                yield from ((effect, ask) for ask in alike)

    def _mute(self, o: i.Output) -> bool:
        """An alarm that does not ring in this model."""
        return isinstance(o, (i.SetAlarm, i.StopAlarm)) and o.name.partition("-")[0] not in self.model.ringing

    def overheard(self, state: State, payload: str) -> bytes:
        """What an intruder can say on a plain link because it listens there: a channel's opening once more, while it is
        under way, or one made up; empty when there is nothing yet."""
        connections = [w for w in state.connections if w.owner == SOURCE and any(self.openings[m] for m in w.there)]
        for connection in connections[:1]:
            opening = next(m for m in connection.there if self.openings[m])
            copied = self.inputs[opening]
            assert isinstance(copied, i.Received)
            if payload == "replay":
                return copied.data
            return symmetry.forged(copied.data)
        return b""
