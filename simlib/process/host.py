"""What runs an endpoint, whatever its clock and its link are: inputs, the guest below, alarms, and the trace.

A runner (simulated world, real sockets) adds a clock (`now_s`, `after`) and carries out the outputs for the link.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import ClassVar

from ..case.guest import Guest
from ..handshake import interface as i
from ..handshake.endpoint import Endpoint, as_overridden
from ..record.trace import Trace

PASS_S = 0.1  # QEMU's rate-limit tick (migration.c, BUFFER_DELAY)


class Host:
    """One side. `cause` is the number that the runner gave with the input that is being handled.

    A class lists in `EFFECTS` the methods that carry out outputs, beside those of its base, which it may override.
    """

    _effects: ClassVar[Mapping[type, Callable[..., None]]] = {}

    def __init_subclass__(cls) -> None:
        cls._effects = as_overridden(cls, cls.EFFECTS)

    def __init__(self, side: str, endpoint: Endpoint, trace: Trace, guest: Guest) -> None:
        self.side, self.endpoint, self.trace, self.guest = side, endpoint, trace, guest
        self.alarms: dict[str, Callable[[], None]] = {}  # what cancels each
        self.inbox: deque[tuple[i.Input, int | None]] = deque()
        self.busy = self.frozen = self.dead = False  # frozen: SIGSTOP; its kernel goes on
        self.cause: int | None = None
        self.guest_bytes = 0
        self.first_guest_byte_s: float | None = None
        self.finished_s: float | None = None
        self.on_finished: Callable[[], object] = lambda: None
        self.tls_round_trips = 1  # of a simulated TLS handshake
        self.on_status: Callable[[str], object] = lambda status: None  # QMP's event MIGRATION
        self.on_exit: Callable[[], object] = lambda: None

    # --- what a runner adds -----------------------------------------------------------------------------------------
    @property
    def now_s(self) -> float:
        """Seconds since the run began."""
        raise NotImplementedError

    def after(self, delay_s: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call it after so many seconds; the returned function cancels that."""
        raise NotImplementedError

    def name(self, conn: int) -> str:
        """The connection's name in the trace."""
        raise NotImplementedError

    def idle(self) -> None:
        """Every input was handled."""

    # --- inputs -----------------------------------------------------------------------------------------------------
    def feed(self, input: i.Input, cause: int | None = None) -> None:
        """Pass an input to the endpoint, and carry its outputs out, one input after the other."""
        if self.busy or self.frozen or self.dead:
            self.inbox.append((input, cause))
            return
        self.busy, effects = True, self._effects
        while True:
            self.cause = cause
            for output in self.endpoint.handle(input):
                effects[type(output)](self, output)
            if self.dead or not self.inbox:
                break
            input, cause = self.inbox.popleft()
        self.busy = False
        self.idle()

    def note(self, kind: str, text: str, conn: int | None = None) -> None:
        self.trace.note(self.now_s, self.side, kind, "" if conn is None else self.name(conn), text)

    # --- time, and the guest ----------------------------------------------------------------------------------------
    def _set_alarm(self, o: i.SetAlarm) -> None:
        self._stop_alarm(i.StopAlarm(o.name))

        def ring() -> None:
            del self.alarms[o.name]
            self._ring(o.name)

        self.alarms[o.name] = self.after(o.delay_s, ring)

    def _ring(self, name: str) -> None:
        if self.endpoint.finished is None and not self.dead:
            self.note("link", f"alarm {name}")
            self.feed(i.AlarmRang(name))

    def _stop_alarm(self, o: i.StopAlarm) -> None:
        if o.name in self.alarms:
            self.alarms.pop(o.name)()

    def _guest_answers(self, delay_s: float, call: Callable[[], None]) -> None:
        """After its time, or at the time that an exact replay gives."""
        delay_s += self.guest.late_s()
        if self.guest.answers_ms:
            at_ms, *rest = self.guest.answers_ms
            self.guest.answers_ms = tuple(rest)
            delay_s = at_ms / 1e3 - self.now_s
        self.after(delay_s, call)

    def _collect_ram(self, o: i.CollectRam) -> None:
        if o.first:
            self.guest.passes = self.guest.collected_bytes = self.guest.left_bytes = 0
        rest_s = 0.0 if o.last or not self.guest.passes or self.guest.left_bytes else PASS_S
        self._guest_answers(rest_s, lambda: self.feed(self.guest.collect(self.now_s, o.last)))

    def _stop_guest(self, _: i.StopGuest) -> None:
        self.guest.running, self.guest.stopped_s = False, self.now_s
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
        self.guest.running, self.guest.started_s = True, self.now_s
        self.note("guest", "guest runs here")
        self._guest_answers(0, lambda: self.feed(i.GuestRunning()))

    def _watch_faults(self, _: i.WatchFaults) -> None:
        """The guest's first instruction is in a page that has yet to come."""
        block = self.endpoint.settings.machine.ram_blocks[0]
        self.note("guest", f"guest waits for a page of {block.name}")
        self._guest_answers(0, lambda: self.feed(i.PageFault(block.name, 0, block.page_bytes)))

    # --- reports ----------------------------------------------------------------------------------------------------
    def _said(self, o: i.Said) -> None:
        self.note("say", o.text, o.conn)

    def _heard(self, o: i.Heard) -> None:
        self.note("hear", o.text, o.conn)

    def _entered(self, o: i.Entered) -> None:
        self.note("state", o.status)
        self.on_status(o.status)

    def _printed(self, o: i.Printed) -> None:
        self.note("print", o.text)

    def _finished(self, o: i.Finished) -> None:
        self.finished_s = self.now_s
        self.on_finished()
        self.note("end", o.status + (f": {o.text}" if o.text else ""))
        self.on_status(o.status)
        if o.exited:
            self.die("exits")
        elif self.side == "destination" and not o.listening:
            self.stop_listening()

    def _stop_listening(self, _: i.StopListening) -> None:
        self.stop_listening()

    def stop_listening(self) -> None:
        """Connections that were not accepted are reset."""
        raise NotImplementedError

    def die(self, how: str) -> None:
        """The process is gone; its kernel closes what it had."""
        self.dead = True
        self.guest.running = False
        self.note("link", f"process {how}")
        if self.side == "destination":
            self.stop_listening()
        self.on_exit()

    EFFECTS: ClassVar[Mapping[type, Callable[..., None]]] = {
        i.StopListening: _stop_listening,
        i.CollectRam: _collect_ram,
        i.StopGuest: _stop_guest,
        i.ResumeGuest: _resume_guest,
        i.Apply: _apply,
        i.Load: _load,
        i.RunGuest: _run_guest,
        i.WatchFaults: _watch_faults,
        i.SetAlarm: _set_alarm,
        i.StopAlarm: _stop_alarm,
        i.Said: _said,
        i.Heard: _heard,
        i.Entered: _entered,
        i.Printed: _printed,
        i.Finished: _finished,
    }
