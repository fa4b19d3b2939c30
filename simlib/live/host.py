"""One real process: its endpoint on asyncio. It carries out the outputs for the link; the rest is every host's."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import ClassVar, TypedDict

from OpenSSL import SSL

from ..case.guest import Guest
from ..handshake import interface as i
from ..handshake.endpoint import Endpoint
from ..process import host
from ..record.trace import Packet, Trace
from .address import Address, AddressError, connect, inline_socket, listen
from .link import Link, error_text
from .tls import Credentials, Tls

EXEC_ENDS_S = 2.0  # for a command to end after SIGTERM; then it is killed
RETRY_ACCEPT_S = 0.1  # after the process ran out of descriptors
Names = dict[object, str]  # a socket's own name -> what it is for; both sides of a run in one process share it


class HostOptions(TypedDict, total=False):
    """Of the keyword arguments of `Host` those that another kind of host passes on."""

    credentials: Credentials | None
    names: Names | None
    zero_s: float | None


class Host(host.Host):
    """`peer`: where the source connects. `trip_s`: how long a TCP connection takes to be made, where the link only
    pretends to be long. `record` gives what crosses the wire to `trace.keep`."""

    def __init__(
        self,
        side: str,
        endpoint: Endpoint,
        trace: Trace,
        guest: Guest,
        *,
        peer: Address | None = None,
        credentials: Credentials | None = None,
        names: Names | None = None,
        zero_s: float | None = None,
        trip_s: float = 0.0,
        record: str = "",
    ) -> None:
        super().__init__(side, endpoint, trace, guest)
        self.loop = asyncio.get_running_loop()
        self.zero_s = self.loop.time() if zero_s is None else zero_s
        self.peer, self.credentials, self.trip_s, self.record = peer, credentials, trip_s, record
        self.names: Names = {} if names is None else names
        self.links: dict[int, Link] = {}  # that are not lost yet
        self.accepted = 0
        self.called: dict[int, object] = {}
        self.listener: socket.socket | None = None
        self.listening = self.taking = False
        self.processes: list[subprocess.Popen[bytes]] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.timers: dict[int, asyncio.TimerHandle] = {}
        self.contexts: SSL.Context | None = None
        self.changed = asyncio.Event()  # it has received an input
        self.passed_bytes = 0  # from the source to the destination: as they leave the one, as they reach the other
        self.calls: list[tuple[int, Callable[[], object]]] = []  # each after so many of them, once

    # --- clock ------------------------------------------------------------------------------------------------------
    @property
    def now_s(self) -> float:
        return self.loop.time() - self.zero_s

    def after(self, delay_s: float, call: Callable[[], None]) -> Callable[[], None]:
        def ring() -> None:
            del self.timers[id(handle)]
            call()

        handle = self.loop.call_later(max(delay_s, 0.0), ring)
        self.timers[id(handle)] = handle

        def call_off() -> None:
            handle.cancel()
            self.timers.pop(id(handle), None)

        return call_off

    # --- what starts and stops it -----------------------------------------------------------------------------------
    async def listen(self, address: Address, backlog: int = 128) -> None:
        """Take connections there whenever the endpoint would; over fd: and exec: there is one, at once. OSError."""
        if address.inline:
            sock, process = inline_socket(address)
            self.processes += [process] if process else []
            self._adopt(sock, address.kind)
            return
        self.listener = await listen(address, backlog)
        self.idle()

    def close(self) -> None:
        """Nothing of it is left: no timer, task, socket, process or file."""
        self.dead = True
        for handle in list(self.timers.values()):
            handle.cancel()
        self.timers.clear()
        for task in self.tasks:
            task.cancel()
        self.stop_listening()
        for link in self.links.values():
            if link.transport is not None:
                link.transport.abort()
        for process in self.processes:
            process.terminate()
            try:
                process.wait(EXEC_ENDS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def over(self) -> bool:
        """The one pair of pipes that it was given is gone, and no other peer can come."""
        return self.accepted > 0 and self.listener is None and not (self.links or self.timers)

    def stop_listening(self) -> None:
        if self.listener is not None:
            name = self.listener.getsockname()
            self._listen(False)
            self.listener.close()
            self.listener = None
            if isinstance(name, str):
                Path(name).unlink(missing_ok=True)

    def die(self, how: str) -> None:
        super().die(how)
        for link in list(self.links.values()):
            link.drop()

    def freeze(self) -> None:
        self.frozen = True
        self.note("link", "process is frozen")
        self._listen(False)
        for link in self.links.values():
            link.pause()

    # --- connections ------------------------------------------------------------------------------------------------
    def name(self, conn: int) -> str:
        return self.names.get(self.called.get(conn), str(conn))

    def feed(self, input: i.Input, cause: int | None = None) -> None:
        super().feed(input, cause)
        self.changed.set()
        if isinstance(input, i.Received) and self.side == "destination":
            self._pass(len(input.data) + input.fill)

    def _pass(self, size: int) -> None:
        self.passed_bytes += size
        for entry in [c for c in self.calls if c[0] <= self.passed_bytes]:
            self.calls.remove(entry)
            self.loop.call_soon(entry[1])  # not from within a write

    def idle(self) -> None:
        self._listen(not (self.taking or self.dead or self.frozen) and bool(getattr(self.endpoint, "accepting", False)))

    def _listen(self, on: bool) -> None:
        if self.listener is not None and on != self.listening:
            self.listening = on
            if on:
                self.loop.add_reader(self.listener, self._accept)
            else:
                self.loop.remove_reader(self.listener)

    def _accept(self) -> None:
        assert self.listener is not None
        try:
            sock, peer = self.listener.accept()
        except BlockingIOError:
            return
        except ConnectionAbortedError:
            return
        except OSError:  # no descriptor left: waiting connections can wait a little longer
            self._listen(False)
            self.after(RETRY_ACCEPT_S, self.idle)
            return
        sock.setblocking(False)
        self._adopt(sock, peer)

    def _adopt(self, sock: socket.socket, peer: object) -> None:
        conn = self.accepted
        self.accepted += 1
        self.called[conn] = peer
        link = self.links[conn] = self._link(conn)
        self.taking = True
        self._listen(False)

        async def adopted() -> None:
            await self.loop.connect_accepted_socket(lambda: link, sock)
            self.taking = False
            self.idle()

        self._spawn(adopted())

    def _link(self, conn: int) -> Link:
        def record(outgoing: bool, kind: str, data: bytes, fill: int) -> None:
            if outgoing and self.side == "source":
                self._pass(len(data) + fill)
            if self.record == "both" or (self.record and outgoing):
                from_source = outgoing == (self.side == "source")
                self.trace.keep(Packet(self.now_s, conn, from_source, kind, data, fill))

        return Link(conn, self.feed, record, lambda: self._forget(conn), self.endpoint.silence_s)

    def _forget(self, conn: int) -> None:
        self.links.pop(conn, None)
        self.changed.set()
        if self.called.get(conn) not in self.names:
            self.called.pop(conn, None)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.loop.call_exception_handler({"message": "in a task", "exception": task.exception()})

    # --- what the endpoint asks of the link -------------------------------------------------------------------------
    def _open(self, o: i.Open) -> None:
        self.called[o.conn] = (self.side, o.conn)
        self.names[self.side, o.conn] = o.channel
        link = self.links[o.conn] = self._link(o.conn)

        async def opened() -> None:
            assert self.peer is not None
            try:
                sock, process = await connect(self.peer, lambda own: self.names.__setitem__(own, o.channel))
            except (OSError, AddressError) as error:
                self.feed(i.Broken(o.conn, error_text(error) if isinstance(error, OSError) else str(error)))
                return
            self.processes += [process] if process else []
            if self.trip_s:
                await asyncio.sleep(self.trip_s)
            await self.loop.create_connection(lambda: link, sock=sock)

        self._spawn(opened())

    def _start_tls(self, o: i.StartTls) -> None:
        assert self.credentials is not None, "settings and credentials belong together"
        server = self.side == "destination"
        if self.contexts is None:
            self.contexts = self.credentials.context(server, self.trace.keep_secret)
        self.links[o.conn].start_tls(Tls(self.contexts, server, self.credentials.hostname, o.alpn))

    def _send(self, o: i.Send) -> None:
        if o.fill:
            self.guest_bytes += o.fill
            if self.first_guest_byte_s is None:
                self.first_guest_byte_s = self.now_s
        if o.conn in self.links:
            self.links[o.conn].send(o.data, o.fill)

    def _pause(self, o: i.Pause) -> None:
        if o.conn in self.links:
            self.links[o.conn].pause()

    def _resume(self, o: i.Resume) -> None:
        if o.conn in self.links:
            self.links[o.conn].resume()

    def _end(self, o: i.End) -> None:
        if o.conn in self.links:
            self.links[o.conn].end()

    def _drop(self, o: i.Drop) -> None:
        if o.conn in self.links:
            self.links[o.conn].drop(o.unread)

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
