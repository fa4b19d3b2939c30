"""Managers: what starts a migration on two QEMUs, watches it and ends it.

A manager is a value like an endpoint: fields, and one method from an event to commands. It never waits; a runner does,
and carries the commands out (management.py). Commands are QMP's, for the simulated QEMUs: see `Command`. `MANAGERS` in
registry.py lists the lab's own; a user's is a subclass of `Manager`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ..handshake.capabilities import known_capabilities
from ..handshake.endpoint import State
from ..handshake.machine import Settings
from .facts import RunFacts

RETRY_S = 1.0  # a pause before another attempt
FINAL = ("completed", "failed", "cancelled", "rejected", "uncertain", "postcopy-paused")  # nothing comes after these


# --- what a manager asks for ----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Command:
    """A QMP command to the QEMU of one side, which answers unless it hangs.

    `migrate-incoming` and `migrate` take {"channel-type": a protocol's name}, by default the run's; `cont`, `stop`,
    `quit`, `migrate-continue`, `migrate_cancel` ({"code": "deadline"} for a clock of the manager's own),
    `migrate-start-postcopy`, `query-migrate`, `query-status`, `query-migrate-capabilities`,
    `migrate-set-capabilities` and `migrate-set-parameters` are as in qapi/migration.json (10.0).
    """

    side: str  # source, destination
    execute: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a fresh process for a side, in the place of one that is gone."""

    side: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Receive `Rang(name)` after so many seconds."""

    name: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Say:
    """A line of the trace."""

    text: str


Act = Command | Spawn | Wait | Say


# --- events of a manager -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Begun:
    """The user wants the guest moved; both processes are there."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A command's answer: its result, or QMP's error."""

    side: str
    execute: str
    result: Any = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Reported:
    """The event MIGRATION of one side: its new status."""

    side: str
    status: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A process is gone, and its monitor with it."""

    side: str


@dataclass(frozen=True, slots=True)
class Rang:
    """The time of a `Wait` is over."""

    name: str


@dataclass(frozen=True, slots=True)
class Over:
    """The time to observe the run is over: what has not ended counts as hung."""


Event = Begun | Answered | Reported | Exited | Rang | Over


class Manager(State):
    """Starts both sides, does what the scenario's management section asks for, and trusts the source's reports.

    A subclass overrides `handle`, or one of the methods that it calls for each event.
    """

    name: ClassVar[str] = ""

    def __init__(self, setup: RunFacts) -> None:
        self.protocol = setup.protocol
        self.plan = setup.scenario.management
        self.has_peer = setup.scenario.link.has_listener
        self.attempts = 0
        self.status = {"source": "none", "destination": "none"}

    @classmethod
    def settings(cls, setup: RunFacts, at_source: bool) -> Settings:
        """One side's settings with the manager's changes, before it starts anything."""
        return setup.asked(at_source)

    def handle(self, event: Event) -> list[Act]:
        """Handle one event; returns what is to be done, in order."""
        match event:
            case Begun():
                return self.begun()
            case Answered():
                return self.answered(event)
            case Reported(side, status):
                self.status = self.status | {side: status}
                return self.reported(side, status)
            case Exited(side):
                self.status = self.status | {side: "gone"}
                return self.exited(side)
            case Rang(name):
                return self.rang(name)
            case Over():
                return self.over()

    def begun(self) -> list[Act]:
        return self.listen() if self.has_peer else self.migrate()

    def listen(self) -> list[Act]:
        return [Command("destination", "migrate-incoming", {"channel-type": self.protocol})]

    def migrate(self) -> list[Act]:
        """The source starts, and the clocks of the scenario's management."""
        plan = {"cancel": self.plan.cancel_at_s, "deadline": self.plan.deadline_s, "postcopy": self.plan.postcopy_at_s}
        waits = [Wait(name, at_s) for name, at_s in plan.items() if at_s >= 0]
        return [Command("source", "migrate", {"channel-type": self.protocol}), *waits]

    def answered(self, answer: Answered) -> list[Act]:
        return self.migrate() if answer.execute == "migrate-incoming" and not answer.error else []

    def reported(self, side: str, status: str) -> list[Act]:
        if side == "source" and status in FINAL[1:] and self.attempts < self.plan.retries and self.has_peer:
            return [Wait("retry", RETRY_S)]
        return []

    def exited(self, side: str) -> list[Act]:
        return []

    def rang(self, name: str) -> list[Act]:
        if name == "retry":
            return self.retry()
        if name == "postcopy":
            return [Command("source", "migrate-start-postcopy")]
        return [Command("source", "migrate_cancel", {"code": "deadline"} if name == "deadline" else {})]

    def retry(self) -> list[Act]:
        """Another migration at the source, to the same process at the destination."""
        if self.status["destination"] in (*FINAL, "gone"):
            return []
        self.attempts += 1
        again = Command("source", "migrate", {"channel-type": self.protocol})
        return [Say(f"tries again ({self.attempts})"), again]

    def over(self) -> list[Act]:
        return []


class Naive(Manager):
    """Trusts the source: when it reports completed, the guest there is thrown away."""

    name = "naive"


class Libvirt(Manager):
    """libvirt's five phases (migration protocol 3, src/qemu/qemu_migration.c).

    It makes both sides' settings alike, lets a switchover go on that pauses, queries the destination before it
    trusts the source, and resumes a guest that has not arrived.
    """

    name = "libvirt"

    def __init__(self, setup: RunFacts) -> None:
        super().__init__(setup)
        self.running: dict[str, bool] = {}  # of each side's guest, as query-status has answered

    @classmethod
    def settings(cls, setup: RunFacts, at_source: bool) -> Settings:
        """It passes the user's flags to both sides, and drops what the other side's QEMU does not list."""
        settings = super().settings(setup, at_source)
        if setup.negotiates:
            return settings
        asked = setup.scenario.source
        both = set(known_capabilities(setup.versions[0])) & set(known_capabilities(setup.versions[1]))
        wanted = (*asked.capabilities, *(() if setup.file_only else ("return-path",)))
        shared = [c for c in dict.fromkeys(wanted) if c in both]
        parameters = asked.parameters if at_source else {**setup.scenario.destination.parameters, **asked.parameters}
        return replace(
            settings, capabilities=tuple(shared), parameters=tuple(sorted(parameters.items())), exit_on_error=False
        )

    def listen(self) -> list[Act]:
        return [Say("Begin, Prepare: sets both sides, the destination listens"), *super().listen()]

    def migrate(self) -> list[Act]:
        return [Say("Perform: migrate"), *super().migrate()]

    def reported(self, side: str, status: str) -> list[Act]:
        if status == "pre-switchover":
            return [Command(side, "migrate-continue")]
        return super().reported(side, status)

    def over(self) -> list[Act]:
        return [Command("source", "query-status"), Command("destination", "query-status")]

    def answered(self, answer: Answered) -> list[Act]:
        if answer.execute != "query-status":
            return super().answered(answer)
        self.running = self.running | {answer.side: bool(answer.result and answer.result["running"])}
        return self._finish() if answer.side == "destination" else []

    def _finish(self) -> list[Act]:
        here, there = self.running["source"], self.running["destination"]
        finish = Say(f"Finish: the destination is {self.status['destination']}")
        thrown_away = self.status["source"] == "completed"
        if not here and not there and thrown_away:
            return [finish, Say("Confirm: resumes the guest at the source"), Command("source", "cont")]
        at = {(True, True): "both", (True, False): "source", (False, True): "destination"}.get((here, there), "")
        return [finish, Say(f"Confirm: the guest is at: {at or ('nowhere' if self._lost() else 'paused')}")]

    def _lost(self) -> bool:
        return self.status["source"] == "gone"
