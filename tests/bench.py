"""What the world adds to the engine: one simulated run / the same two endpoints handing each other bytes in a loop.

CPU time, interleaved rounds, medians with spread; `--json` for machines. Rates are this machine's: quote ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections import deque
from typing import Any

from simlib.handshake import interface as i
from simlib.handshake.v1.destination import Destination as V1Destination
from simlib.handshake.v1.source import Source as V1Source
from simlib.handshake.v2.destination import Destination as V2Destination
from simlib.handshake.v2.source import Source as V2Source
from simlib.scenario import Scenario, Side
from simlib.world import run

VERSION = "10.0"


def pump(source: Any, destination: Any) -> None:
    """Both endpoints to their end, every message delivered at once and in order."""
    todo: deque[tuple[bool, i.Input]] = deque([(False, i.Start()), (True, i.Start())])
    accepted: list[int] = []  # the source's connections in the order in which the destination took them
    early: dict[int, list[i.Input]] = {}  # what came for those that it has yet to take
    while todo:
        at_source, told = todo.popleft()
        if not at_source and isinstance(told, i.Opened):
            if not destination.accepting:
                todo.append((at_source, told))
                continue
            accepted.append(told.conn)
            todo.extendleft((False, r) for r in reversed(early.pop(told.conn, [])))
            told = i.Opened(len(accepted) - 1)
        elif not at_source and isinstance(told, i.Received):
            if told.conn not in accepted:
                early.setdefault(told.conn, []).append(told)
                continue
            told = i.Received(accepted.index(told.conn), told.data, told.fill)
        for out in (source if at_source else destination).handle(told):
            if isinstance(out, i.Open):
                todo += [(True, i.Opened(out.conn)), (False, i.Opened(out.conn))]
            elif isinstance(out, i.Send):
                peer = out.conn if at_source else accepted[out.conn]
                todo += [(not at_source, i.Received(peer, out.data, out.fill)), (at_source, i.Drained(out.conn))]
            elif isinstance(out, i.CollectRam):
                todo.append((True, i.RamCollected(1 << 26 if out.first else 0, not out.first)))
            else:
                answer = {i.StopGuest: i.GuestStopped, i.Apply: i.Applied, i.Load: i.Loaded, i.RunGuest: i.GuestRunning}
                if type(out) in answer:
                    todo.append((at_source, answer[type(out)]()))
    assert source.finished.status == "completed", source.finished


def timed(call: Any, count: int) -> float:
    """Microseconds of CPU for one call."""
    started = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - started) / count * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rows = []
    for protocol, endpoints in (("v1", (V1Source, V1Destination)), ("v2", (V2Source, V2Destination))):
        for channels in (0, 2, 8, 64):
            side = Side(capabilities=("multifd",), parameters={"multifd-channels": channels}) if channels else Side()
            scenario = Scenario(name="bench", title="bench", source=side, destination=side)
            ours, theirs = scenario.settings(True, VERSION), scenario.settings(False, VERSION)
            bare = lambda e=endpoints, a=ours, b=theirs: pump(e[0](a), e[1](b))  # noqa: E731
            world = lambda s=scenario, p=protocol: run(s, protocol=p, version=VERSION)  # noqa: E731
            count = 20
            bare(), world()
            pairs = [(timed(bare, count), timed(world, count)) for _ in range(options.rounds)]
            ratios = [w / b for b, w in pairs]
            rows.append({
                "protocol": protocol, "channels": channels, "bare_us": round(statistics.median(b for b, _ in pairs)),
                "world_us": round(statistics.median(w for _, w in pairs)), "ratio": round(statistics.median(ratios), 2),
                "ratio_min": round(min(ratios), 2), "ratio_max": round(max(ratios), 2),
            })  # fmt: skip
    if options.json:
        json.dump(
            {"python": platform.python_version(), "machine": platform.machine(), "rows": rows}, sys.stdout, indent=1
        )
        print()
        return 0
    print(f"Python {platform.python_version()} on {platform.machine()}; CPU time, median of {options.rounds} rounds")
    print(f"{'protocol':8} {'channels':>8} {'bare_us':>8} {'world_us':>9} {'world/bare':>10} {'[min..max]':>14}")
    for r in rows:
        spread = f"[{r['ratio_min']}..{r['ratio_max']}]"
        print(f"{r['protocol']:8} {r['channels']:8} {r['bare_us']:8} {r['world_us']:9} {r['ratio']:10} {spread:>14}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
