"""A sweep as in its TOML file: a base scenario, points, protocols, versions, repetitions. No runner, no pandas.

    title = "Detection over paths of many kinds"
    scenario = "detect_new_and_new"        # a name that `simlib list` shows, or a file beside this one
    protocols = ["c", "v2"]
    repetitions = 100

    [set]                                  # for all points
    "guest.ram-mib" = 1

    [grid]                                 # every combination
    "link.delay-ms" = [1, 10, 100]

Points come from `[grid]`, from `[[point]]` (explicit ones), and from `[sample]` (Latin hypercube or Sobol); given
together, every combination is run. A run's seed follows from the sweep's seed, the point's values and the repetition,
so that all protocols meet the same random draws, and a point added elsewhere changes no other.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypedDict

from ..case import effects
from ..case.files import (
    dumps,
    find,
    read_table,
    with_key,
)
from ..case.registry import ScenarioError
from ..case.scenario import Scenario
from ..record.outcome import Row

RUNNERS = ("world", "live", "real-qemu")
KEYS = {
    "title",
    "scenario",
    "runner",
    "protocols",
    "versions",
    "managers",
    "repetitions",
    "seed",
    "set",
    "grid",
    "point",
    "sample",
}
SAMPLERS = ("latin-hypercube", "sobol")
POINTS_LIMIT, RUNS_LIMIT = 1 << 22, 10**9
Values = tuple[tuple[str, object], ...]
Table = dict[str, object]  # of a TOML file
Range = TypedDict("Range", {"from": float, "to": float, "log": object, "whole": object}, total=False)


@dataclass(frozen=True, slots=True)
class Batch:
    """Runs that differ in their repetition alone. `first` is the index of the first in the sweep."""

    first: int
    point: int
    values: Values
    protocol: str
    version: str
    manager: str
    repetitions: range


@dataclass(frozen=True)
class Design:
    """A checked sweep. Its runs are numbered by point, version, manager, protocol and repetition."""

    title: str
    base: Scenario
    runner: str
    points: tuple[Values, ...]
    protocols: tuple[str, ...]
    versions: tuple[str, ...]
    managers: tuple[str, ...]
    repetitions: int
    seed: int

    @property
    def runs(self) -> int:
        return len(self.points) * len(self.versions) * len(self.managers) * len(self.protocols) * self.repetitions

    @property
    def parameters(self) -> tuple[str, ...]:
        """What varies between points, in the order of the file."""
        return tuple(dict.fromkeys(key for point in self.points for key, _ in point))

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The runs from `start` to before `stop`."""
        many = self.repetitions
        while start < stop:
            group, repetition = divmod(start, many)
            last = min(many, repetition + stop - start)
            rest, protocol = divmod(group, len(self.protocols))
            rest, manager = divmod(rest, len(self.managers))
            point, version = divmod(rest, len(self.versions))
            yield Batch(
                start,
                point,
                self.points[point],
                self.protocols[protocol],
                self.versions[version],
                self.managers[manager],
                range(repetition, last),
            )
            start += last - repetition

    def description(self) -> dict[str, object]:
        """All that decides the rows, as JSON values; its digest identifies the sweep."""
        return {
            "title": self.title,
            "scenario": self.base.name,
            "base": dumps(self.base),
            "runner": self.runner,
            "points": [dict(p) for p in self.points],
            "protocols": self.protocols,
            "versions": self.versions,
            "managers": self.managers,
            "repetitions": self.repetitions,
            "seed": self.seed,
        }


def derived_seeds(seed: int, values: Values, repetitions: Iterable[int]) -> Iterator[int]:
    """The seeds of one point's runs; 53 bits, so that every tool reads them back exactly.

    Args:
        seed: the sweep's seed.
        values: what the point changes, as (key, value).
        repetitions: the numbers of the runs.
    """
    point = hashlib.blake2b(f"{seed} {json.dumps(dict(values), sort_keys=True)} ".encode(), digest_size=8)
    for repetition in repetitions:
        digest = point.copy()
        digest.update(b"%d" % repetition)
        yield int.from_bytes(digest.digest(), "big") >> 11


def applied(base: Scenario, values: Values, file: str) -> Scenario:
    """The scenario of a point; errors begin with `file`. Raises ScenarioError."""
    for path, value in values:
        base = with_key(base, path, value, file)
    return base


# --- reading --------------------------------------------------------------------------------------------------------
def load(path: Path) -> Design:
    """The sweep in a TOML file. Raises ScenarioError with one sentence that names file and key."""
    return _design(read_table(path), path)


def _design(table: Table, path: Path) -> Design:
    for key in table:
        if key not in KEYS:
            raise ScenarioError(f"{path}: unknown key '{key}'; a sweep has {', '.join(sorted(KEYS))}")
    name = table.get("scenario")
    if not isinstance(name, str):
        raise ScenarioError(f"{path}: lacks the key 'scenario', the name or the file of the one to vary")
    beside = path.parent / name
    base = find(str(beside) if name.endswith(".toml") and beside.exists() else name)
    base = applied(base, _values(table.get("set", {}), path, "set"), str(path))
    runner = table.get("runner", "world")
    if not isinstance(runner, str) or runner not in RUNNERS:
        raise ScenarioError(f"{path}: 'runner' is {runner!r}; choose one of {', '.join(RUNNERS)}")
    seed, asked = _whole(table, "seed", 1, 0, path), base
    for key in ("protocols", "versions", "managers"):
        if key in table:
            names = table[key]
            asked = with_key(asked, key, names, str(path))
            if isinstance(names, list) and len(set(names)) < len(names):
                raise ScenarioError(f"{path}: '{key}' names one twice")
    if "managers" not in table:
        asked = asked.vary(managers=base.managers[:1])
    return _complete(str(table.get("title", path.stem)), base, asked, table, seed, runner, path)


def _complete(title: str, base: Scenario, asked: Scenario, table: Table, seed: int, runner: str, path: Path) -> Design:
    """The sweep of a table's points, under the protocols, versions and managers of `asked`. Raises ScenarioError."""
    many, repetitions = _count(table, path), _whole(table, "repetitions", 1, 1, path)
    runs = many * len(asked.protocols) * len(asked.versions) * len(asked.managers) * repetitions
    for count, limit, what in ((many, POINTS_LIMIT, "points"), (runs, RUNS_LIMIT, "runs")):
        if count > limit:
            raise ScenarioError(f"{path}: {count:,} {what} are more than a sweep may have ({limit:,})")
    points = tuple(_points(table, seed, path))
    _check(base, points, asked.protocols, path)
    return Design(title, base, runner, points, asked.protocols, asked.versions, asked.managers, repetitions, seed)


def designed(
    base: Scenario,
    over: Mapping[str, Sequence[object]],
    *,
    protocols: tuple[str, ...],
    versions: tuple[str, ...],
    managers: tuple[str, ...],
    repetitions: int,
    seed: int,
    runner: str,
) -> Design:
    """A sweep over every combination of some values, made in Python.

    Args:
        over: keys as in files, such as "link.delay-ms", each with its values in the key's unit.
        repetitions: runs of each combination under each protocol, version and manager.
        seed: the sweep's seed, from which the runs' seeds follow.
        runner: the runner's name.

    Raises:
        ScenarioError: for an unknown key, a wrong value, or too many points or runs.
    """
    path = Path("the sweep")
    for key, values in over.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ScenarioError(f"{path}: '{key}' needs a list of values, as in [1, 10, 100]; it is {values!r:.40}")
    table: Table = {"grid": {k: list(v) for k, v in over.items()}, "repetitions": repetitions, "seed": seed}
    asked = base.vary(protocols=protocols, versions=versions, managers=managers)
    return _complete(base.title or base.name, base, asked, table, _whole(table, "seed", 1, 0, path), runner, path)


def _check(base: Scenario, points: Iterable[Values], protocols: Sequence[str], path: Path) -> None:
    """Raises ScenarioError for the first point that can't be run as it is written."""
    for point in points:
        scenario = applied(base, point, str(path))
        try:
            effects.check(scenario, protocols)
        except ScenarioError as error:
            raise ScenarioError(f"{path}: {error}") from None


def _count(table: Table, path: Path) -> int:
    """How many points there will be, before one is made. Raises ScenarioError."""
    axes, explicit, sample = _axes(table, path), _explicit(table, path), _sampling(table, path)
    drawn = _whole(sample, "points", 0, 1, path) if "sample" in table else 1
    return math.prod((len(explicit), drawn, *(len(values) for values in axes.values())))


def _axes(table: Table, path: Path) -> dict[str, list[object]]:
    """What [grid] varies: each key's values. Raises ScenarioError."""
    axes = {}
    for key, values in _values(table.get("grid", {}), path, "grid"):
        if not isinstance(values, list) or not values:
            raise ScenarioError(f"{path}: 'grid.{key}' must be a list of values, as in [1, 10, 100]")
        axes[key] = values
    return axes


def _explicit(table: Table, path: Path) -> list[object]:
    """The points that are written out, or one without values. Raises ScenarioError."""
    explicit = table.get("point", [{}])
    if not isinstance(explicit, list) or not explicit:
        raise ScenarioError(f"{path}: 'point' must be written as [[point]], once for each")
    return explicit


def _sampling(table: Table, path: Path) -> Table:
    """The table [sample]. Raises ScenarioError."""
    sample = table.get("sample", {})
    if not isinstance(sample, dict) or set(sample) - {"method", "points", "ranges"}:
        raise ScenarioError(f"{path}: [sample] has the keys method, points and ranges")
    return sample


def _points(table: Table, seed: int, path: Path) -> Iterator[Values]:
    axes = [[(key, value) for value in values] for key, values in _axes(table, path).items()]
    explicit = _explicit(table, path)
    sampled = _sample(_sampling(table, path), seed, path) if "sample" in table else [()]
    for combined in itertools.product(*axes):
        for one in explicit:
            for drawn in sampled:
                point = (*combined, *_values(one, path, "point"), *drawn)
                if len(dict(point)) < len(point):
                    raise ScenarioError(f"{path}: a key stands in more than one of grid, point and sample")
                yield point


def _sample(table: Table, seed: int, path: Path) -> list[Values]:
    """Points spread over ranges: [sample] method, points; [sample.ranges] "key" = { from, to, log, whole }."""
    method, ranges, many = table.get("method"), table.get("ranges"), _whole(table, "points", 0, 1, path)
    if method not in SAMPLERS:
        raise ScenarioError(f"{path}: 'sample.method' is {method!r}; choose one of {', '.join(SAMPLERS)}")
    if not isinstance(ranges, dict) or not ranges:
        raise ScenarioError(f'{path}: lacks [sample.ranges], as in "link.delay-ms" = {{ from = 1, to = 100 }}')
    for key, one in ranges.items():
        if not isinstance(one, dict) or set(one) - {"from", "to", "log", "whole"} or not {"from", "to"} <= set(one):
            raise ScenarioError(f"{path}: 'sample.ranges.{key}' needs from and to, and may have log and whole")
        ends = one["from"], one["to"]
        if not all(isinstance(end, int | float) for end in ends) or not -1e15 < ends[0] < ends[1] < 1e15:
            raise ScenarioError(f"{path}: 'sample.ranges.{key}': from must be a number below to")
        if one.get("log") and one["from"] <= 0:
            raise ScenarioError(f"{path}: 'sample.ranges.{key}': a logarithmic range begins above 0")
    from scipy.stats import qmc

    if method == "sobol":
        if many & (many - 1):
            raise ScenarioError(f"{path}: 'sample.points' is {many}; Sobol's points balance at powers of two alone")
        sampler = qmc.Sobol(len(ranges), seed=seed)
    else:
        sampler = qmc.LatinHypercube(len(ranges), seed=seed)
    units = sampler.random(many).tolist()
    return [tuple((k, _scaled(u, r)) for u, (k, r) in zip(row, ranges.items(), strict=True)) for row in units]


def _scaled(unit: float, among: Range) -> float | int:
    low, high = among["from"], among["to"]
    if among.get("whole"):
        return min(int(high), int(low + unit * (high - low + 1)))
    value = low * (high / low) ** unit if among.get("log") else low + unit * (high - low)
    return float(f"{value:.9g}")  # short in the file, and the same on every machine's libm


def _values(table: object, path: Path, where: str) -> Values:
    if not isinstance(table, dict):
        raise ScenarioError(f"{path}: '{where}' must be a table, as in [{where}]")
    for key, value in table.items():
        if isinstance(value, dict):
            raise ScenarioError(f"{path}: '{where}.{key}': write the whole key in quotes, as in \"link.delay-ms\" = 5")
        try:
            json.dumps(value)
        except TypeError:
            raise ScenarioError(f"{path}: '{where}.{key}': no key of a scenario is a date or a time") from None
    return tuple(table.items())


def _whole(table: Table, key: str, default: int, least: int, path: Path) -> int:
    value = table.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**53:
        raise ScenarioError(f"{path}: '{key}' must be a whole number of at least {least}; it is {value!r}")
    return value


# --- the rows -------------------------------------------------------------------------------------------------------
OURS = ("run", "point", "repetition")
ROW_FIELDS = tuple(f.name for f in fields(Row))


def columns(design: Design) -> tuple[str, ...]:
    """A row's columns: where in the sweep, the point's values, the outcome's columns, the error if there was one."""
    return (*OURS, *design.parameters, *ROW_FIELDS, "error")
