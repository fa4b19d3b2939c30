"""What ties channels to their session: the transcript's digests, the key, the MACs (SPEC section 5).

On TLS or with a pre-shared key that is authentication and protection against downgrade. On bare TCP the secret
crosses in the clear: it keeps out intruders and mix-ups, and no more.
"""

from __future__ import annotations

import hashlib
import hmac


def derive(entropy: bytes, label: str, size: int) -> bytes:
    """Fresh-looking bytes from an endpoint's own entropy (32 random bytes, given to it); size at most 32."""
    return hmac.digest(entropy, label.encode(), "sha256")[:size]


def transcript(sent: bytes) -> bytes:
    """h_S or h_D: SHA-256 over all bytes that one side has sent, ignorable frames included (SPEC 5.5)."""
    return hashlib.sha256(sent).digest()


def session_key(secret: bytes, psk: bytes, exporter: bytes, source: bytes, destination: bytes) -> bytes:
    """HMAC(secret || psk || exporter, h_S || h_D): a peer that changes a byte of the conversation, or does not know the
    pre-shared key, or sits between two TLS connections, has another key (SPEC 5.5)."""
    return hmac.digest(secret + psk + exporter, source + destination, "sha256")


def mac(key: bytes, *parts: bytes | str | int) -> str:
    """Over the parts, each with its length before it, so that no two lists of parts are the same bytes."""
    message = b""
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        message += len(raw).to_bytes(4, "big") + raw
    return hmac.digest(key, message, "sha256").hex()


def same(one: str, other: str) -> bool:
    """Compare two MACs in a time that does not depend on where they differ (SPEC section 11)."""
    return hmac.compare_digest(one.encode(), other.encode())
