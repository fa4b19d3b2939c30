"""One real connection, TCP, unix or a pair of pipes: asyncio's events as inputs, outputs as its actions.

Half-close is kept, and so is back-pressure: nothing is read that the endpoint does not want, nothing more is written
than the transport takes, and stand-in bytes become zeros only then.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from ..handshake import interface as i
from .tls import CUT_SHORT, Tls, TlsError

CHUNK = 1 << 18
ZEROS = memoryview(bytes(CHUNK))
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER
LINGER_S = 1.0
ANSWERS_LIMIT_BYTES = 1 << 20  # that wait for a peer that does not read: then nothing more of it is read either


class Link(asyncio.Protocol):
    """`deliver` receives the inputs of its endpoint; `record` each piece of the wire: outgoing or not, kind, bytes,
    fill; `forget` is called when nothing of it is left. TCP gives up bytes that nobody has acknowledged for
    `unacknowledged_s` (RFC 5482); 0: as the kernel does, on Linux after about 924 s."""

    def __init__(
        self,
        conn: int,
        deliver: Callable[[i.Input], None],
        record: Callable[[bool, str, bytes, int], None],
        forget: Callable[[], object],
        unacknowledged_s: float,
    ) -> None:
        self.conn, self.deliver, self.record, self.forget = conn, deliver, record, forget
        self.unacknowledged_s = unacknowledged_s
        self.transport: asyncio.Transport | None = None
        self.sock: socket.socket | None = None
        self.queue: deque[tuple[bytes, int]] = deque()
        self.tls: Tls | None = None
        self.waiting_bytes = 0  # real ones of the queue
        self.paused = self.choked = False  # by the endpoint; by answers that the peer does not read
        self.full = self.draining = self.ending = self.end_sent = self.end_received = False
        self.gone = self.lost = False  # dropped by us or broken; its transport is no more

    # --- events of asyncio -----------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(0)
        self.sock = transport.get_extra_info("socket")
        if self.sock is not None and self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux's
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.unacknowledged_s * 1e3))
        if self.gone:  # it was dropped before it was there
            transport.abort()
            return
        self.deliver(i.Opened(self.conn))

    def data_received(self, data: bytes) -> None:
        if self.gone:  # lingers
            return
        if self.tls is None:
            data, fill = _counted(data)
            self.record(False, "data", data, fill)
            self.deliver(i.Received(self.conn, data, fill))
        else:
            self.record(False, "data", data, 0)
            self.tls.arrived(data)
            self._go_on()

    def eof_received(self) -> bool:
        if self.gone:
            return False  # it lingered for this
        self.record(False, "fin", b"", 0)
        if self.tls is not None and not self.tls.secured:
            self._tls_failed(CUT_SHORT)
        elif not self.end_received:
            self.end_received = True
            self.deliver(i.Ended(self.conn) if self.tls is None else i.Broken(self.conn, CUT_SHORT))
        return True  # the other direction stays

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if not self.gone:
            self.gone = True
            if error is not None:
                self.record(False, "rst", b"", 0)
                self.deliver(i.Broken(self.conn, error_text(error)))
        self.forget()

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        asyncio.get_running_loop().call_soon(self._pump)  # a transport may not be closed from within this call

    # --- what the endpoint asks -------------------------------------------------------------------------------------
    def send(self, data: bytes, fill: int) -> None:
        if not (self.gone or self.ending):
            self.queue.append((data, fill))
            self.waiting_bytes += len(data)
            self.draining = True
            self._pump()
            if self.waiting_bytes > ANSWERS_LIMIT_BYTES and not self.choked:
                self.choked = True
                self._read_or_not()

    def end(self) -> None:
        """No more from here, once all was sent."""
        self.ending = True
        self._pump()

    def drop(self, unread: bool = False) -> None:
        """Close both ways; with `unread` as the kernel does over unread bytes: by a reset, at once."""
        if self.gone:
            return
        self.gone = True
        if unread:
            self.abort()
        else:
            self._pump()

    def abort(self) -> None:
        """Reset it."""
        self.gone = True
        if self.transport is not None and not self.lost:
            self.record(True, "rst", b"", 0)
            if self.sock is not None:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.transport.abort()

    def pause(self) -> None:
        self.paused = True
        self._read_or_not()

    def resume(self) -> None:
        self.paused = False
        self._read_or_not()

    def _read_or_not(self) -> None:
        if self._there.is_closing():
            return
        if self.paused or self.choked:
            self._there.pause_reading()
        elif not self.end_received:
            self._there.resume_reading()

    def start_tls(self, tls: Tls) -> None:
        self.tls = tls
        self._go_on()

    # --- within -----------------------------------------------------------------------------------------------------
    @property
    def _there(self) -> asyncio.Transport:
        """Its transport, where there must be one."""
        assert self.transport is not None
        return self.transport

    def _pump(self) -> None:
        """Write what the transport takes; report when it has all; close what was to be closed behind it."""
        while self.queue and not self.full and not self._there.is_closing():
            data, fill = self.queue.popleft()
            piece = data[:CHUNK] if data else ZEROS[: min(fill, CHUNK)]
            rest = (data[CHUNK:], fill) if data else (b"", fill - len(piece))
            self.waiting_bytes -= len(piece) if data else 0
            if rest[0] or rest[1]:
                self.queue.appendleft(rest)
            if self.tls is None:
                self.record(True, "data", bytes(piece) if data else b"", 0 if data else len(piece))
                self._there.write(piece)
            else:
                self.tls.write(piece)
                self._flush()
        if self.queue or self.full or self.transport is None or self.transport.is_closing():
            return
        if self.choked:
            self.choked = False
            self._read_or_not()
        if self.draining and not self.gone:
            self.draining = False
            asyncio.get_running_loop().call_soon(self._drained)
        if (self.ending or self.gone) and not self.end_sent:
            self.end_sent = True
            if self.tls is not None and self.tls.secured:
                self.tls.close()
                self._flush()
            self.record(True, "fin", b"", 0)
            if not self.gone:
                with suppress(OSError):  # reset meanwhile; connection_lost will report it
                    self.transport.write_eof()
        if self.gone and self.tls is not None and self.tls.awaits_tickets and not self.end_received:
            self._linger()
        elif self.gone:
            self.transport.close()

    def _linger(self) -> None:
        """OpenSSL's server sends session tickets, which QEMU's GnuTLS doesn't. Over an unread one, close() would be a
        reset, and the peer would lose what is under way to it: so what comes is discarded until its end."""
        with suppress(OSError):
            self._there.write_eof()
        self._there.resume_reading()
        asyncio.get_running_loop().call_later(LINGER_S, self._there.close)

    def _drained(self) -> None:
        if not self.gone and not self.draining:
            self.deliver(i.Drained(self.conn))

    def _flush(self) -> None:
        assert self.tls is not None
        records = self.tls.take()
        if records:
            self.record(True, "data", records, 0)
            self._there.write(records)

    def _go_on(self) -> None:
        """Let TLS make what it can of what has arrived."""
        assert self.tls is not None
        try:
            if not self.tls.secured:
                done = self.tls.shake()
                self._flush()
                if not done:
                    return
                self.deliver(i.Secured(self.conn, self.tls.exporter, self.tls.alpn))
        except TlsError as error:
            self._flush()
            self._tls_failed(str(error))
            return
        data = self.tls.read()
        self._flush()
        if data and not self.gone:
            self.deliver(i.Received(self.conn, *_counted(data)))
        if self.tls.failed:
            self._tls_failed(self.tls.failed)
        elif self.tls.ended and not self.end_received and not self.gone:
            self.end_received = True
            self.deliver(i.Ended(self.conn))

    def _tls_failed(self, text: str) -> None:
        assert self.tls is not None
        if self.gone:
            return
        self.deliver(i.Broken(self.conn, text) if self.tls.secured else i.TlsFailed(self.conn, text))
        self.drop()


def _counted(data: bytes) -> tuple[bytes, int]:
    """Guest memory is zeros here: many of them are reported as a number."""
    return (b"", len(data)) if len(data) >= 4096 and data == bytes(len(data)) else (data, 0)


def error_text(error: BaseException) -> str:
    """The system's text for an error, as the simulated world and QEMU have it."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error) or type(error).__name__
