"""How a run ended, in one flat row with the same columns wherever outcomes appear, under every runner."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from ..handshake.interface import Finished

OUTCOMES = {
    "migrated": "the guest runs at the destination, as asked",
    "refused": "the source knows why, the guest runs on, the destination still listens",
    "failed": "the guest runs on; the source is told nothing or an errno, or the destination is gone",
    "hung": "nothing ended while it was watched",
    "unconfirmed": "the guest runs at the destination, and the source still waits",
    "lost": "the source says completed and nothing was loaded",
    "misconfigured": "completed, but not as asked, and nobody was told",
    "corrupted": "the guest runs at the destination with wrong memory",
    "split_brain": "the guest runs on both sides",
    "uncertain": "the source doesn't know whether the destination runs the guest, and says so",
    "postcopy_paused": "the guest runs at the destination without all of its memory, and both sides report it",
    "gone": "the source's process is gone, and the guest with it",
}
BAD = ("hung", "unconfirmed", "lost", "misconfigured", "corrupted", "split_brain")


SHUT_1 = "Sibling indicated error"  # a destination that failed, on the return path (from 9.1 on)


@dataclass(frozen=True, slots=True)
class Row:
    """One run. Times in seconds of the run's own clock; empty (None) where there was no such moment."""

    scenario: str
    protocol: str
    manager: str
    source_version: str
    destination_version: str
    seed: int
    outcome: str
    source_status: str
    destination_status: str
    guest_at: str  # source, destination, nowhere, both, paused
    reason_at_source: str  # none, generic, specific
    error_codes: str
    time_to_outcome_s: float | None
    time_to_first_guest_byte_s: float | None
    round_trips: float | None
    guest_bytes_sent: int
    downtime_s: float | None
    source_text: str = ""
    destination_text: str = ""
    lied: bool = False
    spoken: str = ""  # the protocol that both sides spoke, "v2>v1" where they differed, empty if none
    spoken_right: bool | None = None  # whether that is the newest that both know; None if none was spoken

    @property
    def reason_reported(self) -> bool:
        """Whether the source receives more than the fact of an error: a code, a refusal by QMP, or a text that is more
        than an errno. v1's "Sibling indicated error 1" is none: it only states that the destination knows."""
        specific = self.reason_at_source == "specific" and not self.source_text.startswith(SHUT_1)
        return bool(self.error_codes) or self.source_status == "rejected" or specific

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


COLUMNS = tuple(f.name for f in fields(Row))


@dataclass(frozen=True, slots=True)
class Facts:
    """The state of both sides at the end, as far as an observer of both can see it."""

    source: Finished | None
    destination: Finished | None
    source_runs: bool
    destination_runs: bool
    destination_dead: bool
    memory_complete: bool
    as_asked: bool
    source_dead: bool = False


def classify(facts: Facts) -> str:
    """The outcome, one of `OUTCOMES`, from the state of both sides at the end."""
    source = facts.source
    if facts.source_runs and facts.destination_runs:
        return "split_brain"
    if facts.source_dead:
        whole = facts.destination is not None and facts.destination.status == "completed"
        return _arrived(facts) if facts.destination_runs and whole else "gone"
    if source is None:
        whole = facts.destination is not None and facts.destination.status == "completed"
        return "unconfirmed" if facts.destination_runs and whole else "hung"
    if source.status in ("uncertain", "postcopy-paused"):
        return source.status.replace("-", "_")
    if source.status == "completed":
        return _arrived(facts) if facts.destination_runs else "lost"
    if facts.destination_runs:
        return "split_brain" if facts.source_runs else "uncertain"
    # "Sibling indicated error 1" is more than an errno, but no reason: v1 has no errors to count here
    knows = bool(source.errors) or source.status in ("rejected", "cancelled")
    listening = not facts.destination_dead and (facts.destination is None or facts.destination.listening)
    return "refused" if knows and listening else "failed"


def _arrived(facts: Facts) -> str:
    if not facts.memory_complete:
        return "corrupted"
    return "migrated" if facts.as_asked else "misconfigured"


def guest_at(facts: Facts) -> str:
    if facts.source_runs and facts.destination_runs:
        return "both"
    if facts.source_runs or facts.destination_runs:
        return "source" if facts.source_runs else "destination"
    # a manager that trusts the source throws away one that reported completed; any other paused guest can be resumed
    thrown_away = facts.source is not None and facts.source.status == "completed"
    return "nowhere" if thrown_away or facts.source_dead else "paused"
