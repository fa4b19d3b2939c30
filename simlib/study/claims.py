"""The claims of June 2023, each decided by its experiment: a verdict, the numbers it rests on, the command to check it.

No verdict is written by hand: each is computed from runs (the runner is an argument), from searches of every order of
events, and from frozen vectors. What only real QEMU could decide is listed as still open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..case.files import load_all
from ..case.registry import USUAL_MANAGER
from ..case.scenario import Scenario
from ..record.compare import Runner, jobs
from ..record.outcome import BAD, Row

VERDICTS = ("holds", "holds except", "refuted", "open")
BEGIN, END = "<!-- claims: written by `make claims` -->", "<!-- end of claims -->"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a claim's experiment. `numbers`: sentences with what was counted; `still_open`: what was not."""

    verdict: str
    exception: str
    numbers: tuple[str, ...]
    command: str
    still_open: str = ""

    def __post_init__(self) -> None:
        assert self.verdict in VERDICTS, self.verdict
        assert (self.verdict == "holds except") == bool(self.exception)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, its author (`who`), and the experiment that decides it."""

    name: str
    who: str
    text: str
    decide: Callable[[ExperimentContext], Verdict]


class ExperimentContext:
    """What an experiment may use: a runner, a size, and the rows of all scenarios, which are run once.

    Args:
        run: the runner.
        full: larger grids, more channels, more runs.
        seed: of the runs that `row`, `rows` and `of` start.
    """

    def __init__(self, run: Runner, full: bool = False, seed: int = 1) -> None:
        self.run, self.full, self.seed = run, full, seed
        self._rows: dict[tuple[str, str], list[Row]] = {}

    def row(self, scenario: Scenario, protocol: str, version: str = "", manager: str = USUAL_MANAGER) -> Row:
        return self.run(scenario, protocol=protocol, version=version, manager=manager, seed=self.seed).row

    def rows(self, scenario: Scenario, protocol: str) -> list[Row]:
        """The rows of a scenario of the library under one protocol: all its versions and managers."""
        key = scenario.name, protocol
        if key not in self._rows:
            self._rows[key] = [
                self.row(j.scenario, j.protocol, j.version, j.manager)
                for j in jobs([scenario])
                if j.protocol == protocol
            ]
        return self._rows[key]

    def of(self, protocol: str, *claims: str) -> list[Row]:
        """The rows of every scenario that bears on these claims (all scenarios if none is named)."""
        chosen = [s for s in load_all() if not claims or set(claims) & set(s.claims)]
        return [row for s in chosen for row in self.rows(s, protocol)]


def bad(rows: Iterable[Row]) -> list[Row]:
    """The rows whose outcome is in `BAD`, without those whose manager gave false information."""
    return [r for r in rows if r.outcome in BAD and not r.lied]


def decide(run: Runner, claims: Mapping[str, Claim], full: bool = False) -> Iterator[tuple[Claim, Verdict]]:
    """Run the experiment of each claim, one after the other.

    Args:
        run: the runner of the experiments.
        claims: the claims by name.
        full: larger grids, more channels, more runs.

    Yields:
        Each claim with its verdict, in the order of `claims`.
    """
    lab = ExperimentContext(run, full)
    for claim in claims.values():
        yield claim, claim.decide(lab)


def as_dict(claim: Claim, verdict: Verdict) -> dict[str, object]:
    return {
        "claim": claim.name,
        "who": claim.who,
        "text": claim.text,
        "verdict": verdict.verdict,
        "exception": verdict.exception,
        "numbers": list(verdict.numbers),
        "command": verdict.command,
        "open": verdict.still_open,
    }


def as_text(claim: Claim, verdict: Verdict) -> Iterator[str]:
    yield f"{claim.name:10} {verdict_text(verdict)}"
    yield f"           {claim.text} ({claim.who})"
    yield from (f"           - {number}" for number in verdict.numbers)
    yield from ([f"           open: {verdict.still_open}"] if verdict.still_open else [])
    yield f"           shown by: {verdict.command}"


def verdict_text(verdict: Verdict) -> str:
    return f"{verdict.verdict}: {verdict.exception}" if verdict.exception else verdict.verdict


PAGE = """\
# What became of the claims of June 2023

Each claim of the thread is decided by its experiment, in the simulated world, in every order of events, or on frozen
vectors. `simlib claims NAME` runs the experiment again and prints the numbers, with `--full` on larger grids; the
command in the last column shows one case, or the table behind it. What only real QEMU can decide is listed as open.
P stands for a claim of Peter Xu, D for one of Daniel Berrangé.

"""


def as_page(decided: Iterable[tuple[Claim, Verdict]]) -> str:
    """All about each claim, as Markdown."""
    rows = ["| claim | verdict | numbers | shown by |", "|---|---|---|---|"]
    for claim, verdict in decided:
        numbers = "; ".join(verdict.numbers) + (f". Open: {verdict.still_open}" if verdict.still_open else "")
        rows.append(_row(f"{claim.name}: {claim.text}", _emphasised(verdict), numbers, f"`{verdict.command}`"))
    return PAGE + "\n".join(rows) + "\n"


def as_summary(decided: Iterable[tuple[Claim, Verdict]]) -> str:
    """One line for each claim, as Markdown between markers."""
    rows = [BEGIN, "| claim of 2023 | verdict |", "|---|---|"]
    rows += [_row(f"{claim.text} ({claim.who})", _emphasised(verdict)) for claim, verdict in decided]
    return "\n".join([*rows, END])


def _emphasised(verdict: Verdict) -> str:
    return f"**{verdict.verdict}**" + (f": {verdict.exception}" if verdict.exception else "")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def with_summary(page: str, summary: str) -> str:
    """A page with the summary between the markers. Raises ValueError if it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("there are no markers for the claims")
    return before + summary + after
