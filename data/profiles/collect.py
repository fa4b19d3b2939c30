"""What a QEMU binary says of itself: capabilities, machine types, and the devices of a few machines.

    python data/profiles/collect.py --binary qemu-system-x86_64 --out data/profiles/qemu-7.2.json
    python data/profiles/collect.py --binary qemu-system-x86_64 --vmstate pc-q35-7.2 --out raw.json.xz

A machine's devices are read from a stream the binary really saves (which devices there are, what they sent) and from
its own `-dump-vmstate` (what it could send and would accept). Nothing is added from knowledge of QEMU.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Json = dict[str, Any]

VIRTIO_SET = (
    "-device", "virtio-net-pci,addr=0x5",
    "-blockdev", "driver=null-co,node-name=disk,size=1048576", "-device", "virtio-blk-pci,drive=disk,addr=0x6",
    "-device", "virtio-rng-pci,addr=0x7",
    "-device", "virtio-balloon-pci,addr=0x8",
    "-device", "virtio-serial-pci,addr=0x9",
    "-device", "virtio-gpu-pci,addr=0xa",
)  # fmt: skip

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
PATIENCE_S = 60


# The binary and its monitor


class Qemu:
    """A binary, and how to ask it. Runs in its own folder, so that no path gets into an answer."""

    def __init__(self, binary: str, data_dirs: Sequence[str], folder: Path) -> None:
        found = shutil.which(binary)
        if found is None:
            raise SystemExit(f"collect: no binary {binary!r}")
        self.command = [str(Path(found).absolute())]
        for data_dir in data_dirs:
            self.command += ["-L", str(Path(data_dir).absolute())]
        self.folder = folder
        self._dumps: dict[str, bytes] = {}

    def dump_vmstate(self, machine_type: str) -> bytes:
        if machine_type not in self._dumps:
            dump = self.folder / "vmstate.json"
            arguments = ["-M", machine_type, *ALWAYS, "-dump-vmstate", dump.name]
            subprocess.run(self.command + arguments, cwd=self.folder, check=True, timeout=PATIENCE_S)
            self._dumps[machine_type] = dump.read_bytes()
        return self._dumps[machine_type]

    @contextmanager
    def running(self, arguments: Sequence[str]) -> Iterator[Monitor]:
        path = self.folder / "monitor"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
            listener.listen()
            listener.settimeout(PATIENCE_S)
            process = subprocess.Popen([*self.command, *arguments, "-qmp", f"unix:{path.name}"], cwd=self.folder)
            try:
                yield Monitor(listener.accept()[0])
            finally:
                process.kill()
                process.wait()

    def saved_stream(self, monitor: Monitor) -> bytes:
        stream = self.folder / "stream"
        stream.unlink(missing_ok=True)
        monitor.ask("migrate", uri="exec:cat > stream.part && mv stream.part stream")
        until = time.monotonic() + PATIENCE_S
        while not stream.exists():
            if time.monotonic() > until or monitor.ask("query-migrate").get("status") == "failed":
                raise SystemExit("collect: the machine's state could not be saved")
            time.sleep(0.01)
        return stream.read_bytes()


class Monitor:
    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE_S)
        self._lines = connection.makefile("rw", encoding="utf-8")
        self._lines.readline()  # the greeting
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        for line in self._lines:
            answer = json.loads(line)
            if "error" in answer:
                raise SystemExit(f"collect: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise SystemExit(f"collect: QEMU ended before it answered {command}")


# The saved stream: what is there


def ram_section(stream: bytes) -> tuple[Json, list[Json]]:
    """The ram device, and its blocks, from the section every stream starts with (ram.c, ram_save_setup)."""
    at = 8
    if stream[at] == 0x07:  # configuration: the machine type's name
        at += 5 + int.from_bytes(stream[at + 1 : at + 5], "big")
    name_end = at + 6 + stream[at + 5]
    if stream[at] != 0x01 or stream[at + 6 : name_end] != b"ram":
        raise SystemExit("collect: the stream does not start with the section ram")
    instance, version, total = struct.unpack_from(">IIQ", stream, name_end)
    device = {"name": "ram", "instance_id": instance, "version": version, "fields": []}
    blocks, at, left = [], name_end + 16, total & ~0xFFF
    while left:
        name_end = at + 1 + stream[at]
        size = int.from_bytes(stream[name_end : name_end + 8], "big")
        blocks.append({"name": stream[at + 1 : name_end].decode(), "size": size})
        at, left = name_end + 8, left - size
    return device, blocks


def description(stream: bytes) -> tuple[list[Json], int]:
    """The devices of the JSON text at the stream's end, and where in the stream the text's section starts."""
    at = stream.rfind(b"\x00\x06")
    while at >= 0:
        if int.from_bytes(stream[at + 2 : at + 6], "big") == len(stream) - at - 6:
            return json.loads(stream[at + 6 :])["devices"], at + 1
        at = stream.rfind(b"\x00\x06", 0, at)
    raise SystemExit("collect: the stream ends without a description")


def sent_bytes(vmsd: Json) -> int:
    size: int = sum(field["size"] * field.get("array_len", 1) for field in vmsd.get("fields", ()))
    for subsection in vmsd.get("subsections", ()):
        size += 1 + 1 + len(subsection["vmsd_name"]) + 4 + sent_bytes(subsection)
    return size


def check_sizes(stream: bytes, devices: Sequence[Json], end: int) -> None:
    """Walk the device sections back to front by the sizes we report: each must begin with its own header."""
    at = end - 1  # the byte EOF
    for device in reversed(devices):
        name = device["name"].encode()
        head = bytes([len(name)]) + name + struct.pack(">II", device["instance_id"], device["version"])
        at -= 5 + sent_bytes(device) + len(head) + 5  # footer, data, header
        if stream[at] != 0x04 or stream[at + 5 : at + 5 + len(head)] != head:
            raise SystemExit(f"collect: the sizes described for {device['name']} are not those in the stream")


def sent_subsections(vmsd: Json) -> Iterator[tuple[str, int]]:
    for subsection in vmsd.get("subsections", ()):
        yield subsection["vmsd_name"], subsection["version"]
        yield from sent_subsections(subsection)
    for field in vmsd.get("fields", ()):
        if "struct" in field:
            yield from sent_subsections(field["struct"])


def sent_nested(vmsd: Json) -> Iterator[tuple[str, int]]:
    for field in vmsd.get("fields", ()):
        if "struct" in field:
            yield field["struct"]["vmsd_name"], field["struct"]["version"]
            yield from sent_nested(field["struct"])


def sent_fields(vmsd: Json) -> list[Any]:
    """Names and types; an array's elements once, and no sizes, for some depend on the configuration."""
    fields: list[Any] = []
    for field in vmsd.get("fields", ()):
        inner = field.get("struct")
        entry = [field["name"], field["type"]]
        if inner:
            entry.append([inner["vmsd_name"], inner["version"], sent_fields(inner)])
        if entry not in fields:
            fields.append(entry)
    return fields


# -dump-vmstate: what is known


def known(device: Json, dump: Json) -> Json | None:
    """The description of a device of the stream, found by its name and, where two share one, by its fields."""
    names = {field["name"].partition("[")[0] for field in device.get("fields", ())}
    found: list[Json] = []
    for entry in dump.values():
        vmsd = entry.get("Description", {})
        fields = {field["field"].partition("[")[0] for field in vmsd.get("Fields", ())}
        if vmsd and vmsd["name"] == device.get("vmsd_name") and names <= fields and vmsd not in found:
            found.append(vmsd)
    if len(found) > 1:
        raise SystemExit(f"collect: more than one description fits {device['name']}")
    return found[0] if found else None


def known_subsections(vmsd: Json) -> Iterator[tuple[str, int]]:
    for subsection in vmsd.get("Subsections", ()):
        yield subsection["name"], subsection["version_id"]
        yield from known_subsections(subsection)
    for field in vmsd.get("Fields", ()):
        yield from known_subsections(field.get("Description", {}))


def known_nested(vmsd: Json) -> Iterator[tuple[str, int]]:
    for field in vmsd.get("Fields", ()):
        if inner := field.get("Description"):
            yield inner["name"], inner["version_id"]
            yield from known_nested(inner)


def known_fields(vmsd: Json) -> list[Any]:
    """Names, versions and sizes; for a nested description that instead of the size, which is only the C struct's."""
    fields = []
    for field in vmsd.get("Fields", ()):
        entry = [field["field"], field["version_id"]]
        if inner := field.get("Description"):
            entry.append([inner["name"], inner["version_id"], inner["minimum_version_id"], known_fields(inner)])
        else:
            entry.append(field["size"])
        fields.append(entry)
    return fields


# The profile


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def inventory_entry(device: Json, dump: Json) -> Json:
    vmsd = known(device, dump)
    if vmsd and vmsd["version_id"] != device["version"]:
        raise SystemExit(f"collect: {device['name']} has one version in the stream and another in the dump")
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


def machine(qemu: Qemu, name: str, machine_type: str, added: Sequence[str], usual: Json) -> Json:
    arguments = ["-M", machine_type, "-m", "128M", *ALWAYS, *added]
    with qemu.running(arguments) as monitor:
        parameters = monitor.ask("query-migrate-parameters")
        stream = qemu.saved_stream(monitor)
    ram, blocks = ram_section(stream)
    devices, end = description(stream)
    check_sizes(stream, devices, end)
    dump = json.loads(qemu.dump_vmstate(machine_type))
    return {
        "name": name,
        "machine-type": machine_type,
        "arguments": arguments,
        "parameters": {key: value for key, value in parameters.items() if usual.get(key) != value},
        "ram-blocks": blocks,
        "devices": [inventory_entry(device, dump) for device in (ram, *devices)],
    }


def machine_types(answer: Sequence[Json]) -> list[Json]:
    types = []
    for entry in sorted(answer, key=lambda entry: entry["name"]):
        if entry["name"].startswith(("pc-i440fx-", "pc-q35-")):
            kept = {"name": entry["name"]}
            if "alias" in entry:
                kept["alias"] = entry["alias"]
            if entry.get("deprecated"):
                kept["deprecated"] = True
            types.append(kept)
    return types


def profile(qemu: Qemu, command: str) -> Json:
    with qemu.running(["-M", "none", *ALWAYS]) as monitor:
        version = monitor.ask("query-version")
        capabilities = monitor.ask("query-migrate-capabilities")
        parameters = monitor.ask("query-migrate-parameters")
        types = machine_types(monitor.ask("query-machines"))
    names = {entry["name"] for entry in types}
    number = version["qemu"]
    return {
        "version": f"{number['major']}.{number['minor']}.{number['micro']}",
        "package": version["package"],
        "command": command,
        "capabilities": sorted(
            ({"name": entry["capability"], "default": entry["state"]} for entry in capabilities),
            key=lambda entry: entry["name"],
        ),
        "parameters": parameters,
        "machine-types": types,
        "machines": [machine(qemu, *each, parameters) for each in CONFIGURATIONS if each[1] in names],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="a qemu-system-x86_64: path, or name to look up")
    parser.add_argument("-L", dest="data_dirs", action="append", default=[], metavar="DIR", help="passed to QEMU")
    parser.add_argument("--vmstate", metavar="MACHINE", help="write the raw -dump-vmstate of this machine type instead")
    parser.add_argument("--out", required=True, type=Path, help=".json, or .json.xz with --vmstate")
    options = parser.parse_args()
    out = options.out.name if options.out.is_absolute() else options.out
    command = f"python data/profiles/collect.py --binary {Path(options.binary).name} --out {out}"
    with tempfile.TemporaryDirectory() as folder:
        qemu = Qemu(options.binary, options.data_dirs, Path(folder))
        if options.vmstate:
            content = lzma.compress(qemu.dump_vmstate(options.vmstate), preset=9)
        else:
            content = (json.dumps(profile(qemu, command), indent=1, sort_keys=True) + "\n").encode()
    options.out.write_bytes(content)
    print(f"{options.out}: {len(content)} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
