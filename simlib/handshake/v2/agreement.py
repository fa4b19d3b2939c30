"""What follows from an agreement: the channels, the body that both sides digest, and the settings (SPEC section 4)."""

from __future__ import annotations

from dataclasses import replace

from ..machine import Settings
from . import features
from .body import Json
from .features import Agreement


def multifd_channels(agreement: Agreement) -> int:
    """How many; 2 where that was left out (SPEC 4.2)."""
    value = agreement.parameter("multifd", "channels", 2)
    assert isinstance(value, int)  # each side offers a range
    return value


def channel_plan(agreement: Agreement, inline: bool) -> tuple[str, ...]:
    """The further connections, by name; none where control carries the stream."""
    if inline:
        return ()
    lanes = multifd_channels(agreement) if agreement.has("multifd") else 0
    preempt = ("postcopy-preempt",) if agreement.has("postcopy-preempt") else ()
    return ("main", *(f"multifd[{i}]" for i in range(lanes)), *preempt)


def agreement_body(agreement: Agreement, plan: tuple[str, ...], session_id: str) -> Json:
    """What both sides digest: features with their parameters, channels, session."""
    return {"features": agreement.body(), "channels": list(plan), "session-id": session_id}


def as_config(settings: Settings) -> tuple[tuple[str, object], ...]:
    """Capabilities and parameters, as (name, value), for who sets them."""
    return tuple((c, True) for c in settings.capabilities) + tuple(settings.parameters)


def agreed_settings(settings: Settings, agreement: Agreement) -> Settings:
    """The settings with the shared features as agreed; what only one side cares for stays."""
    keep = tuple(c for c in settings.capabilities if c not in features.SHARED)
    on = tuple(name for name, _ in agreement.on if name in features.DEPENDS and name != "final-ack")
    parameters = dict(settings.parameters)
    if agreement.has("multifd"):
        parameters["multifd-channels"] = multifd_channels(agreement)
        parameters["multifd-compression"] = str(agreement.parameter("multifd", "compression", "none"))
    return replace(settings, capabilities=keep + on, parameters=tuple(sorted(parameters.items())))
