"""Rows of runs as a table."""

from __future__ import annotations

from collections.abc import Iterable

import pandas

from ..compare import Runner, jobs
from ..outcome import COLUMNS
from ..scenario import Scenario


def outcomes(runner: Runner, scenarios: Iterable[Scenario], seed: int = 1) -> pandas.DataFrame:
    """One row a run of every scenario under its protocols, versions and managers; columns as in `outcome.Row`."""
    rows = [
        runner(j.scenario, protocol=j.protocol, version=j.version, manager=j.manager, seed=seed).row.as_dict()
        for j in jobs(scenarios)
    ]
    return pandas.DataFrame(rows, columns=list(COLUMNS))
