"""How long a v2 handshake takes on real sockets and in the simulated world: `make times`.

From Start to READY (the source is active) with two multifd channels, over a proxy that delays. What the real one takes
more is this machine's CPU: `cpu_ms` is measured at round trip zero, on the same transport. Each is the fastest of
REPEATS: whatever else the machine does can only add.
"""

from __future__ import annotations

from dataclasses import dataclass

from simlib import live, world
from simlib.case.scenario import Link, Scenario, Side
from simlib.record.trace import Trace

ROUND_TRIPS_MS = (0, 10, 50, 100)
REPEATS = 9


@dataclass(frozen=True)
class Line:
    """One round trip: milliseconds to READY, live (fastest of REPEATS) and simulated, and the CPU's share."""

    tls: bool
    round_trip_ms: float
    live_ms: float
    simulated_ms: float
    cpu_ms: float

    @property
    def error(self) -> float:
        """What CPU does not explain, as a share of the simulated time."""
        return (self.live_ms - self.cpu_ms) / self.simulated_ms - 1 if self.round_trip_ms else 0.0


def scenario(round_trip_ms: float, tls: bool) -> Scenario:
    side = Side(capabilities=("multifd",), parameters={"multifd-channels": 2} | ({"tls-creds": "t"} if tls else {}))
    base = Scenario(name="times", title="times", source=side, destination=side, versions=("10.0",))
    return base.vary(link=Link(delay_ms=round_trip_ms / 2, rate_mib_s=1100.0), guest__ram_mib=1.0)  # always by proxy


def to_ready_ms(trace: Trace) -> float:
    at_s = [s.time_s for s in trace.steps if s.side == "source" and s.kind == "state" and s.text in ("setup", "active")]
    return (at_s[1] - at_s[0]) * 1e3


def measure() -> list[Line]:
    lines: list[Line] = []
    for tls in (False, True):
        cpu_ms = 0.0
        for trip_ms in ROUND_TRIPS_MS:
            situation = scenario(trip_ms, tls)
            live_ms = min(to_ready_ms(live.run(situation, seed=n).trace) for n in range(REPEATS))
            simulated_ms = to_ready_ms(world.run(situation, protocol="v2").trace)
            cpu_ms = cpu_ms or live_ms - simulated_ms
            lines.append(Line(tls, trip_ms, live_ms, simulated_ms, cpu_ms))
    return lines


if __name__ == "__main__":
    print(f"{'':6}{'round trip':>12}{'live':>10}{'simulated':>11}{'CPU':>8}{'left over':>11}")
    for line in measure():
        print(
            f"{'TLS' if line.tls else 'plain':6}{line.round_trip_ms:>9.0f} ms{line.live_ms:>7.1f} ms"
            f"{line.simulated_ms:>8.1f} ms{line.cpu_ms:>5.1f} ms{line.error:>+10.1%}"
        )
