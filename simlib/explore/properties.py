"""What must hold in every state, and in every state in which nothing more can happen (S1 to S10 of the specification).

Each property takes the system, a state and whether it is final, and says what is wrong, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .system import DESTINATION, SOURCE, State, System

Property = Callable[[System, State, bool], str]


@dataclass(frozen=True, slots=True)
class Violation:
    """A property, and what was wrong in the state that broke it."""

    name: str
    text: str


def no_loss(system: System, state: State, final: bool) -> str:
    """S4: never completed at the source with nothing loaded."""
    end = system.endpoint(state, SOURCE).finished
    if final and end is not None and end.status == "completed" and not state.runs[DESTINATION]:
        return "the source says completed and no guest runs at the destination"
    return ""


def one_guest(system: System, state: State, final: bool) -> str:
    """S5: never two running guests."""
    return "the guest runs on both sides" if all(state.runs) else ""


def truth(system: System, state: State, final: bool) -> str:
    """S3: as long as the link holds, the source ends with the destination's reason."""
    source, destination = (system.endpoint(state, side) for side in (SOURCE, DESTINATION))
    wrong = getattr(destination, "ended_as", ()) or (destination.finished.errors if destination.finished else ())
    held = state.budget.cuts == system.budget.cuts and state.budget.cancels == system.budget.cancels
    if not final or not held or source.finished is None or source.finished.status == "completed" or not wrong:
        return ""
    told = {e.code for e in source.finished.errors}
    reasons = {e.code for e in wrong} - {"connection-lost", "channel-lost", "peer-closed"}
    return f"the destination ended with {sorted(reasons)}, the source with {sorted(told)}" if reasons - told else ""


def no_deadlock(system: System, state: State, final: bool) -> str:
    """L1 and L3: where nothing more can happen, the source has ended."""
    if final and system.endpoint(state, SOURCE).finished is None:
        return f"nothing can happen any more and the source is {system.endpoint(state, SOURCE).status}"
    return ""


def same_channels(system: System, state: State, final: bool) -> str:
    """S6: a connection is taken for what the source opened it for."""
    destination = system.endpoint(state, DESTINATION)
    names = {w.accepted: w.name for w in state.wires if w.accepted >= 0}
    bound = [(name, conn) for name, conn, _ in getattr(destination, "bound", ())]
    bound += [
        (f"multifd[{c.index}]" if c.kind == "multifd" else c.kind, n)
        for n, c in enumerate(getattr(destination, "connections", ()))
        if c.kind in ("main", "multifd", "preempt")
    ]
    wrong = [f"{names[conn]} is taken for {name}" for name, conn in bound if names.get(conn, name) != name]
    return "; ".join(wrong)


PROPERTIES: dict[str, Property] = {
    "S3 truth": truth, "S4 no loss": no_loss, "S5 one guest": one_guest, "S6 same channels": same_channels,
    "L1 no deadlock": no_deadlock,
}  # fmt: skip
