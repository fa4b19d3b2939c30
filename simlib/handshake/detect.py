"""The destination that is told `accept: v2-or-v1`: it reads eight bytes, and needs no clock, because the source always
speaks first. Like `variants`, this file may see both versions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .endpoint import Answers, State, Table
from .interface import (
    AlarmRang,
    Broken,
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
)
from .machine import Settings
from .names import Status
from .stream import MAGIC, MULTIFD_MAGIC
from .v1.destination import Destination as V1Destination
from .v2.config import Identity
from .v2.destination import Destination as V2Destination
from .v2.frames import ALPN, INITIATOR


class Adaptive(State, Answers):
    """Until the first bytes have come it keeps what it is told of the connections that may still be either, in order;
    then it hands that over. Who is chosen never hears of the others. v1 counts its connections from 0, so `numbers`
    has ours."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self.settings, self.identity = settings, identity
        self.chosen: V1Destination | V2Destination | None = None
        self.told: tuple[Input, ...] = ()
        self.first: Table[bytes] = Table()
        self.numbers: tuple[int, ...] = ()
        self.listening = False

    @property
    def speaks(self) -> str:  # type: ignore[override]
        return self.chosen.speaks if self.chosen else ""

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
        if isinstance(input, AlarmRang):
            return self._refuse(int(input.name.rpartition("-")[2]), "said nothing in time")
        if isinstance(input, Opened):
            self.first[input.conn] = b""
        conn = getattr(input, "conn", None)
        if conn is not None and conn not in self.first:
            return []
        self.told = (*self.told, input)
        if isinstance(input, Start):
            self.listening = True
            return [Entered(Status.SETUP)]
        if isinstance(input, Opened):
            return self._opened(input.conn)
        if isinstance(input, Received):
            self.first[input.conn] += input.data[:8]
            return self._look(input.conn, self.first[input.conn][:8])
        if isinstance(input, TlsFailed):
            return self._refuse(input.conn, f"TLS handshake failed: {input.text}")
        if isinstance(input, (Ended, Broken)):
            return self._refuse(input.conn, "left without a word")
        return []

    def _opened(self, conn: int) -> list[Output]:
        out: list[Output] = [StartTls(conn, ALPN)] if self.settings.tls else []
        if self.identity.limits.guard_s:
            out.append(SetAlarm(f"guard-{conn}", self.identity.limits.guard_s))
        if len(self.first) > self.identity.limits.unauthenticated:
            out += self._refuse(next(iter(self.first)), "said nothing while others came")
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
        if self.first.pop(conn, None) is None:
            return []
        self.told = tuple(t for t in self.told if getattr(t, "conn", None) != conn)
        return [Printed(f"connection {conn}: {why}"), StopAlarm(f"guard-{conn}"), Drop(conn, unread=True)]

    def _choose(self, chosen: V1Destination | V2Destination) -> list[Output]:
        self.chosen = chosen
        stopped: list[Output] = [StopAlarm(f"guard-{c}") for c in self.first]
        told, self.told, self.first = self.told, (), Table()
        out = [o for t in told for o in self._pass_on(t)]
        return stopped + [o for o in out if not isinstance(o, StartTls)]  # TLS was asked for already

    def _pass_on(self, input: Input) -> list[Output]:
        if self.chosen is not None and self.chosen.handshakes:
            return self.chosen.handle(input)
        assert self.chosen is not None
        conn = getattr(input, "conn", None)
        if isinstance(input, Opened):
            self.numbers = (*self.numbers, input.conn)
        if isinstance(conn, int):
            if conn not in self.numbers:
                return []
            input = replace(input, conn=self.numbers.index(conn))  # type: ignore[arg-type]
        out = self.chosen.handle(input)
        return [replace(o, conn=self.numbers[o.conn]) if hasattr(o, "conn") else o for o in out]  # type: ignore[arg-type]
