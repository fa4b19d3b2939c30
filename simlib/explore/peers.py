"""Peers that differ from ours, for models: of a later version, one whose negotiation has drifted, one overheard."""

from __future__ import annotations

from dataclasses import replace

from ..handshake.endpoint import reducible
from ..handshake.v2 import frames
from ..handshake.v2.answers import CONTROL
from ..handshake.v2.body import Json
from ..handshake.v2.destination import Destination
from ..handshake.v2.messages import Accept, Message, Offer
from ..handshake.v2.source import Source

LATER_FRAME = frames.frame(0x70, b"later", flags=0)


def _with_more(content: Json) -> Json:
    """A key that others may ignore, and a feature that they don't know."""
    return content | {"?power": 1, "features": [*content["features"], {"name": "warm-cache", "need": "prefer"}]}


@reducible
class NewerSource(Source):
    """Of v2.N: a key that others may ignore, a feature that they don't know, a frame that they may skip (P6)."""

    def _content(self, message: Message) -> Json:
        content = super()._content(message)
        return _with_more(content) if isinstance(message, Offer) else content

    def _say(self, conn: int, message: Message, before: bytes = b"", note: str = "") -> bytes:
        return super()._say(conn, message, before + LATER_FRAME * isinstance(message, Offer), note)


@reducible
class NewerDestination(Destination):
    """Of v2.N (P7)."""

    def _content(self, message: Message) -> Json:
        content = super()._content(message)
        return _with_more(content) if isinstance(message, Accept) else content

    def _say(self, conn: int, message: Message, before: bytes = b"", note: str = "") -> bytes:
        return super()._say(conn, message, before + LATER_FRAME * isinstance(message, Accept), note)


@reducible
class Future(Source):
    """Of a later version that counts on a key which ours has never heard of, and forgot to say so."""

    extensions = ("encrypt",)

    def _content(self, message: Message) -> Json:
        return super()._content(message) | ({"encrypt": True} if isinstance(message, Offer) else {})


@reducible
class Drifted(Destination):
    """Its negotiation has come to differ: it never takes multifd."""

    def _offer(self, conn: int, offer: Offer) -> None:
        features = tuple(stance for stance in offer.features if stance.feature != "multifd")
        super()._offer(conn, replace(offer, features=features))


@reducible
class Overheard(Source):
    """Somebody on the way changes an ignorable bit of what it sends."""

    def _connected(self, conn: int) -> None:
        super()._connected(conn)
        if conn == CONTROL:
            self.sent = self.sent[:14] + bytes([self.sent[14] ^ 1]) + self.sent[15:]
