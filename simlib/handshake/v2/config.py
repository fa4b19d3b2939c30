"""What an endpoint of v2 is given besides its migration settings: randomness is an input too."""

from __future__ import annotations

from dataclasses import dataclass

from .frames import Limits


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """The configuration of one side of a session.

    Args:
        entropy: 32 random bytes, from which everything random is derived.
        session: the manager's name for this migration, compared when both sides have one.
        psk: a pre-shared key, part of the session's key (SPEC section 5).
        limits: what this side is ready to hold.
        grease: send ignorable flags, frames and keys at random (SPEC section 2.6).
        on_maybe: of a verdict with doubts: "warn" or "reject".
        require, forbid: features that must, or must not, be on.
        memory_limit_bytes: of a destination, the largest guest it may take; 0: any.
        bidirectional: the manager's word that exec: or fd: returns what the peer sends.
        relays: the channels carry the stream of a QEMU that has no handshake.
        keepalive_s: between two looks at whether the peer has sent anything on control, in seconds; 0: never (SPEC
            5.10). With libvirt's values: its `keepalive_interval` and `keepalive_count`.
        keepalive_count: PINGs without any answer before the peer counts as silent.
    """

    entropy: bytes = bytes(32)
    session: str = ""
    psk: bytes = b""
    limits: Limits = Limits()
    grease: bool = True
    on_maybe: str = "warn"
    require: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    memory_limit_bytes: int = 0
    bidirectional: bool = True
    relays: bool = False
    keepalive_s: float = 5.0
    keepalive_count: int = 5

    @property
    def silence_s(self) -> float:
        """The longest time from the last byte of a peer to the end of the attempt."""
        return self.keepalive_s * (self.keepalive_count + 2)
