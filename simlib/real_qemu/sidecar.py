"""v2 beside a QEMU that has none: an agent at each host holds the handshake, and carries QEMU's own stream.

The destination QEMU is started with `-S -incoming defer` and nothing else. What was agreed is set through QMP; channels
that are authenticated go to QEMU in the order in which every version of it identifies them correctly (main, then
multifd); the guest is started there with `cont`, and only after GO. The QEMUs see unix sockets, and each other never.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Unpack, cast

from qemu.qmp import EventListener

from ..case.guest import Guest
from ..handshake import interface as i
from ..handshake.endpoint import Endpoint
from ..live.address import Address
from ..live.host import Host, HostOptions
from ..live.link import ZEROS
from ..record.trace import Trace
from .monitor import Monitor, QemuError, Refused
from .shapes import Json

CHUNK = 1 << 17
POLL_S = 0.02
ALIVE_S = 5.0  # a QEMU that has answered nothing for so long is given up
RESUME_S = 5.0
DYING_S = 1.0  # from the end of a monitor to the end of its process
HUNG_UP_S = 2.0  # from its first closed connection to its last message
ENDED = ("completed", "failed", "cancelled", "postcopy-paused")  # no agent recovers a paused postcopy
OWN = (("return-path", True), ("events", True))  # capabilities that an agent needs, of its own QEMU only


class RelayChannel:
    """Bytes between one channel and one connection to the QEMU beside, both ways, as fast as the slower takes them."""

    def __init__(self, agent: Agent, conn: int) -> None:
        self.agent, self.conn = agent, conn
        self.waiting: list[bytes] = []
        self.writer: asyncio.StreamWriter | None = None
        self.drained = asyncio.Event()
        self.ended = False

    def handle(self, input: i.Input) -> None:
        """Of the channel."""
        if isinstance(input, i.Received):
            pieces = [input.data] if input.data else []
            left = input.fill
            while left:
                pieces.append(bytes(ZEROS[: min(left, len(ZEROS))]))
                left -= len(pieces[-1])
            self.agent.moved_bytes += len(input.data) + input.fill
            self._write(pieces)
        elif isinstance(input, i.Drained):
            self.drained.set()
        elif isinstance(input, i.Ended):
            self.ended = True
            self._write([])

    def _write(self, pieces: list[bytes]) -> None:
        if self.writer is None:
            self.waiting += pieces
            return
        if self.writer.is_closing():
            return
        for piece in pieces:
            self.writer.write(piece)
        if self.ended and self.writer.can_write_eof():
            with suppress(OSError):
                self.writer.write_eof()
        elif self.writer.transport.get_write_buffer_size() > 4 * CHUNK:
            self.agent.hold(self.conn, self.writer)

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """From QEMU to the channel, until QEMU sends no more."""
        self.writer = writer
        self._write(self.waiting)
        self.waiting = []
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                link = self.agent.links.get(self.conn)
                if link is None or link.gone:
                    return
                self.drained.clear()
                link.send(data, 0)
                await self.drained.wait()
        self.agent.hung_up_s = self.agent.hung_up_s or self.agent.now_s
        link = self.agent.links.get(self.conn)
        # What dies at the source is reported on control, by its agent; its streams mark their own ends.
        if link is not None and not link.gone and self.agent.side == "destination":
            link.end()


class Agent(Host):
    """One host's agent. `qemu` is the monitor of the QEMU beside."""

    def __init__(
        self,
        side: str,
        endpoint: Endpoint,
        trace: Trace,
        guest: Guest,
        *,
        qemu: Monitor,
        folder: Path,
        peer: Address | None = None,
        **more: Unpack[HostOptions],
    ) -> None:
        super().__init__(side, endpoint, trace, guest, peer=peer, **more)
        self.qemu, self.path = qemu, folder / f"{self.side}.pipe"
        self.pipes: dict[int, RelayChannel] = {}
        self.server: asyncio.Server | None = None
        self.moved_bytes = 0  # of the stream, that have come here
        self.hung_up_s: float | None = None  # when QEMU closed the first of its connections
        self.resumed = asyncio.Event()
        self.moving = asyncio.Event()  # `migrate` was given
        self.memory_follows = False  # by postcopy

    def feed(self, input: i.Input, cause: int | None = None) -> None:
        pipe = self.pipes.get(getattr(input, "conn", -1))
        if pipe is not None and isinstance(input, (i.Received, i.Drained, i.Ended)):
            pipe.handle(input)
            self.changed.set()
        else:
            super().feed(input, cause)

    def hold(self, conn: int, writer: asyncio.StreamWriter) -> None:
        """QEMU is slower than the channel."""
        self.links[conn].pause()

        async def go_on() -> None:
            with suppress(OSError):
                await writer.drain()
            if conn in self.links:
                self.links[conn].resume()

        self._spawn(go_on())

    def close(self) -> None:
        super().close()
        if self.server is not None:
            self.server.close()
        self._hang_up()
        self.path.unlink(missing_ok=True)

    def _hang_up(self) -> None:
        for pipe in self.pipes.values():
            if pipe.writer is not None:
                pipe.writer.transport.abort()

    async def _set(self, config: tuple[tuple[str, object], ...]) -> None:
        """Raises QemuError. Every capability that it has is set, so that nothing is left from another attempt."""
        values, known = dict(config), await self.qemu.ask("query-migrate-capabilities")
        states = [{"capability": c["capability"], "state": bool(values.get(c["capability"], False))} for c in known]
        changed = [s for s, c in zip(states, known, strict=True) if s["state"] != c["state"]]
        if changed:
            await self.qemu.ask("migrate-set-capabilities", capabilities=changed)
        parameters = {k: v for k, v in config if v is not True and not k.startswith("tls-")}
        if parameters:
            await self.qemu.ask("migrate-set-parameters", **parameters)

    # --- the destination --------------------------------------------------------------------------------------------
    def _apply(self, o: i.Apply) -> None:
        self.note("guest", f"sets {', '.join(k if v is True else f'{k}={v}' for k, v in o.config) or 'nothing'}")

        async def applied() -> None:
            try:
                await self._set((*o.config, *OWN))
                self.feed(i.Applied())
            except QemuError as error:
                self.feed(i.Applied(str(error)))

        self._spawn(applied())

    def _run_guest(self, _: i.RunGuest) -> None:
        async def running() -> None:
            gone = self.qemu.gone
            try:
                await self.qemu.ask("cont")
            except QemuError as error:
                self.note("guest", f"the guest can't be started: {error}")
                if gone or isinstance(error, Refused):
                    self.feed(i.GuestRunning(str(error)))
                else:  # it may have received it: whether the guest runs is unknown
                    self.close()
                return
            self.guest.running, self.guest.started_s = True, self.now_s
            self.note("guest", "guest runs here")
            self.feed(i.GuestRunning())

        self._spawn(running())

    async def _take(self, events: EventListener, channels: tuple[tuple[str, int], ...]) -> str:
        """Give QEMU its connections, and wait until it has loaded the guest; what went wrong."""
        at = {"uri": f"unix:{self.path}"}
        try:
            await self.qemu.ask("migrate-incoming", **at, exit_on_error=False)
        except Refused as error:
            if "exit-on-error" not in str(error):
                return str(error)
            await self.qemu.ask("migrate-incoming", **at)  # before 9.1 there is no such argument
        for _, conn in channels:
            reader, writer = await asyncio.open_unix_connection(str(self.path))
            self._spawn(self.pipes[conn].run(reader, writer))
        answer = await self._until_ended(events)
        if answer.get("status") == "completed":
            until_s = self.now_s + HUNG_UP_S
            while self.memory_follows and not self.hung_up_s and self.now_s < until_s:
                await asyncio.sleep(POLL_S)  # 11.1's last message to its source comes after this status
            return ""
        return str(answer.get("error-desc") or answer.get("gone") or f"its migration is {answer.get('status', 'gone')}")

    # --- the source -------------------------------------------------------------------------------------------------
    async def _give(
        self, events: EventListener, channels: tuple[tuple[str, int], ...], config: tuple[tuple[str, object], ...]
    ) -> str:
        """Let QEMU send its guest, and wait until all of it was sent; what went wrong."""
        order = iter(channels)  # it connects main first

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            _, conn = next(order, ("", -1))
            if conn < 0:
                writer.close()
            else:
                self._spawn(self.pipes[conn].run(reader, writer))

        self.server = await asyncio.start_unix_server(connected, str(self.path))
        await self._set((*config, *OWN))
        await self.qemu.ask("migrate", uri=f"unix:{self.path}")
        self.moving.set()
        answer = await self._until_ended(events)
        if answer.get("status") != "completed" and await self._has_died() and await self._has_arrived():
            self.note("guest", "this QEMU is dead; the guest was sent whole before")
            return ""
        if answer.get("status") == "completed":
            self._stands_still()
            return ""
        return str(answer.get("error-desc") or answer.get("gone") or f"its migration {answer.get('status', 'is gone')}")

    async def _has_died(self) -> bool:
        """Its monitor goes a moment before its process does."""
        until_s = self.now_s + DYING_S
        while self.qemu.gone and not self.qemu.dead and self.now_s < until_s:
            await asyncio.sleep(POLL_S)
        return self.qemu.dead

    async def _has_arrived(self) -> bool:
        """Of a guest that can't run here any more: what the destination has loaded whole is all that there is."""
        until_s = self.now_s + ALIVE_S
        while (stage := getattr(self.endpoint, "stage", "")) != "arrived" and self.endpoint.finished is None:
            if self.now_s > until_s:
                break
            await asyncio.sleep(POLL_S)
        return bool(stage == "arrived")

    def _resume_guest(self, _: i.ResumeGuest) -> None:
        """After the switch to postcopy QEMU takes no guest back ("the source machine is not recoverable", migration.c);
        7.2 does while its connection stands, and 10.2 until the whole package is loaded."""

        async def resumed() -> None:
            until_s = self.now_s + RESUME_S
            try:
                while (answer := await self.qemu.status()) and not answer["running"] and self.now_s < until_s:
                    if answer.get("status") in (None, "none", *ENDED):
                        await self.qemu.ask("cont")
                    elif answer.get("status") == "postcopy-device":  # it fails when its connection is gone
                        self._hang_up()
                    else:
                        await self.qemu.ask("migrate_cancel")
                    await asyncio.sleep(POLL_S)
                if answer and answer.get("status") not in (None, "none", *ENDED):
                    await self.qemu.ask("migrate_cancel")
            except QemuError as error:
                self.note("guest", f"the guest can't be resumed: {error}")
            running = bool((await self.qemu.status()).get("running"))
            self.guest.running = running
            self.note("guest", "guest runs on here" if running else "guest does not run here")
            self.resumed.set()

        self._spawn(resumed())

    # --- both -------------------------------------------------------------------------------------------------------
    def _move_guest(self, o: i.MoveGuest) -> None:
        self.pipes = {conn: RelayChannel(self, conn) for _, conn in o.channels}

        async def moved() -> None:
            try:
                with self.qemu.migration_events() as events:
                    at_source = self.side == "source"
                    error = await (
                        self._give(events, o.channels, o.config) if at_source else self._take(events, o.channels)
                    )
            except QemuError as wrong:
                error = str(wrong)
            except OSError as wrong:
                error = f"{self.qemu.where}: no connection for the guest: {wrong.strerror or 'it was refused'}"
            come = "all of its memory is here" if self.memory_follows else "devices are loaded"
            self.note("guest", error or ("guest is sent" if self.side == "source" else come))
            self.feed(i.GuestMoved(error) if self.side == "source" else i.Loaded(error))

        self._spawn(moved())

    def _switch_guest(self, _: i.SwitchGuest) -> None:
        """The guest is stopped first: a QEMU that fails at the end of postcopy starts a guest that ran when the switch
        came (migration.c, migration_iteration_finish), and by then it may run at the destination."""

        async def switched() -> None:
            await self.moving.wait()
            if self.endpoint.finished is not None:
                return
            try:
                await self.qemu.ask("stop")
                self._stands_still()
                await self.qemu.ask("migrate-start-postcopy")
            except QemuError as error:
                self.note("guest", f"QEMU does not switch to postcopy: {error}")

        self._spawn(switched())

    def _stands_still(self) -> None:
        if self.guest.running:
            self.guest.running, self.guest.stopped_s = False, self.now_s
            self.note("guest", "guest has stopped")

    def _postcopy(self) -> None:
        """All but the memory has gone, or come."""
        self.memory_follows = True
        self.note("guest", "guest is sent but for its memory" if self.side == "source" else "devices are loaded")
        self.feed(i.GuestMoved(postcopy=True) if self.side == "source" else i.Loaded(postcopy=True))

    async def _until_ended(self, events: EventListener) -> Json:
        """query-migrate of the end; `gone` where QEMU does not answer any more. On the way it reports when a guest
        under postcopy has moved all but its memory (a destination has loaded the devices when it no longer waits for a
        migration: POSTCOPY_RUN under -S)."""
        answered_s, status, postcopy = self.now_s, "", False
        while True:
            answer = await self.qemu.status()
            while not events.empty():
                postcopy = cast(Json, (await events.get())["data"])["status"] == "postcopy-active" or postcopy
            if postcopy and (self.side == "source" or answer.get("runstate", "inmigrate") != "inmigrate"):
                postcopy = False
                self._postcopy()
            if answer:
                answered_s = self.now_s
            elif self.now_s > answered_s + ALIVE_S or self.qemu.gone:
                return {"gone": f"{self.qemu.name}: this QEMU is gone"}
            if answer.get("status", "") not in ("", status):
                status = str(answer["status"])
                self.note("guest", f"QEMU is {status}")
                if status == "pre-switchover":  # pause-before-switchover: the agents are its manager
                    with suppress(Refused):  # cancelled meanwhile
                        await self.qemu.ask("migrate-continue", state=status)
            if status in ENDED:
                return answer
            if self.side == "destination" and self.hung_up_s and self.now_s > self.hung_up_s + HUNG_UP_S:
                return {"gone": f"{self.qemu.name}: QEMU closed a channel, as 7.2 does after an error in multifd"}
            await asyncio.sleep(POLL_S)

    EFFECTS: ClassVar[Mapping[type, Callable[..., None]]] = {
        **Host.EFFECTS,
        i.MoveGuest: _move_guest,
        i.SwitchGuest: _switch_guest,
    }
