"""Statistics: intervals for counts, sensitivity, and closed forms that the simulation must meet.

The closed forms predict what a timeout on a path does, without a run: how often a probe's answer comes too late
(lognormal, Pareto, losses that come in bursts, the kernel's retransmissions), which connection arrives first, and how
long a verdict takes. `tests/study/test_statistics.py` compares each with the simulated world, within four standard
errors.
Times in seconds; a law's `base_s` is added to every draw, as `simlib.case.scenario.Link` does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy

Survival = Callable[[float], float]  # the probability of more than so many seconds
NORMAL_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its confidence interval, of 95 % unless another level is given."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def wilson(hits: int, runs: int, z: float = NORMAL_95) -> Interval:
    """A rate with Wilson's interval. Sound where hits are few or none: 0 of 1000 gives an upper bound of 0.4 %.

    Args:
        z: the normal quantile of the interval's level; 1.96 for 95 %.

    Raises:
        ValueError: if `hits` of `runs` is no rate.
    """
    if runs <= 0 or not 0 <= hits <= runs:
        raise ValueError(f"{hits} of {runs} is no rate")
    rate, square = hits / runs, z * z
    middle = (rate + square / (2 * runs)) / (1 + square / runs)
    half = z / (1 + square / runs) * math.sqrt(rate * (1 - rate) / runs + square / (4 * runs * runs))
    return Interval(rate, max(0.0, middle - half) if hits else 0.0, min(1.0, middle + half) if hits < runs else 1.0)


def quantile(values: Sequence[float], at: float, seed: int = 1, resamples: int = 2000) -> Interval:
    """A quantile with its bootstrap interval of 95 %.

    Args:
        at: which quantile, from 0 to 1.
        resamples: bootstrap samples.

    Raises:
        ValueError: for no values, or `at` outside 0 to 1.
    """
    if not len(values) or not 0 <= at <= 1:
        raise ValueError(f"no quantile {at} of {len(values)} values")
    array, rng = numpy.asarray(values, float), numpy.random.default_rng(seed)
    step = max(1, 10_000_000 // array.size)
    drawn = [
        numpy.quantile(rng.choice(array, (min(step, resamples - n), array.size)), at, axis=1)
        for n in range(0, resamples, step)
    ]
    low, high = numpy.quantile(numpy.concatenate(drawn), (0.025, 0.975))
    return Interval(float(numpy.quantile(array, at)), float(low), float(high))


def sensitivity(
    ranges: Mapping[str, tuple[float, float]],
    measure: Callable[[Mapping[str, float]], float],
    points: int = 256,
    seed: int = 1,
) -> dict[str, tuple[Interval, Interval]]:
    """How much of the variance of `measure` each parameter explains alone, and with all others (Sobol, by SALib).

    Args:
        ranges: each parameter's lowest and highest value.
        measure: takes a value of each parameter; called points * (parameters + 2) times.
        points: a power of two.

    Returns:
        For each parameter the first-order and the total index, each with its interval of 95 %.
    """
    from SALib.analyze import sobol as analyze
    from SALib.sample import sobol as sample

    problem = {"num_vars": len(ranges), "names": list(ranges), "bounds": [list(r) for r in ranges.values()]}
    rows = sample.sample(problem, points, calc_second_order=False, seed=seed)
    values = numpy.array([measure(dict(zip(ranges, row.tolist(), strict=True))) for row in rows])
    if numpy.ptp(values) == 0:
        return {name: (Interval(0, 0, 0), Interval(0, 0, 0)) for name in ranges}
    indices = analyze.analyze(problem, values, calc_second_order=False, seed=seed)

    def part(kind: str, n: int) -> Interval:
        value, half = float(indices[kind][n]), float(indices[f"{kind}_conf"][n])
        return Interval(value, value - half, value + half)

    return {name: (part("S1", n), part("ST", n)) for n, name in enumerate(ranges)}


def sigmas(hits: int, runs: int, expected: float) -> float:
    """How far the rate `hits` of `runs` is from the `expected` rate (0 to 1), in standard errors."""
    error = math.sqrt(max(expected * (1 - expected), 1e-300) / runs)
    return (hits / runs - expected) / error


# --- one way or there and back --------------------------------------------------------------------------------------
def lognormal(scale_s: float, sigma: float, base_s: float = 0.0) -> Survival:
    """base + scale * exp(sigma * N(0, 1))."""
    return lambda s: 1.0 if s <= base_s else 0.5 * math.erfc(math.log((s - base_s) / scale_s) / sigma / math.sqrt(2))


def pareto(scale_s: float, alpha: float, base_s: float = 0.0) -> Survival:
    """base + scale * (P - 1), P of Pareto's law: the tail falls as the power alpha."""
    return lambda s: 1.0 if s <= base_s else (1 + (s - base_s) / scale_s) ** -alpha


def exponential(scale_s: float, base_s: float = 0.0) -> Survival:
    """base + an exponential of that mean."""
    return lambda s: 1.0 if s <= base_s else math.exp(-(s - base_s) / scale_s)


def constant(base_s: float) -> Survival:
    """Always the same."""
    return lambda s: 1.0 if s < base_s else 0.0


def inverse(survival: Survival, probability: float) -> float:
    """The time in seconds that is exceeded with this probability, as a timeout for this error; inf beyond 1e30 s."""
    low, high = 1e-3, 1e-3
    while survival(high) > probability:
        low, high = high, high * 4
        if high > 1e30:
            return math.inf
    while low > 1e-15 and survival(low) <= probability:
        low, high = low / 4, low
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if survival(middle) > probability else (low, middle)
    return high


def there_and_back(there: Survival, back: Survival, points: int = 20) -> Survival:
    """The survival of a sum of two legs: either both are longer than half of it, or one is and makes up for the other.

    This way the heavy tails of the two laws never meet in one integrand, and Gauss-Legendre over the logarithm of the
    other's quantile converges for every tail."""
    nodes, weights = numpy.polynomial.legendre.leggauss(points)
    spread = [((x + 1) / 2, w / 2) for x, w in zip(nodes.tolist(), weights.tolist(), strict=True)]

    def made_up(short: Survival, long: Survival, s: float) -> float:
        least = max(short(s / 2), 1e-18)
        scale = math.log(1 / least)
        quantiles = ((least**at, weight * scale) for at, weight in spread)
        return math.fsum(w * p * long(s - min(inverse(short, p), s / 2)) for p, w in quantiles)

    return lambda s: min(1.0, there(s / 2) * back(s / 2) + made_up(there, back, s) + made_up(back, there, s))


# --- losses and the kernel's back-off -------------------------------------------------------------------------------
def attempts(first_s: float, factor: float, most: int = 12) -> tuple[float, ...]:
    """When each of `most` attempts is sent, in seconds: 0, first, first * (1 + factor), ..."""
    sent, gap = [0.0], first_s
    for _ in range(most - 1):
        sent.append(sent[-1] + gap)
        gap *= factor
    return tuple(sent)


def with_loss(delay: Survival, loss: float, sent_s: Sequence[float]) -> Survival:
    """One direction with independent losses: sum over k of p^k (1-p) S(T - t_k), and p^n for none."""
    return lambda s: (
        math.fsum(loss**k * (1 - loss) * (delay(s - t) if s > t else 1.0) for k, t in enumerate(sent_s))
        + loss ** len(sent_s)
    )


@dataclass(frozen=True, slots=True)
class Bursts:
    """A path after Gilbert and Elliott: good or bad, with rates between them (per second), and a loss in each."""

    to_bad: float
    to_good: float
    loss_good: float = 0.0
    loss_bad: float = 1.0

    @property
    def bad(self) -> float:
        """The share of time in which it is bad."""
        return self.to_bad / (self.to_bad + self.to_good)

    def all_lost(self, sent_s: Sequence[float]) -> float:
        """The probability that every attempt is lost, the first at a random moment: pi L prod(P(gap) L) 1."""
        here = numpy.array([1 - self.bad, self.bad]) * (self.loss_good, self.loss_bad)
        for before, after in pairwise(sent_s):
            left = math.exp(-(self.to_bad + self.to_good) * (after - before))
            stay = numpy.array([1 - self.bad, self.bad])
            here = (here.sum() * stay * (1 - left) + here * left) * (self.loss_good, self.loss_bad)
        return float(here.sum())

    def simulate(self, sent_s: Sequence[float], rng: random.Random) -> bool:
        """One random draw of the same, from change to change: whether all attempts were lost."""
        bad, changes_s, at = rng.random() < self.bad, 0.0, 0
        while at < len(sent_s):
            changes_s += rng.expovariate(self.to_good if bad else self.to_bad)
            while at < len(sent_s) and sent_s[at] < changes_s:
                if rng.random() >= (self.loss_bad if bad else self.loss_good):
                    return False
                at += 1
            bad = not bad
        return True


def missed_in_bursts(bursts: Bursts, delay_s: float, sent_s: Sequence[float]) -> Survival:
    """One direction over such a path with a fixed delay: all attempts that could still arrive in time are lost."""
    return lambda s: bursts.all_lost([t for t in sent_s if t + delay_s <= s]) if s >= delay_s else 1.0


def independent_probes(round_trip: Survival, sent_s: Sequence[float]) -> Survival:
    """Several probes, none answered in time: the product, where round trips do not depend on each other."""
    return lambda s: math.prod(round_trip(s - t) if s > t else 1.0 for t in sent_s)


# --- how long a verdict takes ---------------------------------------------------------------------------------------
def expected_detection_s(round_trip: Survival, timeout_s: float, points: int = 4000) -> float:
    """E[min(round trip, timeout)], on a path that works: the integral of the survival to the timeout."""
    nodes, weights = numpy.polynomial.legendre.leggauss(40)
    pieces = max(1, points // 40)
    edges = numpy.concatenate(([0.0], numpy.geomspace(timeout_s * 1e-6, timeout_s, pieces)))
    total = 0.0
    for low, high in pairwise(edges):
        middle, half = (low + high) / 2, (high - low) / 2
        total += half * math.fsum(w * round_trip(middle + half * x) for x, w in zip(nodes, weights, strict=True))
    return float(total)


def expected_lognormal_s(scale_s: float, sigma: float, timeout_s: float) -> float:
    """The same for a lognormal round trip, closed: e^(mu + sigma^2/2) Phi((ln T - mu - sigma^2)/sigma) + T P(R > T)."""
    far = (math.log(timeout_s / scale_s)) / sigma
    inside = 0.5 * math.erfc(-(far - sigma) / math.sqrt(2))
    return scale_s * math.exp(sigma**2 / 2) * inside + timeout_s * 0.5 * math.erfc(far / math.sqrt(2))


def dead_path_s(timeout_s: float, probes: int = 1) -> float:
    """A path that answers nothing costs every timeout in full."""
    return probes * timeout_s


def syn_backoff_s(loss: float, first_s: float = 1.0, factor: float = 2.0) -> float:
    """The mean delay in seconds by lost SYNs; infinite where factor * loss >= 1."""
    return first_s * loss / (1 - factor * loss) if factor * loss < 1 else math.inf


# --- which connection arrives first ---------------------------------------------------------------------------------
def main_first(extra: int, loss: float | None = None) -> float:
    """The probability that main is accepted first of 1 + `extra` connections that start together: 1/(extra + 1) for
    every continuous law, with losses too; with `loss`: at one fixed delay, where ties keep their order, and lost SYNs
    come later."""
    if loss is None:
        return 1 / (extra + 1)
    return (1 - loss) / (1 - loss ** (extra + 1))


def all_in_order(extra: int, loss: float | None = None) -> float:
    """The probability that all are accepted in the order in which they were opened; `loss` as in `main_first`."""
    if loss is None:
        return 1 / math.factorial(extra + 1)
    return math.prod((1 - loss) / (1 - loss**j) for j in range(1, extra + 2))


def main_first_of(law: Sequence[tuple[float, float]], extra: int) -> float:
    """`main_first` for a few arrival times, (seconds, probability) each, where ties keep their order."""
    ordered = sorted(law)
    left, total = 1.0, 0.0
    for _, probability in ordered:
        total += probability * left**extra
        left -= probability
    return total


def main_first_by_head_start(survival: Survival, extra: int, head_start_s: float, points: int = 400) -> float:
    """`main_first` if main starts earlier: the integral of f(t) S(t - start)^N; exponential: 1 - N/(N+1) e^-start."""
    nodes, weights = numpy.polynomial.legendre.leggauss(points)
    total = 0.0
    for x, w in zip(nodes, weights, strict=True):
        late_s = inverse(survival, (x + 1) / 2) - head_start_s
        total += w / 2 * (survival(late_s) if late_s > 0 else 1.0) ** extra
    return float(total)
