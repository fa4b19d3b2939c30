"""Builds a world from a scenario and a seed, runs it dry, and says how it ended."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import exp
from typing import Any

from ..endpoints import Setup
from ..handshake.interface import Cancel, Finished, Start, SwitchToPostcopy
from ..host import MIB
from ..outcome import Facts, Row, guest_at
from ..result import Result, facts, row
from ..scenario import Link, Scenario
from ..trace import Packet, Trace
from . import faults
from .clock import Clock
from .files import File
from .host import Host
from .net import Net, Path

RETRY_S = 1.0  # a manager's pause before it tries again


class World:
    """Everything of one run, so that faults and managers can reach it."""

    def __init__(self, scenario: Scenario, protocol: str, version: str, manager: str, seed: int) -> None:
        self.setup = Setup(scenario, protocol, version, manager, seed)
        self.scenario = scenario
        self.env = Clock()
        self.rng = random.Random(f"{seed} {scenario.name}")
        self.trace = Trace(f"{scenario.name}: {protocol}, {version}, {manager} manager, seed {seed}")
        link = scenario.link
        path = _path(link)
        self.net = Net(self.env, self.rng, path, path)
        self.net.packet = self._packet
        self.net.schedule = {t.connection: t for t in scenario.schedule}
        self.source = self._host("source", self.setup.source())
        self.destination = self._host("destination", self.setup.destination())
        self.source.other, self.destination.other = self.destination, self.source
        self.source.guest.running = True
        if protocol == "v1":
            self.source.tls_round_trips = self.destination.tls_round_trips = 2
        self.net.on_established = self.destination.accept
        self.file = File(self) if link.transport in ("file", "exec-cat", "exec-tee", "exec-true", "exec-null") else None
        self.net.backlog = max(self.setup.settings(False).channels, 1) if protocol == "v1" else 64
        self.refused: Finished | None = None  # by QMP, before anything started

    def _host(self, side: str, endpoint: Any) -> Host:
        host = Host(side, endpoint, self.net, self.trace, self.setup.guest(side == "source"), self.rng)
        host.continues = self.setup.manager == "libvirt"
        return host

    def _packet(self, made: Any, from_source: bool, kind: str, data: bytes, fill: int) -> None:
        told = (self.env._now, made.number, from_source, kind, data, fill)
        self.trace.packets.append(tuple.__new__(Packet, told))  # half the time of Packet()

    # --- the run ----------------------------------------------------------------------------------------------------
    def run(self) -> Result:
        if not self._refused_up_front():
            self._listen()
            faults.arrange(self)
            self._start()
            if self.refused is None and self.source.endpoint.finished is None:  # QMP has refused nothing
                self._play()
        return Result(self._row(), self.trace)

    def _play(self) -> None:
        management = self.scenario.management
        for at_s, input in ((management.cancel_at_s, Cancel()), (management.deadline_s, Cancel("deadline")),
                            (management.postcopy_at_s, SwitchToPostcopy())):  # fmt: skip
            if at_s >= 0:
                self.env.call(at_s, self._order(input))
        for attempt in range(1, management.retries + 1 if self.file is None else 1):  # nobody listens behind a file
            self._run_until_source_ends()
            self._retry(attempt)
        self.env.run(until=self.env.now + management.observe_s)
        if self.file is not None:
            self.file.load()
            self.env.run(until=self.env.now + management.observe_s)

    def _retry(self, attempt: int) -> None:
        """The manager tries again: a new migration at the source, the same process at the destination."""
        end = self.source.endpoint.finished
        if end is None or end.status == "completed" or self.destination.endpoint.finished is not None:
            return
        self.trace.note(self.env.now, "manager", "management", "", f"tries again ({attempt})")
        old = self.source
        self.source = self._host("source", self.setup.source())
        self.source.guest.running, self.source.other, self.destination.other = True, self.destination, self.source
        self.source.tls_round_trips = old.tls_round_trips
        for shaper in self.net.shapers.values():
            shaper.__init__()  # type: ignore[misc]
        self.source.feed(Start())

    def _run_until_source_ends(self) -> None:
        ended = self.env.event()
        self.source.on_finished = ended.succeed
        self.env.run(until=self.env.any_of([ended, self.env.timeout(self.scenario.management.observe_s)]))
        self.env.run(until=self.env.now + RETRY_S)

    def _order(self, input: Any) -> Callable[[], None]:
        def told() -> None:
            if self.source.endpoint.finished is None:
                self.trace.note(self.env.now, "manager", "management", "", type(input).__name__)
                self.source.feed(input)

        return told

    def _refused_up_front(self) -> bool:
        refused = self.setup.refused()
        if refused is not None:
            side, self.refused = refused
            self.trace.note(0.0, side, "end", "", f"rejected: {self.refused.text}")
        return refused is not None

    def _phase(self, text: str) -> None:
        """One of the five phases of libvirt's migration protocol 3."""
        if self.setup.manager == "libvirt":
            self.trace.note(self.env.now, "manager", "management", "", text)

    def _listen(self) -> None:
        if self.file is None:
            self._phase("Begin, Prepare: sets both sides, the destination listens")
            self.destination.feed(Start())
            self.net.listening = self.destination.endpoint.finished is None

    def _start(self) -> None:
        self.refused = None if self.file else self.destination.endpoint.finished
        if self.refused is None:
            self._phase("Perform: migrate")
            self.source.feed(Start())

    # --- how it ended -----------------------------------------------------------------------------------------------
    def facts(self) -> Facts:
        return facts(self.setup, self.source, self.destination, self.refused)

    def _row(self) -> Row:
        source = self.source
        trips = None if source.first_guest_byte_s is None else max(0.0, (source.first_guest_depth - 2) / 2)
        found = row(self.setup, source, self.destination, self.refused, trips)
        self._phase(f"Finish: the destination is {found.destination_status}")
        if self.setup.manager == "libvirt" and guest_at(self.facts()) != found.guest_at:
            self._phase("Confirm: resumes the guest at the source")
        else:
            self._phase(f"Confirm: the guest is at: {found.guest_at}")
        return found


def _path(link: Link) -> Path:
    base, scale, shape = link.delay_ms / 1e3, link.jitter_ms / 1e3, link.shape
    samples = tuple(s / 1e3 for s in link.samples_ms) or (0.0,)
    laws: dict[str, Callable[[random.Random], float]] = {
        "constant": lambda _: base,
        "lognormal": lambda rng: base + scale * exp(rng.normalvariate(0.0, shape)),  # lognormvariate, a call sooner
        "pareto": lambda rng: base + scale * (rng.paretovariate(shape) - 1.0),
        "exponential": lambda rng: base + (rng.expovariate(1.0 / scale) if scale else 0.0),
        "empirical": lambda rng: base + rng.choice(samples),
    }
    local = link.transport == "unix" or link.transport.startswith("exec")
    size = 208 << 10 if link.transport == "unix" else 64 << 10 if link.transport.startswith("exec") else 0
    return Path(
        (lambda _: 1e-5) if local else laws[link.delay_law], link.rate_mib_s * MIB, link.loss, link.syn_loss,
        size or link.buffer_kib << 10,
    )  # fmt: skip


def run(
    scenario: Scenario, *, protocol: str = "v1", version: str = "", manager: str = "naive", seed: int = 1
) -> Result:
    """One run of a scenario in the simulated world: same arguments, same trace."""
    return World(scenario, protocol, version or scenario.versions[0], manager, seed).run()
