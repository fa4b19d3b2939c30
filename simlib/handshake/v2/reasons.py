"""The errors that a side reports of itself: what its own manager reads, and mostly its peer too (SPEC section 7).

Errors about what the peer sent are made where that is read.
"""

from __future__ import annotations

from ..errors import Code, Error, Retry, clean
from ..machine import Settings
from . import body
from .body import Json
from .config import SessionConfig

CANCEL_TEXTS: dict[str, str] = {
    Code.DEADLINE: "The manager's deadline has passed.",
    Code.CANCELLED: "The manager cancelled the migration.",
}


def not_carried(settings: Settings, session_config: SessionConfig) -> str:
    """Why these settings can't be had with a handshake at all; empty if they can. COLO goes on with checkpoints after
    the hand-over, for which version 2.1 has no messages (SPEC section 13); beside a QEMU that writes the stream, this
    side learns too late that all is written to do without GO (SPEC 5.9)."""
    if session_config.relays and "final-ack" in session_config.forbid:
        return "final-ack can't be forbidden where a QEMU writes or reads the stream by itself."
    return "COLO (x-colo) is not carried by this handshake." if settings.has("x-colo") else ""


def cancelled(code: str) -> Error:
    """By the manager: `code` is `cancelled` or `deadline`."""
    return Error(code, text=CANCEL_TEXTS[code], retry=Retry.LATER)


def channel_missing(name: str) -> Error:
    """Of a handshake that was cancelled: this channel had been opened, and was not bound yet."""
    text = f"Channel {name} was not bound by then."
    item = f"channel[{name}]"
    return Error(
        Code.CHANNEL_MISSING, item=item, source="opened", destination="not bound", text=text, retry=Retry.LATER
    )


def channel_lost(name: str, how: str, when: str = "") -> Error:
    """`when` says how far the source was, and ends with a space."""
    text = f"Channel {name} was lost {when}({clean(how)})."
    return Error(Code.CHANNEL_LOST, item=f"channel[{name}]", source="closed", text=text, retry=Retry.LATER)


def silent(silence_s: float) -> Error:
    """The peer is dead, frozen, or can't be reached (SPEC 5.10)."""
    text = f"Nothing came from the peer for {silence_s:g} s."
    return Error(Code.PEER_SILENT, item="control", text=text, retry=Retry.LATER)


def handshake_timeout(guard_s: float, awaited: str) -> Error:
    """The attempt did not come to READY in time (SPEC 2.5)."""
    return Error(
        Code.HANDSHAKE_TIMEOUT,
        item="session",
        destination=f"waits for {awaited}",
        text=f"No READY within {guard_s:g} s: the destination waits for {awaited}.",
        retry=Retry.LATER,
    )


def uncertain(how: str) -> Error:
    """Between GO and RUNNING nobody at the source can know where the guest runs (SPEC 5.9)."""
    return Error(
        Code.CONNECTION_LOST,
        item="control",
        source="GO sent",
        destination="no RUNNING",
        text=f"The link was lost after GO, before the end was heard ({clean(how)}): the destination may run the guest. "
        "It is paused here.",
        hint="Ask the destination, then either resume here or quit.",
        retry=Retry.NEVER,
    )


def postcopy_paused(error: Error, where: str) -> Error:
    """The guest was started at the destination, and the rest of its memory can't follow. `where`: "here" or
    "at the destination"."""
    recover, resume = ("here", "there") if where == "here" else ("there", "here")
    return Error(
        error.code,
        item=error.item,
        source="has the rest of the memory",
        destination="has started the guest",
        text=f"The guest was started {where}, and the rest of its memory can't follow ({clean(str(error))}).",
        hint=f"Keep both sides. If both QEMUs are postcopy-paused: migrate-recover {recover}, migrate with resume "
        f"{resume}.",
        retry=Retry.NEVER,
    )


def agreement_mismatch(ours: Json, theirs: Json) -> Error:
    """Both digests, shortened."""
    return Error(
        Code.AGREEMENT_MISMATCH,
        item="agreement",
        source=body.digest(ours)[:16],
        destination=body.digest(theirs)[:16],
        text="The two sides computed different agreements from the same offers.",
        hint="This is a defect.",
        retry=Retry.NEVER,
    )
