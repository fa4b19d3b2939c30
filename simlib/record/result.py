"""How a run of two hosts ended, whatever ran them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..case.endpoints import Setup
from ..case.registry import require
from ..handshake.interface import Finished
from ..handshake.machine import Settings
from ..handshake.v2.features import SHARED
from ..handshake.v2.inventory import compare
from ..host import Host
from .outcome import Facts, Row, classify, guest_at
from .trace import Trace

if TYPE_CHECKING:
    import pandas


@dataclass(slots=True, repr=False)
class Result:
    """A run: its row and its trace."""

    row: Row
    trace: Trace

    @property
    def outcome(self) -> str:
        """How it ended: a word of `record.outcome.OUTCOMES`."""
        return self.row.outcome

    @property
    def steps(self) -> pandas.DataFrame:
        """What happened: time_s, side, kind, connection, text."""
        import pandas

        return pandas.DataFrame(self.trace.rows())

    @property
    def messages(self) -> pandas.DataFrame:
        """Of the steps, what was said: the messages of both sides by name, in order."""
        return self.steps[self.steps.kind == "say"].drop(columns="kind").reset_index(drop=True)

    @property
    def packets(self) -> pandas.DataFrame:
        """What was on the wire: time_s, connection, from_source, kind, data, and `fill`, bytes of guest memory that
        stand behind it and were never made."""
        import pandas

        from .trace import Packet

        return pandas.DataFrame(self.trace.packets, columns=list(Packet._fields))

    def save(self, path: str | Path) -> Path:
        """Write the run as what the file's name asks for: .svg or .html (the chart), .txt (the trace), .json (row and
        steps), .pcapng (for Wireshark).

        Raises:
            ScenarioError: for another ending.
            OSError: if it can't be written.
        """
        path = Path(path)
        ways: dict[str, Callable[[], str]] = {
            ".svg": self._repr_svg_,
            ".html": lambda: f"<!doctype html><meta charset='utf-8'>{self._repr_html_()}",
            ".txt": lambda: f"{self.trace}\n",
            ".json": lambda: json.dumps({"row": self.row.as_dict(), "steps": self.trace.rows()}, indent=1),
        }
        if path.suffix == ".pcapng":
            from . import capture

            capture.write(path, capture.segments(self.trace.packets), self.trace.title)
            return path
        require("kind of file", path.suffix, (*ways, ".pcapng"))
        path.write_text(ways[path.suffix](), encoding="utf-8")
        return path

    def __repr__(self) -> str:
        return f"{self.trace}\n{self.row.outcome}, the guest is at: {self.row.guest_at}"

    def _repr_svg_(self) -> str:
        """The run's sequence chart, for whoever takes pictures out of a notebook."""
        from .chart import sequence_svg  # not needed by most runs

        return sequence_svg(self.trace, self.row.outcome)

    def _repr_html_(self) -> str:
        """A notebook shows a run as its sequence chart."""
        from .chart import as_html

        return as_html(self._repr_svg_(), f"{self.trace.title}: {self.row.outcome}")


def facts(setup: Setup, source: Host, destination: Host, refused: Finished | None = None) -> Facts:
    """What both sides are now; `refused`: by QMP, before anything started."""
    end = refused or source.endpoint.finished
    # multifd's division and page rounding leave a few pages either way
    complete = destination.endpoint.ram_bytes >= source.guest.collected_bytes - 4096 * 64
    return Facts(
        end, destination.endpoint.finished, source.guest.running, destination.guest.running, destination.dead, complete,
        as_asked(setup, source.endpoint.settings, destination.endpoint.settings), source.dead,
    )  # fmt: skip


def _spoken(source: str, destination: str) -> str:
    """What both speak, where a side that has not decided speaks whatever the other does."""
    return source or destination if source == destination or not (source and destination) else f"{source}>{destination}"


def as_asked(setup: Setup, ours: Settings, theirs: Settings) -> bool:
    """Whether what completed is what was asked for, or somebody was told that it isn't (v2 warns)."""
    if setup.definition.negotiates:
        return True
    both = ("multifd", "postcopy-ram", "postcopy-preempt", "x-ignore-shared")
    if any(ours.has(c) and not theirs.has(c) for c in both if c in SHARED):
        return False
    found = compare(ours.machine, theirs.machine)
    return not any(e.code in ("device-extra", "vcpus", "cpu-feature", "cpu-model") for e in found)


def row(setup: Setup, source: Host, destination: Host, refused: Finished | None, round_trips: float | None) -> Row:
    """The run as a row; its manager looks at both sides, once."""
    found = facts(setup, source, destination, refused)
    end, at, after = found.source, guest_at(found), source.finished_s
    if found.destination_runs and destination.finished_s is not None and after is not None:
        after = max(after, destination.finished_s)
    stopped, started = source.guest.stopped_s, destination.guest.started_s
    printed = (s.text for s in source.trace.steps if s.side == "destination" and s.kind == "print")
    spoken = "" if refused else _spoken(source.endpoint.speaks, destination.endpoint.speaks)
    return Row(
        setup.scenario.name, setup.protocol, setup.manager, *setup.versions, setup.seed, classify(found),
        "gone" if source.dead else end.status if end else source.endpoint.status,
        "gone" if destination.dead else destination.endpoint.status, at, end.reason if end else "none",
        " ".join(dict.fromkeys(e.code for e in end.errors)) if end else "", after, source.first_guest_byte_s,
        round_trips, source.guest_bytes, started - stopped if started is not None and stopped is not None else None,
        end.text if end else "", " | ".join(printed), setup.scenario.management.lies,
        spoken, spoken == setup.definition.expected(setup) if spoken else None,
    )  # fmt: skip
