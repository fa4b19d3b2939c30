"""A running guest saved with a manifest in front, so that a load elsewhere is refused before the first page.

Room is left at the file's beginning, QEMU writes its stream behind it (`file:…,offset=N`; `exec:cat >>` where there is
no file:), and the manifest is written last, from what the stream really holds.
"""

from __future__ import annotations

import shlex
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..case.profiles import ProfileError, described
from ..handshake.machine import Machine, Settings
from ..handshake.stream import VALIDATED
from ..handshake.v2 import manifest
from ..handshake.versions import behaviour
from .profile import Binary, Monitor, binary_profile, cpu_flags, guest_facts, profile_from_stream
from .reprofile import of_process
from .saved import SavedError, read
from .shapes import Dump, Json

ROOM_BYTES = 1 << 20  # a manifest of 4,000 devices
NEEDS_AN_ANSWER = ("return-path", "postcopy-ram", "postcopy-preempt", "switchover-ack", "multifd")


def save(address: str, path: Path, resume: bool = False) -> Settings:
    """Save the guest whose monitor is at `address`; it stays paused afterwards, unless `resume`. Returns what the
    manifest states. Raises ProfileError, OSError; then the guest is as it was and no file is left."""
    with Monitor.at(address) as monitor, tempfile.TemporaryDirectory() as folder:
        facts = binary_profile(monitor)
        flags, dump = _of_binary(monitor, Path(folder))
        guest = guest_facts(monitor, flags) | {"name": "guest"}
        on = [c["name"] for c in facts["capabilities"] if c["default"]]
        off = [c for c in on if c in NEEDS_AN_ANSWER and not (c == "multifd" and "mapped-ram" in on)]
        try:
            with path.open("xb") as file:
                file.write(bytes(ROOM_BYTES))
        except FileExistsError:
            raise ProfileError(f"{path}: is there already; name another file") from None
        try:
            _set(monitor, off, False)
            _run(monitor, _uri(path.absolute(), facts["version"]))
            settings = _manifest(path, facts, guest, dump, tuple(c for c in on if c in VALIDATED))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            with suppress(ProfileError):
                _set(monitor, off, True)
        if resume:
            monitor.ask("cont")
    return settings


def _of_binary(monitor: Monitor, folder: Path) -> tuple[set[str], Dump]:
    """What only the binary itself can report, if it is on this host: CPU features by name, and its -dump-vmstate."""
    if not monitor.pid:
        return set(), {}
    try:
        it = of_process(monitor.pid)
        binary = Binary(it.program, it.data_dirs, folder, it.environment)
        machine_type = monitor.ask("qom-get", path="/machine", property="type").removesuffix("-machine")
        return cpu_flags(binary), binary.known(machine_type)
    except ProfileError:
        return set(), {}


def _uri(path: Path, version: str) -> str:
    if behaviour(version).file_transport:
        return f"file:{path},offset={ROOM_BYTES}"
    return f"exec:cat >> {shlex.quote(str(path))}"


def load_uri(path: Path, version: str) -> str:
    """The argument of -incoming that loads the file."""
    if behaviour(version).file_transport:
        return f"file:{path},offset={ROOM_BYTES}"
    return f"exec:tail -c +{ROOM_BYTES + 1} {shlex.quote(str(path))}"


def _set(monitor: Monitor, capabilities: list[str], state: bool) -> None:
    if capabilities:
        states = [{"capability": c, "state": state} for c in capabilities]
        monitor.ask("migrate-set-capabilities", capabilities=states)


def _run(monitor: Monitor, uri: str) -> None:
    """Wait until everything is in the file. Cancelled if we are."""
    monitor.ask("migrate", uri=uri)
    try:
        while True:
            answer = monitor.ask("query-migrate")
            if answer.get("status") == "completed":
                return
            if answer.get("status") in ("failed", "cancelled"):
                why = answer.get("error-desc", "QEMU does not say why")
                raise ProfileError(f"{monitor.name}: the guest could not be saved: {why}; it goes on as before")
            time.sleep(0.05)
    except BaseException:
        with suppress(ProfileError):
            monitor.ask("migrate_cancel")
        raise


def _manifest(path: Path, facts: Json, guest: Json, dump: Dump, capabilities: tuple[str, ...]) -> Settings:
    try:
        saved = read(path, ROOM_BYTES)
    except SavedError as error:
        raise ProfileError(f"what QEMU saved can't be read: {error}") from None
    machine = described(profile_from_stream(facts, guest, saved, dump), "", str(path))
    version = ".".join(facts["version"].split(".")[:2])
    settings = Settings(version, _as_sent(machine), capabilities, transport="file")
    head = manifest.write(settings, ROOM_BYTES)
    if len(head) != ROOM_BYTES:
        raise ProfileError(f"{path}: the manifest has {len(head)} bytes, and there is room for {ROOM_BYTES}")
    with path.open("r+b") as file:
        file.write(head)
    return settings


def _as_sent(machine: Machine) -> Machine:
    """What was not sent will not come, whatever the device might have sent."""
    return replace(
        machine,
        devices=tuple(
            replace(d, subsections=tuple(s for s in d.subsections if s.needed == "always")) for d in machine.devices
        ),
    )
