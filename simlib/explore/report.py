"""The searches as tables: every model with what it breaks, every mutant with what kills it, and the argument of D2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .detection import ASKING, detects, pairs
from .models import SearchCase, cases
from .mutants import Mutant, mutants
from .search import Search, SearchResult, search
from .story import replay

FOUND_HERE = (
    "CHANNEL_OK must come on every connection of ours",
    "a lost channel waits for control's word",
    "after GO only control's end counts",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One model searched."""

    case: SearchCase
    result: SearchResult

    @property
    def as_expected(self) -> bool:
        return self.result.complete and set(self.result.violations) == set(self.case.breaks)


def search_cases() -> Iterator[Line]:
    """Every model of `models.cases`, one after the other."""
    for case in cases():
        yield Line(case, search(case.model))


def search_mutants() -> Iterator[tuple[Mutant, SearchResult]]:
    """Every mutant, until the property that should notice it does."""
    for mutant in mutants():
        yield mutant, Search(mutant.mutated(), stop_at=mutant.killed_by).run()


def models_table(lines: list[Line]) -> list[str]:
    """Markdown: model, states, what it breaks after how many steps, and whether real QEMU can show it."""
    rows = ["| model | states | breaks (steps of the shortest story) | real QEMU can show it |", "|---|--:|---|---|"]
    for line in lines:
        broken = ", ".join(f"{name} ({len(v.path)})" for name, v in line.result.violations.items()) or "nothing"
        real = "yes" if line.case.real and line.result.violations else ""
        rows.append(f"| {line.case.name} | {line.result.states:,} | {broken} | {real} |")
    return rows


def mutants_table(results: list[tuple[Mutant, SearchResult]]) -> list[str]:
    """Markdown: the rule that is gone, where, what notices, and the steps of the shortest story."""
    rows = ["| rule taken away | where | noticed by | steps | what happens |", "|---|---|---|--:|---|"]
    for mutant, result in results:
        violation = result.violations[mutant.killed_by]
        rows.append(
            f"| {mutant.rule} | {mutant.where} | {mutant.killed_by} | {len(violation.path)} | {violation.text} |"
        )
    return rows


def findings(results: list[tuple[Mutant, SearchResult]]) -> list[str]:
    """Markdown: the stories of the rules that the design lacked, as the search first found them."""
    lines = []
    for mutant, result in results:
        if mutant.rule in FOUND_HERE:
            model = mutant.mutated()
            path = result.violations[mutant.killed_by].path
            trace, ended = replay(model, path)
            lines += [
                f'**Without "{mutant.rule}"** ({mutant.killed_by}): source {ended.source}, guest at {ended.guest_at}.',
                "",
                "```text",
                str(trace),
                "```",
                "",
            ]
    return lines


def detection_table() -> list[str]:
    """Markdown: what the source has heard when it decides, on a pipe and on a slow path; and where it can know."""
    rows = [
        "| strategy | heard on a one-way pipe | heard on a slow two-way path | it decides | it errs |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {p.strategy} | {', '.join(p.on_pipe)} | {'the same' if p.same else ', '.join(p.on_slow_path)} "
        f"| {p.decides} | {p.errs} |"
        for p in pairs()
    ]
    rows += ["", "| strategy, path returns, no timer | old destination | new destination |", "|---|---|---|"]
    return rows + [f"| ({v}) | {old} | {new} |" for v in ASKING for old, new in [detects(v)]]


def page(lines: list[Line], killed: list[tuple[Mutant, SearchResult]]) -> str:
    """All of it as one Markdown page."""
    return "\n".join(
        [
            "# What holds in every order of events",
            "",
            "Written by `make results` (`simlib explore --out data/results`). Each model is searched over every order",
            "of deliveries, accepts and timers, with the faults that its name says at any moment; states that differ",
            "only in names count once.",
            "",
            *models_table(lines),
            "",
            "## What every rule of v2 is for",
            "",
            "Each rule is taken out of the real engine alone, and the search says what breaks.",
            "",
            *mutants_table(killed),
            "",
            "## The stories of the rules that the design lacked",
            "",
            "Steps of the search, 200 ms apart, to the moment at which the property breaks.",
            "",
            *findings(killed),
            "## Why the source must be told (D2)",
            "",
            "What the real source hears until it decides, on a pipe that returns nothing and on a path whose answer is",
            "late, is the same; so whatever it decides is wrong on one of them.",
            "",
            *detection_table(),
            "",
        ]
    )
