"""One simulated process: its connections, and TLS beside it.

TLS is a stand-in with the real first bytes and the real number of flights: two round trips into QEMU's v1 destination
(whose second flight waits for Nagle, measured), one into anything else.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

from ..case.guest import Guest
from ..case.intruders import TLS_HEADER_BYTES
from ..handshake import interface as i
from ..handshake.endpoint import Endpoint
from ..process import host
from ..record.trace import Trace
from .clock import Alarm
from .net import End, Net

CLIENT_HELLO, SERVER_HELLO, ACKNOWLEDGED, SERVER_DONE, CLIENT_DONE = (
    b"\x16\x03\x01\x01\x28" + bytes(291),
    b"\x16\x03\x03\x00\xa1" + bytes(161),
    b"\x14\x03\x03\x00\x01\x01",
    b"\x17\x03\x03\x02\x00" + bytes(512),
    b"\x17\x03\x03\x00\x45" + bytes(69),
)
NO_ALPN = bytes(32)
LABEL, ALPN = slice(5, 21), slice(21, 53)  # where the stand-in's hellos say whose CA, and what is offered (RFC 7301)
UNEXPECTED = "An unexpected TLS packet was received."
ILLEGAL = "An illegal parameter has been received."
CUT_SHORT = "The TLS connection was non-properly terminated."


class Host(host.Host):
    """One simulated process. The cause of an input is the number of one-way trips that led to it alone; without it,
    what follows is taken to depend on all that came before."""

    def __init__(self, side: str, endpoint: Endpoint, net: Net, trace: Trace, guest: Guest, rng: random.Random) -> None:
        super().__init__(side, endpoint, trace, guest)
        self.net, self.rng = net, rng
        self.other: Host | None = None
        self.ends: dict[int, End] = {}
        self.returning: set[int] = set()  # writes that are done, on a host too busy to notice yet
        self.tls: dict[int, str] = {}
        self.alpn: dict[int, bytes] = {}  # offered, and then agreed
        self.alarm: dict[str, Alarm] = {}
        self.taking = False
        self.causal_hops = 0  # one-way trips that led to the latest input
        self.first_guest_hops = 0
        self.watches: list[Callable[[], None]] = []  # faults that wait until so many bytes have arrived

    @property
    def now_s(self) -> float:
        return self.net.env._now

    def after(self, delay_s: float, call: Callable[[], None]) -> Callable[[], None]:
        alarm = Alarm(self.net.env, call)
        alarm.set(max(delay_s, 0.0))
        return alarm.stop

    @property
    def hops_of_cause(self) -> int:
        """One-way trips that led to the input being handled."""
        return self.causal_hops if self.cause is None else self.cause

    def _set_alarm(self, o: i.SetAlarm) -> None:
        """One entry of the clock's queue a name, however often it is set."""
        alarm = self.alarm.get(o.name)
        if alarm is None:
            alarm = self.alarm[o.name] = Alarm(self.net.env, partial(self._ring, o.name))
        alarm.set(o.delay_s)

    def _stop_alarm(self, o: i.StopAlarm) -> None:
        if o.name in self.alarm:
            self.alarm[o.name].stop()

    def name(self, conn: int) -> str:
        return self.ends[conn].connection.name if conn in self.ends else str(conn)

    def idle(self) -> None:
        if self.net.accept_queue:
            self.accept()

    def accept(self) -> None:
        """Take connections from the listening socket while the endpoint's main loop would."""
        while self.side == "destination" and not (self.frozen or self.dead or self.busy) and self.net.accept_queue:
            if not getattr(self.endpoint, "accepting", False) or self.taking:
                return
            self.taking = True
            connection = self.net.accept_queue.popleft()
            end = connection.server
            end.number = len(self.ends)
            self.ends[end.number] = end
            connection.accepted = True
            self.feed(i.Opened(end.number))
            self.net.read(end)
            if end.dead:
                self.feed(i.Broken(end.number, "Connection reset by peer"))
            self.taking = False

    # --- events of the network ----------------------------------------------------------------------------------------
    def arrived(self, end: End, data: bytes, fill: int) -> None:
        self.causal_hops = max(self.causal_hops, end.causal_hops)
        for watch in tuple(self.watches):
            watch()
        if end.number in self.tls:
            self._tls_message(end, data)
        else:
            self.feed(i.Received(end.number, data, fill))

    def ended(self, end: End) -> None:
        if end.number in self.tls:
            self._tls_failed(end.number, CUT_SHORT)
        else:
            self.feed(i.Ended(end.number))

    def broken(self, end: End, why: str) -> None:
        self.tls.pop(end.number, None)
        if end.number >= 0:
            self.feed(i.Broken(end.number, why))

    def drained(self, end: End) -> None:
        conn = end.number
        if conn < 0 or conn in self.returning:
            return
        if not self.guest.rng:
            self.feed(i.Drained(conn))
            return
        self.returning.add(conn)

        def returned() -> None:
            self.returning.remove(conn)
            if not end.draining:
                self.feed(i.Drained(conn))

        self.after(self.guest.late_s(), returned)

    # --- TLS --------------------------------------------------------------------------------------------------------
    def _tls_message(self, end: End, data: bytes) -> None:
        conn, stage = end.number, self.tls[end.number]
        if len(data) < TLS_HEADER_BYTES:
            return  # not yet a record
        label = str(self.endpoint.settings.parameter("tls-creds", "")).encode().ljust(16, b"\0")
        if stage == "server" and data[ALPN] != self.alpn[conn]:
            self.alpn[conn] = NO_ALPN
        done = SERVER_DONE[: LABEL.stop] + self.alpn[conn] + SERVER_DONE[ALPN.stop :]
        if stage == "server" and not data.startswith(b"\x16\x03"):
            self._tls_failed(conn, UNEXPECTED, unread=True)
        elif stage == "server" and data[LABEL] != label:
            self._tls_failed(conn, ILLEGAL)
        elif stage == "server" and self.tls_round_trips > 1:
            self.tls[conn] = "server-2"
            self._raw(end, SERVER_HELLO)
        elif stage in ("server", "server-2"):
            self.tls[conn] = "server-3"
            self._raw(end, (SERVER_HELLO if stage == "server" else b"") + done)
        elif stage == "client" and data == SERVER_HELLO:
            self._raw(end, ACKNOWLEDGED)
        elif stage == "client" and data[-len(SERVER_DONE) :][:5] == SERVER_DONE[:5]:
            self.alpn[conn] = data[-len(SERVER_DONE) :][ALPN]
            self._raw(end, CLIENT_DONE)
            self._secured(conn)
        elif stage == "server-3":
            self._secured(conn)
        else:
            self._tls_failed(conn, UNEXPECTED, unread=True)

    def _raw(self, end: End, data: bytes) -> None:
        self.net.send(end, data, 0, self.causal_hops + 1)

    def _secured(self, conn: int) -> None:
        del self.tls[conn]
        connection = self.ends[conn].connection
        exporter = hashlib.sha256(f"exporter {connection.number}".encode()).digest()
        self.feed(i.Secured(conn, exporter, self.alpn[conn].rstrip(b"\0").decode()))

    def _tls_failed(self, conn: int, text: str, unread: bool = False) -> None:
        del self.tls[conn]
        self.feed(i.TlsFailed(conn, text))
        self.net.close(self.ends[conn], unread)

    # --- what the endpoint asks -------------------------------------------------------------------------------------
    def _open(self, o: i.Open) -> None:
        assert self.other is not None
        wanted_hops = self.hops_of_cause + 2

        def done(end: End, error: str) -> None:
            if error:
                self.feed(i.Broken(o.conn, error))
                return
            self.causal_hops = max(self.causal_hops, wanted_hops)
            if end.open:
                self.feed(i.Opened(o.conn), wanted_hops)

        threaded = o.channel.startswith("multifd")  # each has a thread of its own: their order is chance
        start_s = 2e-5 + self.rng.random() * 1e-4 if threaded else 0.0
        end = self.net.connect(o.channel, self, self.other, done, start_s)
        end.number = o.conn
        self.ends[o.conn] = end

    def _start_tls(self, o: i.StartTls) -> None:
        offer = self.alpn[o.conn] = o.alpn.encode().ljust(len(NO_ALPN), b"\0")
        if self.side == "destination":
            self.tls[o.conn] = "server"
        else:
            self.tls[o.conn] = "client"
            label = str(self.endpoint.settings.parameter("tls-creds", "")).encode().ljust(16, b"\0")
            self._raw(self.ends[o.conn], CLIENT_HELLO[: LABEL.start] + label + offer + CLIENT_HELLO[ALPN.stop :])

    def _send(self, o: i.Send) -> None:
        end = self.ends.get(o.conn)
        if end is None:
            return
        if o.fill:
            self.guest_bytes += o.fill
            if self.first_guest_byte_s is None:
                self.first_guest_byte_s, self.first_guest_hops = self.now_s, self.hops_of_cause
        self.net.send(end, o.data, o.fill, self.hops_of_cause + 1)

    def _pause(self, o: i.Pause) -> None:
        self.ends[o.conn].reading = False

    def _resume(self, o: i.Resume) -> None:
        end = self.ends[o.conn]
        end.reading = True
        self.net.env.call(0, lambda: self.net.read(end) if not self.frozen else None)

    def _end(self, o: i.End) -> None:
        self.net.shut(self.ends[o.conn])

    def _drop(self, o: i.Drop) -> None:
        if o.conn in self.ends:
            self.net.close(self.ends[o.conn], o.unread)

    def stop_listening(self) -> None:
        self.net.listening = False
        for connection in self.net.connections:
            if not connection.accepted and connection.server.owner is self:
                self.net.close(connection.server, unread=True)

    def die(self, how: str) -> None:
        super().die(how)
        for connection in self.net.connections:
            for end in (connection.client, connection.server):
                if end.owner is self:
                    self.net.close(end)

    def freeze(self) -> None:
        self.frozen = True
        self.note("link", "process is frozen")
        for end in self.ends.values():
            end.reading = False

    EFFECTS: ClassVar[Mapping[type, Callable[..., None]]] = {
        **host.Host.EFFECTS,
        i.Open: _open,
        i.StartTls: _start_tls,
        i.Send: _send,
        i.Pause: _pause,
        i.Resume: _resume,
        i.End: _end,
        i.Drop: _drop,
    }
