"""What must hold in every state, and in those in which nothing more need happen: S1 to S10, L1 to L4 of v2's design.

Each check takes the system, a state and whether it is final. They ask the real endpoints, of v1, v2 and the detection
variants alike. S9 (negotiation is monotone) is no matter of order: tests/handshake holds
it. A livelock is found by the search itself, as a cycle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..handshake.endpoint import Endpoint
from ..handshake.stream import MAGIC
from ..handshake.variants import HEADER_4
from .state import DESTINATION, INTRUDER, PASS_BYTES, RIVAL, SOURCE, ConnectionState, State
from .system import System

Check = Callable[[System, State, bool], str]
LOST = {
    "connection-lost",
    "channel-lost",
    "peer-closed",
    "peer-silent",
    "handshake-timeout",
    "connect",
    "cancelled",
    "deadline",
}


@dataclass(frozen=True, slots=True)
class Property:
    """What a search checks. `check(system, state, final)` returns what is wrong, or an empty string.

    `when`: "always", in every state that is visited; "final", only where nothing more need happen.
    """

    name: str
    check: Check
    when: Literal["always", "final"] = "always"

    def __post_init__(self) -> None:
        if self.when not in ("always", "final"):
            raise ValueError(f"property {self.name!r}: when is {self.when!r}; write 'always' or 'final'")


def _sides(system: System, state: State) -> tuple[Endpoint, Endpoint]:
    """Source and destination as they are now: the endpoint that a prober has chosen, or the prober before."""
    return system.sides[state.ends[SOURCE]], system.sides[state.ends[DESTINATION]]


def arrived(system: System, state: State) -> bool:
    """The source's guest runs at the destination (and not a rival's)."""
    return state.guest_running[DESTINATION] and not _serves_rival(system, state)


def _serves_rival(system: System, state: State) -> bool:
    mains = [w for w in state.connections if w.accepted >= 0 and w.name in ("main", "control")]
    first = min((w.accepted for w in mains), default=None)  # of v1 and of the probes that is main
    bound = getattr(_sides(system, state)[1], "control", first)
    return any(w.owner == RIVAL and w.accepted == bound for w in mains)


class Ending(NamedTuple):
    """The source's status (or `waits`), and where its guest runs: source, destination, both, or paused."""

    source: str
    guest_at: str


def ending(system: System, state: State) -> Ending:
    end = system.endpoint(state, SOURCE).finished
    runs = (state.guest_running[SOURCE], arrived(system, state))
    at = {(True, True): "both", (True, False): "source", (False, True): "destination"}.get(runs, "paused")
    return Ending(end.status if end else "waits", at)


def _disturbed(system: System, state: State) -> bool:
    return state.faults != system.model.faults


def agreement(system: System, state: State, final: bool) -> str:
    """S1: both sides hold the same version, agreement and key, and know of the same extensions."""
    source, destination = _sides(system, state)
    if modes := _modes(system, state):
        return f"the two sides settle on {' and '.join(modes)}"
    ours, theirs = source.negotiated(), destination.negotiated()
    if not ours or not theirs or ours.get("session") != theirs.get("session"):
        return ""
    for name in ours.keys() & theirs.keys():
        one, two = ours[name], theirs[name]
        if one != two and isinstance(one, bytes):
            return f"the two sides differ in their {name}"
        if one != two:
            return f"the source's {name} are {one}, the destination's {two}"
    return ""


def _modes(system: System, state: State) -> list[str]:
    """What the source and the destination have settled on, where both probe and they differ."""
    if not system.model.setup.definition.probes:
        return []
    probes = [system.endpoint(state, side) for side in (SOURCE, DESTINATION)]
    modes = [p.speaks for p in probes if p.handshakes and p.speaks]
    return modes if len(set(modes)) == 2 else []


def protocols(system: System, state: State, final: bool) -> str:
    """S2: no migration byte before READY, and no byte of one protocol taken for another's."""
    source, destination = _sides(system, state)
    if source.hears_itself():
        return "the source takes its own preface for the peer's"
    replaced = _disturbed(system, state) and _serves_rival(system, state)  # the source may not know that yet
    if source.sends_guest() and destination.unready() and not replaced:
        return "the source sends migration data before READY"
    if modes := _modes(system, state):
        shut = any(w.accepted >= 0 and w.ended[1] for w in state.connections)
        failed = destination.finished is not None and destination.finished.status == "failed"
        if failed or shut:
            return f"{modes[0]} was spoken, and the destination read it as {modes[1]}"
    written = [getattr(system.inputs[m], "data", b"") for m in state.pipe_output]
    if HEADER_4 in written[:1] and any(k.startswith(MAGIC) for k in written[1:]):
        return "the pipe holds a header of version 4 and then another stream"
    return ""


def truth(system: System, state: State, final: bool) -> str:
    """S3: the source ends with the destination's reason; after a cut, with the news that the link was lost."""
    source, destination = _sides(system, state)
    end = source.finished
    if not final or end is None:
        return ""
    if _disturbed(system, state):
        codes = {e.code for e in end.errors}
        cut = state.faults.cuts != system.model.faults.cuts and source.handshakes
        if cut and end.status in ("failed", "uncertain") and not codes:
            return "the link was cut and the source does not say so"
        return ""
    if not destination.handshakes:
        why = destination.finished
        if why is not None and why.status == "failed" and (end.status == "completed" or why.text not in end.text):
            return f"the destination ended with {why.text!r}, the source with {end.status} and {end.text!r}"
        return ""
    wrong = destination.ended_as or (destination.finished.errors if destination.finished else ())
    reasons = {e.code for e in wrong} - LOST
    codes = {e.code for e in end.errors}
    if reasons - codes and end.status != "rejected":
        return f"the destination ended with {sorted(reasons)}, the source with {sorted(codes) or end.status}"
    return ""


def no_loss(system: System, state: State, final: bool) -> str:
    """S4: never completed at the source with nothing, or not all, loaded."""
    source, destination = _sides(system, state)
    if system.link != "two-way":
        return ""
    end = source.finished
    gone = destination.finished is not None and destination.finished.status == "failed"
    if end is not None and end.status == "completed" and not arrived(system, state) and (final or gone):
        return "the source says completed and no guest runs at the destination"
    in_postcopy = destination.handshakes and destination.postcopy
    if end is not None and end.status == "completed" and in_postcopy and destination.ram_bytes < PASS_BYTES:
        return f"the source says completed, and {destination.ram_bytes} of {PASS_BYTES} bytes of memory are there"
    full = destination.handshakes and not destination.postcopy and state.ram_passes > 1
    if full and destination.ram_bytes < PASS_BYTES and arrived(system, state):
        return f"the guest runs with {destination.ram_bytes} of {PASS_BYTES} bytes"
    return ""


def one_guest(system: System, state: State, final: bool) -> str:
    """S5: never two running guests."""
    return "the guest runs on both sides" if state.guest_running[SOURCE] and arrived(system, state) else ""


def same_channels(system: System, state: State, final: bool) -> str:
    """S6: once data may flow, each channel is the connection that the source opened for it, and no other."""
    destination = _sides(system, state)[1]
    connections = {w.accepted: w for w in state.connections if w.accepted >= 0}
    bound = destination.bound_channels()
    if not destination.handshakes:
        wrong = [
            f"{connections[c].name} is taken for {n}" for n, c in bound if c in connections and connections[c].name != n
        ]
        return "; ".join(wrong)
    control = connections.get(getattr(destination, "control", None) or 0)
    if control is None or control.owner == INTRUDER or not system.endpoint(state, control.owner).sends_guest():
        return ""
    return "; ".join(_wrongly_bound(bound, connections, control))


def _wrongly_bound(
    bound: tuple[tuple[str, int], ...], connections: dict[int, ConnectionState], control: ConnectionState
) -> list[str]:
    wrong = []
    for name, conn in bound:
        connection = connections[conn]
        if (connection.owner, connection.name) != (control.owner, name):
            wrong.append(f"{connection.name} is taken for {name}")
    names = [n for n, _ in bound]
    return wrong + [f"{n} is bound twice" for n in sorted(set(names)) if names.count(n) > 1]


def listens_again(system: System, state: State, final: bool) -> str:
    """S7: an attempt that failed, or an intruder, leaves the destination listening, unless it had begun to load."""
    source, destination = _sides(system, state)
    if not final or system.link != "two-way" or source.finished is None or state.guest_running[DESTINATION]:
        return ""
    if source.finished.status in ("completed", "uncertain"):
        return ""
    if not destination.handshakes:
        return "the destination is gone" if destination.finished is not None else ""
    occupied = destination.occupied()
    if occupied and not _held(destination, state) and not state.frozen[DESTINATION]:
        return f"nobody is there any more and the destination is {occupied}"
    return ""


def _held(destination: Endpoint, state: State) -> bool:
    """Whether somebody else than the source keeps the destination busy."""
    control = getattr(destination, "control", -1)
    return any(w.accepted == control and w.owner != SOURCE for w in state.connections)


def probe_is_harmless(system: System, state: State, final: bool) -> str:
    """S8: asking an old peer never kills it."""
    source, destination = (system.endpoint(state, side) for side in (SOURCE, DESTINATION))
    asked = source.handshakes and not destination.handshakes
    if asked and not _disturbed(system, state) and destination.finished is not None:
        end = destination.finished
        return f"the old destination ends: {end.text}" if end.status == "failed" else ""
    return ""


def no_downgrade(system: System, state: State, final: bool) -> str:
    """S10: two sides that both know v2 never end up with v1 unless they are configured so."""
    both = all(system.endpoint(state, side).handshakes for side in (SOURCE, DESTINATION))
    chosen = _sides(system, state)[0]
    if final and both and not chosen.handshakes and system.link == "two-way" and state.connections:
        return f"both sides know more, and the source went on with {chosen.speaks}"
    return ""


def no_deadlock(system: System, state: State, final: bool) -> str:
    """L1: where nothing more can happen, the source has ended."""
    if final and not _disturbed(system, state) and system.endpoint(state, SOURCE).finished is None:
        return f"nothing can happen any more and the source is {system.endpoint(state, SOURCE).status}"
    return ""


def eventually_migrates(system: System, state: State, final: bool) -> str:
    """L2: a compatible pair migrates, in every order, even while v2's destination is visited by intruders who have not
    listened to the conversation."""
    if not final or not system.model.compatible or system.model.alarms:
        return ""
    left, came = state.faults.intruders, list(system.model.faults.intruders)
    known = any(came.count(payload) > left.count(payload) for payload in ("replay", "v2-hello"))
    visited = came != list(left) and not system.endpoint(state, DESTINATION).authenticates
    if state.faults != system.model.faults._replace(intruders=left) or known or visited:
        return ""
    end = system.endpoint(state, SOURCE).finished
    if end is not None and not (end.status == "completed" and arrived(system, state)):
        return f"nothing went wrong and the source ends with {end.status}: {end.text}"
    return ""


def ends_after_faults(system: System, state: State, final: bool) -> str:
    """L3: every run ends after a cut, a lost connection, a silence, a freeze of the other side, an order, or an
    intruder."""
    if not final or not _disturbed(system, state):
        return ""
    source, destination = _sides(system, state)
    if source.finished is None and not state.frozen[SOURCE]:
        return f"the source is {source.status} for ever"
    occupied = destination.occupied() if destination.finished is None and not state.frozen[DESTINATION] else ""
    if occupied and not _held(destination, state):
        return f"the destination is {occupied} for ever"
    return ""


def floods_end(system: System, state: State, final: bool) -> str:
    """L4: ignorable frames can't go on for ever: a flooding peer is disconnected."""
    floods = [w for w in state.connections if w.name == "intruder: flood" and w.accepted >= 0 and not w.there]
    open_floods = [w for w in floods if not w.ended[1] and not w.broken]
    return "a flood of ignorable frames is still listened to" if open_floods else ""


PROPERTIES = (
    Property("S1 agreement", agreement),
    Property("S2 protocols apart", protocols),
    Property("S3 truth", truth, "final"),
    Property("S4 no loss", no_loss),
    Property("S5 one guest", one_guest),
    Property("S6 same channels", same_channels),
    Property("S7 listens again", listens_again, "final"),
    Property("S8 probe is harmless", probe_is_harmless),
    Property("S10 no downgrade", no_downgrade, "final"),
    Property("L1 no deadlock", no_deadlock, "final"),
    Property("L2 eventually migrates", eventually_migrates, "final"),
    Property("L3 ends after faults", ends_after_faults, "final"),
    Property("L4 floods end", floods_end),
)
