"""Random faults under v2 with a manager's deadline: `make campaign FIRST=1 COUNT=10000`, or with ON=sockets.

No run may be hung or have two guests, and every side whose process runs must have ended within the deadline plus the
time after which a peer counts as silent (SPEC 5.10). A guest may be lost only where the fault killed the process that
had it; those runs are listed.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from simlib.api import run as run_on
from simlib.case.faults import Fault
from simlib.case.scenario import GuestFacts, Link, Management, Scenario, Side
from simlib.record.outcome import BAD
from simlib.world.run import play
from simlib.world.world import World

CAPABILITIES: tuple[tuple[str, ...], ...] = (
    (),
    ("multifd",),
    ("postcopy-ram",),
    ("postcopy-ram", "postcopy-preempt"),
)
SHAPING = ("cut", "blackhole", "stall", "packet-loss")
KINDS = (*SHAPING, "freeze", "kill", "delay-accept", "delay-data")
NOT_ON_SOCKETS = ("packet-loss", "freeze", "kill")  # no proxy loses packets; both sides are one process there
TRANSFER_S = 3.0  # a postcopy with a live peer goes on after the deadline until its memory has moved


@dataclass(frozen=True)
class Finding:
    """One run.

    Attributes:
        wrong: what must not be, or an empty string.
        killed_holder: the guest is lost with the process that the fault killed.
    """

    seed: int
    outcome: str
    wrong: str
    killed_holder: bool


def drawn(seed: int, on: str = "world") -> Scenario:
    """The scenario of a seed: capabilities, path, guest, deadline, and one or two faults."""
    rng = random.Random(f"campaign {seed}")
    transport = rng.choice(("tcp", "tcp", "tcp", "unix", "exec-socat")) if on == "world" else "tcp"
    capabilities = rng.choice(CAPABILITIES if transport != "exec-socat" else ((), ("postcopy-ram",)))
    parameters: dict[str, int | str] = {}
    if "multifd" in capabilities:
        parameters["multifd-channels"] = rng.choice((1, 2, 4))
    if on == "world" and transport == "tcp" and rng.random() < 0.2:
        parameters["tls-creds"] = "tls0"
    keepalive_s = 5.0 if on == "world" else 0.3
    side = Side(capabilities=capabilities, parameters=parameters, keepalive_s=keepalive_s)
    kinds = [kind for kind in KINDS if on == "world" or kind not in NOT_ON_SOCKETS]
    faults = tuple(_fault(rng, rng.choice(kinds)) for _ in range(rng.choice((1, 1, 2))))
    deadline_s = rng.choice((2.0, 20.0)) if on == "world" else 2.0
    postcopy_at_s = rng.random() if "postcopy-ram" in capabilities else -1.0
    observe_s = deadline_s + 200.0 if on == "world" else 15.0
    delay: dict[str, float] = (
        {"delay_ms": rng.choice((0.05, 1.0, 50.0))} if transport == "tcp" and on == "world" else {}
    )
    return Scenario(
        f"campaign_{seed}",
        f"random faults {seed}",
        versions=("10.0",),
        protocols=("v2",),
        source=side,
        destination=side,
        link=Link(transport, rate_mib_s=rng.choice((100.0, 1200.0)), **delay),
        guest=GuestFacts(ram_mib=rng.choice((8.0, 64.0)), dirty_mib_s=rng.choice((0.0, 0.0, 50.0))),
        management=Management(deadline_s=deadline_s, postcopy_at_s=postcopy_at_s, observe_s=observe_s),
        faults=faults,
    )


def _fault(rng: random.Random, kind: str) -> Fault:
    by_time = {"at_s": rng.choice((0.0, rng.random() * 0.3, rng.random() * 2))}
    when = by_time if rng.random() < 0.6 else {"after_mib": rng.random() * 70}
    if kind in SHAPING:
        return Fault(kind, direction=rng.choice(("to-destination", "to-source")), **when)
    if kind in ("freeze", "kill"):
        return Fault(kind, side=rng.choice(("source", "destination")), **when)
    return Fault(kind, connection=rng.choice(("main", "control", "multifd[0]")), for_s=rng.choice((1.0, 8.0, -1.0)))


def played(seed: int, on: str = "world") -> Finding:
    """One run and what is wrong with it."""
    scenario = drawn(seed, on)
    bound_s = scenario.management.deadline_s + scenario.source.keepalive_s * 7 + TRANSFER_S
    if on != "world":
        row = run_on(scenario, "v2", version="10.0", on=on).row
        late = row.time_to_outcome_s is not None and row.time_to_outcome_s > bound_s
        wrong = row.outcome if row.outcome in BAD else f"{row.outcome} after {row.time_to_outcome_s} s" if late else ""
        return Finding(seed, row.outcome, wrong, False)
    world = World(scenario, "v2", "10.0", "naive", 1)
    row = play(world).row
    killed = {f.side for f in scenario.faults if f.kind == "kill"}  # type: ignore[attr-defined]
    holder_killed = row.outcome in ("lost", "gone") and bool(killed)
    return Finding(seed, row.outcome, "" if holder_killed else _wrong(world, row.outcome, bound_s), holder_killed)


def _wrong(world: World, outcome: str, bound_s: float) -> str:
    """What must not be, of sides whose process runs."""
    source, destination = world.source, world.destination
    source_stopped, destination_stopped = (host.frozen or host.dead for host in (source, destination))
    if outcome in BAD and not (outcome in ("hung", "unconfirmed") and source_stopped):
        return outcome
    if not destination_stopped and destination.endpoint.finished is None and destination.endpoint.occupied():
        return f"the destination is {destination.endpoint.occupied()}"
    for host, stopped in ((source, source_stopped), (destination, destination_stopped)):
        if not stopped and host.finished_s is not None and host.finished_s > bound_s:
            return f"the {host.side} ended after {host.finished_s:.1f} s"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("on", nargs="?", default="world", choices=("world", "sockets"))
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.count)
    with ProcessPoolExecutor() as pool:
        runs = pool.map(partial(played, on=options.on), seeds, chunksize=20 if options.on == "world" else 1)
        findings = list(tqdm(runs, total=len(seeds), unit=" runs"))
    wrong = [f for f in findings if f.wrong]
    for outcome, count in Counter(f.outcome for f in findings).most_common():
        print(f"{outcome:20} {count:6}")
    killed = [f.seed for f in findings if f.killed_holder]
    print(f"the guest was lost with the process that was killed: {len(killed)} (seeds {killed[:10]}...)")
    for finding in wrong:
        print(f"WRONG seed {finding.seed}: {finding.wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
