"""Several protocols side by side: runs of the same situations, as a table and as charts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from ..case.scenario import Scenario
from .compare import Runner, jobs
from .outcome import COLUMNS, Row
from .result import Result

if TYPE_CHECKING:
    import pandas

CHARTS_SHOWN = 4  # more do not fit beside each other
SHOWN = (
    "scenario",
    "protocol",
    "manager",
    "source_version",
    "destination_version",
    "outcome",
    "guest_at",
    "source_text",
    "error_codes",
    "spoken",
    "spoken_right",
)


class Comparison:
    """Runs of the same situations under several protocols.

    Attributes:
        rows: a `Row` for each run.
        results: the runs themselves, with their traces, where there are few enough to be shown.
    """

    def __init__(self, runner: Runner, scenarios: Iterable[Scenario], seed: int) -> None:
        work = jobs(scenarios)
        self.rows: list[Row] = []
        self.results: list[Result] = []
        for job in work:
            run = runner(job.scenario, protocol=job.protocol, version=job.version, manager=job.manager, seed=seed)
            self.rows.append(run.row)
            if len(work) <= CHARTS_SHOWN and isinstance(run, Result):
                self.results.append(run)

    @property
    def table(self) -> pandas.DataFrame:
        """A row for each run, with the columns of `outcome.Row`."""
        import pandas

        return pandas.DataFrame([row.as_dict() for row in self.rows], columns=list(COLUMNS))

    @property
    def differences(self) -> pandas.DataFrame:
        """Protocol, outcome, and the other main columns in which the runs differ."""
        table = self.table[list(SHOWN)]
        differing = [name for name in SHOWN if table[name].nunique(dropna=False) > 1]
        return table[list(dict.fromkeys(["protocol", "outcome", *differing]))]

    def __repr__(self) -> str:
        return str(self.differences.to_string(index=False))

    def _repr_html_(self) -> str:
        charts = "".join(
            f"<td style='vertical-align:top'>{escape(r.trace.title)}{r._repr_html_()}</td>" for r in self.results
        )
        return str(self.differences.to_html(index=False)) + (f"<table><tr>{charts}</tr></table>" if charts else "")
