"""A link with faults, between two real sides: the same scenario file that the simulated world reads, on real sockets.

Delay, jitter and rate are per connection and direction; cut, stall and blackhole count the bytes of a direction over
all connections, as in the world. It can't delay the kernel's own SYN: a source behind it waits that round trip itself
(`Host.trip_s`), and it connects on to the destination when the third packet would have arrived.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from ..case.faults import Fault, LinkEffect
from ..case.guest import MIB
from ..case.registry import DELAYS
from ..case.scenario import Scenario
from ..process.shaper import NEVER, Shaper
from .address import Address, bound, connect, listen
from .host import Names
from .link import RESET_ON_CLOSE


class _Leg(asyncio.Protocol):
    """One of the two sockets of a connection through the proxy. What it receives goes, later, to `other`."""

    def __init__(self, proxy: Proxy, to_destination: bool) -> None:
        self.proxy, self.to_destination, self.name = proxy, to_destination, ""
        self.transport: asyncio.Transport | None = None
        self.other: _Leg
        self.waiting: list[Callable[[], None]] = []  # actions for a transport that is not yet there
        self.flight: deque[tuple[float, Callable[[], None]]] = deque()  # when it left its sender, what arrives
        self.on_its_way = 0
        self.last_s = self.busy_until_s = self.hold_until_s = 0.0
        self.full = self.stalled = self.done = self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(0)
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for action in self.waiting:
            action()

    def data_received(self, data: bytes) -> None:
        self.proxy.moves += 1
        self.proxy.seen(self.name, self.to_destination, data)
        self._shape(data)

    def _shape(self, data: bytes) -> None:
        shaper = self.proxy.shapers[self.to_destination]
        if (room := shaper.room(len(data))) < len(data):
            self._shape(data[:room])
            self._shape(data[room:])
            return
        if shaper.has_begun(LinkEffect.STALL):
            self.stalled = True
            self._flow()
            return
        if shaper.has_begun(LinkEffect.BLACKHOLE):
            return
        shaper.passed += len(data)
        self.on_its_way += len(data)
        self._flow()
        self._later(len(data), lambda: self._deliver(data))
        if shaper.has_begun(LinkEffect.CUT):
            shaper.after[LinkEffect.CUT] = NEVER
            self.proxy.cut()

    def eof_received(self) -> bool:
        if not self.discarded:
            self._later(0, lambda: self.other.do(self.other.end))
        return True

    @property
    def discarded(self) -> bool:
        """Whether this is the destination's end and its answers are discarded: then it closes when the source does."""
        shaper = self.proxy.shapers[self.to_destination]
        return not self.to_destination and shaper.has_begun(LinkEffect.BLACKHOLE)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if error is not None:  # a reset forgets what had not left its sender
            now_s = self.proxy.loop.time()
            self.flight = deque((at_s, call if at_s <= now_s else lambda: None) for at_s, call in self.flight)
        if not self.done:
            self.done = True
            if not self.discarded:
                self._later(0, lambda: self.other.do(self.other.reset))

    def pause_writing(self) -> None:
        self.full = True
        self.other._flow()

    def resume_writing(self) -> None:
        self.full = False
        self.other._flow()

    def do(self, action: Callable[[], None]) -> None:
        """Now, or as soon as the connection exists."""
        if self.transport is None:
            self.waiting.append(action)
        elif not self.done:
            action()

    @property
    def _there(self) -> asyncio.Transport:
        """Its transport, where there must be one."""
        assert self.transport is not None
        return self.transport

    def end(self) -> None:
        if self._there.can_write_eof() and not self._there.is_closing():
            with suppress(OSError):  # reset meanwhile; connection_lost will report it
                self._there.write_eof()

    def reset(self) -> None:
        self.done = True
        self._there.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._there.abort()

    def _later(self, size: int, call: Callable[[], None]) -> None:
        proxy = self.proxy
        now_s = proxy.loop.time()
        self.busy_until_s = max(now_s, self.busy_until_s) + size / proxy.rate_bytes_s
        if not size or self.hold_until_s < NEVER:  # what is held without limit never arrives, but the end does
            self.last_s = max(self.last_s, self.busy_until_s + proxy.delay(), self.hold_until_s if size else 0.0)
            self.flight.append((self.busy_until_s, call))  # timers of one moment ring in any order
            proxy._at(self.last_s, lambda: self.flight.popleft()[1]())

    def _deliver(self, data: bytes) -> None:
        def written() -> None:
            self.on_its_way -= len(data)
            if not self.other._there.is_closing():
                self.other._there.write(data)
            self._flow()

        self.other.do(written)

    def _flow(self) -> None:
        """Read while there is room on the way and beyond it."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.stalled or self.other.full or self.on_its_way > self.proxy.buffer_bytes:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()


class Proxy:
    """Listens where the source connects; connects on to where the destination listens."""

    def __init__(self, scenario: Scenario, seed: int, upstream: Address, names: Names, zero_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.upstream, self.names, self.zero_s = upstream, names, zero_s
        self.rng = random.Random(f"{seed} {scenario.name} proxy")
        self.delay = partial(DELAYS.get(scenario.link.delay_law).sampler(scenario.link), self.rng)
        self.rate_bytes_s = scenario.link.rate_mib_s * MIB
        self.buffer_bytes = scenario.link.buffer_kib << 10
        self.shapers = {True: Shaper(), False: Shaper()}
        self.late_s: dict[str, float] = {}
        self.hold_until_s: dict[str, float] = {}
        self.legs: list[_Leg] = []
        self.timers: set[asyncio.TimerHandle] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.listener: socket.socket | None = None
        self.moves = 0  # whatever has happened here
        self.seen: Callable[[str, bool, bytes], None] = lambda name, to_destination, data: None

    # --- what faults may do (faults.Rig, but for what concerns processes) -------------------------------------------
    def arrange(self, faults: Iterable[Fault]) -> None:
        """Those of the link."""
        for number, fault in enumerate(faults):
            if fault.on_link:
                fault.arrange(self, number)  # type: ignore[arg-type]  # such a fault asks for nothing else

    def at(self, at_s: float, call: Callable[[], None]) -> None:
        self._at(self.zero_s + at_s, call)

    def shape(self, effect: LinkEffect, direction: str, after_bytes: int | None, timeout_s: float = 0.0) -> None:
        self.shapers[direction == "to-destination"].begin(effect, after_bytes)

    def delay_accept(self, connection: str, for_s: float) -> None:
        self.late_s[connection] = for_s

    def delay_data(self, connection: str, for_s: float) -> None:
        self.hold_until_s[connection] = self.zero_s + for_s

    def reset(self, connection: str) -> None:
        self._reset([leg for leg in self.legs if leg.name == connection])

    def cut(self) -> None:
        """Both sides' sockets are reset at once, as by a firewall that aborts."""
        self._reset(self.legs)

    def _reset(self, legs: list[_Leg]) -> None:
        for leg in legs:
            if leg.transport is not None and not leg.done:
                leg.reset()

    # --- connections ------------------------------------------------------------------------------------------------
    async def listen(self, address: Address) -> Address:
        self.listener = await listen(address, 128)
        self.loop.add_reader(self.listener, self._accept)
        return bound(self.listener)

    def _at(self, when_s: float, call: Callable[[], None]) -> None:
        def ring() -> None:
            self.moves += 1
            self.timers.discard(handle)
            call()

        handle = self.loop.call_at(when_s, ring)
        self.timers.add(handle)

    def close(self) -> None:
        for handle in self.timers:
            handle.cancel()
        for task in self.tasks:
            task.cancel()
        for leg in self.legs:
            leg.done = True
            if leg.transport is not None and not leg.lost:
                leg.transport.abort()
        if self.listener is not None:
            self.loop.remove_reader(self.listener)
            self.listener.close()
            self.listener = None

    def _accept(self) -> None:
        assert self.listener is not None
        sock, peer = self.listener.accept()
        sock.setblocking(False)
        near, far = _Leg(self, True), _Leg(self, False)
        near.other, far.other = far, near
        self.legs += [near, far]
        name = self.names.get(peer, "")
        near.name = far.name = name
        near.hold_until_s = self.hold_until_s.get(name, 0.0)
        task = self.loop.create_task(self._join(sock, near, far, name))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _join(self, sock: socket.socket, near: _Leg, far: _Leg, name: str) -> None:
        await self.loop.connect_accepted_socket(lambda: near, sock)
        wait_s = 3 * self.delay() + self.late_s.get(name, 0.0)
        if wait_s == NEVER:
            return
        await asyncio.sleep(wait_s)
        try:
            onward, _ = await connect(self.upstream, lambda own: self.names.__setitem__(own, name))
        except OSError:
            near.do(near.reset)
            return
        if near.done:
            onward.close()
        else:
            await self.loop.create_connection(lambda: far, sock=onward)
