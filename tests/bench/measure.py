"""How a number is taken: CPU time, all that is compared in turn within one round, the median over rounds, the spread.

A rate of one machine says little; a ratio inside one round says what the code costs beside its anchor.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

SLICE_S = 0.01  # of CPU for one function in one round: long beside the clock's step, short beside the machine's moods


@dataclass(frozen=True)
class Line:
    """One line of the table. `values` holds a number a round, nearly always ours / anchor."""

    item: int  # of the list in the issue
    what: str
    anchor: str
    values: tuple[float, ...]
    must: float | None = None
    stretch: float | None = None
    more_is_better: bool = False
    note: str = ""
    exact: bool = False  # a count, not a time: the same in each round

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    def meets(self, goal: float | None) -> bool | None:
        if goal is None:
            return None
        return self.value >= goal if self.more_is_better else self.value <= goal

    @property
    def verdict(self) -> str:
        if self.must is None and self.stretch is None:
            return ""
        return "stretch" if self.meets(self.stretch) else "met" if self.meets(self.must) else "MISSED"


@dataclass(frozen=True)
class Missing:
    """A line that could not be measured here, and why."""

    item: int
    what: str
    why: str


def cpu_s() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def one(call: Callable[[], object], count: int, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds of CPU for one call."""
    started = clock()
    for _ in range(count):
        call()
    return (clock() - started) / count


def rounds(
    calls: dict[str, Callable[[], object]], times: int, clock: Callable[[], float] = time.process_time
) -> list[dict[str, float]]:
    """Seconds for one call of each, in each round, taken in turn."""
    counts = {}
    for name, call in calls.items():
        call()  # caches and late imports
        counts[name] = max(1, round(SLICE_S / max(one(call, 1, clock), 1e-7)))
    return [{name: one(call, counts[name], clock) for name, call in calls.items()} for _ in range(times)]


def over(samples: list[dict[str, float]], ours: str, anchor: str) -> tuple[float, ...]:
    return tuple(r[ours] / r[anchor] for r in samples)


def middle(samples: list[dict[str, float]], name: str) -> float:
    return statistics.median(r[name] for r in samples)
