"""The detection variants: ways to detect v2 instead of having it configured. Never ship (a) to (d').

Each side is a wrapper that plays its trick on the first connection and then hands over to the real v1 or v2 endpoint;
an old peer is the v1 endpoint itself. Like `detect`, this file may see both versions.

    a   destination probes at once and waits T for the answer; the source starts v1 and listens
    b   source sends a header of version 4 and waits T for the answer
    c   destination greets at once; the source waits T for the greeting
    d   source sends header, configuration, OPEN_RETURN_PATH, PING(c) and waits T for PONG(c): proves a return path only
    d'  the same, and a new destination answers PONG(c xor K): an old one cannot
    f   source and destination offer v2's name in the TLS handshake (ALPN), which an old peer ignores; where there is
        TLS it needs no clock, kills nobody, and nobody between the two can change the answer. The destination is the
        adaptive one of `detect`

T = 0 means no timer: (a) then decides at the first data, (b) to (d') wait for ever.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

from . import stream
from .endpoint import Answers, Endpoint, State
from .interface import (
    AlarmRang,
    Drained,
    Ended,
    Finished,
    Heard,
    Input,
    Open,
    Opened,
    Output,
    Pause,
    Received,
    Said,
    Secured,
    Send,
    SetAlarm,
    Start,
    StartTls,
    StopAlarm,
)
from .loader import Loader, StreamError
from .machine import Settings
from .v1.destination import Destination as V1Destination
from .v1.source import Source as V1Source
from .v2.config import SessionConfig
from .v2.destination import Destination as V2Destination
from .v2.frames import ALPN
from .v2.source import Source as V2Source

PROBE, ACK2, ANSWER, GREET = b"\x89QMP\r\n\x1a\n", b"\x89QMK\r\n\x1a\n", b"\x89QMA\r\n\x1a\n", b"\x89QMG\r\n\x1a\n"
HEADER_4 = stream.MAGIC + struct.pack(">I", 4)
COOKIE, K = 0x5EED1234, 0x514D4832
MAIN = 0


def _ping(cookie: int) -> bytes:
    """PING with a cookie, as v1 has it (MIG_CMD_PING, savevm.c)."""
    return stream.command(stream.PING, struct.pack(">I", cookie))


def _pong(value: int) -> bytes:
    """The answer to it on the return path (MIG_RP_MSG_PONG, migration.c)."""
    return struct.pack(">HHI", 2, 4, value)


class _Prober(State, Answers):
    """One side while it has not decided, and the wrapper of the endpoint that it has chosen."""

    def __init__(self, settings: Settings, session_config: SessionConfig, variant: str, timeout_s: float) -> None:
        self.settings, self.session_config = settings, session_config
        self.variant, self.timeout_s = variant, timeout_s
        self.chosen: Any = None
        self.mode = ""  # v1 or v2
        self.bytes = b""
        self.started = False

    @property
    def speaks(self) -> str:  # type: ignore[override]
        """What it has decided for; empty before."""
        return self.mode

    @property
    def offers_alpn(self) -> bool:  # type: ignore[override]
        """Variant (f) asks in the TLS handshake."""
        return self.variant == "f"

    @property
    def finished(self) -> Finished | None:
        """How the chosen endpoint has ended, if it has."""
        return self.chosen.finished if self.chosen else None

    @property
    def status(self) -> str:
        """The chosen endpoint's; while it probes, what QEMU shows then."""
        return str(self.chosen.status) if self.chosen else "setup" if self.started else "none"

    @property
    def blocked(self) -> object:
        """What blocks the chosen endpoint's main loop; probing blocks nothing."""
        return self.chosen.blocked if self.chosen else None

    def _wait(self) -> list[Output]:
        """The timer within which an answer must come, if there is one."""
        return [SetAlarm("detect", self.timeout_s)] if self.timeout_s else []

    def _choose(self, chosen: Endpoint, mode: str, conn: int, data: bytes, why: str) -> list[Output]:
        """Hand over the open connection, and what was read of it."""
        self.chosen, self.mode = chosen, mode
        out: list[Output] = [StopAlarm("detect"), Said(conn, f"(takes it for {mode}: {why})")]
        inputs: list[Input] = [Start(), Opened(conn), *([Received(conn, data)] if data else [])]
        for input in inputs:
            out += [o for o in chosen.handle(input) if not (isinstance(o, (Open, StartTls)) and o.conn == conn)]
        return out


class ProbingSource(_Prober):
    """A new source."""

    def handle(self, input: Input) -> list[Output]:
        """Probe, decide, and pass everything on to the endpoint that was chosen."""
        if self.variant == "a" and self.mode == "v1" and isinstance(input, Received):
            return self._listen(input)
        if self.chosen is not None:
            if isinstance(input, AlarmRang) and input.name == "detect":
                return []
            return list(self.chosen.handle(input))
        if isinstance(input, Start):
            self.started = True
            return [Open(MAIN, "main")]
        if isinstance(input, Opened):
            return self._opened()
        if isinstance(input, AlarmRang):
            return self._v1("nothing came in time")
        if isinstance(input, Secured):
            out = self._v2(b"", "ALPN") if input.alpn == ALPN else self._v1("no ALPN")
            return [*out, *self.chosen.handle(input)]  # type: ignore[attr-defined]
        if isinstance(input, Received):
            self.bytes += input.data
            return self._decide()
        if isinstance(input, Drained):
            return []
        lost = V1Source(self.settings)  # the connection failed: v1 reports how
        return self._choose(lost, "v1", MAIN, b"", "no connection") + list(lost.handle(input))

    def _opened(self) -> list[Output]:
        """What each variant sends first, or does not."""
        if self.variant == "a":
            return self._v1("it always starts so")
        if self.variant == "b":
            return [Said(MAIN, "QEVM version 4"), Send(MAIN, HEADER_4), *self._wait()]
        if self.variant == "c":
            return self._wait()
        if self.variant == "f":
            return [StartTls(MAIN, ALPN)]
        data = stream.header(self.settings) + stream.command(stream.OPEN_RETURN_PATH) + _ping(COOKIE)
        return [Said(MAIN, "QEVM, CONFIGURATION, OPEN_RETURN_PATH, PING"), Send(MAIN, data), *self._wait()]

    def _decide(self) -> list[Output]:
        """Whether what has come back shows an old peer or a new one."""
        if self.variant == "b" and self.bytes[:8] == ANSWER:
            return self._v2(self.bytes[8:], "answered")
        if self.variant == "c" and self.bytes[:8] == GREET:
            return self._v2(self.bytes[8:], "greeted")
        if self.variant in ("d", "d'") and len(self.bytes) >= 8:
            if self.bytes[:8] == _pong(COOKIE):
                return self._v1("an old PONG came back", answered=True)
            if self.bytes[:8] == _pong(COOKIE ^ K) and self.variant == "d'":
                return self._v2(self.bytes[8:], "the transformed PONG came back")
            return self._v1("something else came back", answered=True)
        return []

    def _listen(self, received: Received) -> list[Output]:
        """(a): a PROBE may come at any time while v1 is under way; anything else is v1's."""
        self.bytes += received.data
        if self.bytes[:8] == PROBE and self.chosen.status in ("setup", "active"):
            return [Send(MAIN, ACK2), *self._v2(self.bytes[8:], "probed")]
        if PROBE.startswith(self.bytes):
            return []
        data, self.bytes = self.bytes, b""
        return list(self.chosen.handle(Received(MAIN, data, received.fill)))

    def _v1(self, why: str, answered: bool = False) -> list[Output]:
        """On with today's stream; what the probe has sent of it is not sent again. A peer that answered has a return
        path."""
        settings = self.settings
        if answered and not settings.return_path:
            settings = replace(settings, capabilities=(*settings.capabilities, "return-path"))
        out = self._choose(V1Source(settings), "v1", MAIN, b"", why)
        if self.variant == "a":  # it goes on listening, where v1 would not
            return [o for o in out if not isinstance(o, Pause)]
        if self.variant not in ("d", "d'"):
            return out
        at = next(i for i, o in enumerate(out) if isinstance(o, Send))
        first = out[at]
        assert isinstance(first, Send)
        asked = len(stream.command(stream.OPEN_RETURN_PATH)) + 9 if settings.return_path else 0
        rest = first.data[len(stream.header(settings)) + asked :]
        if rest:
            out[at] = Send(MAIN, rest)
            return out
        return [*out[:at], *out[at + 1 :], *self.chosen.handle(Drained(MAIN))]

    def _v2(self, data: bytes, why: str) -> list[Output]:
        """On with the handshake, whose first bytes `data` are."""
        return self._choose(V2Source(self.settings, self.session_config), "v2", MAIN, data, why)


class ProbingDestination(_Prober):
    """A new destination. It decides on its first connection; the others wait in the listening socket."""

    @property
    def accepting(self) -> bool:
        """One connection until it has decided; the others wait."""
        return self.chosen.accepting if self.chosen else self.started and not self.opened

    @property
    def ram_bytes(self) -> int:
        """Bytes of guest memory that have come."""
        return int(self.chosen.ram_bytes) if self.chosen else 0

    opened = False
    ponged = False
    chunks: tuple[tuple[bytes, int], ...] = ()

    def handle(self, input: Input) -> list[Output]:
        """Probe, decide, and pass everything on to the endpoint that was chosen."""
        if self.chosen is not None:
            if isinstance(input, AlarmRang) and input.name == "detect":
                return []
            out = list(self.chosen.handle(input))
            if self.ponged:  # its PING has been answered already
                out = [o for o in out if not (isinstance(o, Send) and o.data[:4] == b"\0\2\0\4")]
            return out
        if isinstance(input, Start):
            self.started = True
        elif isinstance(input, Opened):
            self.opened = True
            if self.variant == "a":
                return [Said(MAIN, "PROBE"), Send(MAIN, PROBE), *self._wait()]
            if self.variant == "c":
                return [Said(MAIN, "GREET"), Send(MAIN, GREET)]
        elif isinstance(input, Received):
            self.bytes += input.data
            return self._decide(input.fill)
        elif isinstance(input, AlarmRang):
            return self._v1("no answer to the probe")
        elif isinstance(input, Ended):
            out = self._v1("it ended")
            return [*out, *self.chosen.handle(input)]  # type: ignore[attr-defined]
        return []

    def _decide(self, fill: int) -> list[Output]:
        """Whether what has come shows an old peer or a new one."""
        if self.variant == "a":
            at = self.bytes.find(ACK2)
            if at >= 0:
                return self._v2(self.bytes[at + 8 :], "answered the probe")
            if not self.timeout_s:
                return self._v1("data came first", fill)
            if fill:  # kept for v1, should no answer come
                self.chunks, self.bytes = (*self.chunks, (self.bytes, fill)), b""
            return []
        if self.variant == "b" and self.bytes[:8] == HEADER_4:
            return [Said(MAIN, "ANSWER"), Send(MAIN, ANSWER), *self._v2(self.bytes[8:], "version 4")]
        if self.variant == "d'":
            return self._after_ping(fill)
        if len(self.bytes) < 8:
            return []
        if self.bytes[:4] == b"\x89QMS":
            return self._v2(self.bytes, "its first bytes")
        return self._v1("its first bytes", fill)

    def _after_ping(self, fill: int) -> list[Output]:
        """Read as far as PING, answer it transformed, and let the next byte say who is there."""
        loader = Loader(self.settings)
        loader.feed(self.bytes)
        try:
            while (event := loader.next_event()) is not None:
                if event[0] == "command" and event[1] == stream.PING:
                    break
                if event[0] == "setup":
                    return self._v1("an old source without return path", fill)
        except StreamError:
            return self._v1("not for us", fill)
        if event is None:
            return []
        payload = event[2]
        assert isinstance(payload, bytes)
        rest = loader.buffer.head
        if rest:
            if rest[:1] == b"\x89":
                return self._v2(rest, "its preface after PONG")
            return self._v1("the stream goes on", fill)
        if self.ponged:
            return []
        self.ponged = True
        value = struct.unpack(">I", payload)[0] ^ K
        return [Heard(MAIN, "PING"), Said(MAIN, "PONG, transformed"), Send(MAIN, _pong(value))]

    def _v1(self, why: str, fill: int = 0) -> list[Output]:
        """On with today's stream, whose first bytes were read already."""
        out = self._choose(V1Destination(self.settings), "v1", MAIN, b"", why)
        for data, more in (*self.chunks, (self.bytes, fill)):
            out += self.chosen.handle(Received(MAIN, data, more))
        if self.ponged:
            out = [o for o in out if not (isinstance(o, Send) and o.data[:4] == b"\0\2\0\4")]
        return out

    def _v2(self, data: bytes, why: str) -> list[Output]:
        """On with the handshake, whose first bytes `data` are."""
        self.ponged = False
        return self._choose(V2Destination(self.settings, self.session_config), "v2", MAIN, data, why)
