"""The simulated v1 against QEMU's: the same scenario file in both, and whether they end alike.

A cell agrees when each way in which the real pair ended is one that the simulated pair ends in, over seeds, jitter and
slow hosts; an ending is the outcome, where the guest is, and how much of the reason the source receives.
"""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from ..case.checks import pair
from ..case.endpoints import Case
from ..case.registry import PROTOCOLS
from ..case.scenario import Scenario
from ..handshake.errors import clean
from ..record.outcome import SHUT_1, Row
from ..record.result import Result
from . import agent_run
from .machine import unsupported_reason
from .monitor import QemuError, Unavailable
from .run import play

SEEDS = 120  # looked through only until one ends in the same way
REPEATS = 3
JITTERS_MS = ((0.0, 0.0), (0.02, 0.3), (0.5, 3.0), (3.0, 20.0))  # of the link, of whatever the hosts do

# Where the two differ, and why; these cells are only reported.
RELAYED = "QEMU's own multifd, which agents carry, checks the UUID: refused with both values; v2's multifd doesn't look"
ZERO_WINDOW = (
    "10.0 shuts its end of the multifd channels down, but closes none: over a full receive buffer their window stays "
    "shut, and the source's write never ends (its destination's sockets stand in FIN-WAIT-2 with a full Recv-Q). The "
    "simulated thread reads the first packet before the window can fill"
)
SLICE = (
    "a race that a busy machine decides: QEMU ends a pass over memory after 50 ms (MAX_WAIT, ram.c) and then writes on "
    "main, where it meets the reset of a destination that took main for another channel; if its channels are full "
    "before, it never gets there. The simulated source makes its pass at once"
)
CANCEL = (
    "a race, seen in 3 of some 60 runs with other work on the machine: real 5.2 and 7.2, cancelled while their multifd "
    "channels are full, end these and never main, and are cancelling for ever; the simulated source always ends all"
)
UNUSED_POSTCOPY = (
    "real 11.1 (under TCG) loses the guest's last write, in some of its runs, when postcopy-ram is on at both sides "
    "and is not used: its own v1 does, and agents carry the same stream"
)
KNOWN = {
    ("postcopy_only_at_destination", "v2"): UNUSED_POSTCOPY,
    ("postcopy_only_at_source", "v2"): UNUSED_POSTCOPY,
    ("preempt_only_at_destination", "v1"): UNUSED_POSTCOPY,
    ("order_multifd_first", "v1"): SLICE,
    ("lost_third_ack", "v1"): SLICE,
    ("main_silent", "v1"): CANCEL,
    ("uuid_differs_multifd", "v2"): RELAYED,
    ("compression_none_and_zlib", "v1"): ZERO_WINDOW,
}

Ending = tuple[str, str, str]
Work = tuple[Scenario, str, str]  # and the pair of versions, and the protocol
World = Callable[..., Result]


@dataclass(frozen=True)
class Cell:
    """One scenario on one pair of versions."""

    scenario: str
    version: str
    protocol: str
    simulated: tuple[Ending, ...]  # outcome, where the guest is, what the source knows
    real: tuple[Ending, ...]
    source_text: str
    destination_text: str
    time_to_end_s: float | None  # of the source; median of the real runs
    moved_bytes: int  # that came to the destination by then; median
    left_out: str = ""  # why it could not be run
    error: str = ""  # an unexpected error in it

    @property
    def agrees(self) -> bool:
        return bool(self.real) and set(self.real) <= set(self.simulated)

    @property
    def reason(self) -> str:
        """Why the two differ; empty if they don't, or if the reason is unknown."""
        return "" if self.agrees or self.left_out or self.error else KNOWN.get((self.scenario, self.protocol), "")

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "agrees": self.agrees, "reason": self.reason}


def ending(row: Row) -> Ending:
    return row.outcome, row.guest_at, row.reason_at_source


def _cancelled_late(row: Row) -> bool:
    """Cancelled while it waited for its SHUT, the guest running on the other side already: such a source may end with
    a channel error too. migrate_cancel shuts the return path down, and only then is the state "cancelling"
    (migration.c, migration_cancel, 10.0); of QEMU's threads one or the other is first (both measured)."""
    return row.source_status == "cancelled" and row.guest_at == "both"


def jittered(scenario: Scenario, link_ms: float, guest_ms: float) -> Scenario:
    """The scenario with such jitter on its network, if it has one that is constant, and on its guests."""
    if scenario.link.delay_law != "constant":
        return scenario
    link = {} if scenario.link.local else {"link__delay_law": "exponential", "link__jitter_ms": link_ms}
    return scenario.vary(guest__jitter_ms=guest_ms, **link)


def simulated(world: World, scenario: Scenario, version: str, protocol: str, wanted: set[Ending]) -> tuple[Ending, ...]:
    """The ways in which the simulated pair ends; no further than until all those wanted were found."""
    endings: dict[Ending, None] = {}
    for seed in range(1, SEEDS + 1):
        link_ms, guest_ms = JITTERS_MS[seed % len(JITTERS_MS) if seed > 1 else 0]
        varied = jittered(scenario, link_ms, guest_ms) if link_ms else scenario
        row = world(varied, protocol=protocol, version=version, manager="naive", seed=seed).row
        endings[ending(row)] = None
        # The destination closes over unread bytes behind its SHUT 1. QEMU's return-path thread reads the SHUT and its
        # migration thread meets the reset, and the first of them sets the error (migration.c; both measured). The
        # world's source is one thread, and always reads first.
        if row.source_text.startswith(SHUT_1) or _cancelled_late(row):
            endings[row.outcome, row.guest_at, "generic"] = None
        if seed >= REPEATS and wanted <= endings.keys():
            break
    return tuple(endings)


def work(
    scenarios: Iterable[Scenario],
    binaries: dict[str, str],
    protocols: tuple[str, ...] = ("v1",),
    versions: tuple[str, ...] = (),
) -> list[Work]:
    """Each scenario with each of its pairs of versions that is here, or with those named, and each protocol."""
    return [
        (s, v, p)
        for p in protocols
        for s in scenarios
        if p in s.protocols
        for v in versions or s.versions
        if set(pair(v)) <= binaries.keys()
    ]


def left_out(scenario: Scenario, protocol: str) -> str:
    """Why it can't run on real QEMU; empty if it can."""
    definition = PROTOCOLS.get(protocol)
    if definition.negotiates and not definition.beside_qemu:
        return f"neither QEMU nor the agents beside it speak {protocol}"
    return unsupported_reason(scenario) or (agent_run.unsupported_reason(scenario) if definition.negotiates else "")


def _forget(name: str, result: Result) -> None:
    """A function with a name, as it has to travel to another process."""


@dataclass(frozen=True)
class Checker:
    """`keep` receives the first real run of each cell."""

    world: World
    binaries: dict[str, str]
    repeats: int = REPEATS
    keep: Callable[[str, Result], None] = _forget

    def cell(self, work: Work) -> Cell:
        """Run one cell. An error in it is recorded in its row, and ends no other."""
        try:
            if why := left_out(work[0], work[2]):
                return _without_runs(work, left_out=why)
            return self._run(*work)
        except Unavailable as error:
            return _without_runs(work, left_out=_of_any_machine(str(error)))
        except QemuError as error:
            return _without_runs(work, error=_of_any_machine(str(error)))
        except Exception as error:  # one of ours
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            return _without_runs(work, error=f"{type(error).__name__} at {place}: {_of_any_machine(str(error))}")

    def _run(self, scenario: Scenario, version: str, protocol: str) -> Cell:
        rows: list[Row] = []
        for number in range(self.repeats):
            result = asyncio.run(play(Case(scenario, protocol, version, "naive", number + 1), self.binaries))
            if not number:
                self.keep(f"{scenario.name}.{protocol}.{version.replace('>', '-')}", result)
            rows.append(result.row)
        real = tuple(dict.fromkeys(map(ending, rows)))
        return Cell(
            scenario.name,
            version,
            protocol,
            simulated(self.world, scenario, version, protocol, set(real)),
            real,
            " / ".join(dict.fromkeys(r.source_text for r in rows)),
            " / ".join(dict.fromkeys(r.destination_text for r in rows)),
            _median(r.time_to_outcome_s for r in rows),
            int(_median(r.guest_bytes_sent for r in rows) or 0),
        )


def _without_runs(work: Work, left_out: str = "", error: str = "") -> Cell:
    scenario, version, protocol = work
    return Cell(scenario.name, version, protocol, (), (), "", "", None, 0, left_out, error)


def _of_any_machine(text: str) -> str:
    """A line of the table, which is not of this folder."""
    return clean(text.replace(f"{Path.cwd()}/", ""))


def check(checker: Checker, cells: Iterable[Work], jobs: int = 1) -> Iterator[Cell]:
    """Run them, `jobs` at a time: most of a cell is waiting."""
    with ProcessPoolExecutor(jobs) as pool:
        try:
            flying = [(work, pool.submit(checker.cell, work)) for work in cells]
            for work, future in flying:
                try:
                    yield future.result()
                except BrokenExecutor:
                    yield _without_runs(work, error="not run: a process of the check was killed, or out of memory")
        finally:
            pool.shutdown(cancel_futures=True)


def _median(values: Iterable[float | None]) -> float | None:
    there = sorted(v for v in values if v is not None)
    return there[len(there) // 2] if there else None


def table(cells: Sequence[Cell]) -> list[str]:
    """A line for each cell, for people, and one more for each that differs."""

    def in_words(endings: tuple[Ending, ...]) -> str:
        return " or ".join(f"{o} (guest {at}, reason {r})" for o, at, r in endings)

    rows = [("scenario", "protocol", "QEMU", "agrees", "real", "simulated, where it differs", "the source is told")]
    for c in cells:
        verdict = "left out" if c.left_out else "ERROR" if c.error else "yes" if c.agrees else "NO"
        rows.append(
            (
                c.scenario,
                c.protocol,
                c.version,
                verdict,
                c.left_out or c.error or in_words(c.real),
                "" if c.agrees else in_words(c.simulated),
                c.source_text[:60],
            )
        )
    wide = [max(len(r[n]) for r in rows) for n in range(len(rows[0]))]
    lines = ["  ".join(t.ljust(w) for t, w in zip(row, wide, strict=True)).rstrip() for row in rows]
    differ = [c for c in cells if not (c.agrees or c.left_out or c.error)]
    why = [f"{c.scenario}, {c.protocol}, {c.version}: {c.reason or 'nobody knows why'}" for c in differ]
    return [*lines, *([""] if why else []), *why]


def summary(cells: list[Cell]) -> str:
    ran = [c for c in cells if not (c.left_out or c.error)]
    agree, broken = sum(c.agrees for c in ran), sum(bool(c.error) for c in cells)
    return (
        f"{len(ran)} scenario × version cells ran on real QEMU, {agree} agree, {len(ran) - agree} differ; "
        f"{len(cells) - len(ran) - broken} could not be run" + (f"; {broken} ended with an error" if broken else "")
    )


def write(path: Path, cells: list[Cell]) -> None:
    """The table, and beside it the same as JSON."""
    path.with_suffix(".json").write_text(json.dumps([c.as_dict() for c in cells], indent=1) + "\n", encoding="utf-8")
    path.write_text("".join(f"{line}\n" for line in (*table(cells), "", summary(cells))), encoding="utf-8")
