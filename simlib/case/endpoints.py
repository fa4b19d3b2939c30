"""The two endpoints of a scenario, the same for every runner: simulated, searched, or on real sockets."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from ..handshake.endpoint import Endpoint
from ..handshake.interface import Finished
from ..handshake.machine import Settings
from ..handshake.v2.config import SessionConfig
from ..handshake.versions import is_modelled, not_modelled
from . import effects
from .checks import pair
from .faults import Intrusion
from .guest import MIB, Guest
from .protocols import Protocol
from .registry import MANAGERS, PROTOCOLS, ScenarioError, require, require_whole
from .scenario import Scenario

POINT_TO_POINT = ("exec", "fd", "file")  # no listening socket
STEP_S = 0.05  # how long one ram_save_iterate writes before it returns (MAX_WAIT in ram.c)


@dataclass(frozen=True)
class Case:
    """A scenario under one protocol, on one pair of versions, under one manager.

    Args:
        protocol: a protocol, or its name.
        version: QEMU's of both sides, "7.2", or of source and destination, "7.2>10.0".
        manager: a manager, or its name.
        seed: of all random numbers of the run; at least 0.

    Raises:
        ScenarioError: for what the lab does not know or does not model, and for a key without effect.
    """

    scenario: Scenario
    protocol: str = "v1"
    version: str = "7.2"
    manager: str = "naive"
    seed: int = 1
    own_settings: tuple[tuple[str, Settings], ...] = ()  # of sides where the manager has set others by QMP

    def __post_init__(self) -> None:
        """Raises ScenarioError for what the lab does not know or does not model."""
        for name, table in (("protocol", PROTOCOLS), ("manager", MANAGERS)):
            object.__setattr__(self, name, table.name_of(getattr(self, name)))
            require(name, getattr(self, name), table)
        require_whole("the seed", self.seed, 0)
        if not isinstance(self.version, str):
            raise ScenarioError(f'the version is {self.version!r}; write it as text, as "7.2" or "7.2>10.0"')
        for version in self.versions:
            if not is_modelled(version):
                raise ScenarioError(not_modelled(version))
        transport = self.scenario.link.transport
        if transport.startswith(POINT_TO_POINT) and any(isinstance(f, Intrusion) for f in self.scenario.faults):
            raise ScenarioError(f"nobody else can connect where the path is {transport!r}")
        effects.check(self.scenario, (self.protocol,))
        self.definition.check(self)

    @property
    def definition(self) -> Protocol:
        """What the protocol's name stands for."""
        definition: Protocol = PROTOCOLS.get(self.protocol)
        return definition

    @property
    def negotiates(self) -> bool:
        """Whether the sides agree on their settings themselves."""
        return self.definition.negotiates

    @property
    def versions(self) -> tuple[str, str]:
        return pair(self.version)

    @property
    def file_only(self) -> bool:
        return self.scenario.link.transport in ("file", "exec-cat", "exec-null")

    @property
    def saved(self) -> bool:
        """v2 has no handshake with a file: the stream is v1's, behind a manifest."""
        return self.negotiates and self.scenario.link.transport == "file"

    @property
    def both_know_more(self) -> bool:
        """Whether neither side is a binary from before the handshake."""
        return self.scenario.source.knows_v2 and self.scenario.destination.knows_v2

    def detect_timeout_s(self, at_source: bool) -> float:
        """How long one side waits for an answer to its probe, in seconds; 0: without limit."""
        own = (self.scenario.source if at_source else self.scenario.destination).detect_timeout_s
        return self.scenario.detect_timeout_s if own < 0 else own

    def asked(self, at_source: bool) -> Settings:
        """One side's settings as the scenario has them. Raises ScenarioError."""
        return self.scenario.settings(at_source, self.versions[0 if at_source else 1])

    def settings(self, at_source: bool) -> Settings:
        """The same with the manager's changes. Raises ScenarioError."""
        own = dict(self.own_settings).get("source" if at_source else "destination")
        return own or MANAGERS.get(self.manager).settings(self, at_source)

    def session_config(self, at_source: bool, role: str = "") -> SessionConfig:
        """One side's configuration for v2; another `role` gives it other random bytes."""
        side = self.scenario.source if at_source else self.scenario.destination
        role = role or ("source" if at_source else "destination")
        entropy = hashlib.sha256(f"{self.seed} {self.scenario.name} {role}".encode()).digest()
        return SessionConfig(
            entropy,
            side.session,
            side.psk.encode(),
            on_maybe=side.on_maybe,
            require=side.require,
            forbid=side.forbid,
            memory_limit_bytes=side.memory_limit_mib * MIB,
            bidirectional=self.scenario.link.told_bidirectional,
            keepalive_s=side.keepalive_s,
            keepalive_count=side.keepalive_count,
        )

    def source(self, role: str = "source") -> Endpoint:
        """A fresh source."""
        return self.definition.source(self, role)

    def destination(self) -> Endpoint:
        """A fresh destination."""
        return self.definition.destination(self)

    def refused(self) -> tuple[str, Finished] | None:
        """The side whose QEMU refuses the command before anything starts, and how; None if neither does (D3)."""
        return self.definition.refused(self)

    def guest(self, at_source: bool) -> Guest:
        """The simulated guest below one side."""
        facts, side, settings = self.scenario.guest, self.scenario.destination, self.settings(at_source)
        rate_bytes_s = int(self.scenario.link.rate_mib_s * MIB)
        # Only a switch to postcopy can come between two steps.
        steps = settings.has("postcopy-ram") and not settings.channels
        return Guest(
            ram_bytes=int(facts.ram_mib * MIB),
            dirty_bytes_s=facts.dirty_mib_s * MIB,
            working_set_bytes=int(facts.working_set_mib * MIB),
            downtime_bytes=int(rate_bytes_s * 0.3),
            load_s=facts.load_ms / 1e3,
            step_bytes=int(rate_bytes_s * STEP_S) if steps else 1 << 62,
            post_load_error=facts.post_load_error,
            apply_error=side.apply_error,
            apply_code=side.apply_code,
            answers_ms=facts.source_ms if at_source else facts.destination_ms,
            jitter_s=facts.jitter_ms / 1e3,
            rng=random.Random(f"{self.seed} {at_source}") if facts.jitter_ms else None,
        )
