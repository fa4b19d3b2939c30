"""Connections between the two hosts as TCP makes them, timed on a SimPy environment.

Modelled: SYN, SYN-ACK, third ACK and data with delay, jitter, rate, and loss as the kernel's retransmission times; the
accept queue of listen(n), which holds n + 1; socket buffers that push back on a writer whose reader does not read;
half-close; reset over unread bytes, which drops what was not yet sent; reset in answer to data for a closed socket;
the rate of each direction, which all connections share. Times and gaps are those measured on Linux 6.18. Order is kept
inside a connection and nowhere else.

Stand-in bytes travel in at most 32 pieces a message, so that a large guest costs no more than a small one.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from ..case.faults import LinkEffect
from ..case.scenario import Timing
from ..process.shaper import NEVER, Shaper
from .clock import Clock
from .shared_rate import SharedRate

CUT, STALL = LinkEffect.CUT, LinkEffect.STALL
BLACKHOLE, PACKET_LOSS = LinkEffect.BLACKHOLE, LinkEffect.PACKET_LOSS
SYN_GAPS_S = (1.03, 1.02, 1.02, 1.02, 1.03, 2.0, 4.3, 8.2, 16.1, 32.0, 64.0)
SYN_ACK_GAP_S = 1.0
FIRST_RTO_S = 0.2
PIECES = 32
FOREVER, LOST = float("inf"), float("-inf")  # arrivals
RESET, PIPE, TIMED_OUT, REFUSED = (
    "Connection reset by peer",
    "Broken pipe",
    "Connection timed out",
    "Connection refused",
)


@dataclass(frozen=True, slots=True)
class Path:
    """One direction of the network between the hosts. `delay` draws a one-way delay in seconds."""

    delay: Callable[[random.Random], float]
    rate_bytes_s: float = 1.25e9
    loss: float = 0.0  # of data segments
    syn_loss: float = 0.0  # of each packet of a connection's set-up
    buffer_bytes: int = 4 << 20


class Listener(Protocol):
    """The receiver of what arrives at one end."""

    def arrived(self, end: End, data: bytes, fill: int) -> None: ...
    def ended(self, end: End) -> None: ...
    def broken(self, end: End, why: str) -> None: ...
    def drained(self, end: End) -> None: ...


Flight = tuple[float, Callable[..., None], tuple[object, ...]]  # when it began to leave, what it does there, to what
Message = tuple[bytes, int, int, int]  # what one call sends, or its rest: data, fill, its whole size at first, depth


@dataclass(slots=True, eq=False)
class End:
    """One side's socket, and the bytes that it has yet to send."""

    connection: Connection
    owner: Listener
    from_source: bool
    number: int = -1  # what the endpoint calls it
    open: bool = True
    reading: bool = True
    queue: deque[Message] = field(default_factory=deque)
    flight: deque[Flight] = field(default_factory=deque)
    unread_pieces: deque[tuple[bytes, int]] = field(default_factory=deque)  # arrived here, not read yet
    unread: int = 0
    in_flight: int = 0
    last_arrival: float = 0.0
    fin_wanted: bool = False
    fin_sent: bool = False
    fin_arrived: bool = False
    draining: bool = False
    dead: bool = False  # reset: nothing moves any more
    arrived: int = 0  # messages whose arrival was scheduled, so far
    causal_hops: int = 0  # one-way trips that led to what arrived last
    peer: End = field(init=False)  # the other side's

    def drained(self) -> None:
        """The send buffer has room for more."""
        if not self.queue and not self.dead:
            self.owner.drained(self)

    def land(self) -> None:
        """What has been under way the longest arrives."""
        _, call, arguments = self.flight.popleft()
        call(*arguments)


class Connection:
    """A connection from its first SYN. `name` is what its opener wanted it for."""

    def __init__(self, number: int, name: str, client: Listener, server: Listener) -> None:
        self.number = number
        self.name = name
        self.client = End(self, client, True)
        self.server = End(self, server, False)
        self.client.peer, self.server.peer = self.server, self.client
        self.accepted = False
        self.established = False  # at the server


class Net:
    """All connections between the two hosts."""

    def __init__(self, env: Clock, rng: random.Random, there: Path, back: Path) -> None:
        self.env, self.rng = env, rng
        self.paths = {True: there, False: back}
        self.rates = {at_source: SharedRate(env, path.rate_bytes_s) for at_source, path in self.paths.items()}
        self.connections: list[Connection] = []
        self.shapers = {True: Shaper(), False: Shaper()}
        self.backlog = 1
        self.accept_queue: deque[Connection] = deque()
        self.listening = False
        self.on_established: Callable[[], None] = lambda: None
        self.on_cut: Callable[[], None] = lambda: None
        self.establish_after: dict[str, float] = {}  # name -> extra time until the server sees it
        self.hold: dict[str, float] = {}  # name -> until when the client's bytes are held back
        self.schedule: dict[str, Timing] = {}  # by connection
        self.packet: Callable[[Connection, bool, str, bytes, int], None] = lambda *_: None

    # --- set-up -----------------------------------------------------------------------------------------------------
    def connect(
        self, name: str, client: Listener, server: Listener, done: Callable[[End, str], None], start_s: float = 0.0
    ) -> End:
        """A connection attempt after `start_s`; `done(end, "")` or `done(end, error)` reports to the client."""
        connection = Connection(len(self.connections), name, client, server)
        self.connections.append(connection)
        self.env.call(start_s, lambda: self._syn(connection, 0, done))
        return connection.client

    def _syn(self, connection: Connection, attempt: int, done: Callable[[End, str], None]) -> None:
        self.packet(connection, True, "syn", b"", 0)
        there, back = self.paths[True], self.paths[False]
        first, second = there.delay(self.rng), back.delay(self.rng)
        lost = there.syn_loss and self.rng.random() < there.syn_loss
        self.env.call(first, lambda: self._syn_arrives(connection, attempt, second, bool(lost), done))

    def _syn_arrives(
        self, connection: Connection, attempt: int, back_s: float, lost: bool, done: Callable[[End, str], None]
    ) -> None:
        if not connection.client.open:
            return
        if not self.listening and not lost:
            self.env.call(back_s, lambda: done(connection.client, REFUSED))
            return
        pending = len(self.accept_queue) + sum(
            1 for c in self.connections if c.server.number == -2 and not c.established
        )
        if lost or pending > self.backlog:
            if attempt + 1 >= len(SYN_GAPS_S):
                self.env.call(SYN_GAPS_S[attempt], lambda: done(connection.client, TIMED_OUT))
            else:
                self.env.call(SYN_GAPS_S[attempt], lambda: self._syn(connection, attempt + 1, done))
            return
        connection.server.number = -2  # in SYN_RECV
        if self.paths[False].syn_loss and self.rng.random() < self.paths[False].syn_loss:
            back_s += SYN_ACK_GAP_S
        self.packet(connection, False, "syn-ack", b"", 0)
        extra = self.establish_after.get(connection.name, 0.0)
        if self.paths[True].syn_loss and self.rng.random() < self.paths[True].syn_loss:
            extra += SYN_ACK_GAP_S  # until the SYN-ACK comes again; data on the connection would be sooner
        ack_s = back_s + self.paths[True].delay(self.rng) + extra
        if connection.name in self.schedule:
            timing = self.schedule[connection.name]
            back_s, ack_s = (self._wait_s(ms) for ms in (timing.connected_ms, timing.accepted_ms))
            for end, ms in (
                (connection.server, timing.reset_at_destination_ms),
                (connection.client, timing.reset_at_source_ms),
            ):
                if ms >= 0:
                    self.env.call(self._wait_s(ms), partial(self._break, end, RESET))
        for wait_s, call in (
            (back_s, lambda: done(connection.client, "")),
            (ack_s, lambda: self._establish(connection)),
        ):
            if wait_s < FOREVER:
                self.env.call(wait_s, call)
        if extra:
            connection.client.last_arrival = self.env.now + ack_s  # its data can't arrive before the connection does

    def _wait_s(self, at_ms: float) -> float:
        return max(at_ms / 1e3 - self.env.now, 0.0) if at_ms >= 0 else FOREVER

    def _turn(self, end: End) -> float | None:
        """When the next message of a scheduled connection arrives (absolute); None where nothing is scheduled."""
        timing = self.schedule.get(end.connection.name)
        if timing is None:
            return None
        times = timing.to_destination_ms if end.from_source else timing.to_source_ms
        if end.arrived < len(times):
            return times[end.arrived] / 1e3
        return FOREVER if end.from_source else None

    def _establish(self, connection: Connection) -> None:
        if connection.established:
            return
        connection.established = True
        self.accept_queue.append(connection)
        self.on_established()

    # --- data -------------------------------------------------------------------------------------------------------
    def send(self, end: End, data: bytes, fill: int, causal_hops: int = 0) -> None:
        if end.dead or not end.open:
            return
        self.packet(end.connection, end.from_source, "data", data, fill)
        end.queue.append((data, fill, len(data) + fill, causal_hops))
        end.draining = True
        self._pump(end)

    def _pump(self, end: End) -> None:
        """Move what the window lets through."""
        shaper, path, peer = self.shapers[end.from_source], self.paths[end.from_source], end.peer
        while end.queue and not end.dead:
            data, fill, whole, causal_hops = end.queue[0]
            outstanding = end.in_flight + peer.unread
            flowing = peer.reading and end.connection.accepted
            if not shaper.idle and (shaper.has_begun(STALL) or shaper.has_begun(PACKET_LOSS)):
                flowing = False
            size = left = len(data) + fill
            if not flowing or 0 < outstanding >= path.buffer_bytes:
                size = min(left, max(path.buffer_bytes - outstanding, 0))
            elif fill:
                size = min(left, max(path.buffer_bytes // 4, whole // PIECES, len(data)))
            if not shaper.idle:
                size = shaper.room(size)
            if size <= 0:
                return
            if size == left:
                end.queue.popleft()
                self._transmit(end, data, fill, causal_hops)
            else:
                part = data[:size]
                part_fill = size - len(part)
                end.queue[0] = data[size:], fill - part_fill, whole, causal_hops
                self._transmit(end, part, part_fill, causal_hops)
            if not shaper.idle and shaper.has_begun(CUT):
                shaper.after[CUT] = NEVER
                self.env.call(path.delay(self.rng) / 2, self.on_cut)  # somewhere on the way
            for entry in [c for c in shaper.calls if c[0] <= shaper.passed]:
                shaper.calls.remove(entry)
                self.env.call(0, entry[1])
        if not end.queue and end.draining and not end.dead:
            end.draining = False
            self.rates[end.from_source].when_left(end, path.buffer_bytes, end.drained)
        if not end.queue and end.fin_wanted and not end.fin_sent and not end.dead:
            end.fin_sent = True
            self.packet(end.connection, end.from_source, "fin", b"", 0)
            self._leave(end, 0, path.delay(self.rng), self._fin_arrives, end.peer)

    def _transmit(self, end: End, data: bytes, fill: int, causal_hops: int) -> None:
        shaper, path = self.shapers[end.from_source], self.paths[end.from_source]
        size = len(data) + fill
        swallowed = not shaper.idle and shaper.has_begun(BLACKHOLE)
        lost = not shaper.idle and shaper.has_begun(PACKET_LOSS)
        shaper.passed += size
        delay_s = path.delay(self.rng)
        if path.loss:
            delay_s += _retransmissions(self.rng, path.loss)
        end.in_flight += size
        if lost:
            self.env.call(shaper.lost_timeout_s, lambda: self._break(end, TIMED_OUT))
        else:
            self._leave(end, size, delay_s, self._arrive, end, data, fill, causal_hops, swallowed)

    def _leave(self, end: End, size: int, delay_s: float, land: Callable[..., None], *arguments: object) -> None:
        """`land(*arguments)` on the other host, `delay_s` after its last byte has left this one."""

        def left(began_s: float, left_s: float) -> None:
            if end.dead:
                return
            arrival = self._scheduled(end, left_s + delay_s) if self.schedule else left_s + delay_s
            if arrival == LOST:
                end.in_flight -= size
                return
            if self.hold and end.from_source and size:  # a close passes the proxy that holds bytes back
                arrival = max(arrival, self.hold.get(end.connection.name, 0.0))
            arrival = max(arrival, end.last_arrival)
            if arrival != FOREVER or end.connection.name in self.schedule:
                end.last_arrival = arrival
                self._fly(end, began_s, land, *arguments)

        self.rates[end.from_source].send(end, size, left)

    def _scheduled(self, end: End, arrival: float) -> float:
        """The arrival of this message: as scheduled, or as the path has it."""
        turn = self._turn(end)
        if turn is None:
            return arrival
        end.arrived += 1
        return max(turn, self.env.now) if turn >= 0 else LOST

    def _fly(self, end: End, began_s: float, land: Callable[..., None], *arguments: object) -> None:
        """`land(*arguments)` at `last_arrival`, behind all in flight: rounded times must let none overtake another."""
        if end.last_arrival == FOREVER:
            return
        end.flight.append((began_s, land, arguments))
        self.env.call(end.last_arrival - self.env._now, end.land)

    def _arrive(self, end: End, data: bytes, fill: int, causal_hops: int, swallowed: bool) -> None:
        peer, size = end.peer, len(data) + fill
        end.in_flight -= size
        if not swallowed and not peer.dead:
            if not peer.open:
                self._reset_by(peer)
                return
            peer.causal_hops = max(peer.causal_hops, causal_hops)
            shaper = self.shapers[end.from_source]
            stalled = not shaper.idle and shaper.after[STALL] <= shaper.passed - end.in_flight
            if peer.reading and end.connection.accepted and not peer.unread_pieces and not stalled:
                peer.owner.arrived(peer, data, fill)
            else:
                peer.unread_pieces.append((data, fill))
                peer.unread += size
        if end.queue or end.draining or end.fin_wanted:
            self._pump(end)

    def read(self, end: End) -> None:
        """`end` reads again: hand over what was held back."""
        stalled = self.shapers[end.peer.from_source]
        if stalled.has_begun(STALL):
            return
        while end.unread_pieces and end.reading and end.open and end.connection.accepted:
            data, fill = end.unread_pieces.popleft()
            end.unread -= len(data) + fill
            end.owner.arrived(end, data, fill)
        if not end.unread_pieces and end.fin_arrived and end.reading and end.open and end.connection.accepted:
            end.fin_arrived = False
            end.owner.ended(end)
        if end.peer.queue or end.peer.draining or end.peer.fin_wanted:
            self._pump(end.peer)

    # --- the end ----------------------------------------------------------------------------------------------------
    def close(self, end: End, unread: bool = False) -> None:
        """Close both ways; over unread bytes that is a reset, which forgets what was not yet sent."""
        if not end.open:
            return
        end.open = False
        if end.dead:
            return
        if unread or end.unread or end.unread_pieces:
            end.queue.clear()
            now = self.env.now  # what still stood in the send buffer never leaves
            end.flight = deque(
                (at, land if at <= now else lambda *_: None, arguments) for at, land, arguments in end.flight
            )
            end.dead = True
            self._reset_by(end)
        else:
            end.fin_wanted = True
            self._pump(end)

    def shut(self, end: End) -> None:
        """Half-close: no more from this end."""
        end.fin_wanted = True
        self._pump(end)

    def _reset_by(self, end: End) -> None:
        """An RST travels to the other end, behind what is under way."""
        peer = end.peer
        self.packet(end.connection, end.from_source, "rst", b"", 0)
        path = self.paths[end.from_source]
        arrival = max(self._scheduled(end, self.env.now + path.delay(self.rng)), end.last_arrival)
        if self.shapers[end.from_source].has_begun(PACKET_LOSS):
            return
        end.last_arrival = arrival
        self._fly(end, self.env._now, self._break, peer, RESET)

    def _break(self, end: End, why: str) -> None:
        if end.dead or (why == RESET and self._swallowed(end)):
            return
        end.dead = True
        end.queue.clear()
        if end.open:
            end.owner.broken(end, why)

    def _fin_arrives(self, end: End) -> None:
        if end.dead or not end.open or self._swallowed(end):
            return
        if end.unread_pieces or not end.reading or not end.connection.accepted:
            end.fin_arrived = True
        else:
            end.owner.ended(end)

    def _swallowed(self, end: End) -> bool:
        """A proxy that discards what the destination sends closes only when the source does."""
        shaper = self.shapers[end.peer.from_source]
        return not end.peer.from_source and shaper.has_begun(BLACKHOLE)

    def reset(self, name: str) -> None:
        """The same with one connection, by its name."""
        for connection in self.connections:
            if connection.name == name:
                self._break(connection.client, RESET)
                self._break(connection.server, RESET)

    def cut(self) -> None:
        """Both sides' sockets are reset at once, as by a firewall that aborts."""
        ends = [end for connection in self.connections for end in (connection.client, connection.server)]
        for end in self.rng.sample(ends, len(ends)):
            self._break(end, RESET)


def _retransmissions(rng: random.Random, loss: float) -> float:
    """Time lost to a segment that had to be sent again, and again (RTO doubling from 200 ms)."""
    delay, rto = 0.0, FIRST_RTO_S
    while rng.random() < loss and delay < 900:
        delay, rto = delay + rto, min(rto * 2, 120.0)
    return delay
