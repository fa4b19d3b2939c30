"""Figures: a table in, a picture out. One style file; SVG whose bytes are the same every time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy
import pandas
from IPython.display import SVG
from matplotlib import style
from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("simlib.mplstyle")
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 2)))  # told apart without colour


def svg(figure: Figure, salt: str) -> SVG:
    """The figure as a notebook shows it."""
    drawn = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return SVG(drawn.getvalue())  # type: ignore[no-untyped-call]


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(width, height))
    axes = numpy.atleast_1d(figure.subplots(1, columns, squeeze=True))
    return figure, list(axes)


def heat_maps(table: pandas.DataFrame, panels: Sequence[tuple[str, str]], limit: pandas.DataFrame | None = None) -> SVG:
    """Timeout against round trip, a panel a column of `table` (shares from 0 to 1); `limit`: a line over all panels."""
    with style.context(STYLE):
        figure, axes = _figure(5.6 * len(panels), 4.8, len(panels))
        for axis, (column, title) in zip(axes, panels, strict=True):
            wide = table.pivot(index="timeout_s", columns="rtt_s", values=column)
            axis.imshow(wide.to_numpy(), cmap="cividis_r", vmin=0, vmax=1, aspect="auto", origin="lower")
            for y, row in enumerate(wide.to_numpy()):
                for x, share in enumerate(row):
                    axis.text(x, y, f"{share:.0%}", ha="center", va="center", fontsize=11,
                              color="white" if share > 0.5 else "black")  # fmt: skip
            axis.set_xticks(range(wide.shape[1]), [seconds(v) for v in wide.columns])
            axis.set_yticks(range(wide.shape[0]), [seconds(v) for v in wide.index])
            axis.set(xlabel="round trip (median)", ylabel="timeout", title=title)
            axis.grid(False)
            if limit is not None:
                _limit(axis, wide, limit)
        return svg(figure, "heat maps")


def _limit(axis: Any, wide: pandas.DataFrame, limit: pandas.DataFrame) -> None:
    """The line, on axes whose ticks are the logarithms of their values."""
    places = [numpy.interp(numpy.log(limit[c]), numpy.log(v), range(len(v)), left=-1, right=len(v))
              for c, v in (("rtt_s", wide.columns), ("timeout_s", wide.index))]  # fmt: skip
    axis.plot(*places, color="#bd1f01", marker="o", label="one error in a million")
    axis.set(xlim=(-0.5, wide.shape[1] - 0.5), ylim=(-0.5, wide.shape[0] - 0.5))
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.15), labelcolor="#bd1f01")


def error_curves(lines: pandas.DataFrame, points: pandas.DataFrame | None, title: str) -> SVG:
    """The share that a timeout misses, by path: closed forms as lines, runs as points with their intervals."""
    with style.context(STYLE):
        figure, (axis,) = _figure(9, 5)
        colours = {}
        for n, (name, line) in enumerate(lines.groupby("path", sort=False)):
            (drawn,) = axis.plot(line.timeout_s, line.missed.clip(lower=1e-12), label=name, ls=DASHES[n % len(DASHES)])
            colours[name] = drawn.get_color()
        if points is not None:
            for name, group in points.groupby("path", sort=False):
                below = (group.missed - group.low).clip(lower=0)
                axis.errorbar(group.timeout_s, group.missed, [below, group.high - group.missed], fmt="o", ms=6,
                              color=colours[name], capsize=3)  # fmt: skip
        axis.axhline(1e-6, color="#717581", lw=1)
        axis.text(lines.timeout_s.max(), 1.3e-6, "one in a million", color="#717581", ha="right")
        axis.set(xscale="log", yscale="log", ylim=(1e-8, 1.5), xlabel="timeout (s)", ylabel="missed", title=title)
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return svg(figure, title)


def tail_curves(table: pandas.DataFrame, title: str) -> SVG:
    """The timeout for one error in a million over the weight of the tail; a panel a family."""
    families = list(table.family.unique())
    with style.context(STYLE):
        figure, axes = _figure(5.2 * len(families), 4.4, len(families))
        for axis, family in zip(axes, families, strict=True):
            mine = table[table.family == family]
            axis.plot(mine.weight, mine.timeout_s, marker="o")
            for seconds_, text in ((1, "1 s"), (60, "a minute"), (3600, "an hour"), (86400, "a day")):
                axis.axhline(seconds_, color="#717581", lw=1)
                axis.text(mine.weight.max(), seconds_ * 1.15, text, color="#717581", ha="right")
            axis.set(yscale="log", ylim=(table.timeout_s.min() / 2, max(table.timeout_s.max(), 1e5) * 3),
                     xlabel=f"{family}: heavier tail →", ylabel="timeout for one error in 10⁶ (s)")  # fmt: skip
        figure.suptitle(title, x=0.01, ha="left", fontsize=14)
        return svg(figure, title)


def seconds(value: float) -> str:
    """2 ms, 0.3 s, 3 h: as short as a tick may be."""
    if value == float("inf"):
        return "never"
    for unit, size, least in (("d", 86400, 2), ("h", 3600, 2), ("min", 60, 2), ("s", 1, 0.1), ("ms", 1e-3, 1)):
        if value >= size * least:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def shares(rows: Iterable[tuple[str, str, bool]], index: str, columns: str) -> pandas.DataFrame:
    """How many of (index, column, right) rows are right, as "n of m" cells."""
    table = pandas.DataFrame(rows, columns=[index, columns, "right"])
    grouped = table.groupby([index, columns], sort=False).right
    told = grouped.sum().astype(str) + " of " + grouped.count().astype(str)
    return told.unstack().loc[list(dict.fromkeys(table[index])), list(dict.fromkeys(table[columns]))]
