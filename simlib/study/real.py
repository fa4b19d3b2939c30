"""What real QEMUs did (`make qemu-check`), as tables and as a picture. Reads what was recorded; needs no QEMU."""

from __future__ import annotations

import json

import matplotlib
import pandas
from IPython.display import SVG
from matplotlib.figure import Figure

from ..handshake.machine import version_number
from ..profiles import DATA
from ..scenario import pair
from . import figures

V1, V2 = "#b3541e", "#1b6ca8"  # apart for every kind of colour blindness
KEY = ["scenario", "version"]


def cells() -> pandas.DataFrame:
    """A row a cell: scenario, pair of versions, protocol, endings, whether real and simulated QEMU agree."""
    return pandas.DataFrame(json.loads((DATA / "results" / "qemu-check.json").read_text(encoding="utf-8")))


def ran(found: pandas.DataFrame) -> pandas.DataFrame:
    """Those that real QEMUs could play, with the outcomes in words."""
    kept = found[found.left_out == ""].copy()
    kept["outcome"] = [" or ".join(dict.fromkeys(e[0] for e in real)) for real in kept.real]
    kept["simulated"] = [" or ".join(dict.fromkeys(e[0] for e in ends)) for ends in kept.simulated]
    return kept


def agreement(found: pandas.DataFrame) -> pandas.DataFrame:
    """A row a protocol: cells, those that agree, those that differ."""
    told = ran(found).groupby("protocol").agrees.agg(cells="count", agree="sum")
    told["differ"] = told.cells - told.agree
    told["not playable"] = found[found.left_out != ""].groupby("protocol").size()
    return told


def by_version(kept: pandas.DataFrame, protocol: str) -> pandas.DataFrame:
    """How many cells end how, a column a pair of versions, oldest first."""
    table = kept[kept.protocol == protocol].groupby(["outcome", "version"]).size().unstack(fill_value=0)
    return table[sorted(table, key=lambda version: [version_number(v) for v in pair(version)])]


def costs(found: pandas.DataFrame) -> pandas.DataFrame:
    """A row a situation that v2 refuses: how real v1 ends there, when, and after how many bytes; and v2 beside QEMU."""
    kept = ran(found)
    one, two = (kept[kept.protocol == p].set_index(KEY) for p in ("v1", "v2"))
    both = one.join(two, lsuffix="_v1", rsuffix="_v2", how="inner")
    both = both[both.outcome_v2.isin(["refused"]) & ~both.outcome_v1.isin(["refused", "migrated"])]
    mib = pandas.DataFrame({
        "v1 ends": both.outcome_v1, "v1 s": both.time_to_end_s_v1, "v1 MiB": both.moved_bytes_v1 / (1 << 20),
        "v2 s": both.time_to_end_s_v2, "v2 MiB": both.moved_bytes_v2 / (1 << 20), "v2 says": both.source_text_v2,
    })  # fmt: skip
    return mib.sort_values("v1 MiB", ascending=False)


def costs_figure(table: pandas.DataFrame) -> SVG:
    """Guest bytes on the wire for nothing, v1 against v2, a pair of bars a situation."""
    with matplotlib.rc_context({"font.size": 10}):
        figure = Figure(figsize=(9, 0.32 * len(table) + 1), layout="constrained")
        axes = figure.subplots()
        at = range(len(table))
        axes.barh([y - 0.2 for y in at], table["v1 MiB"], 0.4, color=V1, label="v1, real QEMU")
        axes.barh([y + 0.2 for y in at], table["v2 MiB"], 0.4, color=V2, label="v2, agents beside QEMU")
        axes.set_yticks(list(at), [f"{scenario}, {version}" for scenario, version in table.index])
        axes.invert_yaxis()
        axes.set_xlabel("MiB sent before the source knows (or never)")
        axes.legend(loc="lower right", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        return figures.svg(figure, "simlib")


def told(name: str) -> str:
    """The trace of a recorded run, such as "matched_multifd.v2.7.2"."""
    return (DATA / "captures" / f"{name}.txt").read_text(encoding="utf-8")
