"""What the faults of a scenario may do to the simulated world."""

from __future__ import annotations

from collections.abc import Callable

from ..case.faults import LinkEffect
from ..case.intruders import Intruder
from .intruders import IntruderConnection
from .net import Connection
from .world import World


class Rig:
    """`faults.Rig` for the simulated world."""

    def __init__(self, world: World) -> None:
        self.world, self.net = world, world.net
        self.arranged = False

    def arrange(self) -> None:
        """Lay every fault of the scenario into the world, once."""
        if not self.arranged:
            self.arranged = True
            for number, fault in enumerate(self.world.scenario.faults):
                fault.arrange(self, number)

    def at(self, at_s: float, call: Callable[[], None]) -> None:
        self.world.env.call(at_s, call)

    def cut(self) -> None:
        self.net.cut()

    def reset(self, connection: str) -> None:
        self.net.reset(connection)

    def shape(self, effect: LinkEffect, direction: str, after_bytes: int | None, timeout_s: float = 0.0) -> None:
        net, to_destination = self.net, direction == "to-destination"
        shaper, other = net.shapers[to_destination], net.shapers[not to_destination]
        net.on_cut = net.cut
        shaper.begin(effect, after_bytes)
        if effect == LinkEffect.PACKET_LOSS:
            shaper.lost_timeout_s = timeout_s
        if effect == LinkEffect.PACKET_LOSS and after_bytes is not None:
            watched = net.packet

            def lose_both(connection: Connection, from_source: bool, kind: str, data: bytes, fill: int) -> None:
                watched(connection, from_source, kind, data, fill)
                if shaper.has_begun(effect) and not other.has_begun(effect):
                    other.begin(effect, None)

            net.packet = lose_both

    def stop(self, side: str, how: str, after_bytes: int | None) -> None:
        world = self.world
        host = world.destination if side == "destination" else world.source
        act = host.freeze if how == "freeze" else lambda: host.die("is killed")
        if after_bytes is None:
            act()
            return
        shaper, limit = self.net.shapers[True], after_bytes
        if host is world.source:
            shaper.calls.append((limit, act))
            shaper.idle = False
            return

        def watch() -> None:
            if shaper.passed >= limit:
                host.watches.remove(watch)
                world.env.call(0, act)

        host.watches.append(watch)

    def delay_accept(self, connection: str, for_s: float) -> None:
        self.net.establish_after[connection] = min(for_s, 1e6)

    def delay_data(self, connection: str, for_s: float) -> None:
        self.net.hold[connection] = for_s

    def intrude(self, intruder: Intruder, number: int, at_s: float) -> None:
        IntruderConnection(self.world, intruder, number, at_s)
