"""What real QEMUs did (`make qemu-check`), as tables and as a picture. Reads what was recorded; needs no QEMU."""

from __future__ import annotations

import json

import matplotlib
import pandas
from IPython.display import SVG
from matplotlib.figure import Figure

from ..case.checks import pair
from ..case.profiles import DATA
from ..handshake.versions import version_number
from . import figures

V1, V2 = "#b3541e", "#1b6ca8"  # distinct for every kind of colour blindness
KEY = ["scenario", "version"]


def cells() -> pandas.DataFrame:
    """A row for each cell: scenario, pair of versions, protocol, endings, whether real and simulated QEMU agree."""
    return pandas.DataFrame(json.loads((DATA / "results" / "qemu-check.json").read_text(encoding="utf-8")))


def ran(table: pandas.DataFrame) -> pandas.DataFrame:
    """The cells that real QEMUs could play, with their outcomes as text."""
    played = table[table.left_out == ""].copy()
    played["outcome"] = [" or ".join(dict.fromkeys(e[0] for e in real)) for real in played.real]
    played["simulated"] = [" or ".join(dict.fromkeys(e[0] for e in ends)) for ends in played.simulated]
    return played


def agreement(table: pandas.DataFrame) -> pandas.DataFrame:
    """A row for each protocol: the numbers of cells, of those that agree, differ, and can't be played."""
    counts = ran(table).groupby("protocol").agrees.agg(cells="count", agree="sum")
    counts["differ"] = counts.cells - counts.agree
    counts["not playable"] = table[table.left_out != ""].groupby("protocol").size()
    return counts


def by_version(played: pandas.DataFrame, protocol: str) -> pandas.DataFrame:
    """How many cells end with each outcome; a column for each pair of versions, oldest first."""
    table = played[played.protocol == protocol].groupby(["outcome", "version"]).size().unstack(fill_value=0)
    return table[sorted(table, key=lambda version: [version_number(v) for v in pair(version)])]


def costs(table: pandas.DataFrame) -> pandas.DataFrame:
    """A row for each situation that v2 refuses: how real v1 ends, after how many s and MiB; and v2 beside QEMU."""
    played = ran(table)
    one, two = (played[played.protocol == p].set_index(KEY) for p in ("v1", "v2"))
    both = one.join(two, lsuffix="_v1", rsuffix="_v2", how="inner")
    both = both[both.outcome_v2.isin(["refused"]) & ~both.outcome_v1.isin(["refused", "migrated"])]
    mib = pandas.DataFrame(
        {
            "v1 ends": both.outcome_v1,
            "v1 s": both.time_to_end_s_v1,
            "v1 MiB": both.moved_bytes_v1 / (1 << 20),
            "v2 s": both.time_to_end_s_v2,
            "v2 MiB": both.moved_bytes_v2 / (1 << 20),
            "v2 says": both.source_text_v2,
        }
    )
    return mib.sort_values("v1 MiB", ascending=False)


def costs_figure(table: pandas.DataFrame) -> SVG:
    """When the source's migration ended, and what was sent by then, by situation and pair of versions."""
    rows = table.groupby("scenario")[["v1 MiB", "v1 s"]].max().sort_values(["v1 MiB", "v1 s"]).index
    y = [rows.get_loc(scenario) for scenario, _ in table.index]
    never_s = 4 * table[["v1 s", "v2 s"]].max(axis=None)
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(10, 0.3 * len(rows) + 1.2), layout="constrained")
        sent, ended = figure.subplots(1, 2, sharey=True)
        for protocol, how, color, mark in (("v1", "real QEMU", V1, "o"), ("v2", "agents beside QEMU", V2, "D")):
            sent.scatter(table[f"{protocol} MiB"], y, 36, color, mark, label=f"{protocol}, {how}", alpha=0.7)
            ended.scatter(table[f"{protocol} s"].fillna(never_s), y, 36, color, mark, alpha=0.7)
        sent.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
        sent.set_xlabel("MiB sent by then")
        ended.set_xscale("log")
        ticks_s = [10.0**power for power in range(-2, 2)]
        ended.set_xticks([*ticks_s, never_s], [*(f"{s:g}" for s in ticks_s), "never"])
        ended.minorticks_off()
        ended.set_xlabel("s until the source says that it ended, well or not")
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
        for axes in (sent, ended):
            axes.grid(axis="y", color="#eeeeee")
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        return figures.svg(figure, "simlib")


def told(name: str) -> str:
    """The trace of a recorded run, such as "matched_multifd.v2.7.2"."""
    return (DATA / "captures" / f"{name}.txt").read_text(encoding="utf-8")
