"""What goes wrong, and when: each kind of fault of a scenario, laid into the world before it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..scenario import Fault
from .strangers import Stranger

if TYPE_CHECKING:
    from .run import World

MIB = 1 << 20


def arrange(world: World) -> None:
    for number, fault in enumerate(world.scenario.faults):
        if fault.kind in ("swallow", "stall", "lose", "cut"):
            _shape(world, fault)
        elif fault.kind in ("freeze", "kill"):
            _stop_process(world, fault)
        elif fault.kind == "order":
            _order(world, fault)
        elif fault.kind == "stranger":
            Stranger(world, fault, number)
        elif fault.kind == "late":
            world.net.establish_after[fault.connection] = fault.for_s if fault.for_s >= 0 else 1e6
        elif fault.kind == "hold":
            world.net.hold[fault.connection] = fault.for_s if fault.for_s >= 0 else float("inf")


def _shape(world: World, fault: Fault) -> None:
    """From a moment, or after so many bytes in that direction."""
    shaper = world.net.shapers[fault.direction == "to-destination"]
    name = {"swallow": "swallow_after", "stall": "stall_after", "lose": "lose_after", "cut": "cut_after"}[fault.kind]
    world.net.on_cut, shaper.idle = world.net.cut, False
    if fault.kind == "lose":
        shaper.lost_timeout_s = min(924.6, 0.2 * 2 ** (fault.retries + 1))
    if fault.at_s >= 0:
        if fault.kind == "cut":
            world.env.call(fault.at_s, world.net.cut)
        else:
            world.env.call(fault.at_s, lambda: setattr(shaper, name, shaper.passed))
    else:
        setattr(shaper, name, int(max(fault.after_mib, 0) * MIB))
    if fault.kind == "lose" and fault.at_s < 0:
        other = world.net.shapers[fault.direction != "to-destination"]
        watched = world.net.packet

        def lose_both(made: object, from_source: bool, kind: str, data: bytes, fill: int) -> None:
            watched(made, from_source, kind, data, fill)  # type: ignore[arg-type]
            if shaper.passed >= shaper.lose_after:
                other.lose_after, other.idle = min(other.lose_after, other.passed), False

        world.net.packet = lose_both


def _stop_process(world: World, fault: Fault) -> None:
    host = world.destination if fault.side == "destination" else world.source
    act = host.freeze if fault.kind == "freeze" else lambda: host.die("is killed")
    if fault.before:
        act()
        return
    if fault.at_s >= 0:
        world.env.call(fault.at_s, act)
        return
    shaper, limit = world.net.shapers[True], int(max(fault.after_mib, 0) * MIB)
    if host is world.source:
        shaper.calls.append((limit, act))
        shaper.idle = False
        return

    def watch() -> None:
        if shaper.passed >= limit:
            host.watches.remove(watch)
            world.env.call(0, act)

    host.watches.append(watch)


def _order(world: World, fault: Fault) -> None:
    """A proxy takes all connections at once and makes its own to the destination in this order."""
    for rank, channel in enumerate(fault.order):
        world.net.establish_after[channel] = rank * fault.gap_s
