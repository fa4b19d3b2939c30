"""Every scenario under v1 and v2, side by side: the table, a picture of it, a chart and a trace of each run.

Takes the runner as an argument; the output does not depend on which runner it is.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote

from ..case.registry import MANAGERS, PROTOCOLS, USUAL_MANAGER
from ..case.scenario import Scenario
from .chart import sequence_svg
from .outcome import BAD, COLUMNS, OUTCOMES, Row
from .trace import Trace

COLOURS = {
    "migrated": "#2ca25f",
    "refused": "#3b7dd8",
    "failed": "#f0a30a",
    "hung": "#c0392b",
    "lost": "#7b1fa2",
    "misconfigured": "#d35400",
    "corrupted": "#ad1457",
    "split_brain": "#4a148c",
    "unconfirmed": "#b8860b",
    "uncertain": "#607d8b",
    "postcopy_paused": "#546e9a",
    "gone": "#212121",
}
BADLY = "A run ends badly if it is hung, unconfirmed, lost, misconfigured, corrupted or split brain."
KNOWN = "The source knows the reason if it ends refused or failed with more than an errno."
VERSIONS_SHOWN = ("7.2", "10.0", "11.1", "mixed")
MARKS = {outcome: outcome[0].upper() for outcome in COLOURS} | {"migrated": "✓", "uncertain": "?"}


class Run(Protocol):
    """What a runner gives back."""

    row: Row
    trace: Trace


Runner = Callable[..., Run]


@dataclass(frozen=True, slots=True)
class Job:
    scenario: Scenario
    protocol: str
    version: str
    manager: str


def jobs(scenarios: Iterable[Scenario]) -> list[Job]:
    """v1 under every manager, and protocols that negotiate under one: their result does not depend on the manager."""
    return [
        Job(s, protocol, version, manager)
        for s in scenarios
        for version in s.versions
        for protocol in s.protocols
        for manager in (s.managers[:1] if PROTOCOLS.get(protocol).negotiates else s.managers)
    ]


def run_all(runner: Runner, work: list[Job], out: Path, seed: int) -> Iterator[Row]:
    """Run each job and write its results at once, so that no finished run is lost.

    Args:
        out: the folder for table.csv, charts and traces; made if absent.

    Yields:
        The row of each run, once it is written.

    Raises:
        OSError: if a file can't be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    for folder in ("charts", "traces"):
        (out / folder).mkdir(exist_ok=True)
    with (out / "table.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for job in work:
            result = runner(job.scenario, protocol=job.protocol, version=job.version, manager=job.manager, seed=seed)
            name = file_name(result.row)
            (out / "traces" / f"{name}.txt").write_text(f"{result.trace}\n", encoding="utf-8")
            if job.version == job.scenario.versions[0] and job.manager == job.scenario.managers[0]:
                svg = sequence_svg(result.trace, result.row.outcome)
                (out / "charts" / f"{name}.svg").write_text(svg, encoding="utf-8")
            table.writerow(result.row.as_dict())
            file.flush()
            yield result.row


def file_name(row: Row) -> str:
    version = f"{row.source_version}-{row.destination_version}"
    return f"{row.scenario}.{row.protocol}.{version}.{row.manager}"


def finish(rows: list[Row], scenarios: list[Scenario], out: Path, command: str) -> None:
    """Write what needs all rows: table.json, the picture, the page. Raises OSError."""
    table = {"command": command, "columns": COLUMNS, "rows": [r.as_dict() for r in rows]}
    (out / "table.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    (out / "outcomes.svg").write_text(matrix_svg(rows), encoding="utf-8")
    (out / "index.html").write_text(page(rows, scenarios, command), encoding="utf-8")


def pairs(rows: Iterable[Row]) -> dict[tuple[str, str, str], dict[str, Row]]:
    """(scenario, versions, manager) -> protocol -> row; protocols that negotiate are beside every manager's v1."""
    situations: dict[tuple[str, str, str], dict[str, Row]] = {}
    ordered = [(PROTOCOLS.get(r.protocol).negotiates, r) for r in rows]
    for negotiates, row in sorted(ordered, key=lambda pair: pair[0]):
        keys = [k for k in situations if k[:2] == (row.scenario, versions(row))] if negotiates else []
        for key in keys or [(row.scenario, versions(row), row.manager)]:
            situations.setdefault(key, {})[row.protocol] = row
    return dict(sorted(situations.items(), key=lambda item: item[0][0]))


def versions(row: Row) -> str:
    same = row.source_version == row.destination_version
    return row.source_version if same else f"{row.source_version}>{row.destination_version}"


def text_table(rows: list[Row]) -> Iterator[str]:
    """For a terminal: one line for each situation, protocols side by side; below, the detection variants beside v2."""
    probed = _probed(rows)
    names = _protocols(r for r in rows if r.scenario not in probed)
    heads = [
        f"{name:9} {'guest_at':11} {'error_codes':13}"
        if PROTOCOLS.get(name).negotiates
        else f"{name:13} {'guest_at':11} {'reason':9}"
        for name in names
    ]
    yield " ".join([f"{'scenario':36} {'versions':9} {'manager':8}", *heads]).rstrip()
    before = ""
    for (scenario, version, manager), both in pairs(r for r in rows if r.scenario not in probed).items():
        cells = [_cell(name, both.get(name)) for name in names]
        lied = " (the manager lied)" if any(row.lied for row in both.values()) else ""
        line = " ".join([f"{scenario if scenario != before else '':36} {version:9} {manager:8}", *cells]).rstrip()
        yield line + lied
        before = scenario
    if probed:
        names = list(dict.fromkeys(r.protocol for r in rows if r.scenario in probed))
        yield ""
        yield f"{'detection':36} " + " ".join(f"{n:13}" for n in names)
        for (scenario, _, _), by in pairs(r for r in rows if r.scenario in probed).items():
            yield f"{scenario:36} " + " ".join(f"{by[n].outcome if n in by else '':13}" for n in names)


def _cell(protocol: str, row: Row | None) -> str:
    if row is None:
        return " " * 35
    if PROTOCOLS.get(protocol).negotiates:
        return f"{row.outcome:9} {row.guest_at:11} {row.error_codes:13}"
    return f"{row.outcome:13} {row.guest_at:11} {row.reason_at_source:9}"


def _probed(rows: Iterable[Row]) -> set[str]:
    """Scenarios that are about detection: they have a table of their own."""
    return {r.scenario for r in rows if PROTOCOLS.get(r.protocol).probes}


def _protocols(rows: Iterable[Row]) -> list[str]:
    """Those that occur, today's stream first."""
    used = dict.fromkeys(r.protocol for r in rows)
    return [*(p for p in PROTOCOLS if p in used), *(p for p in used if p not in tuple(PROTOCOLS))]


def group_of(protocol: str, manager: str) -> str:
    """How runs are counted: by protocol and, where managers must make the two sides fit, by manager."""
    return protocol if PROTOCOLS.get(protocol).negotiates else f"{protocol}, {manager}"


def group_names() -> list[str]:
    """Every group that there can be, in the order in which they are shown."""
    return list(dict.fromkeys(group_of(p, m) for p in PROTOCOLS for m in MANAGERS))


class Counts(NamedTuple):
    """Of the runs under one protocol and manager: how many end badly (`BAD`), how many do not migrate but leave the
    guest safe (refused or failed), and in how many of these the source has received the reason."""

    runs: int
    bad: int
    safe: int
    known: int


def groups(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by `group_of`. A run whose manager gave false information is in none of them: its outcome shows nothing
    about the protocol."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        if not row.lied:
            by_name.setdefault(group_of(row.protocol, row.manager), []).append(row)
    return {name: by_name[name] for name in (*group_names(), *by_name) if name in by_name}


def counts(rows: Iterable[Row]) -> Counts:
    outcomes = list(rows)
    safe = [r.reason_reported for r in outcomes if r.outcome in ("failed", "refused")]
    return Counts(len(outcomes), sum(r.outcome in BAD for r in outcomes), len(safe), sum(safe))


def summary(rows: list[Row]) -> Iterator[str]:
    """How often each outcome occurs: v1 by manager, and v2; then the detection variants, which few situations run."""
    by_name = groups(rows)
    for probes in (False, True):
        table = {name: some for name, some in by_name.items() if PROTOCOLS.get(some[0].protocol).probes == probes}
        if table:
            yield from _outcome_table(table)
            yield ""
    lied = sum(r.lied for r in rows)
    yield f"Not counted: {lied} runs in which the manager gave the two sides false information."


def _outcome_table(by_name: dict[str, list[Row]]) -> Iterator[str]:
    """One line for each outcome, one column for each group."""
    counted = {name: Counter(r.outcome for r in rows) for name, rows in by_name.items()}
    totals = {name: counts(rows) for name, rows in by_name.items()}

    def line(title: str, cells: Iterable[object]) -> str:
        return f"{title:26}" + "".join(f"{cell!s:>13}" for cell in cells)

    yield line("", by_name)
    yield line("runs", (t.runs for t in totals.values()))
    for outcome in OUTCOMES:
        if any(c[outcome] for c in counted.values()):
            yield line(f"  {outcome.replace('_', ' ')}", (c[outcome] for c in counted.values()))
    yield line("end badly", (t.bad for t in totals.values()))
    both = {(r.scenario, versions(r)) for r in by_name.get("v1, libvirt", ())}  # where its rules were tried too
    if both:
        alike = ([r for r in rows if (r.scenario, versions(r)) in both] for rows in by_name.values())
        yield line(f"  in the same {len(both)} runs", (counts(rows).bad for rows in alike))
    yield line("source knows the reason", (f"{t.known} of {t.safe}" for t in totals.values()))


def matrix_svg(rows: list[Row]) -> str:
    """A square for each run under a manager that trusts the source: situations down (in two halves), protocols by
    version across."""
    probed = _probed(rows)
    shown = [r for r in rows if r.manager == USUAL_MANAGER and r.scenario not in probed]
    columns = [(p, v) for p in _protocols(shown) for v in VERSIONS_SHOWN]
    names = list(dict.fromkeys(r.scenario for r in shown))
    at: dict[tuple[str, str, str], Row] = {}
    for r in shown:
        version = versions(r)
        at.setdefault((r.scenario, r.protocol, "mixed" if ">" in version else version), r)
    half, row_h, top = (len(names) + 1) // 2, 18, 96
    wide = 640 + max(0, len(columns) // len(VERSIONS_SHOWN) - 2) * 190
    height = top + row_h * half + 62
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * wide} {height}" width="{2 * wide}" '
        f'height="{height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12" role="img">',
        "<title>How each situation ends under v1 and under v2</title>",
        f'<rect width="{2 * wide}" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="30" font-size="20" font-weight="bold">How each situation ends</text>',
        '<text x="310" y="30" fill="#555">v1: today\'s stream, by QEMU version; v2: with the handshake, on the same '
        "QEMU; mixed: two versions</text>",
    ]
    for part, x in ((names[:half], 0), (names[half:], wide)):
        parts += _half(part, columns, at, x, top, row_h)
    occurring = [outcome for outcome in OUTCOMES if outcome in {r.outcome for r in shown}]
    return "\n".join([*parts, *_legend(occurring, 16, height - 40, 2 * wide), "</svg>\n"])


def _half(
    names: list[str], columns: list[tuple[str, str]], at: dict[tuple[str, str, str], Row], x0: int, top: int, row_h: int
) -> Iterator[str]:
    left, cell, many = x0 + 250, 44, len(VERSIONS_SHOWN)
    for i, (protocol, version) in enumerate(columns):
        x = left + i * cell + 14 * (i // many)
        if i % many == 0:
            yield f'<text x="{x}" y="{top - 28}" font-size="14" font-weight="bold">{protocol}</text>'
        yield f'<text x="{x + 20}" y="{top - 8}" text-anchor="middle" fill="#555" font-size="11">{version}</text>'
    for j, name in enumerate(names):
        y = top + j * row_h
        yield f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(name.replace("_", " "))}</text>'
        for i, (protocol, version) in enumerate(columns):
            row = at.get((name, protocol, version))
            if row is not None:
                title = escape(f"{row.outcome}: {row.source_text or row.source_status}")
                yield _square(left + i * cell + 14 * (i // many), y, row.outcome, title, cell - 5, row_h - 3)


def _square(x: int, y: int, outcome: str, title: str, width: int, height: int) -> str:
    return (
        f'<g><title>{title}</title><rect x="{x}" y="{y}" width="{width}" height="{height}" rx="3" '
        f'fill="{COLOURS[outcome]}"/><text x="{x + width / 2}" y="{y + 12}" text-anchor="middle" fill="#fff" '
        f'font-weight="bold">{MARKS[outcome]}</text></g>'
    )


def _legend(outcomes: Iterable[str], x: int, y: int, right: int) -> Iterator[str]:
    for outcome in outcomes:
        yield _square(x, y, outcome, outcome, 18, 15)
        yield f'<text x="{x + 24}" y="{y + 12}">{outcome.replace("_", " ")}</text>'
        x += 50 + 8 * len(outcome)
    assert x < right


def page(rows: list[Row], scenarios: list[Scenario], command: str) -> str:
    """A page that opens by double click: the picture, and for each scenario its two charts."""
    parts = [
        "<!doctype html><meta charset='utf-8'><title>v1 against v2</title><link rel='icon' href='data:,'>",
        "<style>body{font:15px/1.5 'DejaVu Sans',Helvetica,Arial,sans-serif;max-width:1500px;"
        "margin:2em auto;padding:0 1em}img{max-width:100%}td{vertical-align:top;padding:.3em}"
        "h2{border-top:1px solid #ccc;padding-top:1em}small{color:#555}</style>",
        f"<h1>v1 against v2</h1><p><small>made by <code>{escape(command)}</code></small></p>",
        f"<pre>{escape(chr(10).join(summary(rows)))}</pre>",
        f"<p><small>{escape(BADLY)} {escape(KNOWN)}</small></p>",
        "<p><small>P and D name claims of June 2023 (<code>simlib claims</code>), S and L guarantees of order "
        "(<code>simlib explore</code>, notebook 02).</small></p>",
        "<p><img src='outcomes.svg' alt='outcome of each scenario under v1 and v2'></p>",
    ]
    for s in scenarios:
        shown = [
            r for r in rows if r.scenario == s.name and versions(r) == s.versions[0] and r.manager == s.managers[0]
        ]
        cells = "".join(
            f"<td><img src='charts/{quote(file_name(r))}.svg' alt='{escape(r.protocol)}: {r.outcome}'><br><a "
            f"href='traces/{quote(file_name(r))}.txt'>trace</a></td>"
            for r in shown
        )
        parts.append(
            f"<h2 id='{escape(s.name)}'>{escape(s.title)}</h2><p>{escape(s.about.strip())} "
            f"<small>{escape(', '.join(s.claims))} · QEMU {s.versions[0]}</small></p><table><tr>{cells}</tr></table>"
        )
    return "\n".join(parts)
