"""The tables behind the figures of D2: what a timeout misses and costs, by path, from closed forms and from runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy
import pandas

from ..case.files import find
from ..record.outcome import BAD
from .claims import ExperimentContext
from .detection import GAVE_UP, Kind, cells, kinds, missed, needed_timeout_s, variants
from .statistics import (
    Bursts,
    attempts,
    inverse,
    lognormal,
    missed_in_bursts,
    pareto,
    there_and_back,
    wilson,
    with_loss,
)

JITTER = 0.1  # of the round trip, as the scale of each way's jitter


def grid(lab: ExperimentContext, timeouts_s: Sequence[float], rtts_s: Sequence[float], runs: int) -> pandas.DataFrame:
    """How often detection errs between two new sides.

    Args:
        timeouts_s: timeouts of the detection, in seconds.
        rtts_s: round trips, in seconds.
        runs: simulated runs of each variant for each pair of them.

    Returns:
        A row for each pair: the share of runs in which (c) does not find v2 (`missed`), and in which (a) fails, loses
        or doubles a guest (`harmed`).
    """
    rows = []
    for timeout_s in timeouts_s:
        for rtt_s in rtts_s:
            base = find("detect_new_and_new").vary(
                detect_timeout_s=timeout_s,
                guest__ram_mib=1.0,
                link__delay_ms=rtt_s * 400,
                link__delay_law="lognormal",
                link__jitter_ms=rtt_s * 1e3 * JITTER,
                link__shape=1.0,
                management__observe_s=60.0,
            )
            counts = {"c": 0, "a": 0}
            for seed in range(runs):
                steps = lab.run(base, protocol="c", version="7.2", seed=seed).trace.steps
                counts["c"] += any(s.side == "source" and s.text.startswith(GAVE_UP) for s in steps)
                counts["a"] += lab.run(base, protocol="a", version="7.2", seed=seed).row.outcome in (*BAD, "failed")
            rows.append((timeout_s, rtt_s, counts["c"] / runs, counts["a"] / runs))
    return pandas.DataFrame(rows, columns=["timeout_s", "rtt_s", "missed", "harmed"])


def limit(rtts_s: Sequence[float], error: float = 1e-6) -> pandas.DataFrame:
    """The timeout in seconds that errs with probability `error`, on the paths of `grid`."""
    legs = [lognormal(rtt_s * JITTER, 1.0, rtt_s * 0.4) for rtt_s in rtts_s]
    timeouts_s = [inverse(there_and_back(leg, leg), error) for leg in legs]
    return pandas.DataFrame({"rtt_s": list(rtts_s), "timeout_s": timeouts_s})


def by_path(timeouts_s: Iterable[float], paths: Iterable[Kind] = ()) -> pandas.DataFrame:
    """The share that each timeout misses, by the closed form of each kind of path (all kinds if none is given)."""
    rows = []
    for kind in paths or kinds():
        survival = kind.round_trip()
        rows += [(kind.name, t, survival(t)) for t in timeouts_s]
    return pandas.DataFrame(rows, columns=["path", "timeout_s", "missed"])


def by_runs(lab: ExperimentContext, names: Iterable[str], timeouts_s: Iterable[float], runs: int) -> pandas.DataFrame:
    """The same, counted in the world over `runs` runs each, with Wilson's intervals; only where some run misses."""
    rows = []
    for kind in kinds():
        if kind.name in names:
            for timeout_s in timeouts_s:
                interval = wilson(missed(lab, kind, timeout_s, runs), runs)
                rows.append((kind.name, timeout_s, interval.value, interval.low, interval.high))
    table = pandas.DataFrame(rows, columns=["path", "timeout_s", "missed", "low", "high"])
    return table[table.missed > 0]


def by_loss(timeouts_s: Sequence[float]) -> pandas.DataFrame:
    """The same where a lost answer is sent again after 0.2, 0.4, 0.8 s ...: independent losses, and outages."""
    leg = lognormal(0.001, 0.5, 0.005)
    there = there_and_back(leg, leg)
    sent_s = attempts(0.2, 2, 14)
    rows: list[tuple[str, float, float]] = []
    for loss in (0.001, 0.05):
        survival = with_loss(there, loss, sent_s)
        rows += [(f"loss {loss:.1%}", t, survival(t)) for t in timeouts_s]
    for length_s in (0.1, 1.0, 10.0):
        bursts = Bursts(0.01 / length_s / 0.99, 1 / length_s)  # bad one hundredth of the time
        survival = missed_in_bursts(bursts, 0.006, sent_s)
        rows += [(f"outages of {length_s:g} s, 1 % of the time, one way", t, survival(t)) for t in timeouts_s]
    return pandas.DataFrame(rows, columns=["path", "timeout_s", "missed"])


def tails() -> pandas.DataFrame:
    """The timeout for one error in a million as the tail grows, 5 ms and a jitter of scale 1 ms each way."""
    rows = []
    for sigma in (0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        leg = lognormal(0.001, sigma, 0.005)
        rows.append(("lognormal, sigma", sigma, inverse(there_and_back(leg, leg), 1e-6)))
    for alpha in (4.0, 3.0, 2.0, 1.5, 1.25, 1.0, 0.8):
        leg = pareto(0.001, alpha, 0.005)
        rows.append(("Pareto, 1 / alpha", 1 / alpha, inverse(there_and_back(leg, leg), 1e-6)))
    return pandas.DataFrame(rows, columns=["family", "weight", "timeout_s"])


def needed() -> pandas.DataFrame:
    """By kind of path: the share that one second misses, and the timeout for one error in a million."""
    rows = []
    for kind in kinds():
        timeout_s, median_s = needed_timeout_s(kind), needed_timeout_s(kind, 0.5)
        rows.append((kind.name, median_s, kind.round_trip()(1.0), timeout_s, timeout_s / median_s))
    columns = ["path", "round_trip_s", "missed_after_1_s", "timeout_s", "in_round_trips"]
    return pandas.DataFrame(rows, columns=columns).set_index("path")


def peers(lab: ExperimentContext) -> Iterator[tuple[str, str, bool]]:
    """(variant, peer, whether detection was right) for each cell of the grid of P5-strong."""
    for cell in cells(lab, variants()):
        yield f"({cell.variant})", cell.peer, not cell.fault


def spread(low_s: float, high_s: float, points: int = 40) -> list[float]:
    """Timeouts, evenly on a logarithmic axis."""
    return [float(s) for s in numpy.geomspace(low_s, high_s, points)]
