"""What goes wrong in a run: one dataclass for each kind, with the keys that have an effect on it.

A kind defines what it does to a `Rig`; the simulated world and the runner on real sockets each are one, so that a fault
is defined once. `FAULTS` in registry.py lists the lab's own kinds; a user's is a subclass of `Strike`, or of `Fault`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Protocol

from .checks import FieldError, Part
from .guest import MIB
from .registry import FAULTS, INTRUDERS, choose, nearest

if TYPE_CHECKING:
    from .intruders import Intruder


class LinkEffect(StrEnum):
    """What may begin to happen to the data of one direction."""

    CUT = "cut"  # every connection is reset
    STALL = "stall"  # a proxy stops reading
    BLACKHOLE = "blackhole"  # a proxy reads and discards
    PACKET_LOSS = "packet-loss"  # no packet arrives any more


class Breaks(Protocol):
    """What may be broken at any moment, in a search too."""

    def cut(self) -> None:
        """Every connection is reset on both sides; what was under way is gone."""

    def reset(self, connection: str) -> None:
        """One connection is reset, by its name."""


class Rig(Breaks, Protocol):
    """What a fault may do to a run with a clock. Directions are "to-destination" and "to-source"."""

    def at(self, at_s: float, call: Callable[[], None]) -> None:
        """Call it so many seconds after the start."""

    def shape(self, effect: LinkEffect, direction: str, after_bytes: int | None, timeout_s: float = 0.0) -> None:
        """An effect from a byte of a direction on, counted over all connections; None: from
        the next one on. `timeout_s`: until TCP gives up on what is lost."""

    def stop(self, side: str, how: str, after_bytes: int | None) -> None:
        """`freeze` or `kill` a side's process: now, or after so many bytes to the destination."""

    def delay_accept(self, connection: str, for_s: float) -> None:
        """A connection reaches the destination so much later."""

    def delay_data(self, connection: str, for_s: float) -> None:
        """Its bytes to the destination do, from the start."""

    def intrude(self, intruder: Intruder, number: int, at_s: float) -> None:
        """An intruder connects to the destination: before the source, or so many seconds after the start."""


@dataclass(frozen=True, init=False)
class Fault(Part):
    """One thing that goes wrong. `Fault("cut", after_mib=8)` makes an object of the kind's own class.

    Raises:
        ScenarioError: for a kind that is not defined, and a key that has no effect on it.

    >>> Fault("cut", after_mib=8.0)
    Cut(kind='cut', direction='to-destination', after_mib=8.0, at_s=-1.0)
    """

    kind: str
    name: ClassVar[str] = ""  # of a kind: the default of its `kind`, which files and rows call it by
    on_link: ClassVar[bool] = False  # on sockets a proxy is needed between the two hosts
    unsupported_on_sockets: ClassVar[str] = ""  # why, where real sockets can't play it

    def __init_subclass__(cls) -> None:
        cls.name = str(vars(cls).get("kind", cls.name))

    def __new__(cls, kind: str = "", *values: object, **keys: object) -> Fault:
        if cls is Fault:
            if kind not in FAULTS:
                raise FieldError(Fault, "kind", f"is {kind!r}{choose(str(kind), FAULTS)}")
            cls = FAULTS.get(kind)
        known = [f.name for f in fields(cls)]
        for key in keys:
            if key not in known:
                raise FieldError(Fault, key, f"has no effect on the kind {cls.name!r}{nearest(key, known)}")
        return object.__new__(cls)

    def __init__(self, kind: str, *values: object, **keys: object) -> None:
        """Never called: each kind has an initialiser of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind != self.name:
            raise FieldError(Fault, "kind", f"is {self.kind!r}, and this fault is of the kind {self.name!r}")

    def arrange(self, rig: Rig, number: int) -> None:
        """Lay it into a run before that starts; `number` counts the scenario's faults."""
        raise NotImplementedError

    def strike(self, breaks: Breaks) -> None:
        """What it does at one moment, for a search, where every moment is tried. Raises NotImplementedError for kinds
        that are about time alone."""
        raise NotImplementedError


@dataclass(frozen=True)
class Strike(Fault):
    """A kind that does its work at one moment: a subclass defines `strike`, and perhaps more keys.

    Args:
        at_s: when, in seconds after the start.
    """

    at_s: float = 0.0
    on_link: ClassVar[bool] = True

    def arrange(self, rig: Rig, number: int) -> None:
        rig.at(self.at_s, lambda: self.strike(rig))


# --- the link -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Shaping(Fault):
    """From a moment, or after so many MiB in one direction, counted over all connections.

    Args:
        direction: whose bytes count: "to-destination" or "to-source".
        after_mib: after so many of them; without a time, from the first.
        at_s: when, in seconds after the start; negative: by bytes.
    """

    direction: str = "to-destination"
    after_mib: float = -1.0
    at_s: float = -1.0
    on_link: ClassVar[bool] = True

    def arrange(self, rig: Rig, number: int) -> None:
        if self.at_s >= 0:
            rig.at(self.at_s, lambda: self._begin(rig, None))
        else:
            self._begin(rig, int(max(self.after_mib, 0) * MIB))

    def _begin(self, rig: Rig, after_bytes: int | None) -> None:
        rig.shape(LinkEffect(self.kind), self.direction, after_bytes)


@dataclass(frozen=True)
class Cut(Shaping):
    """Every connection is reset, as by a firewall that aborts."""

    kind: str = "cut"

    def strike(self, breaks: Breaks) -> None:
        breaks.cut()


@dataclass(frozen=True)
class Blackhole(Shaping):
    """A proxy reads and discards."""

    kind: str = "blackhole"


@dataclass(frozen=True)
class Stall(Shaping):
    """A proxy stops reading."""

    kind: str = "stall"


@dataclass(frozen=True)
class PacketLoss(Shaping):
    """No packet arrives any more.

    Args:
        tcp_retries: of TCP, before it gives up (tcp_retries2).
    """

    kind: str = "packet-loss"
    tcp_retries: int = 15
    unsupported_on_sockets: ClassVar[str] = "a proxy can't lose packets"

    def _begin(self, rig: Rig, after_bytes: int | None) -> None:
        rig.shape(LinkEffect(self.kind), self.direction, after_bytes, min(924.6, 0.2 * 2 ** (self.tcp_retries + 1)))


@dataclass(frozen=True)
class Order(Fault):
    """A proxy takes all connections at once and makes its own to the destination in another order.

    Args:
        order: the channels' names, the first one first.
        accept_gap_s: between two of them, in seconds.
    """

    kind: str = "order"
    order: tuple[str, ...] = ()
    accept_gap_s: float = 0.3
    on_link: ClassVar[bool] = True

    def arrange(self, rig: Rig, number: int) -> None:
        for rank, channel in enumerate(self.order):
            rig.delay_accept(channel, rank * self.accept_gap_s)


@dataclass(frozen=True)
class Delaying(Fault):
    """Something of one connection comes late.

    Args:
        connection: its channel's name.
        for_s: how late; negative: never.
    """

    connection: str = "main"
    for_s: float = -1.0
    on_link: ClassVar[bool] = True

    @property
    def delay_s(self) -> float:
        return self.for_s if self.for_s >= 0 else float("inf")


@dataclass(frozen=True)
class DelayAccept(Delaying):
    """It reaches the destination late."""

    kind: str = "delay-accept"

    def arrange(self, rig: Rig, number: int) -> None:
        rig.delay_accept(self.connection, self.delay_s)


@dataclass(frozen=True)
class DelayData(Delaying):
    """Its bytes are held back."""

    kind: str = "delay-data"

    def arrange(self, rig: Rig, number: int) -> None:
        rig.delay_data(self.connection, self.delay_s)


# --- the hosts ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Stopping(Fault):
    """A process stops: before the start, at a moment, or after so many MiB to the destination.

    Args:
        side: "source" or "destination".
        before_start: before the migration starts.
    """

    side: str = "destination"
    after_mib: float = -1.0
    at_s: float = -1.0
    before_start: bool = False

    def arrange(self, rig: Rig, number: int) -> None:
        if self.before_start or self.at_s < 0:
            rig.stop(self.side, self.kind, None if self.before_start else int(max(self.after_mib, 0) * MIB))
        else:
            rig.at(self.at_s, lambda: rig.stop(self.side, self.kind, None))


@dataclass(frozen=True)
class Freeze(Stopping):
    """The process does nothing any more, and its kernel goes on (SIGSTOP)."""

    kind: str = "freeze"


@dataclass(frozen=True)
class Kill(Stopping):
    """The process is gone, and its kernel closes what it had (SIGKILL)."""

    kind: str = "kill"


@dataclass(frozen=True)
class Intrusion(Fault):
    """An intruder connects to the destination uninvited.

    Args:
        payload: an intruder, or its name.
        at_s: when; up to 0: before the source does.
    """

    kind: str = "intruder"
    payload: str = "silent"
    at_s: float = -1.0

    @property
    def intruder(self) -> Intruder:
        intruder: Intruder = INTRUDERS.get(self.payload)
        return intruder

    def arrange(self, rig: Rig, number: int) -> None:
        rig.intrude(self.intruder, number, self.at_s)
