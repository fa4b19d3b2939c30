"""Rows of runs as a table."""

from __future__ import annotations

from collections.abc import Iterable

import pandas

from ..case.registry import PROTOCOLS
from ..case.scenario import Scenario
from ..record.compare import Runner, group_names, group_of
from ..record.comparison import Comparison
from ..record.outcome import OUTCOMES


def outcomes(runner: Runner, scenarios: Iterable[Scenario], seed: int = 1) -> pandas.DataFrame:
    """A row for each run of every scenario under its protocols, versions and managers; columns as in `outcome.Row`."""
    return Comparison(runner, scenarios, seed).table


def counted(table: pandas.DataFrame) -> pandas.DataFrame:
    """How often each outcome occurs: a line for each one that does, a column for each group that does not probe."""
    group = pandas.Series(map(group_of, table.protocol, table.manager), table.index, dtype=object)
    counts = table.groupby(["outcome", group]).size().unstack(fill_value=0)
    columns = [name for name in group_names() if name not in PROTOCOLS or not PROTOCOLS.get(name).probes]
    occurs = [outcome for outcome in OUTCOMES if outcome in counts.index]
    return counts.reindex(index=occurs, columns=columns, fill_value=0).rename_axis(columns=None)
