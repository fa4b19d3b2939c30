"""What a protocol and a manager know of a run. `endpoints.Case` is it."""

from __future__ import annotations

from typing import Protocol

from ..handshake.machine import Settings
from ..handshake.v2.config import SessionConfig
from .scenario import Scenario


class RunFacts(Protocol):
    """A scenario under one protocol, on one pair of QEMU versions, under one manager.

    Attributes:
        scenario: the situation.
        protocol: its name.
        versions: QEMU's at the source and at the destination.
        negotiates: the sides agree on their settings themselves.
        file_only: no process listens at the other end.
        saved: a saved guest, whose stream is v1's whatever the protocol.
        both_know_more: neither side is a binary from before the handshake.
    """

    @property
    def scenario(self) -> Scenario: ...
    @property
    def protocol(self) -> str: ...
    @property
    def versions(self) -> tuple[str, str]: ...
    @property
    def negotiates(self) -> bool: ...
    @property
    def file_only(self) -> bool: ...
    @property
    def saved(self) -> bool: ...
    @property
    def both_know_more(self) -> bool: ...

    def detect_timeout_s(self, at_source: bool) -> float:
        """How long one side waits for an answer to its probe, in seconds; 0: without limit."""

    def asked(self, at_source: bool) -> Settings:
        """One side's settings as the scenario has them."""

    def settings(self, at_source: bool) -> Settings:
        """The same with the manager's changes."""

    def session_config(self, at_source: bool, role: str = "") -> SessionConfig:
        """One side's configuration for v2; another `role` gives it other random bytes."""
