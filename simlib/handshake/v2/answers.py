"""What rows and searches ask of v2's endpoints (`endpoint.Answers`), apart from what these do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..endpoint import ConnectionTable, Decomposition, declare
from ..loader import Loader, MultifdReader, Position
from .features import Agreement
from .session import Session
from .states import DestinationState as S
from .states import Stage

CONTROL = 0  # a source's first connection
MEMORY = ("main", "postcopy-preempt")  # channels that carry a postcopy's memory
AGREED = (S.STARTED, S.READY, S.LOADING, S.LOADED, S.GOING, S.COMPLETED)


class Nonce(NamedTuple):
    """A random value outside a field of its own."""

    nonce: str


declare(Nonce, RANDOM={"nonce": "drawn by the peer"})


@dataclass(frozen=True, slots=True)
class Peer:
    """What a destination remembers of the source's HELLO."""

    qemu_version: str = ""
    session: str = ""
    main: str = "separate"


class SourceAnswers(Session):
    """The answers of a source, from the fields of its subclass."""

    session_id: str
    agreement: Agreement
    stage: Stage
    channels: tuple[str, ...]
    agreed: tuple[str, ...]
    undrained: tuple[int, ...]

    def negotiated(self) -> Mapping[str, object]:
        """Session, features and key, once the destination's ACCEPT has been taken."""
        if not self.session_id:
            return {}
        facts = {"session": self.session_id, "features": self.agreement.on, "extensions": self.extensions}
        return facts | ({"key": self.key_bytes} if self.key_bytes else {})

    def sends_guest(self) -> bool:
        """From READY on the channels carry the stream."""
        return bool(self.stage)

    def hears_itself(self) -> bool:
        """The peer's nonce is ours: the transport echoes."""
        return bool(self.links) and self.links[0].peer_nonce == self.links[0].nonce

    def decomposition(self) -> Decomposition:
        """Of each connection: what is read of it, its name, and whether it is agreed or undrained."""
        names, links = self.channels, self.links
        own = {
            c: (
                c == CONTROL,
                link,
                (names[c], self.agreed.count(names[c]), self.undrained.count(c)) if c < len(names) else None,
            )
            for c, link in links.items()
        }
        shared = (
            tuple(n for n in self.agreed if n not in names),
            tuple(c for c in self.undrained if c not in links),
            tuple(n for c, n in enumerate(names) if c not in links),
        )
        return Decomposition(("links", "channels", "agreed", "undrained"), shared, own)


class DestinationAnswers(Session):
    """Those of a destination."""

    session_id: str
    agreement: Agreement
    control: int | None
    bound: tuple[tuple[str, int, str], ...]
    lanes: ConnectionTable[MultifdReader]
    main_bytes: int
    _loader: Loader

    @property
    def ram_bytes(self) -> int:
        """Bytes of guest memory that have come."""
        return self.main_bytes + sum(lane.ram_bytes for lane in self.lanes.values())

    def negotiated(self) -> Mapping[str, object]:
        """Session, features and key, from START on: before it nothing proves that the source agrees."""
        if self.state not in AGREED:
            return {}
        return {
            "session": self.session_id,
            "features": self.agreement.on,
            "extensions": self.extensions,
            "key": self.key_bytes,
        }

    def bound_channels(self) -> tuple[tuple[str, int], ...]:
        """The channels that have proved their MAC, each with its connection."""
        return tuple((name, conn) for name, conn, _ in self.bound)

    def unready(self) -> bool:
        """READY is still to be sent."""
        return self.state in (S.ACCEPTED, S.STARTED)

    def occupied(self) -> str:
        """The state of an attempt that blocks others; one that has begun to load is over, and reported as `needs-
        restart`."""
        dirty = self.finished is not None and self._loader.state != Position.HEADER  # it reports `needs-restart`
        return "" if dirty or self.state in (S.NONE, S.LISTENING) else self.state

    def decomposition(self) -> Decomposition:
        """Of each connection: what is read of it, whether it is control, and the channel bound to it."""
        links, control = self.links, self.control
        own = {
            c: (
                c == control,
                link,
                (tuple((name, Nonce(nonce)) for name, conn, nonce in self.bound if conn == c), self.lanes.get(c)),
            )
            for c, link in links.items()
        }
        shared = (
            control if control not in links else None,
            tuple(b for b in self.bound if b[1] not in links),
            tuple(item for item in self.lanes.items() if item[0] not in links),
            self.ram_bytes,  # no step that changes it is local: a property looks at it
        )
        return Decomposition(("links", "control", "bound", "lanes"), shared, own)
