"""QMP: a manager's commands to a QEMU, with a clear sentence where there is no answer."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import struct
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from qemu.qmp import EventListener, ExecInterruptedError, ExecuteError, QMPClient, QMPError, Runstate, StateError

from ..case.failure import Failure
from ..handshake.errors import clean
from .shapes import Json, JsonValue

PATIENCE_S = 2.0  # a monitor that answers nothing for so long is blocked

SAVE_S = 30.0


class QemuError(Failure):
    """What was wrong with a QEMU, in one sentence."""


class Unavailable(QemuError):
    """There is no such QEMU here, or it can't be started."""


class Refused(QemuError):
    """QMP answered with an error; `why` is QEMU's own text."""

    def __init__(self, text: str, why: str = "") -> None:
        super().__init__(text)
        self.why = why


class Monitor:
    """One QEMU's monitor, at a unix socket's path or HOST:PORT; `name` is what it is called in sentences."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder  # the folder is ours, and QEMU can write to it
        self.where = name  # and the address, once it is known
        self.client = QMPClient(name)
        self.pidfd = -1
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it logs every lost connection; so do we

    async def connect(self, address: str) -> None:
        """Raises QemuError."""
        address = address.removeprefix("unix:").removeprefix("tcp:")
        self.where = f"{self.name} at {address}"
        host, _, port = address.rpartition(":")
        try:
            if host and port.isdigit():
                await asyncio.wait_for(self.client.connect((host, int(port))), PATIENCE_S)
            else:
                await asyncio.wait_for(self._connect_here(address), PATIENCE_S)
        except (TimeoutError, QMPError, OSError) as error:
            raise QemuError(
                f"{address}: no QMP monitor answers there ({_reason(error)}); QEMU opens one with "
                f"-qmp {'tcp' if host and port.isdigit() else 'unix'}:{address},server=on,wait=off"
            ) from None

    async def _connect_here(self, path: str) -> None:
        """And hold on to the process that listens there (pidfd_open(2)), so that its end can't be mistaken."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, path)
            pid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            with suppress(OSError):  # of another namespace, or gone already
                self.pidfd = os.pidfd_open(pid)
            await self.client.connect(sock)
        except BaseException:
            sock.close()
            self._forget()
            raise

    def _forget(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    async def disconnect(self) -> None:
        self._forget()
        with suppress(QMPError, OSError, EOFError, TimeoutError):
            await asyncio.wait_for(self.client.disconnect(), 1.0)

    @property
    def gone(self) -> bool:
        """Its connection is lost, and nothing more was received from it."""
        return self.client.runstate is not Runstate.RUNNING

    @property
    def dead(self) -> bool:
        """Its process is known to have ended. One at HOST:PORT is never known to."""
        if self.pidfd < 0:
            return False
        ended = select.poll()
        ended.register(self.pidfd, select.POLLIN)
        return bool(ended.poll(0))

    async def ask(self, command: str, **arguments: object) -> JsonValue:
        """QMP's answer. Raises Refused, or QemuError if there is none in time."""
        return await self._ask(command, {k.replace("_", "-"): v for k, v in arguments.items()}, PATIENCE_S)

    async def _ask(self, command: str, arguments: Mapping[str, object], patience_s: float) -> JsonValue:
        try:
            return await asyncio.wait_for(self.client.execute(command, arguments or None), patience_s)
        except ExecuteError as error:
            why = clean(str(error)).strip() or "QEMU does not say why"
            raise Refused(f"{self.where}: refuses {command}: {why}", why) from None
        except TimeoutError:
            text = f"{self.where}: its monitor is blocked, {command} was not answered in {patience_s:g} s"
            raise QemuError(text) from None
        except (ExecInterruptedError, StateError, OSError):
            text = f"{self.where}: its monitor was gone before it answered {command}{await self._exit_reason()}"
            raise QemuError(text) from None
        except QMPError as error:
            raise QemuError(f"{self.where}: {command} is not answered as QEMU does: {_reason(error)}") from None

    async def _exit_reason(self) -> str:
        """A colon and why its process ended, where this can be known."""
        return ""

    async def status(self) -> Json:
        """query-migrate, and `running` and `runstate`; empty if its monitor doesn't answer."""
        try:
            answer = dict(await self.ask("query-migrate"))
            state = await self.ask("query-status")
            return {**answer, "running": bool(state["running"]), "runstate": str(state["status"])}
        except QemuError:
            return {}

    def migration_events(self) -> AbstractContextManager[EventListener]:
        """A context in which its MIGRATION events are kept, so that no status is missed between two questions; the
        capability `events` must be on."""
        return self.client.listener("MIGRATION")

    async def memory(self, at: int, size: int) -> bytes:
        """Guest memory from a physical address on."""
        path = self.folder / f"{self.name}.memory"
        await self._ask("pmemsave", {"val": at, "size": size, "filename": str(path)}, SAVE_S)
        data = path.read_bytes()
        path.unlink()
        if len(data) != size:  # QEMU does not look whether its last bytes could be written
            raise QemuError(f"{self.where}: pmemsave wrote {len(data)} of {size} bytes; is {self.folder} full?")
        return data


def _reason(error: Exception) -> str:
    """Why there is no connection, also where the exception has no text."""
    cause = error.__cause__ or error
    if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError):
        return f"nothing was said for {PATIENCE_S:g} s: another manager holds it, or it is blocked"
    if isinstance(cause, EOFError):
        return "it hung up without a word"
    text = getattr(cause, "strerror", "") or str(cause)
    return clean(text.partition("\n")[0]).strip(" :") or "for no reason that was given"
