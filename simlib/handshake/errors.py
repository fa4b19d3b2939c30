"""The catalogue of v2's errors: stable codes, each with its category, and the value that carries one to the peer.

Codes never change their meaning; a later version adds. Text from a peer is for people: it is capped, stripped of
control characters (`clean`) and never decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass

CODES: dict[str, tuple[str, ...]] = {
    "protocol": (
        "not-a-handshake", "peer-v1", "reflected", "no-common-version", "encoding", "frame-too-big", "too-much",
        "bad-state", "unknown-critical", "unknown-key", "unknown-value",
    ),
    "config": (
        "transport-one-way", "feature-required", "feature-dependency", "feature-conflict", "parameter",
        "maybe-refused", "agreement-mismatch", "apply-failed",
    ),
    "machine": (
        "machine-type", "arch", "page-bits", "vcpus", "cpu-model", "cpu-feature", "ram-block", "ram-size",
    ),
    "device": (
        "device-unknown", "device-extra", "device-instance", "device-version", "device-nested-version",
        "device-subsection", "device-schema", "device-features", "device-unmigratable",
    ),
    "resource": ("memory", "port"),
    "session": (
        "busy", "no-session", "wrong-session", "channel-auth", "channel-unplanned", "channel-duplicate",
        "channel-missing", "channel-lost", "transcript",
    ),
    "operational": (
        "connect", "peer-closed", "connection-lost", "cancelled", "deadline", "needs-restart", "manifest",
    ),
}  # fmt: skip
CATEGORY = {code: category for category, codes in CODES.items() for code in codes}
RETRY = ("never", "after-change", "later", "with-version")


@dataclass(frozen=True, slots=True)
class Error:
    """One thing that is wrong: where (`item`), both values, a sentence, and what to do about it."""

    code: str
    item: str = ""
    source: str = ""
    destination: str = ""
    text: str = ""
    hint: str = ""
    retry: str = "after-change"
    severity: str = "error"  # or "warning"

    @property
    def category(self) -> str:
        return CATEGORY.get(self.code, "protocol")

    def body(self) -> dict[str, object]:
        """As it goes on the wire."""
        return {
            "code": self.code, "category": self.category, "severity": self.severity, "item": self.item,
            "source": self.source, "destination": self.destination, "text": self.text, "hint": self.hint,
            "retry": self.retry,
        }  # fmt: skip

    def __str__(self) -> str:
        return self.text or f"{self.code} at {self.item}"


class PeerError(Exception):
    """The peer did something wrong; raised while a message is read, turned into a refusal at the one door."""

    def __init__(self, code: str, text: str, item: str = "", source: str = "", destination: str = "") -> None:
        super().__init__(text)
        self.error = Error(code, item, source, destination, text)


class OurMistake(Exception):
    """Whoever runs the endpoint used it wrongly."""


def clean(text: str, limit: int = 1000) -> str:
    """Text from a peer, fit to be shown: printable characters only, at most `limit` of them."""
    text = text[:limit]
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
