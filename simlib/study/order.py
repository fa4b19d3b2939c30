"""Searches as tables and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pandas
from IPython.display import SVG
from matplotlib.figure import Figure

from ..case.profiles import DATA
from ..explore import Model, SearchResult, search
from ..explore.detection import pairs
from ..explore.report import Line, search_mutants
from . import figures

pandas.set_option("display.max_colwidth", None)  # no cell is cut off
SEARCHED = ["model", "kind", "states", "breaks"]
PLAIN, REDUCED = "#b3541e", "#1b6ca8"  # distinct for every kind of colour blindness


def models(lines: Mapping[str, Line]) -> pandas.DataFrame:
    """A row for each model: its states, and what some order of events breaks."""
    rows = [(name, line.result.states, ", ".join(line.result.violations) or "nothing") for name, line in lines.items()]
    return pandas.DataFrame(rows, columns=["model", "states", "breaks"]).set_index("model")


def searched(kinds: Mapping[str, Mapping[str, Line]]) -> pandas.DataFrame:
    """A row for each model of each kind: its states, and whether some order of events breaks it."""
    rows = [
        (name, kind, line.result.states, bool(line.result.violations))
        for kind in kinds
        for name, line in kinds[kind].items()
    ]
    return pandas.DataFrame(rows, columns=SEARCHED)


def recorded() -> pandas.DataFrame:
    """As `searched`, from the recorded searches of `make results`."""
    rows = []
    for line in (DATA / "results" / "ordering.md").read_text(encoding="utf-8").splitlines():
        cells = [c.strip() for c in line.strip("| ").split("|")]
        if line.startswith(("| v1 ", "| v2", "| (")) and len(cells) >= 3 and cells[1].replace(",", "").isdigit():
            kind = "v1" if cells[0].startswith("v1") else "v2" if cells[0].startswith("v2") else "detection"
            rows.append((cells[0], kind, int(cells[1].replace(",", "")), cells[2] != "nothing"))
    return pandas.DataFrame(rows, columns=SEARCHED)


def rules() -> pandas.DataFrame:
    """A row for each rule of v2: the property that detects its removal, and after how many steps."""
    rows = [(m.rule, m.where, m.killed_by, len(f.violations[m.killed_by].path)) for m, f in search_mutants()]
    return pandas.DataFrame(rows, columns=["rule taken away", "where", "noticed by", "steps"]).set_index(
        "rule taken away"
    )


def histories() -> pandas.DataFrame:
    """A row for each detection strategy: what the source receives on both links, and where it errs."""
    rows = [(p.strategy, " ".join(p.on_pipe), p.same, p.decides, p.errs) for p in pairs()]
    columns = ["strategy", "heard on the pipe", "the same on a slow path", "it decides", "it errs"]
    return pandas.DataFrame(rows, columns=columns).set_index("strategy")


def states_figure(reduced: dict[int, SearchResult], plain: dict[int, SearchResult], title: str) -> SVG:
    """States against channels, plain and reduced, on a logarithmic axis; searches as from `over_channels`."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for searches, colour, marker, label in ((plain, PLAIN, "s", "plain"), (reduced, REDUCED, "o", "reduced")):
        axes.plot(list(searches), [f.states for f in searches.values()], color=colour, marker=marker, label=label)
        last = max(searches)
        axes.annotate(
            f"{label}: {searches[last].states:,}",
            (last, searches[last].states),
            (6, 6),
            textcoords="offset points",
            color=colour,
        )
    axes.set(yscale="log", xlabel="multifd channels", ylabel="states", title=title)
    axes.margins(x=0.2, y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    return figures.svg(figure, title)


def over_channels(
    make: Callable[[int], Model], channels: Iterable[int], plain: bool = False
) -> dict[int, SearchResult]:
    """The search of `make(n)` for each number n of channels; `plain`: without the reductions."""
    return {n: search(make(n), plain=plain) for n in channels}
