"""Figures: a table in, a picture out. One style file; SVG whose bytes are the same every time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy
import pandas
from IPython.display import SVG
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..case.registry import BOTH, PROTOCOLS
from ..record.chart import COLOURS, as_html, messages
from ..record.trace import Trace

STYLE = Path(__file__).with_name("simlib.mplstyle")
MARKERS = dict(zip(BOTH, ("s", "o"), strict=True))
LABELS = dict(zip(BOTH, ("v1, today", "v2, handshake"), strict=True))
COLORS = {name: PROTOCOLS.get(name).color for name in BOTH}
GIB, NEVER = 1 << 30, float("inf")
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (8, 2)))  # distinct without colour


class Picture(SVG):
    """A figure as a notebook shows it, no wider than its page. Its name replaces it where it can't be displayed."""

    name = ""

    def __repr__(self) -> str:
        return f"figure: {self.name}"

    def _repr_html_(self) -> str:
        return as_html(self.data, repr(self))


def svg(figure: Figure, salt: str) -> SVG:
    """The figure as a notebook shows it; the same bytes every time."""
    drawn = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue().replace("<svg ", '<svg style="max-width: 100%; height: auto" ', 1)
    picture = Picture(text)  # type: ignore[no-untyped-call]
    picture.name = salt
    return picture


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height))
    axes = numpy.atleast_1d(figure.subplots(1, columns, squeeze=True))
    return figure, list(axes)


def heat_maps(table: pandas.DataFrame, panels: Sequence[tuple[str, str]], limit: pandas.DataFrame | None = None) -> SVG:
    """Timeout against round trip, one panel for each column of shares.

    Args:
        table: columns `timeout_s`, `rtt_s` (seconds), and shares from 0 to 1.
        panels: (column, title) of each panel.
        limit: columns `rtt_s` and `timeout_s` of a line over all panels.
    """
    with style.context(STYLE):
        figure, axes = _figure(5.6 * len(panels), 4.8, len(panels))
        for axis, (column, title) in zip(axes, panels, strict=True):
            wide = table.pivot(index="timeout_s", columns="rtt_s", values=column)
            axis.imshow(wide.to_numpy(), cmap="cividis_r", vmin=0, vmax=1, aspect="auto", origin="lower")
            for y, row in enumerate(wide.to_numpy()):
                for x, share in enumerate(row):
                    axis.text(
                        x,
                        y,
                        f"{share:.0%}",
                        ha="center",
                        va="center",
                        fontsize=11,
                        color="white" if share > 0.5 else "black",
                    )
            axis.set_xticks(range(wide.shape[1]), [seconds(v) for v in wide.columns])
            axis.set_yticks(range(wide.shape[0]), [seconds(v) for v in wide.index])
            axis.set(xlabel="round trip (median)", ylabel="timeout", title=title)
            axis.grid(False)
            if limit is not None:
                _limit(axis, wide, limit)
        return svg(figure, "heat maps")


def _limit(axis: Axes, wide: pandas.DataFrame, limit: pandas.DataFrame) -> None:
    """The line, on axes whose ticks are the logarithms of their values."""
    places = [
        numpy.interp(numpy.log(limit[c]), numpy.log(v), range(len(v)), left=-1, right=len(v))
        for c, v in (("rtt_s", wide.columns), ("timeout_s", wide.index))
    ]
    axis.plot(*places, color="#bd1f01", marker="o", label="one error in a million")
    axis.set(xlim=(-0.5, wide.shape[1] - 0.5), ylim=(-0.5, wide.shape[0] - 0.5))
    axis.legend(loc="upper left", bbox_to_anchor=(0, -0.15), labelcolor="#bd1f01")


def error_curves(lines: pandas.DataFrame, points: pandas.DataFrame | None, title: str) -> SVG:
    """The share that a timeout misses, by path: closed forms as lines, runs as points with their intervals.

    Args:
        lines: as from `curves.by_path` or `curves.by_loss`.
        points: as from `curves.by_runs`, for paths of `lines`.
    """
    with style.context(STYLE):
        figure, (axis,) = _figure(9, 5)
        colours = {}
        for n, (name, line) in enumerate(lines.groupby("path", sort=False)):
            (drawn,) = axis.plot(line.timeout_s, line.missed.clip(lower=1e-12), label=name, ls=DASHES[n % len(DASHES)])
            colours[name] = drawn.get_color()
        if points is not None:
            for name, group in points.groupby("path", sort=False):
                below = (group.missed - group.low).clip(lower=0)
                axis.errorbar(
                    group.timeout_s,
                    group.missed,
                    [below, group.high - group.missed],
                    fmt="o",
                    ms=6,
                    color=colours[name],
                    capsize=3,
                )
        axis.axhline(1e-6, color="#717581", lw=1)
        axis.text(lines.timeout_s.max(), 1.3e-6, "one in a million", color="#717581", ha="right")
        axis.set(xscale="log", yscale="log", ylim=(1e-8, 1.5), xlabel="timeout (s)", ylabel="missed", title=title)
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        return svg(figure, title)


def tail_curves(table: pandas.DataFrame, title: str) -> SVG:
    """The timeout for one error in a million over the weight of the tail; one panel for each family.

    Args:
        table: as from `curves.tails`.
    """
    families = list(table.family.unique())
    with style.context(STYLE):
        figure, axes = _figure(5.2 * len(families), 4.4, len(families))
        for axis, family in zip(axes, families, strict=True):
            curve = table[table.family == family]
            axis.plot(curve.weight, curve.timeout_s, marker="o")
            for seconds_, text in ((1, "1 s"), (60, "a minute"), (3600, "an hour"), (86400, "a day")):
                axis.axhline(seconds_, color="#717581", lw=1)
                axis.text(curve.weight.max(), seconds_ * 1.15, text, color="#717581", ha="right")
            axis.set(
                yscale="log",
                ylim=(table.timeout_s.min() / 2, max(table.timeout_s.max(), 1e5) * 3),
                xlabel=f"{family}: heavier tail →",
                ylabel="timeout for one error in 10⁶ (s)",
            )
        figure.suptitle(title, x=0.01, ha="left", fontsize=14)
        return svg(figure, title)


def prices(table: pandas.DataFrame) -> SVG:
    """What v2 costs: time to the first guest byte over the round trip, and bytes sent by then over channels.

    Args:
        table: as from `costs.prices`.
    """
    with style.context(STYLE):
        figure, (left, right) = _figure(11, 4.6, 2)
        fewest, most = table.channels.min(), table.channels.max()
        for protocol in BOTH:
            colour, marker, label = COLORS[protocol], MARKERS[protocol], LABELS[protocol]
            rows = table[table.protocol == protocol]
            for channels, dash in ((fewest, "-"), (most, "--")):
                line = rows[rows.channels == channels]
                left.plot(
                    line.rtt_ms,
                    line.ready_s * 1e3,
                    color=colour,
                    marker=marker,
                    ls=dash,
                    label=f"{label}, {channels} channels",
                )
            sent_kib = rows.groupby("channels").said_bytes.max() / 1024
            right.plot(sent_kib.index, sent_kib, color=colour, marker=marker)
            right.annotate(
                f"{protocol}: {sent_kib.iloc[-1]:.1f} KiB",
                (sent_kib.index[-1], sent_kib.iloc[-1]),
                (0, 9),
                textcoords="offset points",
                color=colour,
                ha="right",
            )
        left.set(
            xscale="log",
            yscale="log",
            xlabel="round trip (ms)",
            ylabel="first guest byte after (ms)",
            title="Time before the guest moves",
        )
        left.legend(loc="upper left", fontsize=11)
        right.set(xlabel="multifd channels", ylabel="said before (KiB)", title="Bytes before the guest moves")
        right.margins(y=0.15)
        return svg(figure, "prices")


def waste(table: pandas.DataFrame) -> SVG:
    """Mismatches over the size of the guest: when the source knew, and how much had moved for nothing. Equal curves
    are one line, whose label states their number.

    Args:
        table: as from `costs.savings`.
    """
    times = list(_alike(table, "knows_s", 0))
    untimed = [line for line in times if line.values.iloc[-1] == NEVER]
    heights = (0.5 * max(len(untimed), 1), 3.2)
    with style.context(STYLE):
        figure = Figure(figsize=(11, sum(heights) + 1.3))
        parts = figure.subplot_mosaic([["never", "moved"], ["knows", "moved"]], height_ratios=heights)
        never, knows, moved = parts["never"], parts["knows"], parts["moved"]
        known = table.knows_s[table.knows_s != NEVER]
        knows.set(
            xscale="log",
            yscale="log",
            ylim=(known.min() / 3, known.max() * 3),
            xlabel="guest (GiB)",
            ylabel="s after the start",
        )
        moved.set(xscale="log", xlabel="guest (GiB)", ylabel="GiB", title="Guest memory moved for nothing")
        moved.set_yscale("symlog", linthresh=1 / 16)
        moved.set_ylim(-1 / 32, 600)
        moved.set_yticks([0, 1 / 16, 1, 16, 128], ["0", "1/16", "1", "16", "128"], minor=False)
        moved.minorticks_off()
        _labelled(knows, times)
        _labelled(moved, _alike(table.assign(wasted=table.wasted_bytes / GIB), "wasted", 1 / 64))
        never.set(xscale="log", xlim=knows.get_xlim(), title="When the source knows that it will not work")
        _without_time(never, untimed)
        return svg(figure, "waste")


class _Line(NamedTuple):
    """Equal curves: under which protocol, how many of how many, and their values over the guest's size in GiB."""

    protocol: str
    text: str
    values: pandas.Series


def _alike(table: pandas.DataFrame, column: str, least: float) -> Iterator[_Line]:
    for protocol in BOTH:
        wide = table[table.protocol == protocol].pivot(index="scenario", columns="ram_mib", values=column)
        for _, group in wide.groupby([wide[n].clip(lower=least).map("{:.0e}".format) for n in wide.columns]):
            values = group.iloc[0].clip(lower=0)
            yield _Line(protocol, f"{protocol}: {len(group)} of {len(wide)}", values.set_axis(wide.columns / 1024))


def _labelled(axis: Axes, lines: Iterable[_Line]) -> None:
    """Lines with their labels at the right, where labels move apart instead of standing over each other. A line that
    has no time at its end has its label where it goes on, among those without a time."""
    ends = []
    for protocol, text, values in lines:
        colour, hollow = COLORS[protocol], PROTOCOLS.get(protocol).negotiates  # so that one shows through the other
        axis.plot(
            values.index,
            values.replace(NEVER, numpy.nan),
            color=colour,
            marker=MARKERS[protocol],
            ms=10 if hollow else 6,
            mfc="none" if hollow else colour,
        )
        end = values.index[-1], values.iloc[-1]
        if end[1] != NEVER:
            height = (axis.transScale + axis.transLimits).transform(end)[1]  # a share of the axis
            ends.append((height, text, colour, end))
    place = 0.0
    for height, text, colour, end in sorted(ends):
        place = max(height, place + 0.075)  # of one line of text
        axis.annotate(
            text,
            end,
            (1.06, place),
            textcoords="axes fraction",
            color=colour,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "shrinkA": 0, "shrinkB": 5},
        )


def _without_time(axis: Axes, lines: Sequence[_Line]) -> None:
    """A strip beside a scale of times, for what has no time: a row of crosses for each line: none looks measured."""
    for row, (protocol, text, values) in enumerate(lines):
        colour, sizes = COLORS[protocol], values.index[values == NEVER]
        axis.plot(sizes, [row] * len(sizes), color=colour, ls="", marker="x", ms=8, mew=2)
        since = f" from {sizes[0]:g} GiB on" if len(sizes) < len(values) else ""
        axis.annotate(
            f"{text}, never{since}", (sizes[-1], row), (4, 7), textcoords="offset points", color=colour, ha="right"
        )
    axis.set(ylim=(-0.4, max(len(lines), 1) - 0.2), facecolor="#f3f3f3")
    axis.set_yticks([(len(lines) - 1) / 2], ["never"], fontsize=13)
    axis.tick_params(which="both", length=0, labelbottom=False)
    axis.grid(False)
    axis.spines[["left", "bottom"]].set_visible(False)


def known_by(table: pandas.DataFrame, title: str) -> SVG:
    """Of all runs that did not migrate, the share whose source knows it by then; below 1 if some never know.

    Args:
        table: as from `costs.endings`.
    """
    with style.context(STYLE):
        figure, (axis,) = _figure(9, 4.6)
        last = table.knows_s.replace(NEVER, numpy.nan).max() * 4
        for protocol, dash in zip(BOTH, ("--", "-"), strict=True):
            colour, label = COLORS[protocol], LABELS[protocol]
            known = numpy.sort(table[table.protocol == protocol].knows_s.to_numpy())
            share = numpy.arange(1, len(known) + 1) / len(known)
            ever = known != NEVER
            axis.step(
                [*known[ever], last],
                [*share[ever], share[ever].max()],
                where="post",
                color=colour,
                ls=dash,
                label=f"{label}: {ever.sum()} of {len(known)} ever",
            )
        axis.set(
            xscale="log", ylim=(0, 1.03), xlabel="time after the start (s)", ylabel="share that knows", title=title
        )
        axis.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axis.legend(loc="lower right")
        return svg(figure, title)


def time_space(traces: Mapping[str, Trace], title: str, until_s: float) -> SVG:
    """Time to the right, the two hosts above each other, each message a slanted line: what a round trip is made of.

    Args:
        traces: the traces by the titles of their panels.
        until_s: the end of the time axis, in seconds.
    """
    with style.context(STYLE):
        figure = Figure(figsize=(11, 2.3 * len(traces) + 0.6))
        axes = numpy.atleast_1d(figure.subplots(len(traces), 1, sharex=True))
        for axis, (name, trace) in zip(axes, traces.items(), strict=True):
            labels: dict[tuple[float, bool], list[str]] = {}  # at one point of the picture, up or down
            place_s = -1.0
            for start_s, end_s, down, colour, dash, label in sorted((*_connects(trace), *_messages(trace))):
                if start_s <= until_s:
                    axis.plot([start_s * 1e3, end_s * 1e3], [down, not down], color=colour, ls=dash)
                    place_s = start_s if start_s - place_s > until_s / 50 else place_s
                    labels.setdefault((place_s, down), []).append(label)
            memory_s = min((p.time_s for p in trace.packets if p.fill), default=until_s)
            axis.fill_between([memory_s * 1e3, until_s * 1e3], 0, 1, color=COLOURS["main"], alpha=0.2, lw=0)
            axis.text((memory_s + until_s) * 5e2, 0.5, "guest memory", ha="center", va="center")
            for (start_s, down), texts in labels.items():
                text = "\n".join(w if n == 1 else f"{n} × {w}" for w, n in Counter(filter(None, texts)).items())
                axis.annotate(
                    text,
                    (start_s * 1e3, down),
                    (2, 5 if down else -5),
                    textcoords="offset points",
                    fontsize=10,
                    va="bottom" if down else "top",
                )
            axis.set_yticks([1, 0], ["source", "destination"])
            axis.set(ylim=(-0.7, 1.7), title=name)
            axis.grid(False)
            axis.axhline(1, color="#999999", lw=1, zorder=0)
            axis.axhline(0, color="#999999", lw=1, zorder=0)
        axes[-1].set(xlabel="ms after the start", xlim=(0, until_s * 1e3))
        figure.suptitle(title, x=0.01, ha="left", fontsize=14)
        return svg(figure, title)


Slant = tuple[float, float, bool, str, str, str]  # starts, arrives (s), downwards, colour, dashes, label


def _connects(trace: Trace) -> Iterator[Slant]:
    """TCP's own round trip, before any message can be sent."""
    arrives = {p.connection: p.time_s for p in trace.packets if p.kind == "syn-ack"}
    for p in trace.packets:
        if p.kind == "syn" and p.connection in arrives:
            turn_s = arrives[p.connection]
            yield p.time_s, turn_s, True, "#717581", ":", "connects"
            yield turn_s, 2 * turn_s - p.time_s, False, "#717581", ":", ""


def _messages(trace: Trace) -> Iterator[Slant]:
    for step, received_s in messages(trace):
        if received_s is not None and step.text != "guest memory":
            kind = next((k for k in COLOURS if k and step.connection.startswith(k)), "")
            label = step.text.split(",")[0].split(" ")[0]
            yield step.time_s, received_s, step.side == "source", COLOURS[kind], "-", label


def searched(table: pandas.DataFrame, title: str) -> SVG:
    """A mark for each model, by its number of states: a cross where some order of events breaks a property.

    Args:
        table: as from `order.searched`.
    """
    with style.context(STYLE):
        figure, (axis,) = _figure(11, 3.6)
        kinds = list(dict.fromkeys(table.kind))
        for row, kind in enumerate(reversed(kinds)):
            models = table[table.kind == kind].reset_index()
            for broken, colour, marker in ((False, "#1b6ca8", "o"), (True, "#b3541e", "X")):
                some = models[models.breaks == broken]
                axis.scatter(
                    some.states,
                    row + (some.index % 5 - 2) * 0.13,
                    c=colour,
                    marker=marker,
                    s=60,
                    label=None if row else "some order breaks it" if broken else "nothing breaks",
                )
            text = f"{int(models.breaks.sum())} of {len(models)} break"
            axis.text(1.01, row, text, transform=axis.get_yaxis_transform(), va="center")
        axis.set_yticks(range(len(kinds)), kinds[::-1])
        axis.set(
            xscale="log", ylim=(-0.6, len(kinds) - 0.4), xlabel="states: every order of events, each once", title=title
        )
        axis.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2)
        return svg(figure, title)


def seconds(value: float) -> str:
    """A duration as the short label of a tick: 2 ms, 0.3 s, 3 h."""
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
    cells = grouped.sum().astype(str) + " of " + grouped.count().astype(str)
    return cells.unstack().loc[list(dict.fromkeys(table[index])), list(dict.fromkeys(table[columns]))]
