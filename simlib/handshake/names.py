"""Words with a fixed meaning, as enumerations whose members are the texts that QMP, traces and files show."""

from __future__ import annotations

from enum import StrEnum


class Name(StrEnum):
    """A member equals its text, is shown as it, and is hashed as fast."""

    __hash__ = str.__hash__
    __repr__ = str.__repr__


class Status(Name):
    """What `query-migrate` shows (MigrationStatus, qapi/migration.json, 11.1), and two of v2's own."""

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    PRE_SWITCHOVER = "pre-switchover"
    DEVICE = "device"
    POSTCOPY_DEVICE = "postcopy-device"  # from 10.2
    POSTCOPY_ACTIVE = "postcopy-active"
    POSTCOPY_PAUSED = "postcopy-paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILING = "failing"  # from 11.0
    FAILED = "failed"
    COMPLETED = "completed"
    REJECTED = "rejected"  # the command was refused before anything started
    UNCERTAIN = "uncertain"  # v2: GO was sent and RUNNING did not come


class Reason(Name):
    """How much a manager learns from the text of a failure."""

    NONE = "none"  # there is no text
    GENERIC = "generic"  # an errno's
    SPECIFIC = "specific"
