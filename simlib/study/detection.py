"""The experiments of the claims about detection: P5 in its strong reading, D1, D2, D3; and the curves of D2.

A timeout errs in two ways. On a path that answers late it takes a new destination for an old one (the guest moves under
v1, or is lost where the two decide differently); on a path that never answers it costs its whole length, every time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ..case.files import find
from ..case.registry import BOTH, PROTOCOLS
from ..case.scenario import (
    Link,
    Scenario,
    Side,
)
from ..explore.detection import detects, pairs
from ..handshake.v2 import manifest
from ..handshake.v2.inventory import compare
from ..record.outcome import Row
from .claims import ExperimentContext, Verdict, bad
from .statistics import Survival, exponential, inverse, lognormal, pareto, there_and_back

GAVE_UP = "(takes it for v1"
TOOK = "(takes it for v2"


# --- P5-strong ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Cell:
    """One variant on one path with one peer: what it was taken for, and how it ended."""

    variant: str
    peer: str
    timeout_s: float
    rtt_s: float
    mode: str
    row: Row

    @property
    def fault(self) -> str:
        """What is wrong with it; empty if nothing is. Detection should find v2 between new sides, and v1 otherwise."""
        wanted = "v2" if self.peer == "both new" else "v1"
        if self.row.outcome != "migrated":
            killed = self.row.outcome == "failed" and self.row.destination_status == "gone"
            return "killed" if killed else self.row.outcome
        return "wrong mode" if self.mode and self.mode != wanted else ""


def variants() -> list[str]:
    """Every protocol that detects what its peer speaks."""
    return [name for name in PROTOCOLS if PROTOCOLS.get(name).probes]


def cells(lab: ExperimentContext, chosen: Iterable[str]) -> Iterator[Cell]:
    """Variants over timeout, round trip and peer; an old source without and with return path."""
    many = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0) if lab.full else (0.1, 1.0, 10.0)
    rtts_s = (0.002, 0.02, 0.2, 2.0) if lab.full else (0.002, 0.2, 2.0)
    peers = {
        "both new": (True, True, ()),
        "old destination": (True, False, ()),
        "old source": (False, True, ()),
        "old source, return path": (False, True, ("return-path",)),
    }
    tls = {"tls-creds": "psk"}
    for variant in chosen:
        needs_tls = PROTOCOLS.get(variant).needs_tls
        parameters = tls if needs_tls else {}
        for peer, (new_source, new_destination, capabilities) in peers.items():
            for timeout_s in many:
                for rtt_s in rtts_s:
                    source = Side(knows_v2=new_source, capabilities=capabilities, parameters=dict(parameters))
                    there = replace(source, knows_v2=new_destination, accept="v2-or-v1" if needs_tls else "v2")
                    scenario = Scenario(
                        name="detect", title="detect", source=source, destination=there, detect_timeout_s=timeout_s
                    ).vary(
                        link__delay_ms=rtt_s * 500,
                        guest__ram_mib=1.0,
                        management__deadline_s=120.0,
                        management__observe_s=180.0,
                    )
                    result = lab.run(scenario, protocol=variant, version="7.2", seed=lab.seed)
                    texts = [s.text for s in result.trace.steps if s.side == "source" and s.text.startswith("(takes")]
                    mode = "v2" if any(t.startswith(TOOK) for t in texts) else "v1"
                    yield Cell(variant, peer, timeout_s, rtt_s, mode, result.row)


def detects_itself(lab: ExperimentContext) -> Verdict:
    """Every detection variant over the grid: whether one with a timer makes no error in any cell."""
    grid = list(cells(lab, variants()))
    summaries, clean = [], []
    for variant in variants():
        runs = [c for c in grid if c.variant == variant]
        faults: dict[str, int] = {}
        for c in runs:
            if c.fault:
                faults[c.fault] = faults.get(c.fault, 0) + 1
        if not faults:
            clean.append(variant)
        listed = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in sorted(faults.items(), key=lambda i: -i[1]))
        right = len(runs) - sum(faults.values())
        summaries.append(f"({variant}) {right} of {len(runs)} right{': ' + listed if listed else ''}")
    timed = [v for v in clean if not PROTOCOLS.get(v).needs_tls]
    numbers = ("over timeout, round trip and peer: " + "; ".join(summaries),)
    if timed:
        return Verdict("holds except", f"only ({', '.join(clean)})", numbers, "simlib compare detect_new_and_new")
    if clean:
        return Verdict(
            "refuted",
            "",
            (*numbers, "clean on the whole grid: (f), which asks no clock and needs TLS"),
            "simlib compare detect_new_source detect_new_destination detect_slow_path detect_tls_new_source",
            "old binaries on real sockets",
        )
    return Verdict("refuted", "", numbers, "simlib compare detect_new_source detect_new_destination detect_slow_path")


# --- D1 -------------------------------------------------------------------------------------------------------------
def no_destination_to_ask(lab: ExperimentContext) -> Verdict:
    """Save here, load there: what a manifest refuses before a page is read, against the live handshake's verdict."""
    names = (
        "pc-i440fx-7.2",
        "pc-q35-7.2",
        *(f"pc-i440fx-7.2+{more}" for more in ("virtio-rng", "virtio-net", "e1000", "smp2")),
    )
    versions = ("7.2", "10.0")
    same = tried = 0
    for ours in names:
        for theirs in names:
            for version in versions:
                pair = Scenario(name="d1", title="d1", source=Side(ours), destination=Side(theirs))
                both = [pair.settings(at_source, version) for at_source in (True, False)]
                from_file = manifest.check(manifest.write(both[0]), both[1])
                live = compare(both[0].machine, both[1].machine)
                tried += 1
                same += {(e.code, e.item) for e in from_file} == {(e.code, e.item) for e in live}
    other = find("save_restore_other_device")
    plain, with_manifest = lab.rows(other, "v1")[0], lab.rows(other, "v2")[0]
    rows = [lab.row(find("save_and_restore"), p) for p in BOTH]
    numbers = (
        f"{same} of {tried} pairs of machines get the same findings from a manifest as from the live handshake",
        f"a file for another device: plain v1 {plain.outcome}, known when the destination has read the stream; with a "
        f"manifest {with_manifest.outcome} ({with_manifest.error_codes}) before a page is read",
        f"saved and restored without a destination to ask: {', '.join(r.outcome for r in rows)}; the stream behind the "
        f"manifest {'has' if rows[0].guest_bytes_sent == rows[1].guest_bytes_sent else 'has not'} v1's bytes "
        f"({rows[1].guest_bytes_sent} of guest memory)",
    )
    ok = same == tried and with_manifest.outcome == "refused" and all(r.outcome == "migrated" for r in rows)
    return Verdict(
        "holds" if ok else "refuted",
        "",
        numbers,
        "simlib run save_restore_other_device --protocol v2",
        "files of real QEMUs other than 7.2 and 10.0",
    )


# --- D2 -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of path, by the law of one way."""

    name: str
    law: Link
    leg: Survival

    def round_trip(self) -> Survival:
        return there_and_back(self.leg, self.leg)


def kinds(base_s: float = 0.005) -> tuple[Kind, ...]:
    """From a quiet network to one whose delays have no mean: `base_s` and a jitter of scale 1 ms each way."""
    scale_s = 0.001

    def kind(name: str, law: str, shape: float, leg: Survival) -> Kind:
        return Kind(name, Link(delay_ms=base_s * 1e3, delay_law=law, jitter_ms=scale_s * 1e3, shape=shape), leg)

    return (
        kind("exponential", "exponential", 1.0, exponential(scale_s, base_s)),
        *(kind(f"lognormal, sigma {s:g}", "lognormal", s, lognormal(scale_s, s, base_s)) for s in (0.5, 1.0, 2.0)),
        *(kind(f"Pareto, alpha {a:g}", "pareto", a, pareto(scale_s, a, base_s)) for a in (3.0, 1.5, 1.0)),
    )


def needed_timeout_s(kind: Kind, error: float = 1e-6) -> float:
    """The shortest timeout, in seconds, that misses with probability `error`."""
    return inverse(kind.round_trip(), error)


def missed(lab: ExperimentContext, kind: Kind, timeout_s: float, runs: int) -> int:
    """How often a timeout misses, counted in the world.

    Args:
        kind: the kind of path.
        timeout_s: the timeout of the detection, in seconds.
        runs: runs of the real endpoints.

    Returns:
        The number of runs that take a new destination for an old one.
    """
    base = find("detect_new_and_new").vary(
        link=kind.law, detect_timeout_s=timeout_s, guest__ram_mib=1.0, management__observe_s=timeout_s + 0.5
    )
    count = 0
    for seed in range(runs):
        steps = lab.run(base, protocol="c", version="7.2", seed=seed).trace.steps
        count += any(s.side == "source" and s.text.startswith(GAVE_UP) for s in steps)
    return count


def _duration_text(seconds: float) -> str:
    for unit, size, least in (("h", 3600, 2), ("min", 60, 2), ("s", 1, 0.1)):
        if seconds >= size * least:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e3:.3g} ms"


def needs_a_timeout(lab: ExperimentContext) -> Verdict:
    """The argument that runs, the pipe that costs, and the timeout for one error in a million by kind of path."""
    argued = pairs()
    same = sum(p.same for p in argued)
    waits = [p for p in argued if "timer" not in p.strategy]
    needed = {k.name: needed_timeout_s(k) for k in kinds()}
    pipe = find("detect_one_way").vary(detect_timeout_s=5.0)
    cost_s = _decided_s(lab, pipe)
    runs = 2000 if lab.full else 150
    check = next(k for k in kinds() if k.name == "lognormal, sigma 2")
    hits, expected = missed(lab, check, 0.03, runs), check.round_trip()(0.03)
    finds = {v: detects(v) for v in ("d'", "f")}
    able = ", ".join(f"({v}) {' and '.join(f)}" for v, f in finds.items())
    numbers = (
        f"{same} of {len(argued)} strategies have heard the same on a one-way pipe and on a slow path when they decide"
        f"; {sum(p.decides == 'waits for ever' for p in waits)} of the {len(waits)} without a timer wait for ever on "
        "the pipe",
        "the timeout that errs once in 10^6 where each way takes 5 ms and a jitter of scale 1 ms: "
        + ", ".join(f"{name}: {_duration_text(s)}" for name, s in needed.items()),
        f"a pipe that answers nothing costs the whole timeout every time ({cost_s:.3g} of 5 s)",
        f"in the world {hits} of {runs} runs miss at 30 ms on lognormal, sigma 2 (closed form {expected * runs:.0f})",
        f"on a path that answers, with no timer, an old and a new destination are taken for: {able}",
    )
    off = abs(hits - expected * runs) / math.sqrt(expected * (1 - expected) * runs)
    recognized = all(f == BOTH for f in finds.values())
    if same == len(argued) and off < 4 and recognized:
        exception = "none is needed over TLS (by ALPN), nor where the path is known to return answers"
        return Verdict(
            "holds except",
            exception,
            numbers,
            "simlib sweep data/sweeps/detection.toml --out build/detection.parquet",
            "old binaries behind a real pipe",
        )
    return Verdict("holds" if same == len(argued) else "refuted", "", numbers, "simlib explore --out build/ordering")


def _decided_s(lab: ExperimentContext, scenario: Scenario) -> float:
    steps = lab.run(scenario, protocol="c", version="7.2", seed=lab.seed).trace.steps
    return next((s.time_s for s in steps if s.text.startswith(GAVE_UP)), math.inf)


# --- D3 -------------------------------------------------------------------------------------------------------------
def told_by_the_manager(lab: ExperimentContext) -> Verdict:
    """Every setting of both sides: a cell that is set alike migrates, and one that is not ends before guest memory."""
    right: list[Row] = []
    wrong: list[tuple[str, Row]] = []
    for source in BOTH:
        for accept in ("v1", "v2", "v2-or-v1"):
            for new in (True, False):
                there = Side(accept=accept, knows_v2=new)
                if not new and not there.accepts_stream_alone:
                    continue  # an old binary's command does not have this option
                at = Scenario(name="d3", title="d3", destination=there).vary(guest__ram_mib=8.0)
                for version in ("7.2", "10.0", "11.1") if lab.full else ("7.2", "10.0"):
                    if (source, accept) == BOTH:
                        continue  # no scenario can express that: its manager sets both sides to v1
                    row = lab.row(at, source, version)
                    fits = accept in (source, "v2-or-v1")
                    right += [row] if fits else []
                    wrong += [] if fits else [(f"{source} to {accept}", row)]
    moved = sum(r.outcome == "migrated" for r in right)
    ends = sorted({f"{name}: {r.outcome}" for name, r in wrong})
    silent = bad(r for _, r in wrong)
    numbers = (
        f"{moved} of {len(right)} cells that are set alike migrate",
        f"{len(silent)} of {len(wrong)} that are not hang, lose, corrupt or are misconfigured ({', '.join(ends)}); "
        f"{sum(r.guest_bytes_sent for _, r in wrong)} guest bytes are sent in them",
    )
    return Verdict(
        "holds" if moved == len(right) and not silent else "refuted",
        "",
        numbers,
        "simlib compare told_v2_and_v1 told_v2_and_adaptive told_v2_and_old_binary",
        "libvirt's own code; a v1 source at a listener that takes v2 alone",
    )
