"""One host: feeds its endpoint, does what it asks, and plays the guest below and TLS beside it.

TLS is a stand-in with the real first bytes and the real number of flights: two round trips into QEMU's v1 destination
(whose second flight waits for Nagle, measured), one into anything else.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import simpy

from ..handshake import interface as i
from ..handshake.machine import Settings
from ..trace import Trace
from .net import End, Net

CLIENT_HELLO, SERVER_HELLO, ACKNOWLEDGED, SERVER_DONE, CLIENT_DONE = (
    b"\x16\x03\x01\x01\x28" + bytes(291), b"\x16\x03\x03\x00\xa1" + bytes(161), b"\x14\x03\x03\x00\x01\x01",
    b"\x17\x03\x03\x02\x00" + bytes(512), b"\x17\x03\x03\x00\x45" + bytes(69),
)  # fmt: skip
PASS_S = 0.1  # QEMU's rate-limit tick (migration.c, BUFFER_DELAY)
UNEXPECTED = "An unexpected TLS packet was received."
ILLEGAL = "An illegal parameter has been received."
CUT_SHORT = "The TLS connection was non-properly terminated."


class Endpoint(Protocol):
    finished: i.Finished | None
    status: str
    settings: Settings
    ram_bytes: int  # of guest memory that has arrived (destination)

    @property
    def blocked(self) -> Any: ...
    def handle(self, input: i.Input) -> list[i.Output]: ...


@dataclass(slots=True)
class Guest:
    """The guest of one side: its memory at the source, its loading at the destination."""

    running: bool = False
    ram_bytes: int = 0  # to move in the first pass
    dirty_bytes_s: float = 0.0
    working_set_bytes: int = 0
    downtime_bytes: int = 32 << 20  # what fits the downtime limit
    load_s: float = 0.001
    post_load_error: str = ""
    apply_error: str = ""
    apply_code: str = "apply-failed"
    answers_ms: tuple[float, ...] = ()  # when each answer comes, where that is given
    passes: int = 0
    collected_bytes: int = 0
    collected_s: float = 0.0
    stopped_s: float | None = None
    started_s: float | None = None

    def collect(self, now_s: float, last: bool) -> i.RamCollected:
        """The pages dirtied since the last pass; the first pass is everything."""
        since = now_s - self.collected_s
        if self.passes == 0:
            size = self.ram_bytes
        else:
            size = min(self.working_set_bytes, int(self.dirty_bytes_s * since)) & ~4095
        converged = last or (self.passes > 0 and size <= self.downtime_bytes)
        if not last and converged:
            return i.RamCollected(0, True)
        self.passes += 1
        self.collected_s = now_s
        self.collected_bytes += size
        return i.RamCollected(size, converged)


@dataclass(slots=True)
class Host:
    """`frozen`: the process is stopped (SIGSTOP); its kernel goes on."""

    side: str
    endpoint: Endpoint
    env: simpy.Environment
    net: Net
    trace: Trace
    guest: Guest
    rng: random.Random
    other: Host | None = None
    tls_round_trips: int = 1
    ends: dict[int, End] = field(default_factory=dict)
    tls: dict[int, str] = field(default_factory=dict)
    alarms: dict[str, int] = field(default_factory=dict)
    inbox: deque[tuple[i.Input, int]] = field(default_factory=deque)
    busy: bool = False
    taking: bool = False
    frozen: bool = False
    dead: bool = False
    depth: int = 0  # one-way trips that led to the latest input
    trips: int = 0  # the same for the input being handled
    guest_bytes: int = 0
    first_guest_byte_s: float | None = None
    first_guest_depth: int = 0
    finished_s: float | None = None
    on_finished: Callable[[], object] = lambda: None
    watch: Callable[[], None] | None = None  # a fault that waits for so many bytes

    # --- the door ---------------------------------------------------------------------------------------------------
    def feed(self, input: i.Input, depth: int = -1) -> None:
        """Tell the endpoint, and do what it asks, one input after the other. `depth`: one-way trips that led to this
        input alone; without it what follows is taken to depend on all that came before."""
        self.inbox.append((input, depth))
        if self.busy or self.frozen or self.dead:
            return
        self.busy = True
        while self.inbox and not self.dead:
            input, depth = self.inbox.popleft()
            self.trips = depth if depth >= 0 else self.depth
            for output in self.endpoint.handle(input):
                _DO[type(output)](self, output)
        self.busy = False
        self.accept()

    def note(self, kind: str, text: str, conn: int | None = None) -> None:
        name = "" if conn is None else self.name(conn)
        self.trace.note(self.env.now, self.side, kind, name, text)

    def name(self, conn: int) -> str:
        return self.ends[conn].connection.name if conn in self.ends else str(conn)

    def accept(self) -> None:
        """Take connections from the listening socket while the endpoint's main loop would."""
        while self.side == "destination" and not (self.frozen or self.dead or self.busy) and self.net.accept_queue:
            if not getattr(self.endpoint, "accepting", False) or self.taking:
                return
            self.taking = True
            made = self.net.accept_queue.popleft()
            end = made.server
            end.number = len(self.ends)
            self.ends[end.number] = end
            made.accepted = True
            self.feed(i.Opened(end.number))
            self.net.read(end)
            if end.dead:
                self.feed(i.Broken(end.number, "Connection reset by peer"))
            self.taking = False

    # --- what the net tells -----------------------------------------------------------------------------------------
    def arrived(self, end: End, data: bytes, fill: int) -> None:
        self.depth = max(self.depth, end.depth)
        if self.watch is not None:
            self.watch()
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
        if end.number >= 0:
            self.feed(i.Drained(end.number))

    # --- TLS --------------------------------------------------------------------------------------------------------
    def _tls_message(self, end: End, data: bytes) -> None:
        conn, stage = end.number, self.tls[end.number]
        label = str(self.endpoint.settings.parameter("tls-creds", "")).encode().ljust(16, b"\0")
        if stage == "server" and not data.startswith(b"\x16\x03"):
            self._tls_failed(conn, UNEXPECTED, unread=True)
        elif stage == "server" and data[5:21] != label:
            self._tls_failed(conn, ILLEGAL)
        elif stage == "server" and self.tls_round_trips > 1:
            self.tls[conn] = "server-2"
            self._raw(end, SERVER_HELLO)
        elif stage in ("server", "server-2"):
            self.tls[conn] = "server-3"
            self._raw(end, (SERVER_HELLO if stage == "server" else b"") + SERVER_DONE)
        elif stage == "client" and data == SERVER_HELLO:
            self._raw(end, ACKNOWLEDGED)
        elif stage == "client" and data.endswith(SERVER_DONE):
            self._raw(end, CLIENT_DONE)
            self._secured(conn)
        elif stage == "server-3":
            self._secured(conn)
        else:
            self._tls_failed(conn, UNEXPECTED, unread=True)

    def _raw(self, end: End, data: bytes) -> None:
        self.net.send(end, data, 0, self.depth + 1)

    def _secured(self, conn: int) -> None:
        del self.tls[conn]
        made = self.ends[conn].connection
        self.feed(i.Secured(conn, hashlib.sha256(f"exporter {made.number}".encode()).digest()))

    def _tls_failed(self, conn: int, text: str, unread: bool = False) -> None:
        del self.tls[conn]
        self.feed(i.TlsFailed(conn, text))
        self.net.close(self.ends[conn], unread)

    # --- what the endpoint asks -------------------------------------------------------------------------------------
    def _open(self, o: i.Open) -> None:
        assert self.other is not None
        wanted_depth = self.trips + 2

        def done(end: End, error: str) -> None:
            if error:
                self.feed(i.Broken(o.conn, error))
                return
            self.depth = max(self.depth, wanted_depth)
            if end.open:
                self.feed(i.Opened(o.conn), wanted_depth)

        threaded = o.channel.startswith("multifd")  # each has a thread of its own: their order is chance
        start_s = 2e-5 + self.rng.random() * 1e-4 if threaded else 0.0
        end = self.net.connect(o.channel, self, self.other, done, start_s)
        end.number = o.conn
        self.ends[o.conn] = end

    def _start_tls(self, o: i.StartTls) -> None:
        if self.side == "destination":
            self.tls[o.conn] = "server"
        else:
            self.tls[o.conn] = "client"
            label = str(self.endpoint.settings.parameter("tls-creds", "")).encode().ljust(16, b"\0")
            self._raw(self.ends[o.conn], CLIENT_HELLO[:5] + label + CLIENT_HELLO[21:])

    def _send(self, o: i.Send) -> None:
        end = self.ends.get(o.conn)
        if end is None:
            return
        if o.fill:
            self.guest_bytes += o.fill
            if self.first_guest_byte_s is None:
                self.first_guest_byte_s, self.first_guest_depth = self.env.now, self.trips
        self.net.send(end, o.data, o.fill, self.trips + 1)

    def _pause(self, o: i.Pause) -> None:
        self.ends[o.conn].reading = False

    def _resume(self, o: i.Resume) -> None:
        end = self.ends[o.conn]
        end.reading = True
        self.net.after(0, lambda: self.net.read(end) if not self.frozen else None)

    def _end(self, o: i.End) -> None:
        self.net.shut(self.ends[o.conn])

    def _drop(self, o: i.Drop) -> None:
        if o.conn in self.ends:
            self.net.close(self.ends[o.conn], o.unread)

    def _set_alarm(self, o: i.SetAlarm) -> None:
        turn = self.alarms[o.name] = self.alarms.get(o.name, 0) + 1

        def ring() -> None:
            if self.alarms.get(o.name) == turn and self.endpoint.finished is None:
                self.note("link", f"alarm {o.name}")
                self.feed(i.AlarmRang(o.name))

        self.net.after(o.delay_s, ring)

    def _stop_alarm(self, o: i.StopAlarm) -> None:
        self.alarms[o.name] = self.alarms.get(o.name, 0) + 1

    def _guest_answers(self, delay_s: float, call: Callable[[], None]) -> None:
        """After its time, or when an exact replay says so."""
        if self.guest.answers_ms:
            at_ms, *rest = self.guest.answers_ms
            self.guest.answers_ms = tuple(rest)
            delay_s = at_ms / 1e3 - self.env.now
        self.net.after(delay_s, call)

    def _collect(self, o: i.CollectRam) -> None:
        if o.first:
            self.guest.passes = self.guest.collected_bytes = 0
        rest_s = 0.0 if o.last or not self.guest.passes else PASS_S
        self._guest_answers(rest_s, lambda: self.feed(self.guest.collect(self.env.now, o.last)))

    def _stop_guest(self, _: i.StopGuest) -> None:
        self.guest.running, self.guest.stopped_s = False, self.env.now
        self.note("guest", "guest stops")
        self._guest_answers(0, lambda: self.feed(i.GuestStopped()))

    def _resume_guest(self, _: i.ResumeGuest) -> None:
        if not self.guest.running:
            self.guest.running, self.guest.stopped_s = True, None
            self.note("guest", "guest runs on here")

    def _apply(self, o: i.Apply) -> None:
        named = ", ".join(name if value is True else f"{name}={value}" for name, value in o.config)
        self.note("guest", f"sets {named or 'nothing'}")
        self._guest_answers(0.001, lambda: self.feed(i.Applied(self.guest.apply_error, self.guest.apply_code)))

    def _load(self, o: i.Load) -> None:
        def loaded() -> None:
            self.note("guest", self.guest.post_load_error or "devices are loaded")
            self.feed(i.Loaded(self.guest.post_load_error))

        self._guest_answers(self.guest.load_s, loaded)

    def _run_guest(self, _: i.RunGuest) -> None:
        self.guest.running, self.guest.started_s = True, self.env.now
        self.note("guest", "guest runs here")
        self._guest_answers(0, lambda: self.feed(i.GuestRunning()))

    def _said(self, o: i.Said) -> None:
        self.note("say", o.text, o.conn)

    def _heard(self, o: i.Heard) -> None:
        self.note("hear", o.text, o.conn)

    def _entered(self, o: i.Entered) -> None:
        self.note("state", o.status)

    def _printed(self, o: i.Printed) -> None:
        self.note("print", o.text)

    def _finished(self, o: i.Finished) -> None:
        self.finished_s = self.env.now
        self.on_finished()
        self.note("end", o.status + (f": {o.text}" if o.text else ""))
        if o.exited:
            self.die("exits")
        elif self.side == "destination" and not o.listening:
            self._stop_listening()

    def _stop_listening(self) -> None:
        """Connections that nobody has accepted are reset."""
        self.net.listening = False
        for made in self.net.connections:
            if not made.accepted and made.server.owner is self:
                self.net.close(made.server, unread=True)

    def die(self, how: str) -> None:
        """The process is gone; its kernel closes what it had."""
        self.dead = True
        self.guest.running = False
        self.note("link", f"process {how}")
        if self.side == "destination":
            self._stop_listening()
        for made in self.net.connections:
            for end in (made.client, made.server):
                if end.owner is self:
                    self.net.close(end)

    def freeze(self) -> None:
        self.frozen = True
        self.note("link", "process is frozen")
        for end in self.ends.values():
            end.reading = False


_DO: dict[type, Callable[[Host, Any], None]] = {
    i.Open: Host._open, i.StartTls: Host._start_tls, i.Send: Host._send, i.Pause: Host._pause, i.Resume: Host._resume,
    i.End: Host._end, i.Drop: Host._drop, i.SetAlarm: Host._set_alarm, i.StopAlarm: Host._stop_alarm,
    i.CollectRam: Host._collect, i.StopGuest: Host._stop_guest, i.ResumeGuest: Host._resume_guest,
    i.Apply: Host._apply, i.Load: Host._load, i.RunGuest: Host._run_guest, i.Said: Host._said, i.Heard: Host._heard,
    i.Entered: Host._entered, i.Printed: Host._printed, i.Finished: Host._finished,
}  # fmt: skip
