"""Distributions of one-way delays, for the simulated network and for the proxy before real sockets."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import exp
from typing import Protocol

Draw = Callable[[random.Random], float]  # one delay, in seconds


class DelayKeys(Protocol):
    """What a distribution depends on: these keys of `scenario.Link`, with its units."""

    @property
    def delay_ms(self) -> float: ...
    @property
    def jitter_ms(self) -> float: ...
    @property
    def shape(self) -> float: ...
    @property
    def samples_ms(self) -> tuple[float, ...]: ...


@dataclass(frozen=True)
class Delay:
    """One distribution.

    Args:
        name: what `link.delay-law` calls it.
        sampler: takes the scenario's link and returns what draws one delay, in seconds, from a random generator.
        uses: keys of the link, besides `delay_ms`, that have an effect on it.

    >>> import random
    >>> from simlib.case.scenario import Link
    >>> two = Delay("two-paths", lambda link: lambda rng: rng.choice((link.delay_ms, 10 * link.delay_ms)) / 1e3)
    >>> two.sampler(Link(delay_ms=5.0))(random.Random(1))
    0.005
    """

    name: str
    sampler: Callable[[DelayKeys], Draw]
    uses: tuple[str, ...] = ("jitter_ms", "shape", "samples_ms")


def _constant(link: DelayKeys) -> Draw:
    base_s = link.delay_ms / 1e3
    return lambda _: base_s


def _lognormal(link: DelayKeys) -> Draw:
    base_s, scale_s, sigma = link.delay_ms / 1e3, link.jitter_ms / 1e3, link.shape
    return lambda rng: base_s + scale_s * exp(rng.normalvariate(0.0, sigma))  # rng.lognormvariate, one call less


def _pareto(link: DelayKeys) -> Draw:
    base_s, scale_s, alpha = link.delay_ms / 1e3, link.jitter_ms / 1e3, link.shape
    return lambda rng: base_s + scale_s * (rng.paretovariate(alpha) - 1.0)


def _exponential(link: DelayKeys) -> Draw:
    base_s, scale_s = link.delay_ms / 1e3, link.jitter_ms / 1e3
    return lambda rng: base_s + (rng.expovariate(1.0 / scale_s) if scale_s else 0.0)


def _empirical(link: DelayKeys) -> Draw:
    base_s, samples_s = link.delay_ms / 1e3, tuple(s / 1e3 for s in link.samples_ms) or (0.0,)
    return lambda rng: base_s + rng.choice(samples_s)


CONSTANT = Delay("constant", _constant, uses=())
LOGNORMAL = Delay("lognormal", _lognormal, uses=("jitter_ms", "shape"))
PARETO = Delay("pareto", _pareto, uses=("jitter_ms", "shape"))
EXPONENTIAL = Delay("exponential", _exponential, uses=("jitter_ms",))
EMPIRICAL = Delay("empirical", _empirical, uses=("samples_ms",))
