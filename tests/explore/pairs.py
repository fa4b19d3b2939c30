"""Every pair of faults over every kind of v2 model: `make pairs`, which writes data/results/pairs.md.

A model has both faults, each once and at any moment. CI searches some of them, drawn at random (test_pairs.py).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from pathlib import Path

from tqdm import tqdm

from simlib.case.endpoints import Case
from simlib.explore.models import postcopy, scenario, side, tls, v2
from simlib.explore.search import search
from simlib.explore.state import Faults, Model
from simlib.study.sweep import commit

PAGE = Path(__file__).resolve().parents[2] / "data" / "results" / "pairs.md"
LIMIT = 20_000  # states
Add = Callable[[Model], Model]


def _adds(**more: object) -> Add:
    """A fault beside those that a model has."""

    def add(model: Model) -> Model:
        faults = model.faults
        for name, value in more.items():
            faults = faults._replace(**{name: getattr(faults, name) + value})
        return replace(model, faults=faults)

    return add


FAULTS: dict[str, Add] = {
    "a cut": _adds(cuts=1),
    "a connection lost": _adds(losses=1),
    "silence to the destination": _adds(silences=("to-destination",)),
    "silence to the source": _adds(silences=("to-source",)),
    "silence both ways": _adds(silences=("both",)),
    "a frozen source": _adds(freezes=("source",)),
    "a frozen destination": _adds(freezes=("destination",)),
    "cancel": _adds(orders=("cancel",)),
    "deadline": _adds(orders=("deadline",)),
    "intruder: garbage": _adds(intruders=("garbage",)),
    "intruder: HELLO": _adds(intruders=("v2-hello",)),
    "intruder: replay": _adds(intruders=("replay",)),
    "guards ring": lambda model: replace(model, alarms=("guard",)),
    "buffers of one message": lambda model: replace(model, send_buffer_messages=1),
}
ADAPTIVE = Case(scenario("v2", side(1), side(1, accept="v2-or-v1")), "v2", "10.0")
KINDS: dict[str, Model] = {
    "plain": v2("v2", 0),
    "1 multifd": v2("v2", 1),
    "2 multifd": v2("v2", 2),
    "postcopy": postcopy(Faults()),
    "preempt": postcopy(Faults(), "postcopy-preempt"),
    "inline": Model(Case(scenario("v2", side(), transport="exec-socat"), "v2", "10.0")),
    "TLS": Model(Case(scenario("v2", tls(0)), "v2", "10.0")),
    "adaptive": Model(ADAPTIVE),
    "rival": v2("v2", 0, rival=True, compatible=False),
    "file": Model(Case(scenario("v2", side(), transport="file"), "v2", "10.0"), compatible=False),
}


@dataclass(frozen=True)
class Pair:
    """A kind of model, with two faults."""

    kind: str
    faults: tuple[str, str]

    @property
    def model(self) -> Model:
        model = KINDS[self.kind]
        for name in self.faults:
            model = FAULTS[name](model)
        return model

    def __str__(self) -> str:
        return f"{self.kind}: {' and '.join(self.faults)}"


@dataclass(frozen=True)
class Outcome:
    """What a search of a pair has seen."""

    pair: Pair
    states: int
    complete: bool
    violations: tuple[str, ...]
    seconds: float


def pairs() -> Iterator[Pair]:
    """All that make sense: nobody else can reach a pipe, nobody answers at a file (its destination reads later), and an
    alarm or a buffer is no fault that happens twice."""
    for kind in KINDS:
        for faults in combinations_with_replacement(FAULTS, 2):
            piped = kind in ("inline", "file") and any("intruder" in f or "guards" in f for f in faults)
            piped |= kind == "file" and any("silence" in f or "frozen destination" in f for f in faults)
            twice = faults[0] == faults[1] and faults[0] in ("guards ring", "buffers of one message")
            if not piped and not twice:
                yield Pair(kind, faults)


def searched(pair: Pair, limit: int = LIMIT) -> Outcome:
    """Search it; a model that is larger is searched as far as the limit."""
    began_s = time.monotonic()
    result = search(pair.model, limit=limit)
    texts = tuple(f"{name}: {violation.text}" for name, violation in result.violations.items())
    return Outcome(pair, result.states, result.complete, texts, time.monotonic() - began_s)


def page(outcomes: list[Outcome], at: str) -> str:
    """The table, by kind; what is broken is named."""
    broken = [o for o in outcomes if o.violations]
    partly = sum(not o.complete for o in outcomes)
    lines = [
        "# Pairs of faults",
        "",
        f"Written by `make pairs` at {at}: {len(outcomes)} models of v2, each with two faults that may come at any "
        f"moment. {len(outcomes) - partly} were searched completely, {partly} up to their first {LIMIT:,} states "
        f"(marked +). Properties are broken in {len(broken)}.",
        "",
    ]
    lines += [f"* {o.pair}: {'; '.join(o.violations)}" for o in broken]
    for kind in KINDS:
        lines += ["", f"## {kind}", "", "| faults | states | broken |", "|---|---:|---|"]
        for o in outcomes:
            if o.pair.kind == kind:
                names = ", ".join(v.split(":")[0] for v in o.violations)
                lines.append(f"| {' and '.join(o.pair.faults)} | {o.states:,}{'' if o.complete else '+'} | {names} |")
    return "\n".join([*lines, ""])


def main() -> int:
    """Search all of them on every processor."""
    chosen = list(pairs())
    with ProcessPoolExecutor() as pool:
        outcomes = list(tqdm(pool.map(searched, chosen), total=len(chosen), unit=" models"))
    PAGE.write_text(page(outcomes, commit()[:12]), encoding="utf-8")
    print(f"{PAGE}: {len(outcomes)} models")
    return 0


if __name__ == "__main__":
    sys.exit(main())
