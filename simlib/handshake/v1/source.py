"""v1's source: what `migrate` does in QEMU, in its order of operations (migration/migration.c, multifd.c).

An error on the return path is stored and noticed at the next write or at the end, as in life.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import ClassVar

from .. import interface as i
from .. import return_path, stream
from ..buffer import Buffer
from ..capabilities import refusal
from ..endpoint import reducible
from ..machine import Settings
from ..names import Reason, Status
from ..return_path import Reply
from ..versions import opens_preempt_early
from .migration_thread import MAIN, MigrationThread
from .states import Stage


@reducible
class Source(MigrationThread):
    """The side whose guest is to move.

    Args:
        settings: the source's alone: v1 never learns the destination's.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.securing: tuple[int, ...] = ()  # connected, for TLS
        self.replies = Buffer()

    @property
    def blocked(self) -> bool:
        """The monitor does not answer: QEMU runs the client's TLS handshake in its main loop."""
        return self.stage == Stage.TLS

    # --- management -------------------------------------------------------------------------------------------------
    def _start(self, _: i.Start) -> None:
        """`migrate`: QMP refuses settings that exclude each other; then main is connected (qmp_migrate,
        migration.c)."""
        refused = refusal(self.settings, at_source=True)
        if refused:
            self._finish(i.Finished(Status.REJECTED, refused, Reason.SPECIFIC, listening=True))
            return
        self._to(Stage.CONNECT)
        self._report_status(Status.SETUP)
        self._out.append(i.Open(MAIN, "main"))

    def _cancel(self, cancel: i.Cancel) -> None:
        """`migrate_cancel` (migration_cancel, migration.c): shuts the connections down, which wakes a blocked write."""
        if self._in_postcopy:  # "Postcopy migration in progress, cannot cancel."; before 10.0 it ends, without a guest
            if self.status == Status.POSTCOPY_ACTIVE and not self.rules.keeps_postcopy:
                self._to(Stage.DONE)
                self._report_status(Status.CANCELLING)
                self._close_all()
                self._finish(i.Finished(Status.CANCELLED, "", Reason.NONE))
            return
        self.cancelled = True
        self._report_status(Status.CANCELLING)
        # A wait for connections is not woken by cancel (measured on 10.0 and 11.1); a blocked write is. Nor is the wait
        # for SHUT on a pipe, which can't be shut down as a socket can (measured on 7.2 and 10.0, exec:cat).
        waits = self.stage in (Stage.CONNECT, Stage.TLS) or (
            self.stage == Stage.CHANNELS and self.rules.waits_for_channels
        )
        if not waits and (self.stage != Stage.WAIT_SHUT or self.settings.transport != "exec"):
            self._cancel_now()

    def _cancel_now(self) -> None:
        """The guest goes on here."""
        self._close_all()
        self._out.append(i.ResumeGuest())
        self._finish(i.Finished(Status.CANCELLED, "", Reason.NONE))

    def _switch_to_postcopy(self, _: i.SwitchToPostcopy) -> None:
        """`migrate-start-postcopy`, obeyed between two passes."""
        self.postcopy = self.postcopy or self.settings.has("postcopy-ram")
        self._advance()

    def _continue(self, _: i.Continue) -> None:
        """`migrate-continue` releases pause-before-switchover (qmp_migrate_continue, migration.c)."""
        if self.status == Status.PRE_SWITCHOVER:
            self.holds = False
            if self.stage == Stage.STOPPING or self.rules.says_device:
                self._report_status(Status.DEVICE)
            self._advance()

    # --- the link ---------------------------------------------------------------------------------------------------
    def _opened(self, opened: i.Opened) -> None:
        """Connected. With tls-creds the client's TLS handshake follows (migration_channel_connect, channel.c)."""
        if self.cancelled:
            self._cancel_now()
        elif self.settings.tls:
            if opened.conn == MAIN:
                self._to(Stage.TLS)
            self.securing = (*self.securing, opened.conn)
            self._out.append(i.StartTls(opened.conn))
        else:
            self._connected(opened.conn)

    def _secured(self, secured: i.Secured) -> None:
        """TLS is up on that connection."""
        self._connected(secured.conn)

    def _tls_failed(self, failed: i.TlsFailed) -> None:
        """It ends the attempt: the text is what `query-migrate` shows as error-desc."""
        self._connect_failed(failed.conn, f"TLS handshake failed: {failed.text}", Reason.SPECIFIC)

    def _connected(self, conn: int) -> None:
        """Main opens the other channels (migrate_fd_connect, migration.c); a multifd channel names itself at once
        (multifd_send_initial_packet, multifd.c)."""
        self.ready = (*self.ready, conn)
        if conn == MAIN:
            if self.settings.return_path and self.settings.transport == "file":
                self.return_path_error = ("Unable to read from file: Bad file descriptor", Reason.GENERIC)
            if not self.settings.return_path:
                self._out.append(i.Pause(MAIN))  # nobody reads it: what comes is still unread when it closes
            self._open_channels()
            self._to(Stage.CHANNELS)
        elif (name := self.channels[conn]).startswith("multifd"):
            number = int(name.removeprefix("multifd[").removesuffix("]"))
            self._write(conn, stream.multifd_initial(self.settings.machine, number), 0, "initial packet")
        self._advance()

    def _open_channels(self) -> None:
        """The further connections, all at once: their order of arrival is anybody's guess."""
        if self.settings.channels and self.settings.transport in ("exec", "fd"):
            self._fail("", Reason.NONE)  # 7.2 fails here without a word; newer ones refused at `migrate`
            return
        early = self.rules.preempt_at_start or opens_preempt_early(self.settings.machine.machine_version)
        if self.settings.has("postcopy-preempt") and early:
            self._open("preempt")
        for index in range(self.settings.channels):
            self._open(f"multifd[{index}]")

    def _received(self, received: i.Received) -> None:
        """The return-path thread: heads are checked before payloads (source_return_path_thread, migration.c)."""
        if received.conn != MAIN or not self.settings.return_path or self.return_path_error:
            return
        self.replies = self.replies.add(received.data, received.fill)
        while self.return_path_error is None and len(self.replies) >= 4:
            kind, size = struct.unpack(">HH", self.replies.peek(4))
            if wrong := return_path.wrong(kind, size):
                self._return_path_failed(wrong, Reason.SPECIFIC)
                self._out.append(i.Pause(MAIN))  # nobody reads it any more
            elif len(self.replies) < 4 + size:
                return
            else:
                payload = self.replies.skip(4).peek(size)
                self.replies = self.replies.skip(4 + size)
                self._reply(kind, payload)
        self._advance()

    def _reply(self, kind: int, payload: bytes) -> None:
        """One message of the return path: SHUT ends it, PONG answers a PING, ACK releases the switchover."""
        value = struct.unpack(">I", payload)[0] if len(payload) == 4 else 0
        self._out.append(i.Heard(MAIN, f"{return_path.NAMES[kind]} {value}" if payload else return_path.NAMES[kind]))
        if kind == Reply.SHUT and value:
            self._return_path_failed(f"Sibling indicated error {value}", Reason.SPECIFIC)
        elif kind == Reply.SHUT:
            self.shut = True
        elif kind == Reply.PONG:
            self.ponged = True
            if value == return_path.PACKAGE_LOADED and self.status == Status.POSTCOPY_DEVICE:
                self._report_status(Status.POSTCOPY_ACTIVE)
        elif kind == Reply.ACK:
            self.acked = True

    def _ended(self, ended: i.Ended) -> None:
        """The peer closed without SHUT: an error for the return path, and nothing at all without one."""
        if self.cancelled and ended.conn == MAIN:
            self._cancel_now()
        elif ended.conn == MAIN and self.settings.return_path and not self.shut:
            self._return_path_failed(*return_path.ended(bool(self.settings.tls)))
            self._advance()

    def _broken(self, broken: i.Broken) -> None:
        """A reset: seen by who reads the return path, by a write that is under way, or by the next one."""
        conn = broken.conn
        if conn not in self.ready:
            text, reason = f"Failed to connect: {broken.text}", Reason.GENERIC
            if conn in self.securing:
                text, reason = "TLS handshake failed: Error in the pull function.", Reason.SPECIFIC
                if self.rules.tells_tls_errno:
                    text, reason = f"{text}: Unable to read from socket: {broken.text}", Reason.GENERIC
            self._connect_failed(conn, text, reason)
            return
        self.broken = (*self.broken, (conn, broken.text))
        if self.cancelled and conn == MAIN:
            self._cancel_now()
        elif conn == MAIN and self.settings.return_path and not self.shut:
            self._return_path_failed(f"Unable to read from socket: {broken.text}", Reason.GENERIC)
        if conn in self.undrained:
            self._write_failed(conn, broken.text)
        else:
            self._advance()

    def _connect_failed(self, conn: int, text: str, reason: Reason) -> None:
        """A channel could not be connected. Of the preempt channel that is noticed only when postcopy begins."""
        if self.cancelled:
            self._cancel_now()
        elif self.channels[conn] == "preempt":
            self.preempt_error = text, reason
            self._advance()
        else:
            self._fail(text, reason)

    def _return_path_failed(self, text: str, reason: Reason) -> None:
        """The first error counts. Up to 8.1 it is printed, and the manager reads nothing (migration.c)."""
        error = (text, reason) if self.rules.tells_manager else ("", Reason.NONE)
        self.return_path_error = self.return_path_error or error

    def _drained(self, drained: i.Drained) -> None:
        """The transport has taken everything of that connection: the thread may go on."""
        self.undrained = tuple(c for c in self.undrained if c != drained.conn)
        self._advance()

    HANDLERS: ClassVar[Mapping[type, Callable[..., None]]] = {
        i.Start: _start,
        i.Cancel: _cancel,
        i.SwitchToPostcopy: _switch_to_postcopy,
        i.Continue: _continue,
        i.Opened: _opened,
        i.Secured: _secured,
        i.TlsFailed: _tls_failed,
        i.Received: _received,
        i.Ended: _ended,
        i.Broken: _broken,
        i.Drained: _drained,
        i.RamCollected: MigrationThread._ram_collected,
        i.GuestStopped: MigrationThread._guest_stopped,
    }
