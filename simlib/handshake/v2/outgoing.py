"""The guest's data at v2's source: the stream of v1 on the agreed channels, a stage after the other.

The stream is written here, or, where the channels carry that of a QEMU (`relays`), somebody else writes it and reports
its end. What the handshake needs to know of it is `stage`.
"""

from __future__ import annotations

import struct

from .. import interface as i
from .. import return_path, stream
from ..buffer import Buffer
from ..errors import Code, OurMistake, PeerError
from ..machine import Settings
from ..names import Status
from ..return_path import Reply
from . import frames
from .agreement import agreed_settings
from .answers import CONTROL, SourceAnswers
from .config import SessionConfig
from .features import Agreement
from .frames import Frame
from .states import STAGES, Event, SourceState, Stage

RAM_SECTION = 1


class Outgoing(SourceAnswers):
    """What a source does between READY and LOADED."""

    def __init__(self, settings: Settings, session_config: SessionConfig) -> None:
        super().__init__(settings, session_config, SourceState.CONNECTING)
        self.agreement = Agreement()
        self.channels: tuple[str, ...] = ("control",)
        self.undrained: tuple[int, ...] = ()
        self.stage: Stage = Stage.BEFORE
        self.stopped = self.converged = self.postcopy = self.collected = False
        self.postcopy_ordered = False  # by the manager
        self.packets = 0
        self.replies = Buffer()  # of main's return path, not yet understood
        self.acked = False  # SWITCHOVER_ACK has come
        self.requested = 0  # pages, not yet sent

    @property
    def inline(self) -> bool:
        """Control carries the stream: there is one connection."""
        return self.settings.transport not in ("tcp", "unix")

    def _stage_to(self, stage: Stage) -> None:
        """The one writer of `stage`."""
        if stage not in STAGES[self.stage]:
            raise OurMistake(f"stage {stage} after {self.stage}")
        self.stage = stage

    # --- passes over guest memory -----------------------------------------------------------------------------------
    def _ram_collected(self, ram: i.RamCollected) -> None:
        """One pass: multifd's packets on the lanes, and main's section, with the pages where there are no lanes. The
        last pass is followed by the devices, or, in postcopy, by the end of the stream alone."""
        if self.stage not in (Stage.COLLECT, Stage.COLLECT_LAST) or self.state == SourceState.CLOSING:
            return
        last = self.stage == Stage.COLLECT_LAST
        self.converged = ram.converged
        lanes = [] if self.postcopy else [c for c, n in enumerate(self.channels) if n.startswith("multifd")]
        compression = str(self.agreement.parameter("multifd", "compression", "none"))
        for lane, piece, _ in stream.multifd_pass(lanes, ram.size_bytes, compression, self.packets):
            self.packets += 1
            self._write(lane, *piece)
        kind = stream.END if last else stream.PART
        agreed = self._agreed_settings  # what was skipped must not be on the wire
        for piece in stream.ram_pass(RAM_SECTION, agreed, 0 if lanes else ram.size_bytes, bool(lanes), kind):
            self._write_main(*piece)
        if last and not self.postcopy:
            self._give_up_without_go()
        if last:
            devices = [] if self.postcopy else list(stream.device_state(3, self.settings.machine))
            pieces = [*devices, (stream.end_of_stream(b"" if self.postcopy else b"{}"), 0)]
            for piece in stream.joined(pieces):
                self._write_main(*piece)
        self._stage_to(Stage.SENT if last else Stage.RAM)
        self._advance()

    def _collect(self, last: bool) -> None:
        """Ask for the next pass over guest memory; the first begins anew."""
        self._stage_to(Stage.COLLECT_LAST if last else Stage.COLLECT)
        self._out.append(i.CollectRam(last=last, first=not last and not self.collected))
        self.collected = self.collected or not last

    def _guest_stopped(self, _: i.GuestStopped) -> None:
        """The last pass may begin."""
        self.stopped = True
        self._advance()

    def _drained(self, drained: i.Drained) -> None:
        """The transport has taken everything of that connection."""
        self.undrained = tuple(c for c in self.undrained if c != drained.conn)
        self._advance()

    def _advance(self) -> None:
        """The migration thread: it stands still while the transport has not taken what it wrote."""
        if self.undrained or self.finished is not None or self.state == SourceState.CLOSING:
            return
        if self.requested and self.stage in (Stage.PACKAGE, Stage.COLLECT_LAST):
            self._send_page()
        elif self.stage == Stage.SETUP:
            self._out.append(i.Said(self._main, "QEVM, CONFIGURATION, START ram"))
            agreed = self._agreed_settings
            self._stage_to(Stage.RAM)
            self._write_main(stream.header(agreed) + stream.ram_start(RAM_SECTION, agreed, False), 0)
        elif self.stage == Stage.RAM and not (self.converged or self.postcopy):
            self._collect(last=False)
        elif self.stage == Stage.RAM and (self.acked or not self.agreement.has("switchover-ack")):
            self._stage_to(Stage.STOPPING)
            self._report_status(Status.DEVICE)
            self._out.append(i.StopGuest())
        elif self.stage == Stage.STOPPING and self.stopped:
            if self.postcopy:
                self._send_package()
            else:
                self._collect(last=True)

    def _send_package(self) -> None:
        """Postcopy: device state now, memory later; LOADED, GO and RUNNING come in between."""
        self._stage_to(Stage.PACKAGE)
        self._happened(Event.PACKAGE_SENT)
        self._give_up_without_go()
        start, run = stream.command(stream.POSTCOPY_LISTEN), stream.command(stream.POSTCOPY_RUN)
        pieces = [(start, 0), *stream.device_state(3, self.settings.machine), (run, 0)]
        self._out.append(i.Said(self._main, "devices, POSTCOPY_RUN"))
        for piece in stream.joined(pieces):
            self._write_main(*piece)

    def _give_up_without_go(self) -> None:
        """Where no final-ack was agreed, the end of what the guest needs is also the order to run it (SPEC 5.9)."""
        if not self.agreement.has("final-ack"):
            self._happened(Event.GIVEN_UP)

    # --- the return path --------------------------------------------------------------------------------------------
    def _got_data(self, conn: int, frame: Frame) -> None:
        """Of a destination without a connection of its own for main (SPEC 5.8)."""
        self._read_replies(frame.payload, frame.fill)

    def _read_replies(self, data: bytes, fill: int) -> None:
        """QEMU's messages of the destination, on main (SPEC 5.8). Raises PeerError."""
        if not self.stage:
            raise PeerError(Code.BAD_STATE, "bytes on main before the stream", item="channel[main]")
        self.replies = self.replies.add(data, fill)
        while len(self.replies) >= 4:
            kind, size = struct.unpack(">HH", self.replies.peek(4))
            if text := return_path.wrong(kind, size):
                raise PeerError(Code.ENCODING, text, item="channel[main]")
            if len(self.replies) < 4 + size:
                return
            self.replies = self.replies.skip(4 + size)
            self._out.append(i.Heard(self._main, return_path.NAMES[kind]))
            if kind == Reply.ACK:
                self.acked = True
            elif kind in (Reply.REQ_PAGES, Reply.REQ_PAGES_ID):
                if self.state not in (SourceState.PACKAGE_SENT, SourceState.PACKAGE_LOADED, SourceState.POSTCOPY):
                    raise PeerError(Code.BAD_STATE, f"REQ_PAGES while {self.state}", item="channel[main]")
                self.requested += self.stage != Stage.SENT  # then all pages are on their way
        self._advance()

    def _send_page(self) -> None:
        """A page that the destination waits for, ahead of the others: on its own channel if there is one."""
        self.requested -= 1
        self._out.append(i.Said(self._urgent, "a page that was asked for"))
        if self._urgent != self._main:
            self._write(self._urgent, *stream.urgent_page(self.settings.machine))
            return
        for piece in stream.joined(stream.ram_pass(RAM_SECTION, self._agreed_settings, 4096, False)):
            self._write_main(*piece)

    # --- writing ----------------------------------------------------------------------------------------------------
    @property
    def _agreed_settings(self) -> Settings:
        """What was agreed, not what was wished for."""
        return agreed_settings(self.settings, self.agreement)

    @property
    def _main(self) -> int:
        """The connection that carries main."""
        return CONTROL if self.inline else self.channels.index("main")

    @property
    def _urgent(self) -> int:
        """The connection for pages that the destination waits for."""
        preempt = "postcopy-preempt"
        return self.channels.index(preempt) if preempt in self.channels else self._main

    def _write_main(self, data: bytes, fill: int) -> None:
        """On main's own connection, or in DATA frames on control, each within the limit (SPEC 5.8)."""
        if not self.inline:
            self._write(self._main, data, fill)
            return
        limit = self.session_config.limits.data_bytes
        while data or fill:
            part, data = data[:limit], data[limit:]
            room = min(fill, limit - len(part)) if not data else 0
            fill -= room
            self._write(CONTROL, frames.frame(frames.DATA, part, fill=room), room)

    def _write(self, conn: int, data: bytes, fill: int) -> None:
        """Write on a connection, and wait until the transport has taken it."""
        self._out.append(i.Send(conn, data, fill))
        if conn not in self.undrained:
            self.undrained = (*self.undrained, conn)
