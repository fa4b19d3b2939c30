"""What is searched (`Model`), and one moment of it (`State`): endpoints, connections, guests, and what may still go
wrong. Values only: equal states behave alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..case.endpoints import Case
from ..case.faults import Fault
from ..case.registry import PROTOCOLS
from ..handshake import interface as i
from ..handshake.v2.session import KEEPALIVE

SOURCE, DESTINATION, RIVAL, INTRUDER = 0, 1, 2, 3
SIDES = ("source", "destination", "rival", "intruder")
PASS_BYTES = 840 * 4096  # of the first pass: divides evenly among 1 to 8 channels
SILENCES = {"to-source": (True, False), "to-destination": (False, True), "both": (True, True)}
SILENCE_ALARMS = (KEEPALIVE, "guard")  # with a live peer PING is answered, and the guard stopped at READY
RESET, PIPE, REFUSED = "Connection reset by peer", "Broken pipe", "Connection refused"
OVERHEARD = ("replay", "forge")  # payloads of an intruder that listens to the conversation
ORDERS: dict[str, i.Input] = {"cancel": i.Cancel(), "deadline": i.Cancel("deadline"), "postcopy": i.SwitchToPostcopy()}


class ConnectionState(NamedTuple):
    """One connection. Queues hold numbers of inputs; pairs are (at its opener, at the destination)."""

    name: str
    owner: int  # who opened it
    number: int  # what its opener calls it
    connected: bool = False  # its opener knows
    accepted: int = -1  # what the destination calls it
    there: tuple[int, ...] = ()
    back: tuple[int, ...] = ()
    ended: tuple[bool, bool] = (False, False)  # has sent its last
    dropped: tuple[bool, bool] = (False, False)  # closed both ways
    paused: tuple[bool, bool] = (False, False)
    owed: tuple[bool, bool] = (False, False)  # waits for the report that its data was taken
    broken: bool = False  # nothing moves on it any more


def with_there(connection: ConnectionState, there: tuple[int, ...]) -> ConnectionState:
    """`_replace(there=there)` in a third of the time: most of what happens to a connection."""
    return tuple.__new__(ConnectionState, (*connection[:5], there, *connection[6:]))


def with_back(connection: ConnectionState, back: tuple[int, ...]) -> ConnectionState:
    return tuple.__new__(ConnectionState, (*connection[:6], back, *connection[7:]))


class Faults(NamedTuple):
    """What may still go wrong, or be ordered: how often, and which."""

    cuts: int = 0  # of all connections at once
    losses: int = 0  # of one connection
    orders: tuple[str, ...] = ()  # of the manager: cancel, deadline, postcopy
    intruders: tuple[str, ...] = ()  # the payload of each: an intruder's name, or one of OVERHEARD
    hits: tuple[Fault, ...] = ()  # faults that `strike`, each once
    silences: tuple[str, ...] = ()  # directions in which nothing arrives any more: to-destination, to-source, both
    freezes: tuple[str, ...] = ()  # sides whose process does nothing any more, and whose kernel goes on


class State(NamedTuple):
    """One moment. Equal states behave alike."""

    ends: tuple[int, ...]  # interned endpoints
    connections: tuple[ConnectionState, ...] = ()
    pending_replies: tuple[tuple[int, int], ...] = ()  # of guests, on their way to a side
    alarms: tuple[tuple[int, str], ...] = ()
    guest_running: tuple[bool, bool] = (True, False)
    ram_passes: int = 0
    faults: Faults = Faults()
    pipe_output: tuple[int, ...] = ()  # what a one-way pipe has swallowed
    silent: tuple[bool, bool] = (False, False)  # to the source, to the destination: nothing arrives there any more
    frozen: tuple[bool, bool] = (False, False)


Effect = tuple[Callable[..., None], Any]  # of a moment, for a side: what does it, and what it needs


class Step(NamedTuple):
    """What the real code did with one input: asks without reports, reports, and how the asks are carried out."""

    after: int
    asks: tuple[i.Output, ...]
    reports: tuple[i.Output, ...]
    does: tuple[Effect, ...]


Action = tuple[Any, ...]
REPORTS = (i.Said, i.Heard, i.Entered, i.Printed)


@dataclass(frozen=True)
class Model:
    """What is searched: endpoints of a scenario, the faults that may come, and how deep a connection's buffers are
    (messages; 0: endless)."""

    setup: Case
    faults: Faults = Faults()
    alarms: tuple[str, ...] = ()  # which may ring, at any moment: detect, guard
    rival: bool = False  # a second source that wants the same destination
    send_buffer_messages: int = 0
    compatible: bool = True  # undisturbed, the guest is expected to arrive

    def __post_init__(self) -> None:
        """Where a peer may fall silent, one PING without an answer is enough: five would say the same five times."""
        if self.setup.negotiates and (self.faults.silences or self.faults.freezes):
            once = {f"{side}__keepalive_count": 1 for side in ("source", "destination")}
            object.__setattr__(self, "setup", replace(self.setup, scenario=self.setup.scenario.vary(**once)))

    @property
    def ringing(self) -> tuple[str, ...]:
        """Alarms that may ring; those of `SILENCE_ALARMS` where a peer has fallen silent."""
        return (*self.alarms, *SILENCE_ALARMS) if self.faults.silences or self.faults.freezes else self.alarms

    def playing(self, *classes: type) -> Model:
        """The model with other endpoints, each in the place of the one that it extends: a mutant, a later peer."""
        usual, kinds = self.setup.definition, ", ".join(c.__name__ for c in classes)
        name = PROTOCOLS.keep(usual.with_endpoints(f"{usual.name} with {kinds}", *classes))
        return replace(self, setup=replace(self.setup, protocol=name))

    @property
    def link(self) -> str:
        """two-way, one-way (nothing comes back), or echo."""
        return {"exec-cat": "one-way", "file": "one-way", "exec-tee": "echo"}.get(
            self.setup.scenario.link.transport, "two-way"
        )
