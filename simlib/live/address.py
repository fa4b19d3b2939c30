"""Where a side listens or connects, written as QEMU writes it: tcp:HOST:PORT, unix:PATH, fd:N, exec:COMMAND."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..case.intruders import Intruder

KINDS = ("tcp", "unix", "fd", "exec")
SocketAddress = str | tuple[str | int | bytes, ...]  # as the module socket has it


class AddressError(ValueError):
    """What is wrong with an address, and how one is written."""


@dataclass(frozen=True)
class Address:
    """`where` is HOST:PORT, a path, a number, or a command."""

    kind: str
    where: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.where}"

    @property
    def host(self) -> str:
        return self.where.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.where.rpartition(":")[2])

    @property
    def inline(self) -> bool:
        """One pair of pipes is all that there is."""
        return self.kind in ("fd", "exec")


def parse(text: str) -> Address:
    """Raises AddressError."""
    kind, colon, where = text.partition(":")
    if kind not in KINDS and colon and where.isdecimal():
        kind, where = "tcp", text  # HOST:PORT
    if not colon or kind not in KINDS or not where:
        raise AddressError(f"{text!r} is not an address; write tcp:HOST:PORT, unix:PATH, fd:N or exec:COMMAND")
    if kind == "tcp":
        port = where.rpartition(":")[2]
        if not port.isdecimal() or int(port) > 65535 or ":" not in where:
            raise AddressError(f"{text!r} has no port; write tcp:HOST:PORT, with a port from 0 to 65535")
        try:
            where.rpartition(":")[0].encode("idna")  # as getaddrinfo would
        except UnicodeError:
            raise AddressError(f"{text!r}: no host can have that name") from None
    if kind == "fd" and not where.isdecimal():
        raise AddressError(f"{text!r}: a descriptor is a number, as in fd:3")
    return Address(kind, where)


async def connect(
    address: Address, named: Callable[[object], None] = lambda _: None
) -> tuple[socket.socket, subprocess.Popen[bytes] | None]:
    """One connection, and the process at its other end if that was asked for. `named` receives the socket's own name
    before the peer can see it. Raises OSError."""
    if address.inline:
        named(address.kind)
        return inline_socket(address)
    sock, to = await _resolved(address)
    try:
        if address.kind == "unix":
            sock.bind("")  # Linux makes up a name (unix(7), autobind)
        elif address.host in ("127.0.0.1", "::1", "localhost"):
            sock.bind((to[0], 0))
        named(sock.getsockname())
        await asyncio.get_running_loop().sock_connect(sock, to)
    except BaseException:
        sock.close()
        raise
    return sock, None


async def intrude(
    address: Address, intruder: Intruder, named: Callable[[object], None] = lambda _: None
) -> socket.socket:
    """Connect uninvited, send what the intruder sends, and leave when it does. Raises OSError."""
    sock, _ = await connect(address, named)
    loop = asyncio.get_running_loop()
    if intruder.payload:
        await loop.sock_sendall(sock, intruder.payload)
    if intruder.leaves_after_s == 0:
        sock.close()
    elif intruder.leaves:
        loop.call_later(intruder.leaves_after_s, sock.close)
    return sock


def inline_socket(address: Address) -> tuple[socket.socket, subprocess.Popen[bytes] | None]:
    """The inherited descriptor, or a command's input and output. Raises OSError, AddressError."""
    if address.kind == "fd":
        try:
            sock = socket.socket(fileno=int(address.where))
        except (OSError, ValueError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else "no such number"
            raise AddressError(f"{address}: is not an open socket ({why})") from None
        sock.setblocking(False)
        return sock, None
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(["/bin/sh", "-c", address.where], stdin=theirs.fileno(), stdout=theirs.fileno())
    ours.setblocking(False)
    return ours, process


async def listen(address: Address, backlog: int) -> socket.socket:
    """Raises OSError, for a port in use for example."""
    sock, at = await _resolved(address, listening=True)
    try:
        if address.kind == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif _is_stale(Path(address.where)):
            Path(address.where).unlink()
        sock.bind(at)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


def bound(sock: socket.socket) -> Address:
    """Where a listening socket can be reached."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Address("unix", name)
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return Address("tcp", f"{host}:{name[1]}")


async def _resolved(address: Address, listening: bool = False) -> tuple[socket.socket, SocketAddress]:
    """A socket, and where it goes."""
    to: SocketAddress
    if address.kind == "unix":
        sock, to = socket.socket(socket.AF_UNIX), address.where
    else:
        flags = socket.AI_PASSIVE if listening else 0
        addresses = await asyncio.get_running_loop().getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=flags
        )
        sock, to = socket.socket(addresses[0][0]), addresses[0][4]
    sock.setblocking(False)
    return sock, to


def _is_stale(path: Path) -> bool:
    """Whether it is a socket's file without a listener."""
    if not path.is_socket():
        return False
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(str(path))
        return False
    return True
