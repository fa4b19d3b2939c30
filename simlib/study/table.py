"""Rows of runs as a table."""

from __future__ import annotations

from collections.abc import Iterable

import pandas

from ..compare import Runner, jobs
from ..outcome import COLUMNS, OUTCOMES
from ..scenario import Scenario


def outcomes(runner: Runner, scenarios: Iterable[Scenario], seed: int = 1) -> pandas.DataFrame:
    """One row a run of every scenario under its protocols, versions and managers; columns as in `outcome.Row`."""
    rows = [
        runner(j.scenario, protocol=j.protocol, version=j.version, manager=j.manager, seed=seed).row.as_dict()
        for j in jobs(scenarios)
    ]
    return pandas.DataFrame(rows, columns=list(COLUMNS))


def counted(table: pandas.DataFrame) -> pandas.DataFrame:
    """How often each outcome occurs: a line an outcome that does, a column for v1 under each manager and for v2."""
    group = table.protocol.where(table.protocol != "v1", "v1, " + table.manager)
    counts = table.groupby(["outcome", group]).size().unstack(fill_value=0)
    columns = ["v1, naive", "v1, libvirt", "v2"]
    occurs = [outcome for outcome in OUTCOMES if outcome in counts.index]
    return counts.reindex(index=occurs, columns=columns, fill_value=0).rename_axis(columns=None)
