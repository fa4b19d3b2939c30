"""Protocols: what the two sides of a migration speak, and what a run must know of that.

Knows the endpoints and no runner. `PROTOCOLS` in registry.py lists the lab's own, which stand at the end of this file;
`from_endpoints` makes one of a user's endpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from ..handshake.detect import Adaptive
from ..handshake.endpoint import Endpoint
from ..handshake.interface import Finished
from ..handshake.machine import Settings
from ..handshake.names import Reason, Status
from ..handshake.v1.destination import Destination as V1Destination
from ..handshake.v1.source import Source as V1Source
from ..handshake.v2.config import SessionConfig
from ..handshake.v2.destination import Destination as V2Destination
from ..handshake.v2.source import Source as V2Source
from ..handshake.variants import ProbingDestination, ProbingSource
from .facts import RunFacts
from .registry import ScenarioError

Make = Callable[[Settings, SessionConfig], Endpoint]
MAIN_ALONE = ("multifd", "postcopy-preempt", "switchover-ack", "mapped-ram")


@dataclass(frozen=True)
class Protocol:
    """One protocol.

    Args:
        name: what files, rows and the command line call it.
        label: one line for people.
        negotiates: the sides agree on their settings themselves; otherwise their managers must make them fit.
        probes: the sides find out what the other speaks, instead of being configured by their managers.
        source_decides: the source finds it out; in (a) the destination does.
        needs_tls: it works between sides that have TLS alone.
        beside_qemu: agents beside real QEMUs can speak it; what does not negotiate, QEMU speaks itself.
        tls_round_trips: of the simulated TLS handshake of one connection.
        color: of its lines and points in figures.
        make_adaptive: makes a destination that takes v1 and v2, of its settings and its session's configuration.
    """

    name: str
    label: str = ""
    negotiates: bool = True
    probes: bool = False
    source_decides: bool = False
    needs_tls: bool = False
    beside_qemu: bool = False
    tls_round_trips: int = 1
    color: str = "#555555"
    make_adaptive: Make = Adaptive

    def source(self, setup: RunFacts, role: str = "source") -> Endpoint:
        """A fresh source; another `role` gives it other random bytes."""
        raise NotImplementedError

    def destination(self, setup: RunFacts) -> Endpoint:
        """A fresh destination."""
        raise NotImplementedError

    def check(self, setup: RunFacts) -> None:
        """Raises ScenarioError for a scenario that can't be played with it."""

    def refused(self, setup: RunFacts) -> tuple[str, Finished] | None:
        """The side whose QEMU refuses the command before anything starts, and how; None if neither does."""
        return None

    def expected(self, setup: RunFacts) -> str:
        """What both sides should speak, by name: the newest that both know, of what their managers ask for."""
        return self.name

    def backlog(self, setup: RunFacts) -> int:
        """Connections that may wait in the destination's listening socket."""
        return 64

    def with_endpoints(self, name: str, *classes: type) -> Protocol:
        """The same with other endpoints: each class takes the place of the one that it extends.

        >>> from simlib.handshake.v2.source import Source
        >>> V2.with_endpoints("v2, hasty", type("Hasty", (Source,), {})).make_source.__name__
        'Hasty'
        """
        makers = {f.name: getattr(self, f.name) for f in fields(self) if f.name.startswith("make_")}
        for cls in classes:
            makers |= {n: cls for n, make in makers.items() if isinstance(make, type) and issubclass(cls, make)}
        return replace(self, name=name, label=name, **makers)


@dataclass(frozen=True)
class Stream(Protocol):
    """Today's stream, without negotiation.

    Args:
        make_source, make_destination: make an endpoint of a side's settings.
    """

    make_source: Callable[[Settings], Endpoint] = V1Source
    make_destination: Callable[[Settings], Endpoint] = V1Destination

    def source(self, setup: RunFacts, role: str = "source") -> Endpoint:
        return self.make_source(setup.settings(True))

    def destination(self, setup: RunFacts) -> Endpoint:
        if setup.scenario.destination.accepts_both:
            return self.make_adaptive(setup.settings(False), setup.session_config(False))
        return self.make_destination(setup.settings(False))

    def backlog(self, setup: RunFacts) -> int:
        return max(setup.settings(False).channels, 1)  # socket_start_incoming_migration (migration/socket.c)


@dataclass(frozen=True)
class Configured(Protocol):
    """Both managers configure what is spoken; a QEMU that does not know it refuses the command (D3).

    Args:
        make_source, make_destination: make an endpoint of a side's settings and its session's configuration.
    """

    make_source: Make = V2Source
    make_destination: Make = V2Destination

    def source(self, setup: RunFacts, role: str = "source") -> Endpoint:
        if setup.saved:
            return V1Source(setup.settings(True))
        return self.make_source(setup.settings(True), setup.session_config(True, role))

    def destination(self, setup: RunFacts) -> Endpoint:
        side, settings = setup.scenario.destination, setup.settings(False)
        if setup.saved or side.accepts_stream_alone:
            return V1Destination(settings)
        make = self.make_adaptive if side.accepts_both else self.make_destination
        return make(settings, setup.session_config(False))

    def refused(self, setup: RunFacts) -> tuple[str, Finished] | None:
        sides = {"source": setup.scenario.source, "destination": setup.scenario.destination}
        lacks = None if setup.saved else next((name for name, side in sides.items() if not side.knows_v2), None)
        if lacks is None:
            return None
        text = "Parameter 'channel-type' does not accept value 'control'"
        return lacks, Finished(Status.REJECTED, text, Reason.SPECIFIC, listening=True)

    def expected(self, setup: RunFacts) -> str:
        speaks = getattr(self.make_source, "speaks", self.name)
        return speaks if setup.both_know_more and not setup.saved else V1.name


@dataclass(frozen=True)
class Probing(Protocol):
    """A detection variant (handshake.variants): one side sends a probe, which an old peer should not notice."""

    probes: bool = True
    source_decides: bool = True

    def source(self, setup: RunFacts, role: str = "source") -> Endpoint:
        settings = setup.settings(True)
        if setup.saved or not setup.scenario.source.knows_v2:
            return V1Source(settings)
        return ProbingSource(settings, setup.session_config(True, role), self.name, setup.detect_timeout_s(True))

    def destination(self, setup: RunFacts) -> Endpoint:
        settings = setup.settings(False)
        if not setup.scenario.destination.knows_v2:
            return V1Destination(settings)
        return self._probing(settings, setup.session_config(False), setup.detect_timeout_s(False))

    def _probing(self, settings: Settings, session_config: SessionConfig, timeout_s: float) -> Endpoint:
        return ProbingDestination(settings, session_config, self.name, timeout_s)

    def check(self, setup: RunFacts) -> None:
        if not setup.scenario.source.knows_v2:
            return
        settings = setup.settings(True)
        more = [*(c for c in MAIN_ALONE if settings.has(c)), *(["TLS"] if settings.tls else [])]
        if more:
            raise ScenarioError(
                f"detection by ({self.name}) is played with main alone, and the source has {more[0]} on"
            )

    def expected(self, setup: RunFacts) -> str:
        return V2.name if setup.both_know_more and not setup.saved else V1.name


@dataclass(frozen=True)
class AskingTls(Probing):
    """The source offers v2's name in the TLS handshake (ALPN, RFC 7301), which an old peer ignores."""

    needs_tls: bool = True

    def _probing(self, settings: Settings, session_config: SessionConfig, timeout_s: float) -> Endpoint:
        return self.make_adaptive(settings, session_config)

    def check(self, setup: RunFacts) -> None:
        """Every scenario can be played with it."""

    def refused(self, setup: RunFacts) -> tuple[str, Finished] | None:
        if not setup.scenario.source.knows_v2 or setup.settings(True).tls:
            return None
        text = "Parameter 'channel-type' accepts 'auto' with 'tls-creds' alone: without TLS only a guess is left"
        return "source", Finished(Status.REJECTED, text, Reason.SPECIFIC, listening=True)


def from_endpoints(name: str, source: Make, destination: Make, label: str = "") -> Protocol:
    """A protocol of one's own endpoints, which both managers ask for by name.

    Args:
        name: what files, rows and the command line call it; the endpoints' `speaks`.
        source, destination: make an endpoint of `handshake.machine.Settings` and `handshake.v2.config.SessionConfig`;
            a subclass of v2's `Source` or `Destination` does.
        label: one line for people.

    Raises:
        ScenarioError: for an endpoint whose `speaks` is another name.

    >>> from simlib.handshake.v2.source import Source
    >>> class Quick(Source):
    ...     speaks = "v2-quick"
    >>> from_endpoints("v2-quick", Quick, type("Taker", (V2Destination,), {"speaks": "v2-quick"})).name
    'v2-quick'
    """
    for side, make in (("source", source), ("destination", destination)):
        speaks = getattr(make, "speaks", name)
        if isinstance(speaks, str) and speaks != name:
            raise ScenarioError(f"protocol {name!r}: its {side} speaks {speaks!r}; give the class speaks = {name!r}")
    return Configured(name, label or name, make_source=source, make_destination=destination)


V1 = Stream("v1", "v1: today's stream", negotiates=False, tls_round_trips=2, color="#b3541e")
V2 = Configured("v2", "v2: told by the manager", beside_qemu=True, color="#1b6ca8")  # colour-blind safe
A = Probing("a", "(a) destination probes", source_decides=False)
B = Probing("b", "(b) version bump")
C = Probing("c", "(c) destination greets")
D = Probing("d", "(d) PING on v1")
D_TRANSFORMED = Probing("d'", "(d') PING, other answer")
F = AskingTls("f", "(f) asks TLS")
