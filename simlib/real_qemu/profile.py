"""What a QEMU binary reports about itself and its command line's machine; what the engine takes as `machine`.

The devices are read from a stream that the binary really saves, started paused (which devices there are, what they
sent), and from its own `-dump-vmstate` (what it could send and would accept). Nothing is added from knowledge of QEMU.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..case.profiles import ProfileError
from ..handshake.errors import clean
from . import shapes
from .description import sent_bytes, sent_fields, sent_nested, sent_subsections
from .saved import Saved, SavedError, read
from .shapes import Described, Dump, DumpVmsd, Json, JsonValue

VIRTIO_SET = (
    "-device",
    "virtio-net-pci,addr=0x5",
    "-blockdev",
    "driver=null-co,node-name=disk,size=1048576",
    "-device",
    "virtio-blk-pci,drive=disk,addr=0x6",
    "-device",
    "virtio-rng-pci,addr=0x7",
    "-device",
    "virtio-balloon-pci,addr=0x8",
    "-device",
    "virtio-serial-pci,addr=0x9",
    "-device",
    "virtio-gpu-pci,addr=0xa",
)

# Name, machine type, what is added. One that names a machine type the binary lacks is left out.
CONFIGURATIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("pc-i440fx-7.2", "pc-i440fx-7.2", ()),
    ("pc-i440fx-7.2+virtio-rng", "pc-i440fx-7.2", ("-device", "virtio-rng-pci,addr=0x5")),
    ("pc-i440fx-7.2+virtio-net", "pc-i440fx-7.2", ("-device", "virtio-net-pci,addr=0x5")),
    ("pc-i440fx-7.2+e1000", "pc-i440fx-7.2", ("-device", "e1000,addr=0x5")),
    ("pc-i440fx-7.2+isa-serial", "pc-i440fx-7.2", ("-device", "isa-serial")),
    ("pc-i440fx-7.2+smp2", "pc-i440fx-7.2", ("-smp", "2")),
    ("pc-q35-7.2", "pc-q35-7.2", ()),
    ("pc-q35-7.2+virtio-gpu", "pc-q35-7.2", ("-device", "virtio-gpu-pci")),
    ("pc-q35-7.2+virtio-set", "pc-q35-7.2", VIRTIO_SET),
    ("pc-q35-10.0", "pc-q35-10.0", ()),
    ("pc-q35-10.0+virtio-set", "pc-q35-10.0", VIRTIO_SET),
)
ALWAYS = ("-accel", "tcg", "-nodefaults", "-display", "none", "-S")

# 7.2 makes these from the topology when the guest asks, 10.0 when the CPU is made (target/i386/cpu.c): no difference.
OF_TOPOLOGY = {"ht", "cmp-legacy"}
PATIENCE_S = 60.0
SAVE_S = 600.0  # a TiB of memory that was never touched
GREETING_S = 5.0
DYING_S = 5.0  # from the end of a monitor to the end of its process
LINE_LIMIT_BYTES = 16 << 20  # of QMP: query-machines takes 100 KiB


def die_with_us() -> None:
    """In a child: whatever kills us kills it too (prctl(2), PR_SET_PDEATHSIG; Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


# --- the binary and its monitor -------------------------------------------------------------------------------------
class Binary:
    """A binary, and how to query it. Runs in its own folder, so that no path gets into an answer."""

    def __init__(
        self, binary: str, data_dirs: Sequence[str], folder: Path, environment: Sequence[tuple[str, str]] = ()
    ) -> None:
        path = shutil.which(binary)
        if path is None:
            raise ProfileError(f"no binary {binary!r}: install QEMU, or give its path")
        self.name, self.folder = binary, folder
        self.environment = {**os.environ, **dict(environment)}
        self.command = [str(Path(path).absolute())]
        for data_dir in data_dirs:
            self.command += ["-L", str(Path(data_dir).absolute())]
        self._dumps: dict[str, bytes] = {}

    def run(self, arguments: Sequence[str]) -> str:
        """What it prints and ends. Raises ProfileError."""
        try:
            result = subprocess.run(
                [*self.command, *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PATIENCE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ProfileError(f"{self.name}: can't be run: {error}") from None
        if result.returncode:
            raise ProfileError(f"{self.name} {' '.join(arguments)}: {_why(result.stderr)}")
        return result.stdout

    def dump_vmstate(self, machine_type: str) -> bytes:
        if machine_type not in self._dumps:
            dump = self.folder / "vmstate.json"
            self.run(["-M", machine_type, *ALWAYS, "-dump-vmstate", dump.name])
            self._dumps[machine_type] = dump.read_bytes()
        return self._dumps[machine_type]

    def known(self, machine_type: str) -> Dump:
        """What its -dump-vmstate prints. Raises ProfileError."""
        try:
            return shapes.decoded(self.dump_vmstate(machine_type), Dump)
        except shapes.WRONG as error:
            raise ProfileError(f"{self.name}: its -dump-vmstate is not as QEMU writes it: {error}") from None

    @contextmanager
    def running(self, arguments: Sequence[str]) -> Iterator[Monitor]:
        """It is started paused by `arguments`, and gone afterwards."""
        path, log = self.folder / "monitor", self.folder / "log"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener, log.open("wb") as errors:
            listener.bind(os.fspath(path))
            listener.listen()
            listener.settimeout(0.1)
            try:
                process = subprocess.Popen(
                    [*self.command, *arguments, "-qmp", f"unix:{path.name}"],
                    cwd=self.folder,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    preexec_fn=die_with_us,
                )
            except OSError as error:
                raise ProfileError(f"{self.name}: can't be run: {error.strerror}") from None
            try:
                connection = self._accepted(listener, process, log)
                with Monitor(connection, self.name, lambda: _exit_reason(process, log)) as monitor:
                    yield monitor
            finally:
                process.kill()
                process.wait()

    def _accepted(self, listener: socket.socket, process: subprocess.Popen[bytes], log: Path) -> socket.socket:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            try:
                return listener.accept()[0]
            except TimeoutError:
                if process.poll() is not None:
                    raise ProfileError(f"{self.name}: {_why(log.read_text(errors='replace'))}") from None
        raise ProfileError(f"{self.name}: its monitor said nothing for {PATIENCE_S:.0f} s")

    def saved(self, monitor: Monitor) -> Saved:
        """The running machine's state, as a stream's contents."""
        stream = self.folder / "stream"
        stream.unlink(missing_ok=True)
        monitor.ask("migrate", uri="exec:cat > stream.part && mv stream.part stream")
        until = time.monotonic() + SAVE_S
        while not stream.exists():
            status = monitor.ask("query-migrate")
            if time.monotonic() > until or status.get("status") == "failed":
                why = status.get("error-desc", "it fails, or takes too long")
                raise ProfileError(f"{self.name}: the machine's state can't be saved: {why}")
            time.sleep(0.01)
        try:
            return read(stream)
        except SavedError as error:
            raise ProfileError(f"{self.name}: saved something unexpected: {error}") from None
        finally:
            stream.unlink(missing_ok=True)


def _exit_reason(process: subprocess.Popen[bytes], log: Path) -> str:
    """A colon and why it ended."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(DYING_S)
        return f": {_why(log.read_text(errors='replace'))}"
    return ""


def _why(printed: str) -> str:
    """The line that states why it ended; hints follow it."""
    lines = [line.partition(": ")[2] or line for line in printed.splitlines() if line.strip()]
    return next((line for line in lines if "warning:" not in line), "it ended without a word")


class Monitor:
    """QMP, one command after the other. `exit_reason` returns why its process ended, where this is known."""

    def __init__(self, connection: socket.socket, name: str, exit_reason: Callable[[], str] = str) -> None:
        self.name, self.connection, self.exit_reason = name, connection, exit_reason
        self.unread = bytearray()  # of the next lines

    @classmethod
    def at(cls, address: str) -> Monitor:
        """The monitor that listens at a unix socket's path, or HOST:PORT. Raises ProfileError."""
        host, _, port = address.removeprefix("unix:").removeprefix("tcp:").rpartition(":")
        try:
            if host and port.isdigit():
                return cls(socket.create_connection((host, int(port)), GREETING_S), address)
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(GREETING_S)
            connection.connect(address.removeprefix("unix:"))
            return cls(connection, address)
        except OSError as error:
            raise ProfileError(
                f"{address}: no QMP monitor answers there ({error.strerror or error}); start QEMU with "
                f"-qmp unix:PATH,server=on,wait=off"
            ) from None

    @property
    def pid(self) -> int:
        """The process that listens on the unix socket; 0 if that can't be known."""
        if self.connection.family != socket.AF_UNIX:
            return 0
        return int.from_bytes(self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)

    def __enter__(self) -> Monitor:
        try:  # a monitor serves one manager at a time, and is silent to others
            greeting = self._line(time.monotonic() + GREETING_S)
        except TimeoutError:
            raise ProfileError(f"{self.name}: no QMP greeting: another manager holds it, or it hangs") from None
        except OSError:
            greeting = b""
        if not greeting:
            raise self._ended("with QMP's greeting")
        if b'"QMP"' not in greeting:
            raise ProfileError(f"{self.name}: something answers there, but it is no QMP monitor")
        self.ask("qmp_capabilities")
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, command: str, **arguments: object) -> JsonValue:
        """Raises ProfileError."""
        until = time.monotonic() + PATIENCE_S
        try:
            self.connection.settimeout(PATIENCE_S)
            self.connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            while line := self._line(until):
                answer = shapes.decoded(line, Json)
                if "error" in answer:
                    why = clean(shapes.convert(answer["error"], shapes.Refusal).desc).strip()
                    raise ProfileError(f"{self.name}: {command}: {why or 'refused, QEMU does not say why'}")
                if "return" in answer:
                    return shapes.convert(answer["return"], shapes.ANSWERS.get(command, JsonValue))
        except TimeoutError:
            text = f"{self.name}: its monitor is blocked, {command} was not answered in {PATIENCE_S:g} s"
            raise ProfileError(text) from None
        except OSError:
            raise self._ended(command) from None
        except shapes.WRONG as error:
            raise ProfileError(f"{self.name}: {command}: is not answered as QEMU does: {error}") from None
        raise self._ended(command)

    def _ended(self, command: str) -> ProfileError:
        return ProfileError(f"{self.name}: ended before it answered {command}{self.exit_reason()}")

    def _line(self, until_s: float) -> bytes:
        """The next line, or nothing when no more comes. Raises OSError, ProfileError."""
        while b"\n" not in self.unread:
            if len(self.unread) > LINE_LIMIT_BYTES:
                raise ProfileError(f"{self.name}: a line of more than {LINE_LIMIT_BYTES >> 20} MiB is not QMP")
            self.connection.settimeout(max(until_s - time.monotonic(), 1e-3))
            more = self.connection.recv(1 << 16)
            if not more:
                return b""
            self.unread += more
        line, _, self.unread = self.unread.partition(b"\n")
        return bytes(line) or b"{}"


# --- -dump-vmstate: what is known -----------------------------------------------------------------------------------
def known(device: Described, dump: Dump) -> DumpVmsd | None:
    """The description of a device of the stream, found by its name and, where two share one, by its fields."""
    names = {field["name"].partition("[")[0] for field in device.get("fields", ())}
    candidates: list[DumpVmsd] = []
    for entry in dump.values():
        if not (vmsd := entry.get("Description")):
            continue
        fields = {field["field"].partition("[")[0] for field in vmsd.get("Fields", ())}
        if vmsd["name"] == device.get("vmsd_name") and names <= fields and vmsd not in candidates:
            candidates.append(vmsd)
    return candidates[0] if len(candidates) == 1 else None


def known_subsections(vmsd: DumpVmsd) -> Iterator[tuple[str, int]]:
    for subsection in vmsd.get("Subsections", ()):
        yield subsection["name"], subsection["version_id"]
        yield from known_subsections(subsection)
    for field in vmsd.get("Fields", ()):
        if inner := field.get("Description"):
            yield from known_subsections(inner)


def known_nested(vmsd: DumpVmsd) -> Iterator[tuple[str, int]]:
    for field in vmsd.get("Fields", ()):
        if inner := field.get("Description"):
            yield inner["name"], inner["version_id"]
            yield from known_nested(inner)


def known_fields(vmsd: DumpVmsd) -> list[object]:
    """Names, versions and sizes; for a nested description that instead of the size, which is only the C struct's."""
    fields: list[object] = []
    for field in vmsd.get("Fields", ()):
        entry: list[object] = [field["field"], field["version_id"]]
        if inner := field.get("Description"):
            entry.append([inner["name"], inner["version_id"], inner["minimum_version_id"], known_fields(inner)])
        else:
            entry.append(field["size"])
        fields.append(entry)
    return fields


# --- the profile ----------------------------------------------------------------------------------------------------
def digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def inventory_entry(device: Described, dump: Dump) -> Json:
    vmsd = known(device, dump)
    if vmsd and vmsd["version_id"] != device["version"]:
        vmsd = None  # another device's of that name
    subsections = known_subsections(vmsd) if vmsd else sent_subsections(device)
    nested = known_nested(vmsd) if vmsd else sent_nested(device)
    return {
        "id": device["name"],
        "instance": device["instance_id"],
        "version": device["version"],
        "minimum-version": vmsd["minimum_version_id"] if vmsd else device["version"],
        "vmsd": vmsd["name"] if vmsd else False,
        "size": sent_bytes(device),
        "subsections": [{"name": name, "version": version} for name, version in sorted(set(subsections))],
        "sent-subsections": sorted({name for name, _ in sent_subsections(device)}),
        "nested": [list(pair) for pair in sorted(set(nested))],
        "schema": digest(known_fields(vmsd) if vmsd else sent_fields(device)),
    }


def devices(saved: Saved, dump: Dump) -> list[Json]:
    """The inventory: ram first, as in the stream."""
    if saved.ram is None or not saved.described:
        raise ProfileError(
            "the machine sends no memory, or no description of its devices, so there is nothing to compare"
        )
    ram: Described = {"name": "ram", "instance_id": saved.ram[0], "version": saved.ram[1], "fields": []}
    return [inventory_entry(device, dump) for device in (ram, *saved.described)]


def machine(binary: Binary, name: str, machine_type: str, added: Sequence[str], usual: Json) -> Json:
    """One of our own configurations."""
    arguments = ["-M", machine_type, "-m", "128M", *ALWAYS, *added]
    with binary.running(arguments) as monitor:
        parameters = monitor.ask("query-migrate-parameters")
        saved = binary.saved(monitor)
    if saved.notes:
        raise ProfileError(f"{name}: {saved.notes[0]}")
    return {
        "name": name,
        "machine-type": machine_type,
        "arguments": arguments,
        "parameters": {key: value for key, value in parameters.items() if usual.get(key) != value},
        "ram-blocks": [{"name": block.name, "size": block.size_bytes} for block in saved.blocks],
        "devices": devices(saved, binary.known(machine_type)),
    }


def machine_types(answer: Sequence[Json]) -> list[Json]:
    types = []
    for entry in sorted(answer, key=lambda entry: entry["name"]):
        if entry["name"].startswith(("pc-i440fx-", "pc-q35-")):
            type_ = {"name": entry["name"]}
            if "alias" in entry:
                type_["alias"] = entry["alias"]
            if entry.get("deprecated"):
                type_["deprecated"] = True
            types.append(type_)
    return types


def binary_profile(monitor: Monitor) -> Json:
    """What does not depend on the machine."""
    number = monitor.ask("query-version")
    capabilities = monitor.ask("query-migrate-capabilities")
    return {
        "version": "{major}.{minor}.{micro}".format(**number["qemu"]),
        "package": number["package"],
        "capabilities": sorted(
            ({"name": entry["capability"], "default": entry["state"]} for entry in capabilities),
            key=lambda entry: str(entry["name"]),
        ),
        "parameters": monitor.ask("query-migrate-parameters"),
        "machine-types": machine_types(monitor.ask("query-machines")),
    }


def collected(binary: Binary, command: str) -> Json:
    """A profile of all our configurations, for data/profiles."""
    with binary.running(["-M", "none", *ALWAYS]) as monitor:
        facts = binary_profile(monitor)
    names = {entry["name"] for entry in facts["machine-types"]}
    machines = [machine(binary, *each, facts["parameters"]) for each in CONFIGURATIONS if each[1] in names]
    return {**facts, "command": command, "machines": machines}


def of_command_line(
    binary: Binary, arguments: Sequence[str], name: str, command: str, original: Monitor | None = None
) -> Json:
    """A profile of the one machine that a command line makes (see `reprofile.harmless`). Raises ProfileError.

    `original` is the monitor of a guest that runs with this command line: its own reports take precedence.
    """
    flags = cpu_flags(binary)
    with binary.running([*arguments, "-S", "-display", "none"]) as monitor:
        facts = binary_profile(original or monitor)
        guest = guest_facts(original or monitor, flags)
        resizable = _resizable(monitor.ask("human-monitor-command", **{"command-line": "info ramblock"}))
        notes = _differences(original, monitor) if original else []
        saved = binary.saved(monitor)
    dump = binary.known(guest["machine-type"])
    profile = profile_from_stream(facts, guest | {"name": name, "arguments": list(arguments)}, saved, dump, resizable)
    return {**profile, "command": command, **({"notes": notes} if notes else {})}


def profile_from_stream(facts: Json, guest: Json, saved: Saved, dump: Dump, resizable: Collection[str] = ()) -> Json:
    """A profile of the machine whose stream `saved` is; an empty `dump` leaves what the stream alone shows."""
    blocks = [
        {"name": block.name, "size": block.size_bytes} | ({"resizable": True} if block.name in resizable else {})
        for block in saved.blocks
    ]
    machine = guest | {
        "parameters": {},
        "ram-blocks": blocks,
        "page-bits": saved.page_bits or 12,
        "devices": devices(saved, dump),
    }
    return {**facts, "machines": [machine]}


def cpu_flags(binary: Binary) -> set[str]:
    """Every CPU feature that the binary knows by name."""
    return set(re.findall(r"[\w.-]+", binary.run(["-cpu", "help"]).partition("CPUID flags:")[2])) - OF_TOPOLOGY


def _differences(original: Monitor, copy: Monitor) -> list[str]:
    """What a command line doesn't show: devices that came or went while the guest ran."""
    one, two = (
        {
            p["name"]
            for place in ("peripheral", "peripheral-anon")
            for p in m.ask("qom-list", path=f"/machine/{place}")
            if p["type"].startswith("child<")
        }
        for m in (original, copy)
    )
    lines = [f"{n} was plugged in after the start and is not in this profile" for n in sorted(one - two)]
    return lines + [f"{n} was unplugged after the start and is still in this profile" for n in sorted(two - one)]


def guest_facts(monitor: Monitor, flags: set[str]) -> Json:
    """Machine type and CPU of what runs there; a feature is one that `-cpu help` names and that is on."""
    cpus = monitor.ask("query-cpus-fast")
    path, features = cpus[0]["qom-path"], []
    listed = monitor.ask("qom-list", path=path)
    for name in sorted({p["name"] for p in listed if p["type"] == "bool"} & flags):
        if monitor.ask("qom-get", path=path, property=name):
            features.append(name)
    model = next(
        p["type"] for p in monitor.ask("qom-list", path=path.rpartition("/")[0]) if p["name"] == path.rpartition("/")[2]
    )
    uuid = monitor.ask("query-uuid")["UUID"].replace("-", "")
    arch = monitor.ask("query-target")["arch"]
    model = model.removeprefix("child<").removesuffix(">").removesuffix(f"-{arch}-cpu")
    return {
        "machine-type": monitor.ask("qom-get", path="/machine", property="type").removesuffix("-machine"),
        "arch": arch,
        "vcpus": len(cpus),
        "cpu": model,
        "uuid": uuid if uuid.strip("0") else "",
        **({"cpu-features": features} if flags else {}),
    }


def _resizable(text: str) -> set[str]:
    """Blocks that may be of another size at the destination: whose `Used` is less than their `Total`."""
    rows = re.findall(r"^\s*(\S+)\s+\d+ [KMG]iB\s+0x\w+\s+0x(\w+)\s+0x(\w+)", text, re.MULTILINE)
    return {name for name, used, total in rows if int(used, 16) < int(total, 16)}
