"""One QEMU process: started, queried over QMP, always stopped."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from qemu.qmp import QMPClient, QMPError

from .monitor import Monitor, QemuError, Unavailable
from .profile import die_with_us

START_S = 30.0
DYING_S = 0.5  # from the end of a monitor to the end of its process
PLACES = ("build/qemu/qemu-{}/qemu-system-x86_64",)  # where data/profiles/get-qemu unpacks to


def version_of(binary: str) -> str:
    """ "10.0" of a binary. Raises QemuError."""
    path = shutil.which(binary)
    if path is None:
        raise Unavailable(f"{binary}: there is no such program; install QEMU, or name one with --binary")
    try:
        result = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", timeout=START_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{binary}: can't be run: {error}") from None
    match = re.search(r"version (\d+\.\d+)", result.stdout)
    if not match:
        why = (result.stderr or result.stdout).strip().splitlines()
        raise Unavailable(f"{binary}: is no QEMU" + (f": {why[0]}" if why else ""))
    return match[1]


def needed(named: tuple[str, ...] = ()) -> dict[str, str]:
    """As `binaries`. Raises QemuError where there are none."""
    programs = binaries(named)
    if not programs:
        raise Unavailable("no QEMU is here; install qemu-system-x86, run data/profiles/get-qemu, or give --binary")
    return programs


def binaries(named: tuple[str, ...] = ()) -> dict[str, str]:
    """Version -> binary, of those named or of those that are here. Raises QemuError for one named that is none."""
    if named:
        return {version_of(b): b for b in named}
    programs: dict[str, str] = {}
    for binary in ("qemu-system-x86_64", *(p.format(v) for p in PLACES for v in ("11.1", "10.0", "7.2", "5.2"))):
        with suppress(QemuError):
            programs.setdefault(version_of(binary), binary)
    return programs


class Qemu(Monitor):
    """`async with Qemu(...) as qemu`. `folder` holds its sockets; what it prints is in `stderr`."""

    def __init__(self, binary: str, arguments: tuple[str, ...], folder: Path, name: str) -> None:
        super().__init__(name, folder)
        self.command = (str(Path(shutil.which(binary) or binary).absolute()), *arguments)  # it runs in its own folder
        self.log = folder / f"{name}.log"
        self.process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Qemu:
        self.client = QMPClient(self.name)
        path = self.folder / f"{self.name}.qmp"
        with self.log.open("wb") as log:
            try:
                self.process = await asyncio.create_subprocess_exec(
                    *self.command,
                    "-qmp",
                    f"unix:{path},server=on,wait=off",
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=die_with_us,
                )
            except OSError as error:
                raise Unavailable(f"{self.command[0]}: can't be run: {error.strerror}") from None
        try:
            async with asyncio.timeout(START_S):
                while not path.exists() and self.alive:
                    await asyncio.sleep(0.01)
                while self.alive:
                    with suppress(QMPError, OSError):
                        await self._connect_here(str(path))
                        return self
                    await asyncio.sleep(0.01)
        except TimeoutError:
            await self.stop()
            printed = f", and it printed: {self.stderr}" if self.stderr else ""
            raise QemuError(f"{self.command[0]}: its monitor did not answer in {START_S:.0f} s{printed}") from None
        except BaseException:
            await self.stop()
            raise
        printed = self.stderr
        await self.stop()
        raise Unavailable(f"{self.command[0]}: ended as soon as it was started: {printed or 'without a word'}")

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    @property
    def stderr(self) -> str:
        """What it has printed so far, a line for each thing, without its own name in front."""
        lines = self.log.read_text(errors="replace").splitlines()
        return " | ".join(line.partition(": ")[2] or line for line in lines if line.strip())

    async def _exit_reason(self) -> str:
        if self.process is not None and self.alive:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), DYING_S)
        return "" if self.alive else f": {self.stderr or 'it ended without a word'}"

    def signal(self, number: signal.Signals) -> None:
        if self.alive and self.process is not None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.process.pid, number)  # Popen polls first, and takes its exit code from asyncio

    async def stop(self) -> None:
        """Nothing of it is left."""
        await self.disconnect()
        if self.process is not None:
            self.signal(signal.SIGKILL)
            await self.process.wait()
