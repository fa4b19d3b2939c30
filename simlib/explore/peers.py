"""Peers that differ from ours, for models: of a later version, one whose negotiation has drifted, one overheard."""

from __future__ import annotations

from typing import Any

from ..handshake.endpoint import reducible
from ..handshake.v2 import frames
from ..handshake.v2.answers import CONTROL
from ..handshake.v2.destination import Destination
from ..handshake.v2.source import Source


@reducible
class NewerSource(Source):
    """Of v2.N: a key that others may ignore, a feature that they don't know, a frame that they may skip (P6)."""

    def _say(self, conn: int, type: int, told: dict[str, Any], before: bytes = b"", note: str = "") -> bytes:
        if type == frames.OFFER:
            told = told | {"?power": 1, "features": [*told["features"], {"name": "warm-cache", "need": "prefer"}]}
            before += frames.frame(0x70, b"later", flags=0)
        return super()._say(conn, type, told, before, note)


@reducible
class NewerDestination(Destination):
    """Of v2.N (P7)."""

    def _say(self, conn: int, type: int, told: dict[str, Any], before: bytes = b"", note: str = "") -> bytes:
        if type == frames.ACCEPT:
            told = told | {"?power": 1, "features": [*told["features"], {"name": "warm-cache", "need": "prefer"}]}
            before += frames.frame(0x70, b"later", flags=0)
        return super()._say(conn, type, told, before, note)


@reducible
class Future(Source):
    """Of a later version that counts on a key which ours has never heard of, and forgot to say so."""

    extensions = ("encrypt",)

    def _say(self, conn: int, type: int, told: dict[str, Any], before: bytes = b"", note: str = "") -> bytes:
        return super()._say(conn, type, told | ({"encrypt": True} if type == frames.OFFER else {}), before, note)


@reducible
class Drifted(Destination):
    """Its negotiation has come to differ: it never takes multifd."""

    def _heard_offer(self, conn: int, told: dict[str, Any]) -> None:
        kept = [f for f in told["features"] if f["name"] != "multifd"]
        super()._heard_offer(conn, told | {"features": kept})


@reducible
class Overheard(Source):
    """Somebody on the way changes an ignorable bit of what it says."""

    def _connected(self, conn: int) -> None:
        super()._connected(conn)
        if conn == CONTROL:
            self.sent = self.sent[:14] + bytes([self.sent[14] ^ 1]) + self.sent[15:]
