"""How a run of two hosts ended, whatever ran them."""

from __future__ import annotations

from ..case.endpoints import Case
from ..handshake.interface import Finished
from ..handshake.machine import Settings
from ..handshake.v2.inventory import compare
from ..record.outcome import Facts, Row, classify, guest_at
from .host import Host


def facts(setup: Case, source: Host, destination: Host, refused: Finished | None = None) -> Facts:
    """What both sides are now; `refused`: by QMP, before anything started."""
    end = refused or source.endpoint.finished
    # multifd's division and page rounding leave a few pages either way
    complete = destination.endpoint.ram_bytes >= source.guest.collected_bytes - 4096 * 64
    return Facts(
        end,
        destination.endpoint.finished,
        source.guest.running,
        destination.guest.running,
        destination.dead,
        complete,
        as_asked(setup, source.endpoint.settings, destination.endpoint.settings),
        source.dead,
    )


def _spoken(source: str, destination: str) -> str:
    """What both speak, where a side that has not decided speaks whatever the other does."""
    return source or destination if source == destination or not (source and destination) else f"{source}>{destination}"


def as_asked(setup: Case, ours: Settings, theirs: Settings) -> bool:
    """Whether what completed is what was asked for, or the difference was reported (v2 warns)."""
    if setup.definition.negotiates:
        return True
    both = ("multifd", "postcopy-ram", "postcopy-preempt", "x-ignore-shared")
    if any(ours.has(c) and not theirs.has(c) for c in both):
        return False
    differences = compare(ours.machine, theirs.machine)
    return not any(e.code in ("device-extra", "vcpus", "cpu-feature", "cpu-model") for e in differences)


def row(setup: Case, source: Host, destination: Host, refused: Finished | None, round_trips: float | None) -> Row:
    """The run as a row; its manager looks at both sides, once."""
    at_end = facts(setup, source, destination, refused)
    end, at, after = at_end.source, guest_at(at_end), source.finished_s
    if at_end.destination_runs and destination.finished_s is not None and after is not None:
        after = max(after, destination.finished_s)
    stopped, started = source.guest.stopped_s, destination.guest.started_s
    printed = (s.text for s in source.trace.steps if s.side == "destination" and s.kind == "print")
    spoken = "" if refused else _spoken(source.endpoint.speaks, destination.endpoint.speaks)
    return Row(
        setup.scenario.name,
        setup.protocol,
        setup.manager,
        *setup.versions,
        setup.seed,
        classify(at_end),
        "gone" if source.dead else str(end.status if end else source.endpoint.status),
        "gone" if destination.dead else str(destination.endpoint.status),
        at,
        str(end.reason) if end else "none",
        " ".join(dict.fromkeys(e.code for e in end.errors)) if end else "",
        after,
        source.first_guest_byte_s,
        round_trips,
        source.guest_bytes,
        started - stopped if started is not None and stopped is not None else None,
        end.text if end else "",
        " | ".join(printed),
        setup.scenario.management.lies,
        spoken,
        spoken == setup.definition.expected(setup) if spoken else None,
    )
