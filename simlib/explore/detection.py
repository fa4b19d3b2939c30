"""Why v2 can't be detected on a path that may not return, as an argument that runs (D2), and where it can.

A one-way pipe and a two-way path whose answer is late look the same to the source: the same inputs in the same order,
shown here as two histories of the real endpoint that are equal as values. A strategy is a function of its history, so
it does the same on both; without a timer it waits for ever on the pipe, with one it errs on the path, however long the
timer is. It can be detected where an old peer answers too: (d') by PONG on a path that is known to return, (f) by TLS.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..case.registry import PROTOCOLS
from ..handshake import interface as i
from .models import probe
from .state import SOURCE, Action, Model, State
from .system import System

ASKING = tuple(name for name in PROTOCOLS if PROTOCOLS.get(name).source_decides)
FIRST = ("connect", "accept", "deliver")


@dataclass(frozen=True, slots=True)
class Pair:
    """One strategy on both links: what the source has heard by the time that it decides, and what that leads to."""

    strategy: str
    on_pipe: tuple[str, ...]
    on_slow_path: tuple[str, ...]
    decides: str
    errs: str

    @property
    def same(self) -> bool:
        return self.on_pipe == self.on_slow_path


def _listen(model: Model, answers: bool) -> tuple[tuple[str, ...], str]:
    """What the source hears until it decides, if nothing that the destination sends arrives (unless it `answers`)."""
    system = System(model)
    state, heard = system.initial(), ["Start()"]
    while not system.endpoint(state, SOURCE).speaks:
        action = _next(system, state, answers)
        if action is None:
            return tuple(heard), "waits for ever"
        system.observed = []
        state = system.step(state, action)
        heard += [str(event) for side, event in system.observed if side == SOURCE and isinstance(event, i.Input)]
    return tuple(heard), str(system.endpoint(state, SOURCE).speaks)


def _next(system: System, state: State, answers: bool) -> Action | None:
    actions = [a for a in system.actions(state) if a[0] in FIRST and (answers or a[1:] != (0, SOURCE))]
    alarms = [a for a in system.actions(state) if a[0] == "alarm" and a[1] == SOURCE]
    return next(iter(actions), None) or next(iter(alarms), None)


def pairs() -> list[Pair]:
    """Every strategy that leaves the question to the source, without and with a timer."""
    rows = []
    for variant in (v for v in ASKING if not PROTOCOLS.get(v).needs_tls):
        for timer in (False, True):
            pipe, decides = _listen(probe(variant, True, True, timer, transport="exec-cat"), False)
            slow, _ = _listen(probe(variant, True, True, timer), False)
            errs = f"on the slow path: both know v2, the source takes {decides}" if timer else "on the pipe: never ends"
            rows.append(Pair(f"({variant}){', timer' if timer else ''}", pipe, slow, decides, errs))
    return rows


def detects(variant: str) -> tuple[str, str]:
    """What the source takes on a path that returns, with an old and with a new destination, and no timer."""
    old, new = (_listen(probe(variant, True, there, False), True)[1] for there in (False, True))
    return old, new
