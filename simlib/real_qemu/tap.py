"""What the proxy between two QEMUs sees, as steps of the trace: which connection is which, and v1's messages on it."""

from __future__ import annotations

import struct
from collections.abc import Callable

from ..case.scenario import Scenario
from ..handshake import stream
from ..record.trace import Packet, Trace

RETURN_PATH = {
    1: "SHUT",
    2: "PONG",
    3: "REQ_PAGES_ID",
    4: "REQ_PAGES",
    5: "RECV_BITMAP",
    6: "RESUME_ACK",
    7: "SWITCHOVER_ACK",
}


class Names(dict[object, str]):
    """Connections to the proxy are named by their order: QEMU opens main, then preempt (machine types up to 7.2), then
    the multifd channels; which of these is which only their packets show, and it makes no difference."""

    def __init__(self, order: tuple[str, ...]) -> None:
        super().__init__()
        self.order = list(order)

    def get(self, key: object, default: str = "") -> str:  # type: ignore[override]
        if not key or key not in self:  # unix sockets have no name of their own
            self[key] = self.order.pop(0) if self.order else "extra"
        return self[key]


class Tap:
    def __init__(self, trace: Trace, now_s: Callable[[], float]) -> None:
        self.trace, self.now_s = trace, now_s
        self.passed_bytes = self.guest_bytes = 0
        self.heads: dict[tuple[str, bool], bytes] = {}
        self.numbers: dict[str, int] = {}

    def names(self, scenario: Scenario) -> Names:
        settings = scenario.settings(True, scenario.versions[0].partition(">")[0])
        preempt = ("preempt",) if settings.has("postcopy-preempt") else ()
        return Names(("main", *preempt, *(f"multifd[{n}]" for n in range(settings.channels))))

    def seen(self, name: str, to_destination: bool, data: bytes) -> None:
        """Bytes that came to the proxy."""
        self.passed_bytes += len(data)
        number = self.numbers.setdefault(name, len(self.numbers))
        self.trace.packets.append(Packet(self.now_s(), number, to_destination, "data", data))
        if to_destination:
            self.guest_bytes += len(data)
            self._first(name, data)
        else:
            self._replies(name, data)

    def _first(self, name: str, data: bytes) -> None:
        if (name, True) in self.heads:
            return
        self.heads[name, True] = data[:64]
        magic, side = data[:4], "source"
        if magic == stream.MAGIC and len(data) > 13:
            size = struct.unpack_from(">I", data, 9)[0]
            text = f"QEVM, CONFIGURATION {data[13 : 13 + size].decode('utf-8', 'replace')}"
        elif magic == stream.MULTIFD_MAGIC and len(data) > 24:
            text = f"multifd[{data[24]}] initial packet"
        else:
            text = f"first bytes {data[:8].hex(' ')}"
        self.trace.note(self.now_s(), side, "say", name, text)

    def _replies(self, name: str, data: bytes) -> None:
        """The return path, message by message; under TLS it can't be read."""
        unread = self.heads.get((name, False), b"") + data
        first = self.heads.get((name, True), b"")
        while len(unread) >= 4 and first[:4] == stream.MAGIC:
            kind, size = struct.unpack_from(">HH", unread)
            if kind not in RETURN_PATH or len(unread) < 4 + size:
                break
            value = struct.unpack_from(">I", unread, 4)[0] if size == 4 else None
            self.trace.note(
                self.now_s(), "destination", "say", name, RETURN_PATH[kind] + (f" {value}" if value is not None else "")
            )
            unread = unread[4 + size :]
        self.heads[name, False] = unread[-512:]
