"""The two endpoints of a scenario, the same for every runner: simulated, searched, or on real sockets."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from typing import Any

from .checks import MANAGERS, PROTOCOLS, ScenarioError, pair, require
from .handshake.capabilities import known_capabilities
from .handshake.detect import Adaptive
from .handshake.interface import Finished
from .handshake.machine import Settings, is_modelled, not_modelled
from .handshake.v1.destination import Destination as V1Destination
from .handshake.v1.source import Source as V1Source
from .handshake.v2.destination import Destination as V2Destination
from .handshake.v2.messages import Identity
from .handshake.v2.source import Source as V2Source
from .handshake.variants import VARIANTS, ProbingDestination, ProbingSource
from .host import MIB, Guest
from .scenario import Scenario, Side

ALONE = ("exec", "fd", "file")  # no listening socket
STEP_S = 0.05  # how long one ram_save_iterate writes before it looks up (MAX_WAIT in ram.c)
NOT_PROBED = ("multifd", "postcopy-preempt", "switchover-ack", "mapped-ram")


@dataclass(frozen=True)
class Setup:
    """A scenario under one protocol, on one pair of versions ("7.2" or "7.2>10.0"), under one manager."""

    scenario: Scenario
    protocol: str = "v1"
    version: str = "7.2"
    manager: str = "naive"
    seed: int = 1

    def __post_init__(self) -> None:
        """Raises ScenarioError for what the lab does not know or does not model."""
        require("protocol", self.protocol, PROTOCOLS)
        require("manager", self.manager, MANAGERS)
        if not isinstance(self.version, str):
            raise ScenarioError(f'the version is {self.version!r}; write it as text, as "7.2" or "7.2>10.0"')
        for version in self.versions:
            if not is_modelled(version):
                raise ScenarioError(not_modelled(version))
        transport = self.scenario.link.transport
        if transport.startswith(ALONE) and any(f.kind == "stranger" for f in self.scenario.faults):
            raise ScenarioError(f"nobody else can connect where the path is {transport!r}")
        if self.probes and self.protocol != "f" and self.scenario.source.knows_v2:
            settings = self.settings(True)
            more = [*(c for c in NOT_PROBED if settings.has(c)), *(["TLS"] if settings.tls else [])]
            if more:
                raise ScenarioError(
                    f"detection by ({self.protocol}) is played with main alone, and the source has {more[0]} on"
                )

    @property
    def versions(self) -> tuple[str, str]:
        return pair(self.version)

    @property
    def file_only(self) -> bool:
        return self.scenario.link.transport in ("file", "exec-cat", "exec-null")

    @property
    def saved(self) -> bool:
        """v2 has no handshake with a file: the stream is v1's, behind a manifest."""
        return self.protocol != "v1" and self.scenario.link.transport == "file"

    @property
    def probes(self) -> bool:
        return self.protocol in VARIANTS

    def settings(self, at_source: bool) -> Settings:
        """One side's settings, after what its manager makes of them. Raises ScenarioError."""
        settings = self.scenario.settings(at_source, self.versions[0 if at_source else 1])
        if self.manager != "libvirt" or self.protocol != "v1":
            return settings
        # libvirt passes the user's flags to both sides, and drops what the other side's QEMU does not list
        asked = self.scenario.source
        both = set(known_capabilities(self.versions[0])) & set(known_capabilities(self.versions[1]))
        wanted = (*asked.capabilities, *(() if self.file_only else ("return-path",)))
        shared = [c for c in dict.fromkeys(wanted) if c in both]
        parameters = asked.parameters if at_source else {**self.scenario.destination.parameters, **asked.parameters}
        return replace(
            settings, capabilities=tuple(shared), parameters=tuple(sorted(parameters.items())), exit_on_error=False,
        )  # fmt: skip

    def _identity(self, side: Side, role: str) -> Identity:
        entropy = hashlib.sha256(f"{self.seed} {self.scenario.name} {role}".encode()).digest()
        return Identity(
            entropy, side.session, side.psk.encode(), on_maybe=side.on_maybe, require=side.require, forbid=side.forbid,
            memory_limit_bytes=side.memory_limit_mib * MIB, bidirectional=self.scenario.link.told_bidirectional,
        )  # fmt: skip

    def source(self, role: str = "source") -> Any:
        """A fresh source; another `role` gives it other random bytes."""
        side, settings = self.scenario.source, self.settings(True)
        if self.protocol == "v1" or self.saved or (self.probes and not side.knows_v2):
            return V1Source(settings)
        identity = self._identity(side, role)
        if self.probes:
            return ProbingSource(settings, identity, self.protocol, self.scenario.detect_timeout_s)
        return V2Source(settings, identity)

    def destination(self) -> Any:
        """A fresh destination."""
        side, settings = self.scenario.destination, self.settings(False)
        identity = self._identity(side, "destination")
        if self.probes and side.knows_v2 and self.protocol != "f":
            return ProbingDestination(settings, identity, self.protocol, self.scenario.detect_timeout_s)
        if self.probes:
            return Adaptive(settings, identity) if side.knows_v2 else V1Destination(settings)
        accept = "v1" if self.saved or (self.protocol == "v1" and side.accept == "v2") else side.accept
        if accept == "v2-or-v1":
            return Adaptive(settings, identity)
        return V1Destination(settings) if accept == "v1" else V2Destination(settings, identity)

    def guest(self, at_source: bool) -> Guest:
        """The simulated guest below one side."""
        facts, side, settings = self.scenario.guest, self.scenario.destination, self.settings(at_source)
        rate_bytes_s = int(self.scenario.link.rate_mib_s * MIB)
        steps = settings.has("postcopy-ram") and not settings.channels  # no other is looked up for
        return Guest(
            ram_bytes=int(facts.ram_mib * MIB), dirty_bytes_s=facts.dirty_mib_s * MIB,
            working_set_bytes=int(facts.working_set_mib * MIB),
            downtime_bytes=int(rate_bytes_s * 0.3), load_s=facts.load_ms / 1e3,
            step_bytes=int(rate_bytes_s * STEP_S) if steps else 1 << 62,
            post_load_error=facts.post_load_error, apply_error=side.apply_error, apply_code=side.apply_code,
            answers_ms=facts.source_ms if at_source else facts.destination_ms, jitter_s=facts.jitter_ms / 1e3,
            rng=random.Random(f"{self.seed} {at_source}") if facts.jitter_ms else None,
        )  # fmt: skip

    def refused(self) -> tuple[str, Finished] | None:
        """Which side's QEMU refuses the command before anything starts, because it lacks the channel type (D3)."""
        if self.protocol == "f" and self.scenario.source.knows_v2 and not self.settings(True).tls:
            text = "Parameter 'channel-type' accepts 'auto' with 'tls-creds' alone: without TLS only a guess is left"
            return "source", Finished("rejected", text, "specific", listening=True)
        if self.protocol == "v1" or self.saved or self.probes:
            return None
        for name, side in (("source", self.scenario.source), ("destination", self.scenario.destination)):
            if not side.knows_v2:
                text = "Parameter 'channel-type' does not accept value 'control'"
                return name, Finished("rejected", text, "specific", listening=True)
        return None
