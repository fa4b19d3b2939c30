"""The experiments of the claims about the handshake itself: P1 to P8 and D4. Those about detection stand in
`simlib.study.detection`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from statistics import median

from ..case import profiles
from ..case.files import find, load_all
from ..case.profiles import DATA
from ..case.protocols import V2
from ..case.registry import PROTOCOLS, USUAL_MANAGER
from ..case.scenario import Scenario, Side
from ..explore import Search, search
from ..explore.models import cases
from ..explore.mutants import mutants
from ..handshake.capabilities import known_capabilities
from ..handshake.errors import Code
from ..handshake.machine import Settings
from ..handshake.v2 import features, inventory
from ..handshake.v2.destination import Destination
from ..handshake.v2.messages import Hello
from ..handshake.v2.source import Source
from ..record.compare import Run
from ..record.outcome import BAD, Row
from .claims import ExperimentContext, Verdict, bad
from .growth import first_answer

VERSIONS = ("5.2", "7.2", "8.2", "10.0", "11.1")
RTTS_MS = (0.1, 1.0, 10.0, 100.0, 500.0)


def _channels(many: int, machine: str = Side.machine) -> Side:
    parameters = {"multifd-channels": many}
    return Side(machine, capabilities=("multifd",), parameters=dict(parameters)) if many else Side(machine)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"


# --- P1 -------------------------------------------------------------------------------------------------------------
def one_phase(lab: ExperimentContext) -> Verdict:
    """Round trips to the first guest byte, guest bytes before READY, and what the downtime grows by."""
    trips: set[float | None] = set()
    early, added = 0, []
    many = (0, 1, 2, 8, 16, 32, 64) if lab.full else (0, 2, 16, 64)
    machines = ("pc-i440fx-7.2", "pc-q35-7.2", "pc-i440fx-7.2+virtio-rng")
    for rtt_ms in RTTS_MS:
        for channels in many:
            for machine in machines if lab.full or channels == 2 else machines[:1]:
                for loss in (0.0, 0.05) if lab.full or channels == 2 else (0.0,):
                    side = _channels(channels, machine)
                    at = Scenario(name="p1", title="p1", source=side, destination=side).vary(
                        link__delay_ms=rtt_ms / 2, link__loss=loss, guest__ram_mib=8.0
                    )
                    two = lab.run(at, protocol="v2", version="10.0", seed=lab.seed)
                    one = lab.row(at, "v1", "10.0")
                    trips.add(two.row.round_trips)
                    early += _bytes_before_ready(two)
                    if not loss and one.downtime_s is not None and two.row.downtime_s is not None:
                        added.append(1e3 * (two.row.downtime_s - one.downtime_s) / rtt_ms)
    counted = " and ".join(f"{t:g}" for t in sorted(t for t in trips if t is not None))
    numbers = (
        f"{counted} round trips before the first guest byte, over {len(RTTS_MS) * len(many)} round-trip times (0.1 to "
        f"500 ms) and numbers of channels (up to {many[-1]}), {len(machines)} machines, losses of 0 and 5 %",
        f"{early} guest bytes before READY",
        f"the downtime grows by {median(added):.2g} round trips (median; at most {max(added):.2g})",
    )
    ok = not early and len(trips) == 1
    return Verdict(
        "holds" if ok else "refuted",
        "",
        numbers,
        "simlib run matched_multifd --protocol v2",
        "between real QEMUs other than 7.2 and 10.0",
    )


def _bytes_before_ready(result: Run) -> int:
    ready_s = next((s.time_s for s in result.trace.steps if s.side == "source" and s.text == "READY"), float("inf"))
    return sum(p.fill for p in result.trace.packets if p.time_s < ready_s)


# --- P2 -------------------------------------------------------------------------------------------------------------
NEEDS = {"switchover-ack": ("return-path",), **features.DEPENDS}  # by QEMU's own rules


def nothing_set_there(lab: ExperimentContext) -> Verdict:
    """Each capability on one side alone, and every scenario of such a mismatch: what v2 migrates, what v1 does."""
    ours: list[tuple[str, Row]] = []
    today: list[Row] = []
    for version in VERSIONS if lab.full else ("7.2", "10.0"):
        for name in features.SHARED:
            if name == "final-ack" or name not in known_capabilities(version):
                continue
            for at_source in (True, False):
                odd = Side(capabilities=(name, *NEEDS[name]))
                one = Scenario(name=f"{name} alone", title="p2").vary(
                    guest__ram_mib=2.0, **{"source" if at_source else "destination": odd}
                )
                both = [lab.row(one, p, version) for p in ("v2", "v1")]
                if any(r.source_status == "rejected" and not r.error_codes for r in both):
                    continue  # its own QEMU does not take the command
                ours.append((f"{name} at the {'source' if at_source else 'destination'}", both[0]))
                today.append(both[1])
    for scenario in load_all():
        if "P2" in scenario.claims and scenario.covers("v2") and not scenario.destination.apply_error:
            ours += [(scenario.name, r) for r in lab.rows(scenario, "v2")]
            today += [r for r in lab.rows(scenario, "v1") if r.manager == USUAL_MANAGER]
    needs = sorted({name for name, r in ours if r.outcome != "migrated"})
    first = {s: lab.row(find(s), "v2").outcome for s in ("tls_only_at_source", "told_v2_and_v1")}
    wrong = sum(r.outcome != "migrated" for r in today)
    numbers = (
        f"{sum(r.outcome == 'migrated' for _, r in ours)} of {len(ours)} mismatches migrate under v2, "
        f"{len(bad(r for _, r in ours))} end badly; under v1 {wrong} of {len(today)} do not migrate as asked, "
        f"{len(bad(today))} of them hang, lose, corrupt or are misconfigured",
        "refused by v2, with the reason: " + (", ".join(needs) or "none"),
        "must be set before HELLO: "
        + ", ".join(f"{name} ({outcome})" for name, outcome in first.items() if outcome != "migrated"),
    )
    exception = "its TLS credentials and its channel type must be set there first"
    if needs:
        exception += ", and " + ", ".join(needs) + " can't be agreed on"
    silent = bad(r for _, r in ours)
    return Verdict(
        "refuted" if silent else "holds except",
        "" if silent else exception,
        numbers,
        "simlib compare multifd_only_at_destination tls_only_at_source told_v2_and_v1",
        "real QEMUs other than 7.2 and 10.0",
    )


# --- P3, P6, P7 -----------------------------------------------------------------------------------------------------
class _UnversionedSource(Source):
    """Reads every HELLO as if the peer had sent no version string."""

    def _hello(self, conn: int, hello: Hello) -> None:
        super()._hello(conn, replace(hello, qemu_version=""))


class _UnversionedDestination(Destination):
    """The same at the destination."""

    def _hello(self, conn: int, hello: Hello) -> None:
        super()._hello(conn, replace(hello, qemu_version=""))


def no_version_string(lab: ExperimentContext) -> Verdict:
    """All pairs of versions and all scenarios of skew, with the peer's version string visible and hidden."""
    pairs = [f"{a}>{b}" for a in VERSIONS for b in VERSIONS]
    chosen = [s for s in load_all() if {"P3", "P6", "P7"} & set(s.claims) and s.covers("v2")]
    runs = [(find("matched"), p) for p in pairs] + [(s, v) for s in chosen for v in s.versions]
    shown = [lab.row(s, "v2", v).as_dict() for s, v in runs]
    unversioned = V2.with_endpoints("v2 without version strings", _UnversionedSource, _UnversionedDestination)
    name = PROTOCOLS.keep(unversioned)
    hidden = [lab.row(s, name, v).as_dict() | {"protocol": "v2"} for s, v in runs]
    differ = sum(a != b for a, b in zip(shown, hidden, strict=True))
    ended = sum(r["outcome"] in BAD for r in shown)
    numbers = (
        f"{differ} of {len(runs)} runs change when the peer's version string is hidden ({len(pairs)} pairs of "
        f"versions, {len(chosen)} scenarios of skew)",
        f"{ended} of them end badly",
    )
    return Verdict(
        "refuted" if differ or ended else "holds",
        "",
        numbers,
        "simlib compare skew_new_to_old skew_new_feature",
        "pairs of real versions other than 7.2 and 10.0",
    )


def newer_source_skips(lab: ExperimentContext) -> Verdict:
    """A source that wants all it knows, against every older destination: what is skipped is what the other lacks."""
    exact, pairs, skipped = 0, 0, 0
    for n, old in enumerate(VERSIONS):
        for new in VERSIONS[n + 1 :]:
            for name in features.SHARED:
                if name == "final-ack" or name not in known_capabilities(new):
                    continue
                wants = Settings(version=new, capabilities=(name, *features.DEPENDS[name]), transport="tcp")
                agreement = features.resolve(
                    features.stances(wants, True), features.stances(Settings(version=old), False)
                )
                lacks = any(c not in known_capabilities(old) for c in (name, *features.DEPENDS[name]))
                impossible = not lacks and not features._possible(name, Settings(version=old))
                off = name in {s for s, _ in agreement.skipped}
                pairs, skipped = pairs + 1, skipped + off
                exact += off == (lacks or impossible) and not agreement.errors
    rows = lab.of("v2", "P6")
    moved = sum(r.outcome == "migrated" for r in rows)
    numbers = (
        f"{exact} of {pairs} features of newer sources are skipped exactly where the older destination lacks them "
        f"({skipped} skipped)",
        f"{moved} of {len(rows)} runs of the scenarios of this claim migrate",
    )
    return Verdict(
        "holds" if exact == pairs and moved == len(rows) else "refuted",
        "",
        numbers,
        "simlib run skew_new_feature --protocol v2",
        "versions of QEMU after 11.1",
    )


def _frozen_offers() -> Iterator[tuple[str, bool]]:
    """Every frozen offer at every destination: whether it is answered as it was when it was frozen."""
    for path in sorted((DATA / "vectors" / "offers").glob("*.json")):
        offer = json.loads(path.read_text(encoding="utf-8"))
        for expected in offer["expect"]:
            version = expected["destination"]
            settings = Settings(version, profiles.machine(version, offer["configuration"]))
            answer = first_answer(bytes.fromhex(offer["hex"]), settings)
            yield path.stem, {"destination": version, **answer} == expected


def newer_destination_understands(lab: ExperimentContext) -> Verdict:
    """Frozen offers of old sources, replayed; and older sources to newer destinations in the world."""
    frozen = list(_frozen_offers())
    same = sum(ok for _, ok in frozen)
    rows = lab.of("v2", "P7") + [
        lab.row(find("matched"), "v2", f"{old}>{new}") for n, old in enumerate(VERSIONS) for new in VERSIONS[n + 1 :]
    ]
    moved = sum(r.outcome == "migrated" for r in rows)
    numbers = (
        f"{same} of {len(frozen)} answers to {len({name for name, _ in frozen})} frozen offers are what they were",
        f"{moved} of {len(rows)} runs from an older to a newer version migrate",
    )
    return Verdict(
        "holds" if same == len(frozen) and moved == len(rows) else "refuted",
        "",
        numbers,
        "python data/vectors/make.py --check",
        "sources that are frozen after today",
    )


# --- P4 -------------------------------------------------------------------------------------------------------------
def fails_with_a_reason(lab: ExperimentContext) -> Verdict:
    """Every scenario that does not migrate: whether the source receives the reason, when, and at what cost."""
    ended = ("migrated", "gone")  # a source that is gone can receive nothing
    ours = [r for r in lab.of("v2") if r.outcome not in ended and not r.lied]
    today = [r for r in lab.of("v1") if r.outcome not in ended and not r.lied and r.manager == USUAL_MANAGER]
    explained = [r for r in ours if r.reason_reported]
    if len(explained) < len(ours):
        silent = sorted({r.scenario for r in ours if r not in explained})
        return Verdict("refuted", "", (f"the source is not told why in {', '.join(silent)}",), "simlib compare")
    codes = {code for r in ours for code in r.error_codes.split()}
    early = [r for r in ours if r.outcome == "refused"]
    known = [r for r in today if r.reason_reported]
    late = sorted({r.scenario for r in ours if r.outcome == "failed" and r.guest_bytes_sent})
    numbers = (
        f"{len(explained)} of {len(ours)} v2 runs that do not migrate tell the source a reason ({len(codes)} of "
        f"{len(Code)} codes occur; tests/handshake/test_codes.py injects all); v1: {len(known)} of {len(today)}",
        f"{len(early)} are refused before the guest stops, {sum(r.guest_bytes_sent == 0 for r in early)} of them "
        f"before the first guest byte, after {_ms(median(r.time_to_outcome_s or 0 for r in early))} (median; v1 "
        f"{_ms(median(r.time_to_outcome_s or 0 for r in today))})",
        f"{len(bad(ours))} hang, lose, corrupt or are misconfigured; v1: {len(bad(today))}",
        f"fail after guest memory has moved, with a code: {', '.join(late)}",
    )
    if bad(ours):
        return Verdict("refuted", "", numbers, "simlib compare")
    exception = "device state that cannot be loaded, and a path or host that dies, are reported late"
    return Verdict(
        "holds except" if late else "holds",
        exception if late else "",
        numbers,
        "simlib compare",
        "the errors of real QEMUs other than 7.2 and 10.0",
    )


def early_checks(lab: ExperimentContext) -> Verdict:
    """The verdict on the two machines before a page moves, against what v1 does with the same two."""
    moves: dict[str, list[bool]] = {"no": [], "maybe": [], "yes": []}
    wrong, late = set(), set()
    for scenario in load_all():
        if not {"P4", "P4b"} & set(scenario.claims) or scenario.faults or scenario.link.transport != "tcp":
            continue
        for row in lab.rows(scenario, "v1"):
            version = f"{row.source_version}>{row.destination_version}"
            sides = (scenario.settings(True, row.source_version), scenario.settings(False, row.destination_version))
            verdict = inventory.verdict(inventory.compare(sides[0].machine, sides[1].machine))
            if row.manager != USUAL_MANAGER or (verdict == "yes" and not scenario.guest.post_load_error):
                continue  # what is wrong there does not concern the machines
            moves[verdict].append(row.outcome == "migrated")
            if verdict == "no" and row.outcome == "migrated":
                wrong.add(scenario.name)
            if lab.row(scenario, "v2", version).outcome == "failed":
                late.add(scenario.name)
    failing = sum(not m for migrated in moves.values() for m in migrated)
    right = moves["no"].count(False)
    by_verdict = "; ".join(
        f"{verdict}: {len(migrated)}, of which {migrated.count(True)} migrate under v1"
        for verdict, migrated in moves.items()
    )
    numbers = (
        f"pairs of machines that differ, by verdict: {by_verdict}",
        f"a no is right in {right} of {len(moves['no'])} (false no: {', '.join(sorted(wrong)) or 'none'}), and finds "
        f"{right} of the {failing} that v1 does not migrate as asked",
        f"what v2 too finds out late: {', '.join(sorted(late)) or 'nothing'}",
    )
    exception = "errors inside a device's state, or in post_load, are found late"
    verdict = "refuted" if wrong else "holds except" if late else "holds"
    return Verdict(
        verdict,
        exception if verdict == "holds except" else "",
        numbers,
        "simlib compare device_size_differs post_load_fails nested_version_differs",
        "virtio-gpu 8.2/9.0 and PCIe AER 7.2/8.0, whose profiles are not here",
    )


# --- P5-growth, P8, D4 ----------------------------------------------------------------------------------------------
@cache
def _searched(name: str) -> tuple[str, ...]:
    result = search(next(c.model for c in cases() if c.name == name))
    assert result.complete, name
    return tuple(result.violations)


def handshake_grows(lab: ExperimentContext) -> Verdict:
    """Generated future peers in every order of events; GREASE; and the rule for unknown things taken out."""
    names = ("v2, a newer source", "v2, a newer destination", "v2, adaptive destination", "v1, adaptive destination")
    broken = {name: _searched(name) for name in names}
    frozen = [(name, ok) for name, ok in _frozen_offers() if name.endswith("grease")]
    mutant = next(m for m in mutants() if m.rule == "an unknown key is refused")
    caught = Search(mutant.mutated(), stop_at=mutant.killed_by).run().violations
    numbers = (
        f"{sum(bool(v) for v in broken.values())} of {len(names)} models of newer peers break a property in any "
        "order of events",
        f"{sum(ok for _, ok in frozen)} of {len(frozen)} answers to offers full of unknown things are what they were",
        f"with the rule for unknown keys taken out, {', '.join(caught) or 'nothing'} breaks",
    )
    ok = not any(broken.values()) and all(ok for _, ok in frozen) and caught
    return Verdict(
        "holds" if ok else "refuted",
        "",
        numbers,
        "simlib explore matched --protocol v2; python data/vectors/make.py --check",
        "future versions that nobody has thought of",
    )


def channels_are_named(lab: ExperimentContext) -> Verdict:
    """Every order of arrival, with intruders, copies, losses and cuts."""
    prefixes = (
        "v1 7.2",
        "v1 10.0",
        "v2, 1 multifd, intruder",
        "v2, 1 multifd, a connection lost",
        "v2, 2 multifd, buffers",
    )
    large = ("4 multifd", "8 multifd", "return path")
    wanted = [
        c.name for c in cases() if c.name.startswith(("v1", "v2")) and "multifd" in c.name and "TLS" not in c.name
    ]
    if not lab.full:
        wanted = [n for n in wanted if n.startswith(prefixes) and not any(word in n for word in large)]
    one = {name: _searched(name) for name in wanted if name.startswith("v1")}
    two = {name: _searched(name) for name in wanted if name.startswith("v2")}
    rows = lab.of("v2", "P8")
    numbers = (
        f"{sum(bool(v) for v in two.values())} of {len(two)} models of v2 with extra channels break a property in any "
        f"order of events; v1: {sum('S6 same channels' in v for v in one.values())} of {len(one)} mis-bind a channel",
        f"{len(bad(rows))} of {len(rows)} runs of the scenarios of this claim end badly; v1: "
        f"{len(bad(lab.of('v1', 'P8')))} of {len(lab.of('v1', 'P8'))}",
    )
    ok = not any(two.values()) and not bad(rows)
    return Verdict(
        "holds" if ok else "refuted",
        "",
        numbers,
        "simlib explore matched_multifd --protocol v2 --cuts 1 --intruder garbage --intruder replay",
        "intruders at other QEMUs than 7.2 and 10.0",
    )


def order_alone(lab: ExperimentContext) -> Verdict:
    """Whether order after a handshake is enough, or names are needed too: the rules taken out one at a time."""
    plain = {n: _searched(n) for n in ("v2, 1 multifd", "v2, 2 multifd")}
    tls = {n: _searched(n) for n in ("v1 10.0, TLS, 1 multifd", "v1 10.0, TLS, 1 multifd, intruder")}
    rules = (
        "a channel proves that it knows the key",
        "of two that open a channel the first is kept",
        "CHANNEL_OK must come on every connection of ours",
    )
    caught = {}
    for mutant in mutants():
        if mutant.rule in rules:
            violations = Search(mutant.mutated(), stop_at=mutant.killed_by).run().violations
            caught[mutant.rule] = mutant.killed_by in violations
    clean = not any(plain.values()) and not any(tls.values())
    numbers = (
        f"{sum(bool(v) for v in plain.values())} of {len(plain)} models of v2 without intruders break a property, and "
        f"{sum(bool(v) for v in tls.values())} of {len(tls)} of v1 over TLS (one with an intruder)",
        f"without TLS, {sum(caught.values())} of {len(caught)} rules that bind a channel to its session let an "
        "intruder or a copy in when they are taken out",
    )
    if not clean:
        return Verdict("refuted", "", numbers, "simlib explore --out build/ordering")
    if any(caught.values()):
        exception = "on plain TCP, order alone lets an intruder in; names with a MAC do not"
        return Verdict("holds except", exception, numbers, "simlib explore --out build/ordering")
    return Verdict("holds", "", numbers, "simlib explore --out build/ordering")
