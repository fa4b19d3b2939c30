"""The destination with `accept: v2-or-v1`: it reads eight bytes, and needs no clock, because the source always
speaks first. Like `variants`, this file may see both versions.
"""

from __future__ import annotations

from dataclasses import replace

from .endpoint import Answers, ConnectionTable, State
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
from .v2.config import SessionConfig
from .v2.destination import Destination as V2Destination
from .v2.frames import ALPN, INITIATOR


class Adaptive(State, Answers):
    """A destination that takes either protocol (SPEC section 12).

    Until the first bytes have come it keeps, in order, the inputs of the connections that may still be either; then it
    passes them on to the endpoint that it has chosen. That one never hears of the other connections. v1 numbers its
    connections from 0, so `numbers` has ours.
    """

    def __init__(self, settings: Settings, session_config: SessionConfig) -> None:
        self.settings, self.session_config = settings, session_config
        self.chosen: V1Destination | V2Destination | None = None
        self.pending: tuple[Input, ...] = ()
        self.first: ConnectionTable[bytes] = ConnectionTable()
        self.numbers: tuple[int, ...] = ()
        self.listening = False

    @property
    def speaks(self) -> str:  # type: ignore[override]
        """The protocol of the chosen endpoint; empty before."""
        return self.chosen.speaks if self.chosen else ""

    @property
    def status(self) -> str:
        """The chosen endpoint's; before it is chosen, what a listening QEMU shows."""
        return self.chosen.status if self.chosen else "setup" if self.listening else "none"

    @property
    def ram_bytes(self) -> int:
        """Bytes of guest memory that have come."""
        return self.chosen.ram_bytes if self.chosen else 0

    @property
    def finished(self) -> Finished | None:
        """How the chosen endpoint has ended, if it has."""
        return self.chosen.finished if self.chosen else None

    @property
    def accepting(self) -> bool:
        """As the chosen endpoint; before, as long as it listens."""
        return self.chosen.accepting if self.chosen else self.listening

    @property
    def blocked(self) -> object:
        """What blocks the chosen endpoint's main loop; waiting for first bytes blocks nothing."""
        return self.chosen.blocked if self.chosen else None

    def handle(self, input: Input) -> list[Output]:
        """Pass an input on, or keep it until eight bytes of some connection decide.

        A connection that leaves, or is silent for as long as a guard lasts, is dropped; the others may still decide.
        """
        if self.chosen is not None:
            return self._pass_on(input)
        if isinstance(input, AlarmRang):
            return self._refuse(int(input.name.rpartition("-")[2]), "said nothing in time")
        if isinstance(input, Opened):
            self.first[input.conn] = b""
        conn = getattr(input, "conn", None)
        if conn is not None and conn not in self.first:
            return []
        self.pending = (*self.pending, input)
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
        """Nothing is sent: v1's source would take it for the return path. TLS comes first, and a guard limits how
        long an unknown connection may stay; of too many the oldest goes (SPEC 2.5)."""
        out: list[Output] = [StartTls(conn, ALPN)] if self.settings.tls else []
        if self.session_config.limits.guard_s:
            out.append(SetAlarm(f"guard-{conn}", self.session_config.limits.guard_s))
        if len(self.first) > self.session_config.limits.unauthenticated:
            out += self._refuse(next(iter(self.first)), "said nothing while others came")
        return out

    def _look(self, conn: int, first: bytes) -> list[Output]:
        """v2 begins with its preface (SPEC 2.2), v1 with QEVM (savevm.c, QEMU_VM_FILE_MAGIC) or, on a connection
        that overtook main, with multifd's magic (multifd.c, MULTIFD_MAGIC). Anything else is nobody's."""
        if first == INITIATOR:
            return self._choose(V2Destination(self.settings, self.session_config))
        if first[:4] in (MAGIC, MULTIFD_MAGIC):
            return self._choose(V1Destination(self.settings))
        if first == INITIATOR[: len(first)] or len(first) < 4:
            return []
        return self._refuse(conn, f"neither v1 nor v2: {first.hex(' ')}")

    def _refuse(self, conn: int, why: str) -> list[Output]:
        """Drop one connection and forget its inputs. It is sent nothing: it may be v1's."""
        if self.first.pop(conn, None) is None:
            return []
        self.pending = tuple(t for t in self.pending if getattr(t, "conn", None) != conn)
        return [Printed(f"connection {conn}: {why}"), StopAlarm(f"guard-{conn}"), Drop(conn, unread=True)]

    def _choose(self, chosen: V1Destination | V2Destination) -> list[Output]:
        """Hand everything over that was kept, in order. Guards are the handshake's own affair from here on."""
        self.chosen = chosen
        stopped: list[Output] = [StopAlarm(f"guard-{c}") for c in self.first]
        inputs, self.pending, self.first = self.pending, (), ConnectionTable()
        out = [o for t in inputs for o in self._pass_on(t)]
        return stopped + [o for o in out if not isinstance(o, StartTls)]  # TLS was asked for already

    def _pass_on(self, input: Input) -> list[Output]:
        """To the chosen endpoint, with v1's number for a connection where it is v1."""
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
