"""v1's source: what `migrate` does in QEMU, in its order of operations (migration/migration.c, multifd.c).

The migration thread is `_advance`, a ladder of stages; it stands still where QEMU's does: in connect, in a write that
the transport has not taken (`undrained`), and at the end in the wait for SHUT. None of these waits has a timeout. An
error on the return path is stored and noticed at the next write or at the end, as in life.
"""

from __future__ import annotations

import struct

from .. import interface as i
from .. import stream
from ..buffer import Buffer
from ..capabilities import refusal
from ..machine import Settings
from . import return_path
from .answers import WAITS, SourceAnswers
from .versions import DESCRIPTION, behaviour

MAIN = 0


class Source(SourceAnswers):
    """`settings` are the source's alone: v1 never learns the destination's."""

    REDUCIBLE = True  # see endpoint.reducible

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.rules = behaviour(settings.version)
        self.stage = "none"
        self.channels: tuple[str, ...] = ("main",)  # connection number -> what it was opened for
        self.ready: tuple[int, ...] = ()  # connected, and TLS done
        self.securing: tuple[int, ...] = ()  # connected, for TLS
        self.undrained: tuple[int, ...] = ()
        self.broken: tuple[tuple[int, str], ...] = ()
        self.replies = Buffer()
        self.return_path_error: tuple[str, str] | None = None  # text, reason
        self.preempt_error: tuple[str, str] | None = None  # missed only when postcopy is to start
        self.ponged = self.acked = self.shut = self.postcopy = self.stopped = self.cancelled = False
        self.collected = False
        self.holds = settings.has("pause-before-switchover")
        self.packets = 0
        self.part = (0, False, False)  # bytes of the pass, whether it is the last, whether the rest fits

    @property
    def blocked(self) -> bool:
        """The monitor does not answer: QEMU runs the client's TLS handshake in its main loop."""
        return self.stage == "tls"

    # --- management -------------------------------------------------------------------------------------------------
    def _on_start(self, _: i.Start) -> None:
        refused = refusal(self.settings, at_source=True)
        if refused:
            self._finish(i.Finished("rejected", refused, "specific", listening=True))
            return
        self._enter("setup", "connect")
        self._out.append(i.Open(MAIN, "main"))

    def _on_cancel(self, cancel: i.Cancel) -> None:
        if self._in_postcopy:  # "Postcopy migration in progress, cannot cancel."; before 10.0 it ends, without a guest
            if self.status == "postcopy-active" and not self.rules.keeps_postcopy:
                self._enter("cancelling", "done")
                self._close_all()
                self._finish(i.Finished("cancelled", "", "none"))
            return
        self.cancelled = True
        self._enter("cancelling", self.stage)
        # A wait for connections is not woken by cancel (measured on 10.0 and 11.1); a blocked write is. Nor is the wait
        # for SHUT on a pipe, which can't be shut down as a socket can (measured on 7.2 and 10.0, exec:cat).
        waits = self.stage in ("connect", "tls") or (self.stage == "channels" and self.rules.waits_for_channels)
        if not waits and (self.stage != "wait-shut" or self.settings.transport != "exec"):
            self._cancel_now()

    def _cancel_now(self) -> None:
        self._close_all()
        self._out.append(i.ResumeGuest())
        self._finish(i.Finished("cancelled", "", "none"))

    def _on_switchtopostcopy(self, _: i.SwitchToPostcopy) -> None:
        self.postcopy = self.postcopy or self.settings.has("postcopy-ram")
        self._advance()

    def _on_continue(self, _: i.Continue) -> None:
        if self.status == "pre-switchover":
            self.holds = False
            if self.stage == "stopping" or self.rules.says_device:
                self._enter("device", self.stage)
            self._advance()

    @property
    def _in_postcopy(self) -> bool:
        """Begun, not only asked for: once the rest fits, who asks is too late (migration_iteration_run)."""
        return self.status.startswith("postcopy-")

    # --- the link ---------------------------------------------------------------------------------------------------
    def _on_opened(self, opened: i.Opened) -> None:
        if self.cancelled:
            self._cancel_now()
        elif self.settings.tls:
            if opened.conn == MAIN:
                self.stage = "tls"
            self.securing = (*self.securing, opened.conn)
            self._out.append(i.StartTls(opened.conn))
        else:
            self._connected(opened.conn)

    def _on_secured(self, secured: i.Secured) -> None:
        self._connected(secured.conn)

    def _on_tlsfailed(self, failed: i.TlsFailed) -> None:
        self._connect_failed(failed.conn, f"TLS handshake failed: {failed.text}", "specific")

    def _connected(self, conn: int) -> None:
        self.ready = (*self.ready, conn)
        if conn == MAIN:
            if self.settings.return_path and self.settings.transport == "file":
                self.return_path_error = ("Unable to read from file: Bad file descriptor", "generic")
            if not self.settings.return_path:
                self._out.append(i.Pause(MAIN))  # nobody reads it: what comes is still unread when it closes
            self._open_channels()
            self.stage = "channels"
        elif (name := self.channels[conn]).startswith("multifd"):
            number = int(name.removeprefix("multifd[").removesuffix("]"))
            self._write(conn, stream.multifd_initial(self.settings.machine, number), 0, "initial packet")
        self._advance()

    def _open_channels(self) -> None:
        """The further connections, all at once: their order of arrival is anybody's guess."""
        if self.settings.channels and self.settings.transport in ("exec", "fd"):
            self._fail("", "none")  # 7.2 fails here without a word; newer ones refused at `migrate`
            return
        early = self.rules.preempt_at_start or self.settings.machine.machine_version <= (7, 2)
        if self.settings.has("postcopy-preempt") and early:
            self._open("preempt")
        for index in range(self.settings.channels):
            self._open(f"multifd[{index}]")

    def _open(self, channel: str) -> None:
        self._out.append(i.Open(len(self.channels), channel))
        self.channels = (*self.channels, channel)

    def _on_received(self, received: i.Received) -> None:
        if received.conn != MAIN or not self.settings.return_path or self.return_path_error:
            return
        self.replies = self.replies.add(received.data, received.fill)
        while self.return_path_error is None and len(self.replies) >= 4:
            kind, size = struct.unpack(">HH", self.replies.peek(4))
            if wrong := return_path.wrong(kind, size):
                self._return_path_failed(wrong, "specific")
                self._out.append(i.Pause(MAIN))  # nobody reads it any more
            elif len(self.replies) < 4 + size:
                return
            else:
                payload = self.replies.skip(4).peek(size)
                self.replies = self.replies.skip(4 + size)
                self._reply(kind, payload)
        self._advance()

    def _reply(self, kind: int, payload: bytes) -> None:
        value = struct.unpack(">I", payload)[0] if len(payload) == 4 else 0
        self._out.append(i.Heard(MAIN, f"{return_path.NAMES[kind]} {value}" if payload else return_path.NAMES[kind]))
        if kind == 1 and value:
            self._return_path_failed(f"Sibling indicated error {value}", "specific")
        elif kind == 1:
            self.shut = True
        elif kind == 2:
            self.ponged = True
            if value == return_path.PACKAGE_LOADED and self.status == "postcopy-device":
                self._enter("postcopy-active", self.stage)
        elif kind == 7:
            self.acked = True

    def _on_ended(self, ended: i.Ended) -> None:
        if self.cancelled and ended.conn == MAIN:
            self._cancel_now()
        elif ended.conn == MAIN and self.settings.return_path and not self.shut:
            self._return_path_failed(*return_path.ended(bool(self.settings.tls)))
            self._advance()

    def _on_broken(self, broken: i.Broken) -> None:
        conn = broken.conn
        if conn not in self.ready:
            text, reason = f"Failed to connect: {broken.text}", "generic"
            if conn in self.securing:
                text, reason = "TLS handshake failed: Error in the pull function.", "specific"
                if self.rules.tells_tls_errno:
                    text, reason = f"{text}: Unable to read from socket: {broken.text}", "generic"
            self._connect_failed(conn, text, reason)
            return
        self.broken = (*self.broken, (conn, broken.text))
        if self.cancelled and conn == MAIN:
            self._cancel_now()
        elif conn == MAIN and self.settings.return_path and not self.shut:
            self._return_path_failed(f"Unable to read from socket: {broken.text}", "generic")
        if conn in self.undrained:
            self._write_failed(conn, broken.text)
        else:
            self._advance()

    def _connect_failed(self, conn: int, text: str, reason: str) -> None:
        if self.cancelled:
            self._cancel_now()
        elif self.channels[conn] == "preempt":
            self.preempt_error = text, reason
            self._advance()
        else:
            self._fail(text, reason)

    def _return_path_failed(self, text: str, reason: str) -> None:
        told = (text, reason) if self.rules.tells_manager else ("", "none")
        self.return_path_error = self.return_path_error or told

    def _on_drained(self, drained: i.Drained) -> None:
        self.undrained = tuple(c for c in self.undrained if c != drained.conn)
        self._advance()

    # --- the guest --------------------------------------------------------------------------------------------------
    def _on_ramcollected(self, ram: i.RamCollected) -> None:
        """One pass over guest memory. With multifd its pages go first, and main's part when they are gone."""
        self.part = (ram.size_bytes, self.stage == "collect-last", ram.converged)
        if not self._in_postcopy:
            self._write_multifd(ram.size_bytes)
        self.stage = "part"
        self._advance()

    def _stage_part(self) -> None:
        size_bytes, last, converged = self.part
        self._write_ram(size_bytes, last)
        if last:
            self.stage = "devices"
        elif converged:
            self.stage = "switch" if self.acked or not self.settings.has("switchover-ack") else "wait-ack"
        else:
            self.stage = "pass"

    def _on_gueststopped(self, _: i.GuestStopped) -> None:
        self.stopped = True
        self._advance()

    # --- the migration thread ---------------------------------------------------------------------------------------
    def _advance(self) -> None:
        """Go on as far as nothing stands in the way."""
        while not self._over and not self.cancelled:
            before = self.stage
            if self.undrained:
                return
            if self.stage not in WAITS:
                getattr(self, "_stage_" + self.stage.replace("-", "_"))()
            if self.stage == before:
                return

    def _stage_channels(self) -> None:
        """Header first (7.2), or first all connections (10.0)."""
        there = all(c in self.ready for c in self._multifd())
        if self.rules.waits_for_channels and not there:
            return
        if self.settings.return_path:
            opening, named = self._opening()
            self._write(MAIN, opening, 0, named)
            self.stage = "setup" if there else "late-channels"
        elif there:
            self.stage = "setup"

    def _stage_late_channels(self) -> None:
        if all(c in self.ready for c in self._multifd()):
            self.stage = "setup"

    def _opening(self) -> tuple[bytes, str]:
        """Header and first commands; without a return path they wait in the buffer for the first flush."""
        told, named = stream.header(self.settings), ["QEVM", f"CONFIGURATION {self.settings.machine.type}"]
        if self.settings.return_path:
            told += stream.command(stream.OPEN_RETURN_PATH)
            told += stream.command(stream.PING, struct.pack(">I", return_path.FIRST_PING))
            named += ["OPEN_RETURN_PATH", f"PING {return_path.FIRST_PING}"]
        if self.settings.has("postcopy-ram"):
            told += stream.postcopy_advise(self.settings.machine)
            named.append("POSTCOPY_ADVISE")
        return told, ", ".join(named)

    def _stage_setup(self) -> None:
        """Setup sections; a SYNC on each multifd channel goes before main's first flush."""
        self._write_multifd(0)
        data = stream.ram_start(self.rules.ram_section, self.settings, self._flushes)
        named = "START ram"
        if not self.settings.return_path:
            opening, named = self._opening()
            data, named = opening + data, f"{named}, START ram"
        self._write(MAIN, data, 0, named)
        if self.finished is None:
            self._enter("active", "snapshot" if self.settings.has("background-snapshot") else "pass")

    def _stage_snapshot(self) -> None:
        """The guest stands still while its device state is taken, and then runs on here (bg_migration_thread)."""
        self._out.append(i.StopGuest())
        self.stage = "taking"

    def _stage_taking(self) -> None:
        if self.stopped:
            self.stopped, self.stage = False, "collect-last"
            self._out += [i.ResumeGuest(), i.CollectRam(last=True)]

    def _stage_pass(self) -> None:
        if self.postcopy:
            self.stage = "wait-pong"
            return
        self.stage = "collect"
        self._out.append(i.CollectRam(first=not self.collected))
        self.collected = True

    def _stage_switch(self) -> None:
        self._stop("stopping")

    def _stop(self, stage: str) -> None:
        if not self.stopped:
            self.stage = stage
            if self.rules.says_device and not self.holds:
                self._enter("device", stage)
            self._out.append(i.StopGuest())

    def _stage_wait_ack(self) -> None:
        """switchover-ack has no timeout: a destination without it never says it."""
        if self.acked or self.postcopy:
            self.stage = "pass"

    def _held(self) -> bool:
        """pause-before-switchover: the stopped guest waits for `migrate-continue` (migration_maybe_pause)."""
        if self.holds and self.status != "pre-switchover":
            self._enter("pre-switchover", self.stage)
        return self.holds

    def _stage_stopping(self) -> None:
        if self.stopped and not self._held():
            self.stage = "collect-last"
            self._out.append(i.CollectRam(last=True))

    def _stage_wait_pong(self) -> None:
        """The preempt channel of newer machine types waits for the first PONG: proof that main is up (D4)."""
        preempt = self.settings.has("postcopy-preempt")
        if preempt and not self.rules.preempt_at_start and not self.ponged:
            return
        if preempt and "preempt" not in self.channels:
            self._open("preempt")
        self.stage = "wait-preempt"

    def _stage_wait_preempt(self) -> None:
        if self.preempt_error is not None:  # postcopy_preempt_wait_channel
            self._fail(*self.preempt_error)
            return
        if self.settings.has("postcopy-preempt") and self.channels.index("preempt") not in self.ready:
            return
        self._stop("wait-stop")

    def _stage_wait_stop(self) -> None:
        """The package: device state first, so that the guest can run there while its memory is still here."""
        if not self.stopped or self._held():
            return
        devices = stream.joined(stream.device_state(3, self.settings.machine))
        inner = stream.command(stream.POSTCOPY_LISTEN)
        run = stream.command(stream.POSTCOPY_RUN)
        if self.rules.loads_first:
            run = stream.command(stream.PING, struct.pack(">I", return_path.PACKAGE_LOADED)) + run
        size = len(inner) + sum(len(d) + f for d, f in devices) + len(run)
        start = stream.command(stream.PACKAGED, struct.pack(">I", size)) + inner
        self._write_pieces([(start, 0), *devices, (run, 0)], "PACKAGED devices, RUN")
        if self.finished is None:
            self._enter("postcopy-device" if self.rules.loads_first else "postcopy-active", "collect-last")
            self._out.append(i.CollectRam(last=True))

    def _stage_devices(self) -> None:
        """QEMUFile writes its buffer whenever that is full (32 KiB): a destination can fail on one device, and the
        source meet it, while others are yet to be saved."""
        if not self._in_postcopy:
            self._write_pieces(stream.joined(stream.device_state(3, self.settings.machine)), "devices")
        self.stage = "end"

    def _stage_end(self) -> None:
        self._write(MAIN, stream.end_of_stream(b"" if self._in_postcopy else DESCRIPTION), 0, "EOF")
        self.stage = "last"

    def _stage_last(self) -> None:
        """All bytes are in the socket. With a return path that is not the end."""
        if not self.settings.return_path:
            self._complete()
        else:
            self.stage = "wait-shut"

    def _stage_wait_shut(self) -> None:
        if self.return_path_error is not None:
            self._fail(*self.return_path_error)
        elif self.shut:
            self._complete()

    def _complete(self) -> None:
        self._enter("completed", "done")
        self._close_all()
        self._finish(i.Finished("completed"))

    # --- writing ----------------------------------------------------------------------------------------------------
    @property
    def _flushes(self) -> bool:
        """Machine types from 8.1 on say when channels synchronise; for older ones every end of section does."""
        return bool(self.settings.channels) and self.settings.machine.machine_version > (8, 0)

    def _multifd(self) -> list[int]:
        return [c for c, name in enumerate(self.channels) if name.startswith("multifd")]

    def _write_multifd(self, size_bytes: int) -> None:
        parts = stream.multifd_pass(self._multifd(), size_bytes, self.settings.compression, self.packets)
        for lane, piece, named in parts:
            self.packets += 1
            self._write(lane, *piece, named)

    def _write_ram(self, size_bytes: int, last: bool) -> None:
        """Main's part of a pass: its section, and without multifd the pages themselves."""
        kind = stream.END if last else stream.PART
        lanes = [] if self._in_postcopy else self._multifd()
        urgent = 0
        if self._in_postcopy and "preempt" in self.channels:
            urgent = size_bytes // 8 & ~4095
            self._write_urgent(urgent)
        on_main = 0 if lanes else size_bytes - urgent
        pieces = stream.ram_pass(self.rules.ram_section, self.settings, on_main, self._flushes and bool(lanes), kind)
        self._write_pieces(pieces, "END ram" if last else "PART ram")

    def _write_urgent(self, size_bytes: int) -> None:
        """Pages that the guest waits for go on the preempt channel; one that its peer has closed swallows them without
        a word (measured: the guest then runs on wrong memory), one that was reset before fails the write."""
        conn = self.channels.index("preempt")
        if conn in dict(self.broken):
            self._write_failed(conn, dict(self.broken)[conn])
        else:
            data = struct.pack(">Q", size_bytes | stream.RAM_PAGE) + b"\x06pc.ram"
            self._out += [i.Said(conn, "urgent pages"), i.Send(conn, data, size_bytes)]

    def _write_pieces(self, pieces: list[stream.Piece], named: str) -> None:
        for data, fill in pieces:
            self._write(MAIN, data, fill, named)
            named = ""

    def _write(self, conn: int, data: bytes, fill: int, named: str) -> None:
        if self._over:
            return
        if conn in dict(self.broken):
            self._write_failed(conn, dict(self.broken)[conn])
        elif conn == MAIN and self.return_path_error is not None and not self.rules.tells_manager:
            self._write_failed(conn, "Bad file descriptor")  # 7.2 has shut the file
        else:
            if named:
                self._out.append(i.Said(conn, named))
            self._out.append(i.Send(conn, data, fill))
            if conn not in self.undrained:
                self.undrained = (*self.undrained, conn)

    def _write_failed(self, conn: int, why: str) -> None:
        """7.2 keeps no text of what fails on main once the guest is stopped (migration_completion; measured)."""
        if conn == MAIN and self.stopped and not self.rules.tells_manager:
            self._fail("", "none")
        elif self.return_path_error is not None and self.return_path_error[0]:
            self._fail(*self.return_path_error)
        elif self.settings.tls and self.rules.corks_tls:
            self._fail("Cannot uncork TLS output: Error in the push function.", "specific")
        else:
            self._fail(f"Unable to write to socket: {why}", "generic")

    # --- endings ----------------------------------------------------------------------------------------------------
    def _enter(self, status: str, stage: str) -> None:
        self.status, self.stage = status, stage
        self._out.append(i.Entered(status))

    @property
    def _over(self) -> bool:
        """Nothing more is written; what paused waits for a recovery that nobody here asks for."""
        return self.finished is not None or self.status == "postcopy-paused"

    def _fail(self, text: str, reason: str) -> None:
        if self._over:
            return
        if self.status == "postcopy-active":  # the guest may run there already: nobody may resume it here
            self._enter("postcopy-paused", "paused")
            self._close_all()
            return
        self._enter("failing" if self.rules.says_failing else "failed", "done")
        self._close_all()
        self._out.append(i.ResumeGuest())
        if self.rules.says_failing:
            self._enter("failed", "done")
        self._finish(i.Finished("failed", text, reason))

    def _close_all(self) -> None:
        """All connections; but after a failure 7.2 keeps main while its return-path thread reads on (measured: the
        destination is not told)."""
        held = self.status == "failed" and not self.rules.tells_manager and self.settings.return_path
        held = held and self.return_path_error is None
        self._out += [i.Drop(conn) for conn in range(len(self.channels)) if conn != MAIN or not held]

    def _finish(self, finished: i.Finished) -> None:
        self.finished = finished
        self._out.append(finished)
