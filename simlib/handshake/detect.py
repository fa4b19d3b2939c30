"""The destination that is told `accept: v2-or-v1`: it reads eight bytes, and needs no clock, because the source always
speaks first. Like `variants`, this file may see both versions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .endpoint import State
from .interface import (
    AlarmRang,
    Drop,
    Ended,
    Entered,
    Finished,
    Input,
    Opened,
    Output,
    Printed,
    Received,
    SetAlarm,
    Start,
    StartTls,
    StopAlarm,
    TlsFailed,
)  # fmt: skip
from .machine import Settings
from .stream import MAGIC, MULTIFD_MAGIC
from .v1.destination import Destination as V1Destination
from .v2.destination import Destination as V2Destination
from .v2.frames import INITIATOR
from .v2.messages import Identity


class Adaptive(State):
    """Until the first bytes have come it keeps what it is told, in order; then it hands that over. Connections that say
    neither are closed, and whoever is chosen never hears of them: `numbers` maps its connections to ours."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.settings, self.identity = settings, identity
        self.chosen: V1Destination | V2Destination | None = None
        self.told: tuple[Input, ...] = ()
        self.first: tuple[bytes, ...] = ()  # of each connection
        self.refused: tuple[int, ...] = ()
        self.numbers: tuple[int, ...] = ()
        self.listening = False

    @property
    def status(self) -> str:
        return self.chosen.status if self.chosen else "setup" if self.listening else "none"

    @property
    def ram_bytes(self) -> int:
        return self.chosen.ram_bytes if self.chosen else 0

    @property
    def finished(self) -> Finished | None:
        return self.chosen.finished if self.chosen else None

    @property
    def accepting(self) -> bool:
        return self.chosen.accepting if self.chosen else self.listening

    @property
    def blocked(self) -> Any:
        return self.chosen.blocked if self.chosen else None

    def handle(self, input: Input) -> list[Output]:
        if self.chosen is not None:
            return self._pass_on(input)
        conn = getattr(input, "conn", None)
        if conn in self.refused:
            return []
        self.told = (*self.told, input)
        if isinstance(input, Start):
            self.listening = True
            return [Entered("setup")]
        if isinstance(input, Opened):
            return self._opened(input.conn)
        if isinstance(input, Received):
            found = self.first[input.conn] + input.data[:8]
            self.first = (*self.first[: input.conn], found, *self.first[input.conn + 1 :])
            return self._look(input.conn, found[:8])
        if isinstance(input, AlarmRang):
            return self._refuse(int(input.name.rpartition("-")[2]), "said nothing in time")
        if isinstance(input, TlsFailed):
            return self._refuse(input.conn, f"TLS handshake failed: {input.text}")
        if isinstance(input, Ended):
            return self._refuse(input.conn, "left without a word")
        return []

    def _opened(self, conn: int) -> list[Output]:
        self.first = (*self.first, b"")
        out: list[Output] = [StartTls(conn)] if self.settings.tls else []
        if self.identity.limits.guard_s:
            out.append(SetAlarm(f"guard-{conn}", self.identity.limits.guard_s))
        undecided = [c for c in range(len(self.first)) if c not in self.refused]
        if len(undecided) > self.identity.limits.unauthenticated:
            out += self._refuse(undecided[0], "said nothing while others came")
        return out

    def _look(self, conn: int, found: bytes) -> list[Output]:
        if found == INITIATOR:
            return self._choose(V2Destination(self.settings, self.identity))
        if found[:4] in (MAGIC, MULTIFD_MAGIC):
            return self._choose(V1Destination(self.settings))
        if found == INITIATOR[: len(found)] or len(found) < 4:
            return []
        return self._refuse(conn, f"neither v1 nor v2: {found.hex(' ')}")

    def _refuse(self, conn: int, why: str) -> list[Output]:
        self.refused = (*self.refused, conn)
        self.told = tuple(t for t in self.told if getattr(t, "conn", None) != conn and not isinstance(t, AlarmRang))
        return [Printed(f"connection {conn}: {why}"), Drop(conn, unread=True)]

    def _choose(self, chosen: V1Destination | V2Destination) -> list[Output]:
        self.chosen = chosen
        told, self.told = self.told, ()
        out = [o for t in told for o in self._pass_on(t)]
        stopped: list[Output] = [StopAlarm(f"guard-{c}") for c in range(len(self.first))]
        return stopped + [o for o in out if not isinstance(o, StartTls)]  # TLS was asked for already

    def _pass_on(self, input: Input) -> list[Output]:
        assert self.chosen is not None
        conn = getattr(input, "conn", None)
        if conn in self.refused:
            return []
        if isinstance(input, Opened):
            self.numbers = (*self.numbers, input.conn)
        if isinstance(conn, int):
            input = replace(input, conn=self.numbers.index(conn))  # type: ignore[arg-type]
        out = self.chosen.handle(input)
        return [replace(o, conn=self.numbers[o.conn]) if hasattr(o, "conn") else o for o in out]  # type: ignore[arg-type]
