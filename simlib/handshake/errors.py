"""The catalogue of v2's errors: stable codes, each with its category, and the value that carries one to the peer.

Codes never change their meaning; a later version adds (SPEC section 7). Text from a peer is for people: it is capped,
stripped of control characters (`clean`) and never decides anything.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from .names import Name


class Code(Name):
    """What is wrong, with its category."""

    category: str

    def __new__(cls, code: str, category: str) -> Code:
        """A member is the code's text; its category stands beside it in the definition."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.category = category
        return member

    NOT_A_HANDSHAKE = "not-a-handshake", "protocol"
    PEER_V1 = "peer-v1", "protocol"
    REFLECTED = "reflected", "protocol"
    NO_COMMON_VERSION = "no-common-version", "protocol"
    ENCODING = "encoding", "protocol"
    FRAME_TOO_BIG = "frame-too-big", "protocol"
    TOO_MUCH = "too-much", "protocol"
    BAD_STATE = "bad-state", "protocol"
    UNKNOWN_CRITICAL = "unknown-critical", "protocol"
    UNKNOWN_KEY = "unknown-key", "protocol"
    UNKNOWN_VALUE = "unknown-value", "protocol"
    TRANSPORT_ONE_WAY = "transport-one-way", "config"
    FEATURE_REQUIRED = "feature-required", "config"
    FEATURE_DEPENDENCY = "feature-dependency", "config"
    FEATURE_CONFLICT = "feature-conflict", "config"
    PARAMETER = "parameter", "config"
    MAYBE_REFUSED = "maybe-refused", "config"
    AGREEMENT_MISMATCH = "agreement-mismatch", "config"
    APPLY_FAILED = "apply-failed", "config"
    MACHINE_TYPE = "machine-type", "machine"
    ARCH = "arch", "machine"
    PAGE_BITS = "page-bits", "machine"
    UUID = "uuid", "machine"
    VCPUS = "vcpus", "machine"
    CPU_MODEL = "cpu-model", "machine"
    CPU_FEATURE = "cpu-feature", "machine"
    RAM_BLOCK = "ram-block", "machine"
    RAM_SIZE = "ram-size", "machine"
    RAM_PAGE_SIZE = "ram-page-size", "machine"
    DEVICE_UNKNOWN = "device-unknown", "device"
    DEVICE_EXTRA = "device-extra", "device"
    DEVICE_INSTANCE = "device-instance", "device"
    DEVICE_VERSION = "device-version", "device"
    DEVICE_NESTED_VERSION = "device-nested-version", "device"
    DEVICE_SUBSECTION = "device-subsection", "device"
    DEVICE_SCHEMA = "device-schema", "device"
    DEVICE_FEATURES = "device-features", "device"
    DEVICE_UNMIGRATABLE = "device-unmigratable", "device"
    MEMORY = "memory", "resource"
    PORT = "port", "resource"
    BUSY = "busy", "session"
    NO_SESSION = "no-session", "session"
    WRONG_SESSION = "wrong-session", "session"
    CHANNEL_AUTH = "channel-auth", "session"
    CHANNEL_UNPLANNED = "channel-unplanned", "session"
    CHANNEL_DUPLICATE = "channel-duplicate", "session"
    CHANNEL_MISSING = "channel-missing", "session"
    CHANNEL_LOST = "channel-lost", "session"
    HANDSHAKE_TIMEOUT = "handshake-timeout", "session"
    TRANSCRIPT = "transcript", "session"
    CONNECT = "connect", "operational"
    PEER_CLOSED = "peer-closed", "operational"
    CONNECTION_LOST = "connection-lost", "operational"
    PEER_SILENT = "peer-silent", "operational"
    CANCELLED = "cancelled", "operational"
    DEADLINE = "deadline", "operational"
    NEEDS_RESTART = "needs-restart", "operational"
    MANIFEST = "manifest", "operational"


CODES = {str(code): code for code in Code}


class Retry(Name):
    """When another attempt makes sense; the first that applies to any of several errors counts for all."""

    NEVER = "never"
    AFTER_CHANGE = "after-change"
    LATER = "later"
    WITH_VERSION = "with-version"


@dataclass(frozen=True, slots=True)
class Error:
    """One thing that is wrong.

    Args:
        code: of the catalogue; a peer's may be newer than ours.
        item: where, as "feature[multifd].channels".
        source, destination: both sides' values, as texts.
        text: a sentence for people.
        hint: what to do about it.
        retry: when another attempt makes sense.
        severity: "error", or "warning" for what does not forbid the migration.

    >>> Error(Code.BUSY, text="The destination is in a handshake.").category
    'session'
    """

    code: str
    _: KW_ONLY
    item: str = ""
    source: str = ""
    destination: str = ""
    text: str = ""
    hint: str = ""
    retry: str = Retry.AFTER_CHANGE
    severity: str = "error"

    @property
    def category(self) -> str:
        """The code's category (SPEC section 7); `protocol` for a code that only a newer peer knows."""
        known = CODES.get(self.code)
        return known.category if known else "protocol"

    def body(self) -> dict[str, object]:
        """As it goes on the wire."""
        return {
            "code": self.code,
            "category": self.category,
            "severity": self.severity,
            "item": self.item,
            "source": self.source,
            "destination": self.destination,
            "text": self.text,
            "hint": self.hint,
            "retry": self.retry,
        }

    def __str__(self) -> str:
        return self.text or f"{self.code} at {self.item}"


class PeerError(Exception):
    """The peer did something wrong; raised while a message is read, and answered with a refusal."""

    def __init__(
        self,
        code: Code,
        text: str,
        *,
        item: str = "",
        source: str = "",
        destination: str = "",
        retry: str = Retry.AFTER_CHANGE,
    ) -> None:
        super().__init__(text)
        self.error = Error(code, item=item, source=source, destination=destination, text=text, retry=retry)


class OurMistake(Exception):
    """Whoever runs the endpoint used it wrongly."""


def clean(text: str, limit: int = 1000) -> str:
    """Text from a peer, fit to be shown: printable characters only, at most `limit` of them."""
    text = text[:limit]
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
