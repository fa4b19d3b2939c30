"""A run, as notebooks show it and files keep it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..case.registry import require
from .outcome import Row
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
        """How it ended: one of `record.outcome.OUTCOMES`."""
        return self.row.outcome

    @property
    def steps(self) -> pandas.DataFrame:
        """What happened: time_s, side, kind, connection, text."""
        import pandas

        return pandas.DataFrame(self.trace.rows())

    @property
    def messages(self) -> pandas.DataFrame:
        """The steps that send a message: the messages of both sides by name, in order."""
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
        """The run's sequence chart, for tools that take pictures out of a notebook."""
        from .chart import sequence_svg  # not needed by most runs

        return sequence_svg(self.trace, self.row.outcome)

    def _repr_html_(self) -> str:
        """A notebook shows a run as its sequence chart."""
        from .chart import as_html

        return as_html(self._repr_svg_(), f"{self.trace.title}: {self.row.outcome}")
