"""v1's destination: `-incoming` in QEMU (migration/migration.c, channel.c, multifd.c, savevm.c).

Its main loop is one server: it accepts, runs TLS, peeks and reads multifd's initial packet, each until it is done,
and answers QMP in between. `blocked` names the connection that holds it; while it is set no connection is accepted
(`accepting`) and the monitor is silent. None of its waits has a timeout.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from .. import interface as i
from .. import return_path, stream
from ..buffer import Buffer
from ..capabilities import refusal
from ..endpoint import reducible
from ..loader import Loader, MultifdReader, Position, StreamError
from ..machine import Settings
from ..names import Reason, Status
from ..return_path import Reply
from ..versions import behaviour, flushes_by_command
from .answers import DestinationAnswers
from .channels import Connection, skip_urgent_pages, wrong_initial
from .states import Kind

AT_THE_END = (Position.AFTER_EOF, Position.DESCRIPTION, Position.FINISHED)
EXTRA = "socket_accept_incoming_migration: Extra incoming migration connection; ignoring"


@reducible
class Destination(DestinationAnswers):
    """`settings` are the destination's own: it believes that the source's are the same."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.rules = behaviour(settings.version)
        self.connections: tuple[Connection, ...] = ()
        self.held_by: int | None = None
        self.loading = False  # the main stream is being read
        self.reply_path = False
        self.postcopy = self.running = False
        self.read_all = False  # the listen thread has read the stream's end
        self.waiting_for_sync = self.waiting_for_preempt = False
        self.syncs = 0
        self.received_ram_bytes = 0
        self._loader = Loader(settings)

    @property
    def ram_bytes(self) -> int:
        """Bytes of guest memory that have come."""
        return self.received_ram_bytes

    @property
    def blocked(self) -> int | None:
        """The connection that its main loop is busy with."""
        return self.held_by

    @property
    def accepting(self) -> bool:
        """Whether its main loop would take one more connection from the listening socket now."""
        open_for_more = self.rules.keeps_listening or not self._complete
        return self.finished is None and self.status != Status.NONE and self.held_by is None and open_for_more

    @property
    def closed(self) -> bool:
        """Whether its listening socket is closed although it goes on."""
        return self.loading and not self.rules.keeps_listening

    @property
    def main(self) -> int | None:
        """The connection that carries the main stream, once one is taken for it."""
        return next((i for i, c in enumerate(self.connections) if c.kind == Kind.MAIN), None)

    @property
    def _complete(self) -> bool:
        """Main and all multifd channels are there (migration_has_all_channels); with multifd 7.2 forgets preempt."""
        multifd = sum(c.kind == Kind.MULTIFD for c in self.connections)
        preempt = self.rules.preempt_at_start and self.settings.has("postcopy-preempt") and not multifd
        there = not preempt or any(c.kind == Kind.PREEMPT for c in self.connections)
        return self.main is not None and multifd >= self.settings.channels and there

    def _start(self, _: i.Start) -> None:
        """`migrate-incoming`: QMP refuses settings that exclude each other before anything listens
        (migrate_caps_check, options.c)."""
        refused = refusal(self.settings, at_source=False)
        if refused:
            self._finish(i.Finished(Status.REJECTED, refused, Reason.SPECIFIC, listening=True))
        else:
            self._report_status(Status.SETUP)

    # --- which connection is which ----------------------------------------------------------------------------------
    def _opened(self, opened: i.Opened) -> None:
        """A connection was accepted (socket_accept_incoming_migration, socket.c). With tls-creds the TLS handshake
        comes before everything else (migration_channel_process_incoming, channel.c)."""
        assert opened.conn == len(self.connections), "connections are numbered in the order of their acceptance"
        self.connections = (*self.connections, Connection(Kind.NEW))
        if self.settings.tls:
            self._set(opened.conn, kind=Kind.TLS)
            self.held_by = opened.conn
            self._out.append(i.StartTls(opened.conn))
        else:
            self._identify(opened.conn)

    def _secured(self, secured: i.Secured) -> None:
        """TLS is up: who it is can be found out only now."""
        self.held_by = None
        self._identify(secured.conn)

    def _tls_failed(self, failed: i.TlsFailed) -> None:
        """No change of state: it stays in setup and listens on (measured)."""
        self._out.append(i.Printed(f"TLS handshake failed: {failed.text}"))
        self._close(failed.conn)
        self.held_by = None
        if self.rules.tls_multifd_crashes and self.settings.channels and self.main is None:
            self._exit("Segmentation fault", aborted=True)

    def _identify(self, conn: int) -> None:
        """Decide what the connection is: by its first four bytes where this version looks at them, else by the order
        of arrival (migration_ioc_process_incoming, migration.c). An order that differs from the source's is not
        noticed."""
        if self._complete and not self._wants_preempt:
            self._out.append(i.Printed(EXTRA))
            self._close(conn)
            return
        if self._peeks:
            parked = self.rules.identify == "parked"
            self._set(conn, kind=Kind.PARKED if parked else Kind.PEEK)
            self.held_by = None if parked else conn
            self._look(conn)
        elif self.main is None:
            self._become_main(conn)
        elif self._missing_multifd:
            self._become_multifd(conn)
        elif self.settings.has("postcopy-preempt"):
            self._become_preempt(conn)
        else:
            self._fail_channel(conn, "non-peekable channel used without multifd")

    @property
    def _missing_multifd(self) -> bool:
        """By position, multifd goes before preempt: 7.2 takes a silent preempt connection for a multifd channel."""
        multifd = sum(c.kind in (Kind.MULTIFD, Kind.INITIAL) for c in self.connections)
        return self.settings.channels > 0 and (self.rules.by_position or multifd < self.settings.channels)

    @property
    def _wants_preempt(self) -> bool:
        """Whether the preempt channel is still to come; with multifd, old versions look for multifd alone."""
        if self.settings.channels and self.rules.by_position:
            return False
        return self.settings.has("postcopy-preempt") and not any(c.kind == Kind.PREEMPT for c in self.connections)

    @property
    def _peeks(self) -> bool:
        """Whether it looks at the first four bytes: plain sockets only, MSG_PEEK works nowhere else."""
        if self.settings.tls or self.settings.transport not in ("tcp", "unix", "fd"):
            return False
        if self.rules.identify == "peek-multifd":
            return self.settings.channels > 0 and not self.settings.has("postcopy-ram")
        return self.rules.identify in ("peek", "parked") and not (self._complete and self._wants_preempt)

    def _look(self, conn: int) -> None:
        """The four bytes that decide, when they are there."""
        connection = self.connections[conn]
        magic = connection.buffer.peek(4)
        if len(magic) < 4:
            if connection.ended:
                self.held_by = None
                self._fail_channel(conn, "Failed to peek at channel")
            return
        if self.held_by == conn:
            self.held_by = None
        if magic == stream.MAGIC:
            self._become_main(conn)
        elif self.rules.identify == "peek-multifd":
            self._become_multifd(conn)
        elif magic == stream.MULTIFD_MAGIC:
            if self.settings.has("multifd"):
                self._become_multifd(conn)
            else:
                self._exit("Assertion `migrate_multifd()' failed.", aborted=True)
        else:
            self._fail_channel(conn, f"unknown channel magic: {struct.unpack('>I', magic)[0]}")

    def _become_main(self, conn: int) -> None:
        """Main is not read before all channels are there (migration_incoming_process waits for
        migration_has_all_channels, migration.c)."""
        if self.main is not None:
            self._fail_channel(conn, "a second main channel")
            return
        self._set(conn, kind=Kind.MAIN)
        self._pause(conn)
        self._start_when_complete()

    def _become_multifd(self, conn: int) -> None:
        """Its initial packet is read at once, and nothing else is done until it is there (multifd_recv_new_channel,
        multifd.c)."""
        self._set(conn, kind=Kind.INITIAL)
        self.held_by = conn
        self._out.append(i.Resume(conn))
        self._read_initial(conn)

    def _become_preempt(self, conn: int) -> None:
        """The channel of urgent pages (postcopy_preempt_new_channel, postcopy-ram.c)."""
        self._set(conn, kind=Kind.PREEMPT)
        if not self.postcopy:
            self._pause(conn)  # nobody reads it before postcopy
        self._start_when_complete()
        if self.waiting_for_preempt:
            self.waiting_for_preempt = False
            self._read_stream()

    def _read_initial(self, conn: int) -> None:
        """The 64 bytes that name a multifd channel, once they are there; a wrong one fails the load, or is only
        printed."""
        connection = self.connections[conn]
        packet = connection.buffer.peek(stream.MULTIFD_INITIAL_BYTES)
        if len(packet) < stream.MULTIFD_INITIAL_BYTES:
            if connection.ended:
                self.held_by = None
                self._fail_channel(conn, "failed to receive packet: " + connection.ended)
            return
        self.held_by = None
        taken = tuple(c.number for c in self.connections if c.kind == Kind.MULTIFD)
        wrong, index = wrong_initial(packet, self.settings, self.rules, taken)
        if wrong:
            self._fail_channel(conn, f"failed to receive packet via multifd channel {index}: multifd: {wrong}")
            return
        self._set(
            conn,
            kind=Kind.MULTIFD,
            number=index,
            buffer=Buffer(),
            lane=MultifdReader(connection.buffer.skip(stream.MULTIFD_INITIAL_BYTES)),
        )
        self._out.append(i.Heard(conn, f"multifd[{index}] initial packet"))
        self._start_when_complete()
        self._read_packets(conn)

    def _start_when_complete(self) -> None:
        """All channels are there: the load begins (migration_incoming_process, migration.c)."""
        if self._complete and not self.loading:
            self.loading = True
            self._report_status(Status.ACTIVE)
            if not self.rules.keeps_listening:
                self._out.append(i.StopListening())
            main = self.main
            assert main is not None
            self._out.append(i.Resume(main))
            self._read_stream()

    # --- bytes ------------------------------------------------------------------------------------------------------
    def _received(self, received: i.Received) -> None:
        """Bytes go to the current reader of that connection; where there is none they wait."""
        conn, connection = received.conn, self.connections[received.conn]
        if connection.kind == Kind.CLOSED:
            return
        if connection.kind == Kind.MAIN and self.loading:
            self._loader.feed(received.data, received.fill)
            self._read_stream()
            return
        if connection.kind == Kind.MULTIFD:
            self._set(conn, lane=connection.lane.add(received.data, received.fill))
            self._read_packets(conn)
            return
        self._set(conn, buffer=connection.buffer.add(received.data, received.fill))
        if connection.kind in (Kind.PEEK, Kind.PARKED):
            self._look(conn)
        elif connection.kind == Kind.INITIAL:
            self._read_initial(conn)
        elif connection.kind == Kind.PREEMPT:
            self._read_urgent(conn)

    def _read_urgent(self, conn: int) -> None:
        """Pages that the guest waits for, counted as they come (postcopy_preempt_thread, postcopy-ram.c)."""
        buffer, left, passed = skip_urgent_pages(self.connections[conn].buffer, self.connections[conn].left)
        self.received_ram_bytes += passed
        self._set(conn, buffer=buffer, left=left)
        self._complete_when_running()

    def _read_packets(self, conn: int) -> None:
        """A multifd thread. It reads on alone until a SYNC and then waits for main to come to the same point."""
        connection = self.connections[conn]
        if connection.kind != Kind.MULTIFD:  # another has failed meanwhile, and closed all
            return
        try:
            lane = connection.lane.read(self.settings.compression, connection.number, self.syncs)
        except StreamError as error:
            self._fail_channel(conn, str(error))
            return
        self.received_ram_bytes += lane.ram_bytes - connection.lane.ram_bytes
        self._set(conn, lane=lane)
        if lane.syncs > self.syncs:
            self._pause(conn)
            if self.waiting_for_sync:
                self._try_sync()

    def _try_sync(self) -> bool:
        """multifd_recv_sync_main: the main thread waits here, monitor and all, until every channel has sent SYNC."""
        if any(c.lane.syncs <= self.syncs for c in self.connections if c.kind == Kind.MULTIFD):
            self.waiting_for_sync, self.held_by = True, self.main
            return False
        resumed = self.waiting_for_sync
        self.waiting_for_sync, self.held_by, self.syncs = False, None, self.syncs + 1
        for conn, c in enumerate(self.connections):
            if c.kind == Kind.MULTIFD:
                self._out.append(i.Resume(conn))
                self._read_packets(conn)
        if resumed:
            self._read_stream()
        return True

    # --- the main stream --------------------------------------------------------------------------------------------
    def _read_stream(self) -> None:
        """The load coroutine: as far as the bytes go, or until it must wait for other channels
        (qemu_loadvm_state_main, savevm.c)."""
        main = self.main
        if main is None or not self.loading:
            return
        early = self.connections[main].buffer
        if len(early):
            self._set(main, buffer=Buffer())
            self._loader.buffer = early if not len(self._loader.buffer) else self._loader.buffer
        try:
            while self.finished is None and not (self.waiting_for_sync or self.waiting_for_preempt):
                event = self._loader.next_event()
                if event is None:
                    self._at_end_of_bytes(main)
                    return
                self._heard(main, event)
        except StreamError as error:
            self._fail(str(error))

    def _heard(self, main: int, event: tuple[object, ...]) -> None:
        """One thing of the main stream. An end of section, or multifd's flush from machine type 8.1 on, is the point
        at which all channels meet (ram_load_precopy, ram.c)."""
        kind = event[0]
        if kind == "command":
            number, payload = event[1], event[2]
            assert isinstance(number, int) and isinstance(payload, bytes)
            self._out.append(i.Heard(main, stream.COMMANDS[number]))
            self._command(main, number, payload)
        elif kind == "ram":
            assert isinstance(event[1], int)
            self.received_ram_bytes += event[1]
        elif kind == "machine":
            self._out.append(i.Heard(main, f"CONFIGURATION {event[1]}"))
        elif kind == "setup":
            self._out.append(i.Heard(main, "START ram"))
        elif kind in ("flush", "eos"):
            by_flush = flushes_by_command(self.settings.machine.machine_version)
            if self.settings.channels and not self.postcopy and (kind == "flush") == by_flush:
                self._try_sync()
        elif kind == "eof":
            self._out.append(i.Heard(main, "EOF"))
            self.read_all = True
            if self.postcopy:
                self._complete_when_running()
            else:
                self._out.append(i.Load(sum(d.size_bytes for d in self.settings.machine.devices)))

    def _command(self, main: int, number: int, payload: bytes) -> None:
        """What the source commands (loadvm_process_command, savevm.c). A PING needs a return path, which must have
        been opened before."""
        if number == stream.OPEN_RETURN_PATH:
            self.reply_path = True
            if self.settings.has("switchover-ack"):
                self._reply(main, Reply.ACK, b"", "SWITCHOVER_ACK")
        elif number == stream.PING:
            if not self.reply_path:
                raise StreamError(f"CMD_PING (0x{payload.hex()}) received with no return path")
            self._reply(main, Reply.PONG, payload, f"PONG {struct.unpack('>I', payload)[0]}")
        elif number == stream.POSTCOPY_ADVISE:
            self._advise(payload)
        elif number == stream.PACKAGED:
            if self._wants_preempt:
                self.waiting_for_preempt = True
        elif number == stream.POSTCOPY_LISTEN:
            self.postcopy = True
            self._report_status(Status.POSTCOPY_DEVICE if self.rules.loads_first else Status.POSTCOPY_ACTIVE)
            self._out += [i.Resume(conn) for conn, c in enumerate(self.connections) if c.kind == Kind.PREEMPT]
        elif number == stream.POSTCOPY_RUN:
            if self.status == Status.POSTCOPY_DEVICE:
                self._report_status(Status.POSTCOPY_ACTIVE)
            self._out += [i.Load(sum(d.size_bytes for d in self.settings.machine.devices))]

    def _advise(self, payload: bytes) -> None:
        """loadvm_postcopy_handle_advise."""
        if payload and not self.settings.has("postcopy-ram"):
            raise StreamError(f"RAM postcopy is disabled but have {len(payload)} byte advise")
        sizes, page = struct.unpack(">QQ", payload) if payload else (0, 0)
        local = 0
        for block in self.settings.machine.ram_blocks:
            local |= block.page_bytes
        if payload and (sizes, page) != (local, 1 << self.settings.machine.page_bits):
            raise StreamError(f"Postcopy needs matching RAM page sizes (s={sizes:x} d={local:x})")

    def _at_end_of_bytes(self, main: int) -> None:
        """The source has gone. In postcopy the guest waits for a recovery (postcopy_pause_incoming, savevm.c); else
        the load has failed with EIO, which is reported on stderr alone."""
        ended = self.connections[main].ended
        if not ended or self._loader.state in AT_THE_END:
            return
        if self.postcopy:
            if self.status != Status.POSTCOPY_PAUSED:
                self._report_status(Status.POSTCOPY_PAUSED)
        elif self._loader.state == Position.HEADER:
            self._fail("Not a migration stream")
        else:
            section, name = self._loader.section
            self._out.append(i.Printed(f"error while loading state section id {section}({name})"))
            self._fail("load of migration failed: Input/output error")

    def _ended(self, ended: i.Ended) -> None:
        """FIN: reads end there."""
        self._lost(ended.conn, "Input/output error")

    def _broken(self, broken: i.Broken) -> None:
        """The connection was reset; a read would say so."""
        self._lost(broken.conn, broken.text)

    def _lost(self, conn: int, how: str) -> None:
        """Only who reads that connection now notices."""
        kind = self.connections[conn].kind
        self._set(conn, ended=self.connections[conn].ended or how)
        if kind in (Kind.PEEK, Kind.PARKED):
            self._look(conn)
        elif kind == Kind.INITIAL:
            self._read_initial(conn)
        elif kind == Kind.TLS:
            self._tls_failed(i.TlsFailed(conn, "The TLS connection was non-properly terminated."))
        elif kind == Kind.MAIN:
            self._read_stream()
        elif kind == Kind.PREEMPT:
            self._complete_when_running()

    # --- the guest, and endings -------------------------------------------------------------------------------------
    def _loaded(self, loaded: i.Loaded) -> None:
        """All devices ran their post_load. One that fails ends the process, or the migration."""
        if loaded.error:
            self._fail(loaded.error)
        else:
            self._out.append(i.RunGuest())

    def _guest_running(self, _: i.GuestRunning) -> None:
        """The guest runs here (process_incoming_migration_bh, migration.c)."""
        self.running = True
        self._complete_when_running()

    def _complete_when_running(self) -> None:
        """In postcopy the listen thread, which has read all memory, waits for the main thread, which loads the devices
        (postcopy_ram_listen_thread waits for main_thread_load_event, savevm.c), and for the pages that are still on the
        preempt channel (postcopy_ram_incoming_cleanup waits for page_requested_count), before it sends SHUT."""
        urgent = any(c.kind == Kind.PREEMPT and c.left and not c.ended for c in self.connections)
        if self.finished is not None or not (self.running and self.read_all) or urgent:
            return
        main = self.main
        assert main is not None
        if self.reply_path:
            self._reply(main, Reply.SHUT, struct.pack(">I", 0), "SHUT 0")
        if self.postcopy and self.settings.channels and self.rules.postcopy_multifd_crashes:
            self._exit("util/yank.c: yank_unregister_instance: Assertion `QLIST_EMPTY(&entry->yankfns)' failed.", True)
            return
        self._report_status(Status.COMPLETED)
        self._close_all()
        self._finish(i.Finished(Status.COMPLETED))

    def _reply(self, main: int, kind: Reply, payload: bytes, named: str) -> None:
        """A message on the return path: type, length, payload (migrate_send_rp_message, migration.c)."""
        self._out += [i.Said(main, named), i.Send(main, return_path.message(kind, payload))]

    def _fail_channel(self, conn: int, text: str) -> None:
        """An incoming connection that makes no sense: 9.2 prints, lets go of it, and leaves the others open and unread:
        nothing is reported."""
        self._close(conn)
        if self.rules.exits_on_channel_error:
            self._fail(text)
        else:
            self._out.append(i.Printed(text))

    def _fail(self, text: str) -> None:
        """The load is over. What was printed is all there is; the wire carries one number, or nothing."""
        main = self.main
        if self.reply_path and self.rules.sends_shut and main is not None and not self.connections[main].ended:
            self._reply(main, Reply.SHUT, struct.pack(">I", 1), "SHUT 1")
        self._exit(text)

    def _exit(self, text: str, aborted: bool = False) -> None:
        """The process exits, as process_incoming_migration_co does (migration.c), unless exit-on-error is off (9.1)."""
        self._out.append(i.Printed(text))
        exited = aborted or self.settings.exit_on_error or not self.rules.optional_exit
        self._report_status(Status.FAILED)
        self._close_all()
        self._finish(i.Finished(Status.FAILED, text, Reason.SPECIFIC, exited=exited))

    def _set(self, conn: int, **changes: Any) -> None:
        """Change what is known of one connection."""
        new = self.connections[conn]._replace(**changes)
        self.connections = (*self.connections[:conn], new, *self.connections[conn + 1 :])

    def _pause(self, conn: int) -> None:
        """Nobody reads it for now: what arrives stays with the kernel, which pushes back on the source."""
        self._out.append(i.Pause(conn))

    def _close(self, conn: int) -> None:
        """Over bytes that the kernel still has, close() sends a reset (RFC 1122, 4.2.2.13), which may overtake what
        was sent; so the trace must know what QEMU itself has read."""
        connection = self.connections[conn]
        unread = len(connection.buffer) + len(connection.lane.buffer) > 0
        if connection.kind == Kind.MAIN and self.loading:
            unread = len(self._loader.buffer) > 32768  # a QEMUFile reads that far ahead
        self._set(conn, kind=Kind.CLOSED)
        self._out.append(i.Drop(conn, unread))

    def _close_all(self) -> None:
        """Every connection that is still open."""
        for conn, connection in enumerate(self.connections):
            if connection.kind != Kind.CLOSED:
                self._close(conn)

    HANDLERS: ClassVar[Mapping[type, Callable[..., None]]] = {
        i.Start: _start,
        i.Opened: _opened,
        i.Secured: _secured,
        i.TlsFailed: _tls_failed,
        i.Received: _received,
        i.Ended: _ended,
        i.Broken: _broken,
        i.Loaded: _loaded,
        i.GuestRunning: _guest_running,
    }
