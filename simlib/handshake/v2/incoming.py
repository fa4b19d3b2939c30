"""The guest's data at v2's destination: the stream of v1 from the agreed channels, as far as its devices can be loaded.

Where a QEMU reads the stream itself (`relays`), nothing of it passes here, and that QEMU reports what it has loaded.
"""

from __future__ import annotations

from .. import interface as i
from .. import return_path, stream
from ..endpoint import ConnectionTable
from ..errors import Code, Error
from ..loader import Loader, MultifdReader, StreamError
from ..machine import Settings
from ..names import Status
from ..return_path import Reply
from . import frames, messages, reasons
from .answers import DestinationAnswers
from .config import SessionConfig
from .frames import Frame
from .states import DestinationState as S
from .states import Event

_SHOWN = {"machine": "CONFIGURATION {0}", "setup": "START ram", "eof": "EOF"}  # of the stream, in the trace
ALL_SYNCS = 1 << 30


class Incoming(DestinationAnswers):
    """What a destination does between READY and its end."""

    def __init__(self, settings: Settings, session_config: SessionConfig) -> None:
        super().__init__(settings, session_config, S.NONE)
        self.lanes: ConnectionTable[MultifdReader] = ConnectionTable()

    def _forget_data(self) -> None:
        """Nothing has come yet."""
        self.postcopy = self.running = self.eof = False
        self.session_lost: tuple[Error, ...] = ()  # after GO
        self.main_bytes = self.flushes = 0
        self.lanes = ConnectionTable()
        self._loader = Loader(self.settings)

    # --- the stream -------------------------------------------------------------------------------------------------
    def _stream(self, conn: int, data: bytes, fill: int) -> None:
        """Bytes of a bound channel."""
        if self.state not in self.DATA_STATES:
            error = Error(
                Code.BAD_STATE,
                item=f"channel[{self.links[conn].kind}]",
                source="bytes",
                destination=self.state,
                text="Bytes came before READY.",
            )
            self._refuse((error,))
            return
        self._pass_on(self.links[conn].kind, conn, data, fill)

    def _got_data(self, conn: int, frame: Frame) -> None:
        """A DATA frame carries a piece of main on control (SPEC 5.8)."""
        self._pass_on("main", conn, frame.payload, frame.fill)

    def _pass_on(self, kind: str, conn: int, data: bytes, fill: int) -> None:
        """Urgent pages on the preempt channel need no order, and no reader here."""
        try:
            if kind == "main":
                self._load(data, fill)
            elif kind != "postcopy-preempt":
                self._read_lane(conn, data, fill)
        except StreamError as error:
            self._load_failed(str(error))

    def _read_lane(self, conn: int, data: bytes, fill: int) -> None:
        """multifd's packets; unlike in v1, no lane waits for main: LOADED waits for all of them."""
        compression = str(self.agreement.parameter("multifd", "compression", "none"))
        self.lanes[conn] = self.lanes[conn].add(data, fill).read(compression, conn, ALL_SYNCS)
        self._loaded_when_complete()

    def _load(self, data: bytes, fill: int) -> None:
        """The main stream, which is v1's (SPEC 5.8). POSTCOPY_RUN ends the package with which the guest can run."""
        self._loader.feed(data, fill)
        while self.finished is None and (event := self._loader.next_event()) is not None:
            if event[0] in _SHOWN:
                self._out.append(i.Heard(self._main, _SHOWN[str(event[0])].format(*event[1:])))
            if event[0] == "setup" and self.agreement.has("switchover-ack"):
                self._reply(return_path.message(Reply.ACK), "SWITCHOVER_ACK")
            elif event[0] == "ram":
                assert isinstance(event[1], int)
                self.main_bytes += event[1]
            elif event[0] == "flush":
                self.flushes += 1
            elif event[0] == "command" and event[1] == stream.POSTCOPY_RUN:
                if self.state != S.READY:
                    raise StreamError("POSTCOPY_RUN a second time")
                self.postcopy = True
                self._start_loading()
            elif event[0] == "eof":
                self.eof = True
                self._loaded_when_complete()

    @property
    def _main(self) -> int:
        """The connection that carries main."""
        assert self.control is not None
        return next((conn for name, conn, _ in self.bound if name == "main"), self.control)

    def _loaded_when_complete(self) -> None:
        """The stream ends with the devices; in postcopy with the last page."""
        if not self._complete:
            return
        if self.postcopy:
            self._memory_over()
        elif self.state == S.READY:
            self._start_loading()

    @property
    def _complete(self) -> bool:
        """The stream is at its end, and every lane."""
        return self.eof and all(lane.syncs >= self.flushes for lane in self.lanes.values())

    def _start_loading(self) -> None:
        """All that the devices need is here. POSTCOPY_RUN may come once."""
        self._happened(Event.STREAM_READ)
        self._out.append(i.Load(sum(d.size_bytes for d in self.settings.machine.devices)))

    # --- the guest --------------------------------------------------------------------------------------------------
    def _guest_loaded(self, loaded: i.Loaded) -> None:
        """The devices have run their post_load: LOADED, and then GO is awaited (SPEC 5.9). A QEMU that loads by
        itself reports a second time when a postcopy's memory is complete."""
        if self.session_config.relays and self.postcopy and self.state in (S.LOADED, S.GOING):
            self._relayed_memory_over(loaded.error)
        elif self.state != (S.READY if self.session_config.relays else S.LOADING):
            return
        elif loaded.error:
            self._load_failed(loaded.error)
        else:
            if self.session_config.relays:
                self._happened(Event.STREAM_READ)
            self.postcopy = self.postcopy or loaded.postcopy
            if self.agreement.has("final-ack"):
                self._tell(messages.Loaded(self.ram_bytes))
            else:
                self._happened(Event.GIVEN_UP)
                self._out.append(i.RunGuest())

    def _go(self, conn: int, go: messages.Go) -> None:
        """The source has given the guest up: it may run here (SPEC 5.9)."""
        self._out.append(i.RunGuest())

    def _guest_running(self, running: i.GuestRunning) -> None:
        """RUNNING ends the source's uncertainty."""
        if running.error:  # GO was not obeyed, and the source may have its guest back
            self._happened(Event.RUN_FAILED)
            self._load_failed(running.error, "run")
            return
        self.running = True
        self._tell(messages.Running())
        if not self.postcopy:
            self._completed()
            return
        self._report_status(Status.POSTCOPY_ACTIVE)
        if self._complete:
            self._memory_over()
        elif self.session_lost:
            self._session_lost(self.session_lost[0])
        elif not self.session_config.relays:
            self._out.append(i.WatchFaults())

    def _page_fault(self, fault: i.PageFault) -> None:
        """The guest waits for a page that is at the source (SPEC 5.8)."""
        if self.state == S.GOING and not self._complete and not self.session_lost:
            request = return_path.page_request(fault.block, fault.offset, fault.size_bytes)
            self._reply(request, f"REQ_PAGES {fault.block}+0x{fault.offset:x}")

    def _reply(self, message: bytes, name: str) -> None:
        """To the source, on main."""
        data = frames.frame(frames.DATA, message) if self._main == self.control else message
        self._send(self._main, data, name)

    def _memory_over(self) -> None:
        """All memory of a postcopy is here."""
        if self.running:
            self._tell(messages.Loaded(self.ram_bytes))
            self._completed()

    def _relayed_memory_over(self, error: str) -> None:
        """The QEMU beside has all memory of a postcopy, or reports why it never will."""
        self.eof = not error
        if not error:
            self._memory_over()
        elif self.state == S.LOADED:
            self._load_failed(error)
        else:
            self._session_lost(Error(Code.CONNECTION_LOST, item="main", text=error))

    def _session_lost(self, error: Error) -> None:
        """After GO the guest is ours whatever becomes of the link (SPEC 5.9). In postcopy it runs, and the rest of its
        memory will not come: both sides report that. A guest that has yet to be started is waited for."""
        if not self.postcopy or self._complete:
            return
        self.session_lost = (error,)
        if not self.running:
            return
        lost = reasons.postcopy_paused(error, "here")
        control_lost = error.code == Code.CONNECTION_LOST and error.item == "control"
        if not control_lost:
            self._tell(messages.Failure((lost,)))
        for conn in list(self.links):
            self._close(conn)
        self._happened(Event.PAUSED)
        self._report_status(Status.POSTCOPY_PAUSED)
        self._end(Status.POSTCOPY_PAUSED, (lost,))

    def _peer_silent(self, error: Error) -> None:
        """Like a lost connection. After GO of a precopy nothing more is needed from the source."""
        if self.state == S.GOING:
            self._session_lost(error)
        else:
            self._refuse((error,))

    def _completed(self) -> None:
        """Everything has arrived and the guest runs."""
        self._happened(Event.COMPLETED)
        self._report_status(Status.COMPLETED)
        for conn in list(self.links):
            self._close(conn)
        self._end(Status.COMPLETED)

    def _load_failed(self, text: str, what: str = "load") -> None:
        """v1 would print this and exit; here the source reads it."""
        self._refuse(
            (
                Error(
                    Code.NEEDS_RESTART,
                    item="guest",
                    destination=text,
                    text=f"The destination could not {what} the guest: {text}.",
                    hint="Restart the destination; its device state is dirty.",
                ),
            )
        )

    # --- what the session does --------------------------------------------------------------------------------------
    def _tell(self, message: messages.Message) -> None:
        """Send on the control connection."""
        assert self.control is not None
        self._say(self.control, message)

    def _refuse(self, errors: tuple[Error, ...]) -> None:
        """End the attempt; the destination defines how."""
        raise NotImplementedError

    def _close(self, conn: int) -> None:
        """Close one connection."""
        raise NotImplementedError

    def _end(self, status: Status, errors: tuple[Error, ...] = (), listening: bool = False) -> None:
        """Nothing more is handled."""
        raise NotImplementedError
