"""The simulated world of one run: clock, network, and two hosts with their manager."""

from __future__ import annotations

import random
from collections.abc import Callable

from ..case.endpoints import Case
from ..case.guest import MIB
from ..case.registry import DELAYS
from ..case.scenario import Link, Scenario
from ..handshake.endpoint import Endpoint
from ..handshake.interface import Start
from ..process.ending import facts, row
from ..process.management import Management
from ..record.outcome import Facts, Row
from ..record.trace import Packet, Trace
from .clock import Clock
from .host import Host
from .net import Connection, Net, Path


class World:
    """Everything of one run, so that faults, files and managers can reach it."""

    def __init__(self, scenario: Scenario, protocol: str, version: str, manager: str, seed: int) -> None:
        self.setup = Case(scenario, protocol, version, manager, seed)
        self.scenario = scenario
        self.env = Clock()
        self.rng = random.Random(f"{seed} {scenario.name}")
        named = f"{self.setup.protocol}, {version}, {self.setup.manager} manager"
        self.trace = Trace(f"{scenario.name}: {named}, seed {seed}")
        link = scenario.link
        path = _path(link)
        self.net = Net(self.env, self.rng, path, path)
        self.net.packet = self._packet
        self.net.schedule = {t.connection: t for t in scenario.schedule}
        self.source = self._host("source", self.setup.source())
        self.destination = self._host("destination", self.setup.destination())
        self.source.other, self.destination.other = self.destination, self.source
        self.source.guest.running = True
        self.net.on_established = self.destination.accept
        self.net.backlog = self.setup.definition.backlog(self.setup)
        self.management = Management(self.setup, self)
        self.watched_until_s = 0.0
        self.on_listening: Callable[[], object] = lambda: None  # the destination has been started

    def _host(self, side: str, endpoint: Endpoint) -> Host:
        host = Host(side, endpoint, self.net, self.trace, self.setup.guest(side == "source"), self.rng)
        host.on_status = lambda status: self.management.reported(host, status)
        host.on_exit = lambda: self.management.exited(host)
        return host

    def _packet(self, connection: Connection, from_source: bool, kind: str, data: bytes, fill: int) -> None:
        values = (self.env._now, connection.number, from_source, kind, data, fill)
        self.trace.packets.append(tuple.__new__(Packet, values))  # half the time of Packet()

    # --- what its manager needs (management.Stage) ------------------------------------------------------------------
    def host(self, side: str) -> Host:
        return self.source if side == "source" else self.destination

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.env.call(delay_s, call)

    def renew(self, side: str, endpoint: Endpoint) -> None:
        """Faults hit the first attempt only."""
        if side == "source":
            self.source = self._host("source", endpoint)
            self.source.guest.running = True
        else:
            if not self.destination.dead:
                self.destination.die("is replaced")
            self.destination = self._host("destination", endpoint)
            self.net.on_established = self.destination.accept
        self.source.other, self.destination.other = self.destination, self.source
        for shaper in self.net.shapers.values():
            shaper.reset()

    def begin(self, side: str) -> None:
        if side == "source":
            self.watched_until_s = self.env.now + self.scenario.management.observe_s
            self.source.feed(Start())
        else:
            self.destination.feed(Start())
            self.net.listening = self.destination.endpoint.finished is None
            self.on_listening()

    # --- how it ended -----------------------------------------------------------------------------------------------
    def facts(self) -> Facts:
        return facts(self.setup, self.source, self.destination, self.management.refused)

    def row(self) -> Row:
        source = self.source
        round_trips = None if source.first_guest_byte_s is None else max(0.0, (source.first_guest_hops - 2) / 2)
        return row(self.setup, source, self.destination, self.management.refused, round_trips)


def _path(link: Link) -> Path:
    size = 208 << 10 if link.transport == "unix" else 64 << 10 if link.transport.startswith("exec") else 0
    delay = (lambda _: 1e-5) if link.local else DELAYS.get(link.delay_law).sampler(link)
    return Path(delay, link.rate_mib_s * MIB, link.loss, link.syn_loss, size or link.buffer_kib << 10)
