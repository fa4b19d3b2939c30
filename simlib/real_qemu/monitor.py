"""QMP: what a manager asks of a QEMU, with a clear sentence where there is no answer."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from qemu.qmp import ExecInterruptedError, ExecuteError, QMPClient, QMPError, Runstate

PATIENCE_S = 2.0  # a monitor that answers nothing for so long is blocked

SAVE_S = 30.0


class QemuError(Exception):
    """What was wrong with a QEMU, in one sentence."""


class Refused(QemuError):
    """QMP answered with an error; the text is QEMU's."""


class Monitor:
    """One QEMU's monitor, at a unix socket's path or HOST:PORT; `name` is what it is called in sentences."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder  # the folder is ours, and QEMU can write to it
        self.client = QMPClient(name)
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it tells of every lost connection; so do we

    async def connect(self, address: str) -> None:
        """Raises QemuError."""
        host, _, port = address.rpartition(":")
        where: str | tuple[str, int] = (host, int(port)) if host and port.isdigit() else address
        try:
            await asyncio.wait_for(self.client.connect(where), PATIENCE_S)
        except (TimeoutError, QMPError, OSError) as error:
            why = error.__cause__ or error
            raise QemuError(
                f"{address}: no QMP monitor answers there ({why}); QEMU opens one with "
                f"-qmp unix:{address},server=on,wait=off"
            ) from None

    async def disconnect(self) -> None:
        with suppress(QMPError, OSError, EOFError, TimeoutError):
            await asyncio.wait_for(self.client.disconnect(), 1.0)

    @property
    def gone(self) -> bool:
        """Its connection is lost, and nothing more was heard of it."""
        return self.client.runstate is not Runstate.RUNNING

    async def ask(self, command: str, **arguments: Any) -> Any:
        """QMP's answer. Raises Refused, or QemuError if there is none in time."""
        return await self._ask(command, {k.replace("_", "-"): v for k, v in arguments.items()}, PATIENCE_S)

    async def _ask(self, command: str, given: dict[str, Any], patience_s: float) -> Any:
        try:
            return await asyncio.wait_for(self.client.execute(command, given or None), patience_s)
        except ExecuteError as error:
            raise Refused(str(error)) from None
        except (TimeoutError, ExecInterruptedError, QMPError, OSError) as error:
            raise QemuError(f"{self.name}: its monitor does not answer {command}: {error or 'it is blocked'}") from None

    async def status(self) -> dict[str, Any]:
        """query-migrate, and `running`; empty if its monitor doesn't answer."""
        try:
            found = dict(await self.ask("query-migrate"))
            return {**found, "running": bool((await self.ask("query-status"))["running"])}
        except QemuError:
            return {}

    async def memory(self, at: int, size: int) -> bytes:
        """Guest memory from a physical address on."""
        path = self.folder / f"{self.name}.memory"
        await self._ask("pmemsave", {"val": at, "size": size, "filename": str(path)}, SAVE_S)
        found = path.read_bytes()
        path.unlink()
        return found
