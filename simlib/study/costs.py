"""What a handshake costs where all is well, and what it saves where it is not: v1 beside v2, run by run.

A run is *wasted* where the two sides do not fit: whatever moved before the mismatch is reported, moved for nothing. The
source *knows* when the failure is reported to it; a source that receives no report, or that is `completed` although
the guest is lost, never knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas

from ..case.files import load_all
from ..case.registry import BOTH, USUAL_MANAGER
from ..case.scenario import Scenario, Side
from ..record.compare import Runner, jobs
from ..record.outcome import Row

NEVER = float("inf")
KNOWN = ("refused", "failed")
RATE_MIB_S = 1200.0  # of the network: ten gigabits a second


def _side(channels: int) -> Side:
    if not channels:
        return Side()
    return Side(capabilities=("multifd",), parameters={"multifd-channels": channels})


def prices(run: Runner, rtts_ms: Iterable[float], channels: Iterable[int], version: str = "10.0") -> pandas.DataFrame:
    """What a handshake costs between two equal sides.

    Args:
        rtts_ms: round trips of the link, in ms.
        channels: numbers of multifd channels; 0: without multifd.

    Returns:
        A row for each protocol, round trip and number of channels: round trips and seconds (`ready_s`) to the first
        guest byte (v2: READY), bytes that both sides sent before it (`said_bytes`), downtime in seconds.
    """
    many = list(channels)
    rows = []
    for rtt_ms in rtts_ms:
        for number in many:
            side = _side(number)
            base = Scenario(name="price", title="price", source=side, destination=side)
            base = base.vary(link__delay_ms=rtt_ms / 2, link__rate_mib_s=RATE_MIB_S, guest__ram_mib=8.0)
            for protocol in BOTH:
                result = run(base, protocol=protocol, version=version, seed=1)
                first_s = result.row.time_to_first_guest_byte_s or NEVER
                sent_bytes = sum(len(p.data) for p in result.trace.packets if p.time_s < first_s)
                rows.append(
                    (protocol, rtt_ms, number, result.row.round_trips, first_s, sent_bytes, result.row.downtime_s)
                )
    columns = ["protocol", "rtt_ms", "channels", "round_trips", "ready_s", "said_bytes", "downtime_s"]
    return pandas.DataFrame(rows, columns=columns)


def side_by_side(table: pandas.DataFrame) -> pandas.DataFrame:
    """A row for each round trip and number of channels, v1 and v2 side by side; times in ms."""
    scaled = table.assign(ready_ms=table.ready_s * 1e3, downtime_ms=table.downtime_s * 1e3)
    wide = scaled.pivot(
        index=["rtt_ms", "channels"],
        columns="protocol",
        values=["round_trips", "ready_ms", "said_bytes", "downtime_ms"],
    )
    return wide.rename_axis(columns=["", ""])


def mismatches(run: Runner, version: str = "10.0") -> list[Scenario]:
    """The library's scenarios in which only the two sides do not fit: v2 refuses, v1 neither refuses nor migrates."""
    scenarios = []
    for scenario in load_all():
        if scenario.faults or scenario.management.lies or scenario.link.transport != "tcp":
            continue
        if {*scenario.protocols} != {*BOTH} or version not in scenario.versions or "128_gib" in scenario.name:
            continue
        one, two = (run(scenario, protocol=p, version=version).row for p in BOTH)
        if two.outcome == "refused" and one.outcome not in ("refused", "migrated"):
            scenarios.append(scenario)
    return scenarios


def knows_s(row: Row) -> float:
    """Seconds from the start until the source knows that the migration failed; NEVER if this is not reported to it."""
    return row.time_to_outcome_s if row.outcome in KNOWN and row.time_to_outcome_s is not None else NEVER


def moved_bytes(row: Row) -> float:
    """Guest bytes moved by the time the source knew; bytes that a broken connection never carried are not counted."""
    return min(float(row.guest_bytes_sent), knows_s(row) * RATE_MIB_S * (1 << 20))


def savings(
    run: Runner, scenarios: Iterable[Scenario], sizes_mib: Sequence[float], version: str = "10.0"
) -> pandas.DataFrame:
    """Each mismatch at each size of the guest.

    Args:
        sizes_mib: guest memory, in MiB.

    Returns:
        A row for each scenario, size and protocol: the outcome, the seconds until the source knew (`knows_s`), and
        the guest bytes moved by then (`wasted_bytes`).
    """
    rows = []
    for scenario in scenarios:
        for size_mib in sizes_mib:
            base = scenario.vary(
                guest__ram_mib=size_mib, link__rate_mib_s=RATE_MIB_S, management__observe_s=600.0 + size_mib / 100
            )
            for protocol in BOTH:
                row = run(base, protocol=protocol, version=version).row
                rows.append((scenario.name, protocol, size_mib, row.outcome, knows_s(row), moved_bytes(row)))
    return pandas.DataFrame(rows, columns=["scenario", "protocol", "ram_mib", "outcome", "knows_s", "wasted_bytes"])


def endings(run: Runner, seed: int = 1) -> pandas.DataFrame:
    """When the source knew (`knows_s`, seconds): every run of the library that does not migrate as asked, if both
    protocols play it and a source is left."""
    shared = [s for s in load_all() if {*BOTH} == {*s.protocols} and not s.management.lies]
    rows: list[tuple[str, str, str, float]] = []
    for job in jobs(shared):
        row = run(job.scenario, protocol=job.protocol, version=job.version, manager=job.manager, seed=seed).row
        if job.manager == USUAL_MANAGER and row.outcome not in ("migrated", "gone"):
            rows.append((job.scenario.name, job.protocol, row.outcome, knows_s(row)))
    return pandas.DataFrame(rows, columns=["scenario", "protocol", "outcome", "knows_s"])


def channels(run: Runner, counts: Sequence[int], ram_mib: float = 12_000.0) -> pandas.DataFrame:
    """Seconds that a guest takes over a link of RATE_MIB_S, by protocol and number of multifd channels."""
    table = {}
    for protocol in BOTH:
        for count in counts:
            side = _side(count)
            scenario = Scenario(name="channels", source=side, destination=side).vary(
                guest__ram_mib=ram_mib, link__rate_mib_s=RATE_MIB_S, management__observe_s=600.0
            )
            table[protocol, count] = run(scenario, protocol=protocol, version="10.0").row.time_to_outcome_s
    return pandas.Series(table).unstack().rename_axis("channels besides main", axis=1)
