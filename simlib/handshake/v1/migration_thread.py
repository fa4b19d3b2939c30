"""v1's migration thread: what it writes, stage after stage, and how it ends (migration/migration.c, ram.c, savevm.c).

It stands still where QEMU's does: in connect, in a write that the transport has not taken (`undrained`), and at the end
in the wait for SHUT. None of these waits has a timeout.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import ClassVar

from .. import interface as i
from .. import return_path, stream
from ..endpoint import as_overridden
from ..errors import OurMistake
from ..machine import Settings
from ..names import Reason, Status
from ..versions import behaviour, flushes_by_command
from .answers import SourceAnswers
from .states import NEXT, Stage

MAIN = 0
DESCRIPTION = b'{"page_size": 4096, "devices": []}'  # at the stream's end, for people (vmdesc, savevm.c)


class MigrationThread(SourceAnswers):
    """The state of a migration at its source, and the thread that drives it."""

    _steps: ClassVar[Mapping[Stage, Callable[..., None]]] = {}

    def __init_subclass__(cls) -> None:
        """Look the steps up once for each class, with what it overrides."""
        super().__init_subclass__()
        cls._steps = as_overridden(cls, cls.STEPS)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.rules = behaviour(settings.version)
        self.stage: Stage = Stage.NONE
        self.channels: tuple[str, ...] = ("main",)  # connection number -> what it was opened for
        self.ready: tuple[int, ...] = ()  # connected, and TLS done
        self.undrained: tuple[int, ...] = ()
        self.broken: tuple[tuple[int, str], ...] = ()
        self.return_path_error: tuple[str, Reason] | None = None
        self.preempt_error: tuple[str, Reason] | None = None  # missed only when postcopy is to start
        self.ponged = self.acked = self.shut = self.postcopy = self.stopped = self.cancelled = False
        self.collected = False
        self.holds = settings.has("pause-before-switchover")
        self.packets = 0
        self.part = (0, False, False)  # bytes of the pass, whether it is the last, whether the rest fits

    def _open(self, channel: str) -> None:
        """One more connection, numbered in the order of asking."""
        self._out.append(i.Open(len(self.channels), channel))
        self.channels = (*self.channels, channel)

    @property
    def _in_postcopy(self) -> bool:
        """Begun, not only asked for: once the rest fits, who asks is too late (migration_iteration_run)."""
        return self.status.startswith("postcopy-")

    # --- the guest ----------------------------------------------------------------------------------------------------
    def _ram_collected(self, ram: i.RamCollected) -> None:
        """One pass over guest memory. With multifd its pages go first, and main's part when they are gone."""
        self.part = (ram.size_bytes, self.stage == Stage.COLLECT_LAST, ram.converged)
        if not self._in_postcopy:
            self._write_multifd(ram.size_bytes)
        self._to(Stage.PART)
        self._advance()

    def _at_part(self) -> None:
        """Main's part of a pass, and where the thread goes on (migration_iteration_run, migration.c): once the rest
        fits the downtime limit, to the switch, or to the wait for switchover-ack."""
        size_bytes, last, converged = self.part
        self._write_ram(size_bytes, last)
        if last:
            self._to(Stage.DEVICES)
        elif converged:
            self._to(Stage.SWITCH if self.acked or not self.settings.has("switchover-ack") else Stage.WAIT_ACK)
        else:
            self._to(Stage.PASS)

    def _guest_stopped(self, _: i.GuestStopped) -> None:
        """The last pass may begin."""
        self.stopped = True
        self._advance()

    # --- the migration thread ---------------------------------------------------------------------------------------
    def _advance(self) -> None:
        """Go on as far as nothing stands in the way."""
        while not self._over and not self.cancelled:
            before = self.stage
            if self.undrained:
                return
            step = self._steps.get(self.stage)
            if step is not None:
                step(self)
            if self.stage == before:
                return

    def _at_channels(self) -> None:
        """Header first (7.2), or first all connections (10.0)."""
        there = all(c in self.ready for c in self._multifd())
        if self.rules.waits_for_channels and not there:
            return
        if self.settings.return_path:
            opening, named = self._opening()
            self._write(MAIN, opening, 0, named)
            self._to(Stage.SETUP if there else Stage.LATE_CHANNELS)
        elif there:
            self._to(Stage.SETUP)

    def _at_late_channels(self) -> None:
        """7.2 has written its header before all channels are connected, and waits now (multifd_send_sync_main)."""
        if all(c in self.ready for c in self._multifd()):
            self._to(Stage.SETUP)

    def _opening(self) -> tuple[bytes, str]:
        """Header and first commands; without a return path they wait in the buffer for the first flush."""
        data, named = stream.header(self.settings), ["QEVM", f"CONFIGURATION {self.settings.machine.type}"]
        if self.settings.return_path:
            data += stream.command(stream.OPEN_RETURN_PATH)
            data += stream.command(stream.PING, struct.pack(">I", return_path.FIRST_PING))
            named += ["OPEN_RETURN_PATH", f"PING {return_path.FIRST_PING}"]
        if self.settings.has("postcopy-ram"):
            data += stream.postcopy_advise(self.settings.machine)
            named.append("POSTCOPY_ADVISE")
        return data, ", ".join(named)

    def _at_setup(self) -> None:
        """Setup sections; a SYNC on each multifd channel goes before main's first flush."""
        self._write_multifd(0)
        data = stream.ram_start(self.rules.ram_section, self.settings, self._flushes)
        named = "START ram"
        if not self.settings.return_path:
            opening, named = self._opening()
            data, named = opening + data, f"{named}, START ram"
        self._write(MAIN, data, 0, named)
        if self.finished is None:
            self._to(Stage.SNAPSHOT if self.settings.has("background-snapshot") else Stage.PASS)
            self._report_status(Status.ACTIVE)

    def _at_snapshot(self) -> None:
        """The guest stands still while its device state is taken, and then runs on here (bg_migration_thread)."""
        self._out.append(i.StopGuest())
        self._to(Stage.TAKING)

    def _at_taking(self) -> None:
        """The snapshot's device state was taken: the guest runs on here while its memory is saved."""
        if self.stopped:
            self.stopped = False
            self._to(Stage.COLLECT_LAST)
            self._out += [i.ResumeGuest(), i.CollectRam(last=True)]

    def _at_pass(self) -> None:
        """Another pass over dirty memory, unless postcopy was asked for."""
        if self.postcopy:
            self._to(Stage.WAIT_PONG)
            return
        self._to(Stage.COLLECT)
        self._out.append(i.CollectRam(first=not self.collected))
        self.collected = True

    def _at_switch(self) -> None:
        """The rest fits: the guest stops for the last pass (migration_completion_precopy, migration.c)."""
        self._stop(Stage.STOPPING)

    def _stop(self, stage: Stage) -> None:
        """Stop the guest, once; from 10.0 on the status is `device` then."""
        if not self.stopped:
            self._to(stage)
            if self.rules.says_device and not self.holds:
                self._report_status(Status.DEVICE)
            self._out.append(i.StopGuest())

    def _at_wait_ack(self) -> None:
        """switchover-ack has no timeout: a destination without it never sends ACK."""
        if self.acked or self.postcopy:
            self._to(Stage.PASS)

    def _held(self) -> bool:
        """pause-before-switchover: the stopped guest waits for `migrate-continue` (migration_maybe_pause)."""
        if self.holds and self.status != Status.PRE_SWITCHOVER:
            self._report_status(Status.PRE_SWITCHOVER)
        return self.holds

    def _at_stopping(self) -> None:
        """The guest stands still: the last pass, unless pause-before-switchover wants `migrate-continue` first."""
        if self.stopped and not self._held():
            self._to(Stage.COLLECT_LAST)
            self._out.append(i.CollectRam(last=True))

    def _at_wait_pong(self) -> None:
        """The preempt channel of newer machine types waits for the first PONG: proof that main is up (D4)."""
        preempt = self.settings.has("postcopy-preempt")
        if preempt and not self.rules.preempt_at_start and not self.ponged:
            return
        if preempt and "preempt" not in self.channels:
            self._open("preempt")
        self._to(Stage.WAIT_PREEMPT)

    def _at_wait_preempt(self) -> None:
        """Postcopy waits for the preempt channel to be connected, without a timeout
        (postcopy_preempt_establish_channel)."""
        if self.preempt_error is not None:  # postcopy_preempt_wait_channel
            self._fail(*self.preempt_error)
            return
        if self.settings.has("postcopy-preempt") and self.channels.index("preempt") not in self.ready:
            return
        self._stop(Stage.WAIT_STOP)

    def _at_wait_stop(self) -> None:
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
            self._to(Stage.COLLECT_LAST)
            self._report_status(Status.POSTCOPY_DEVICE if self.rules.loads_first else Status.POSTCOPY_ACTIVE)
            self._out.append(i.CollectRam(last=True))

    def _at_devices(self) -> None:
        """QEMUFile writes its buffer whenever that is full (32 KiB): a destination can fail on one device, and the
        source meet it, while others are yet to be saved."""
        if not self._in_postcopy:
            self._write_pieces(stream.joined(stream.device_state(3, self.settings.machine)), "devices")
        self._to(Stage.END)

    def _at_end(self) -> None:
        """EOF, and for precopy the description of all devices (qemu_savevm_state_complete_precopy, savevm.c)."""
        self._write(MAIN, stream.end_of_stream(b"" if self._in_postcopy else DESCRIPTION), 0, "EOF")
        self._to(Stage.LAST)

    def _at_last(self) -> None:
        """All bytes are in the socket. With a return path that is not the end."""
        if not self.settings.return_path:
            self._complete()
        else:
            self._to(Stage.WAIT_SHUT)

    def _at_wait_shut(self) -> None:
        """With a return path the destination has the last word: SHUT, with or without an error. There is no timeout
        (await_return_path_close_on_source, migration.c)."""
        if self.return_path_error is not None:
            self._fail(*self.return_path_error)
        elif self.shut:
            self._complete()

    def _complete(self) -> None:
        """The guest is the destination's, as far as this side knows."""
        self._to(Stage.DONE)
        self._report_status(Status.COMPLETED)
        self._close_all()
        self._finish(i.Finished(Status.COMPLETED))

    # --- writing ----------------------------------------------------------------------------------------------------
    @property
    def _flushes(self) -> bool:
        """Machine types from 8.1 on say when channels synchronise; for older ones every end of section does."""
        return bool(self.settings.channels) and flushes_by_command(self.settings.machine.machine_version)

    def _multifd(self) -> list[int]:
        """The connections of multifd's channels."""
        return [c for c, name in enumerate(self.channels) if name.startswith("multifd")]

    def _write_multifd(self, size_bytes: int) -> None:
        """One pass on multifd's channels, with a SYNC behind it on each (multifd_send_sync_main, multifd.c)."""
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
        """Several pieces on main, of which the first is named in the trace."""
        for data, fill in pieces:
            self._write(MAIN, data, fill, named)
            named = ""

    def _write(self, conn: int, data: bytes, fill: int, named: str) -> None:
        """Write on a connection, if it still can be written to; the thread waits until the transport has taken it."""
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
            self._fail("", Reason.NONE)
        elif self.return_path_error is not None and self.return_path_error[0]:
            self._fail(*self.return_path_error)
        elif self.settings.tls and self.rules.corks_tls:
            self._fail("Cannot uncork TLS output: Error in the push function.", Reason.SPECIFIC)
        else:
            self._fail(f"Unable to write to socket: {why}", Reason.GENERIC)

    # --- endings ----------------------------------------------------------------------------------------------------
    def _to(self, stage: Stage) -> None:
        """The one writer of `stage`. Where a write has failed on the way here, it is over and the stage means nothing
        any more."""
        ended = (Stage.DONE, Stage.PAUSED)
        if stage not in NEXT[self.stage] and stage not in ended and not self._over:
            raise OurMistake(f"stage {stage} after {self.stage}")
        self.stage = stage

    @property
    def _over(self) -> bool:
        """Nothing more is written; what paused waits for a recovery that nobody here asks for."""
        return self.finished is not None or self.status == Status.POSTCOPY_PAUSED

    def _fail(self, text: str, reason: Reason) -> None:
        """The migration has failed: the guest goes on here (migration_iteration_finish), unless it may already run
        at the destination. Then it is paused, for a recovery (postcopy_pause, migration.c)."""
        if self._over:
            return
        if self.status == Status.POSTCOPY_ACTIVE:  # the guest may run there already: nobody may resume it here
            self._to(Stage.PAUSED)
            self._report_status(Status.POSTCOPY_PAUSED)
            self._close_all()
            return
        self._to(Stage.DONE)
        self._report_status(Status.FAILING if self.rules.says_failing else Status.FAILED)
        self._close_all()
        self._out.append(i.ResumeGuest())
        if self.rules.says_failing:
            self._report_status(Status.FAILED)
        self._finish(i.Finished(Status.FAILED, text, reason))

    def _close_all(self) -> None:
        """All connections; but after a failure 7.2 keeps main while its return-path thread reads on (measured: the
        destination does not notice)."""
        keeps_main = self.status == Status.FAILED and not self.rules.tells_manager and self.settings.return_path
        keeps_main = keeps_main and self.return_path_error is None
        self._out += [i.Drop(conn) for conn in range(len(self.channels)) if conn != MAIN or not keeps_main]

    STEPS: ClassVar[Mapping[Stage, Callable[..., None]]] = {  # in the other stages somebody else must act
        Stage.CHANNELS: _at_channels,
        Stage.LATE_CHANNELS: _at_late_channels,
        Stage.SETUP: _at_setup,
        Stage.SNAPSHOT: _at_snapshot,
        Stage.TAKING: _at_taking,
        Stage.PASS: _at_pass,
        Stage.SWITCH: _at_switch,
        Stage.WAIT_ACK: _at_wait_ack,
        Stage.STOPPING: _at_stopping,
        Stage.WAIT_PONG: _at_wait_pong,
        Stage.WAIT_PREEMPT: _at_wait_preempt,
        Stage.WAIT_STOP: _at_wait_stop,
        Stage.DEVICES: _at_devices,
        Stage.END: _at_end,
        Stage.LAST: _at_last,
        Stage.WAIT_SHUT: _at_wait_shut,
        Stage.PART: _at_part,
    }
