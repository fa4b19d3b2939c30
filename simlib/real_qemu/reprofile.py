"""A QEMU's command line made harmless: the same machine a second time, beside the first, touching nothing of it.

Same devices, so the same stream; but no image is opened, no port or socket is bound, no tap is taken, and memory is
fresh: block nodes become null devices of the image's size, character devices and networks lead nowhere.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ..case.profiles import ProfileError, described
from ..handshake.machine import Machine
from .profile import Binary, Monitor, of_command_line
from .shapes import Json

# Options that only the first may have: with a value, and without.
DROPPED = {
    "-incoming",
    "-qmp",
    "-qmp-pretty",
    "-mon",
    "-monitor",
    "-pidfile",
    "-vnc",
    "-spice",
    "-display",
    "-D",
    "-d",
    "-gdb",
    "-name",
    "-runas",
    "-run-with",
    "-chroot",
    "-mem-path",
    "-loadvm",
    "-debugcon",
    "-add-fd",
    "-msg",
    "-trace",
    "-audio",
    "-plugin",
    "-overcommit",
    "-watchdog-action",
    "-action",
    "-sandbox",
}
DROPPED_ALONE = {
    "-daemonize",
    "-S",
    "-s",
    "-snapshot",
    "-mem-prealloc",
    "-no-shutdown",
    "-no-reboot",
    "-nographic",
    "-curses",
    "-full-screen",
    "-no-quit",
}
ALONE = {
    "-nodefaults",
    "-no-user-config",
    "-enable-kvm",
    "-no-acpi",
    "-no-hpet",
    "-no-fd-bootchk",
    "-usb",
    "-only-migratable",
    "-semihosting",
}
PASSED_THROUGH = (
    "vfio-",
    "usb-host",
    "scsi-block",
    "scsi-generic",
    "vhost-vdpa",
    "vhost-user-",
    "vhost-scsi",
    "vhost-vsock",
    "ivshmem",
    "igd-",
)
UNKNOWN_BYTES = 1 << 30
QCOW2 = b"QFI\xfb"


@dataclass(frozen=True)
class Running:
    """A QEMU as it was started; `environment` holds what leads it to its libraries and modules."""

    program: str
    arguments: tuple[str, ...]
    folder: Path
    environment: tuple[tuple[str, str], ...]

    @property
    def data_dirs(self) -> tuple[str, ...]:
        return tuple(str(self.folder / value) for option, value in pairwise(self.arguments) if option == "-L")


def profiled(it: Running, name: str, folder: Path, original: Monitor | None) -> Json:
    """The profile of a QEMU as it was started; `original` is its monitor if it runs. Raises ProfileError."""
    command = shlex.join(["simlib", "qemu", "profile", Path(it.program).name, "--", *it.arguments])
    binary = Binary(it.program, it.data_dirs, folder, it.environment)
    return of_command_line(binary, harmless(it.arguments, it.folder), name, command, original)


def of_monitor(address: str) -> Machine:
    """The machine of the running QEMU whose monitor listens at a unix socket. Raises ProfileError."""
    with tempfile.TemporaryDirectory(prefix="simlib-") as folder, Monitor.at(address) as original:
        if not original.pid:
            raise ProfileError(f"{address}: whose monitor this is can't be seen over TCP")
        return described(profiled(of_process(original.pid), "guest", Path(folder), original), "", address)


def of_process(pid: int) -> Running:
    """How a running process was started. Raises ProfileError."""
    place = Path("/proc") / str(pid)
    try:
        words = (place / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        binary, folder = (place / "exe").readlink(), (place / "cwd").readlink()
        named = (w.partition("=") for w in os.fsdecode((place / "environ").read_bytes()).split("\0"))
    except FileNotFoundError:
        raise ProfileError(f"{pid}: no process has this number, or it is not a program") from None
    except OSError as error:
        raise ProfileError(f"{pid}: its command line can't be read: {error.strerror}; be its owner, or root") from None
    if "qemu" not in binary.name:
        raise ProfileError(f"{pid}: is {binary.name}, no QEMU")
    if str(binary).endswith(" (deleted)"):
        raise ProfileError(f"{pid}: its binary has been replaced since it was started, so it can't be run again")
    environment = tuple((k, v) for k, _, v in named if k == "LD_LIBRARY_PATH" or k.startswith("QEMU_"))
    return Running(str(binary), tuple(os.fsdecode(w) for w in words[1:]), folder, environment)


def harmless(arguments: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The command line to run instead; relative paths are meant from `folder`. Raises ProfileError."""
    pairs = list(_pairs(arguments))
    sizes = dict(_nodes(pairs, folder))
    words: list[str] = []
    for option, value in pairs:
        if option in DROPPED or option in DROPPED_ALONE:
            continue
        if value is None:
            words.append(option)
            continue
        replacement = _replacement(option, value, sizes, folder)
        words += [option, replacement] if replacement else []
    options = {o for o, _ in pairs}
    if "-nodefaults" in options:
        return tuple(words)
    for option, word in (("-serial", "null"), ("-parallel", "null"), ("-monitor", "none")):
        if option not in words:
            words += [option, word]
    return tuple(words)


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Options with their values; `--option` is `-option`; a bare word is the first disk."""
    words = iter(arguments)
    for word in words:
        option = word[1:] if word.startswith("--") else word
        if not option.startswith("-"):
            yield "-drive", f"file={word},index=0,media=disk,if=ide"
        elif option in ALONE or option in DROPPED_ALONE:
            yield option, None
        else:
            value = next(words, None)
            if value is None:
                raise ProfileError(f"the command line ends after {word}")
            yield option, value


def _replacement(option: str, value: str, sizes: dict[str, int], folder: Path) -> str:
    """What takes the option's value's place; empty if nothing does."""
    if option in ("-serial", "-parallel"):
        return value if value == "none" else "null"
    if option in ("-hda", "-hdb", "-hdc", "-hdd", "-cdrom", "-sd", "-fda", "-fdb", "-pflash", "-mtdblock"):
        raise ProfileError(f"{option}: write it as -drive, so that the image can be left alone")
    if option in ("-virtfs", "-fsdev", "-tpmdev", "-net", "-nic", "-virtiofs", "-object-add"):
        raise ProfileError(f"{option} {value}: can't be started a second time; give a command line without it")
    fields = _fields(value)
    kind = fields.get("driver", fields.get("qom-type", fields.get("backend", fields.get("type", fields.get("", "")))))
    if option == "-device" and kind.startswith(PASSED_THROUGH):
        raise ProfileError(f"{kind}: belongs to the running guest and can't be opened twice; describe it without")
    if option == "-drive":
        return _drive(fields, folder)
    if option == "-blockdev":
        node = fields.get("node-name", "")
        return f"driver=null-co,read-zeroes=on,node-name={node},size={sizes.get(node, UNKNOWN_BYTES)}"
    if option == "-netdev":
        return f"hubport,hubid=0,id={fields.get('id', '')}"
    if option == "-chardev":
        return f"null,id={fields.get('id', '')}"
    if option == "-audiodev":
        return f"none,id={fields.get('id', '')}"
    if option == "-object":
        return _object(kind, fields, value)
    if option in ("-kernel", "-initrd", "-bios", "-dtb") and (folder / value).exists():
        return str(folder / value)
    return value


def _object(kind: str, fields: dict[str, str], value: str) -> str:
    """Memory from a file or shared with others is the guest's own: plain memory of that name and size instead."""
    if kind.startswith("memory-backend-"):
        parts = {k: v for k, v in fields.items() if k in ("id", "size")}
        return "memory-backend-ram," + ",".join(f"{k}={v}" for k, v in parts.items())
    theirs = ("secret", "tls-creds", "authz", "input-", "filter-", "colo-", "dbus-", "can-host")
    return "" if kind.startswith(theirs) else value


def _fields(value: str) -> dict[str, str]:
    """`word,key=value,...` or JSON; the leading word is under the empty key. ",," is a comma."""
    if value.lstrip().startswith("{"):
        try:
            return {k: _word(v) for k, v in json.loads(value).items()}
        except (ValueError, AttributeError):
            raise ProfileError(f"{value[:80]}: is not the JSON that it looks like") from None
    fields: dict[str, str] = {}
    for part in re.split(r"(?<!,),(?!,)", value):
        key, equals, word = part.replace(",,", ",").partition("=")
        fields[key if equals or fields else ""] = word if equals else (key if not fields else "on")
    return fields


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else json.dumps(value)


def _drive(fields: dict[str, str], folder: Path) -> str:
    """The drive without its image; what the guest sees of it (interface, bus, unit, id, medium) stays."""
    size = _image_bytes(fields.get("file", fields.get("file.filename", "")), folder)
    visible = ("if", "id", "index", "bus", "unit", "media", "readonly", "serial")
    parts = {k: v for k, v in fields.items() if k in visible}
    return f"driver=null-co,read-zeroes=on,size={size}," + ",".join(f"{k}={v}" for k, v in parts.items())


def _nodes(pairs: Sequence[tuple[str, str | None]], folder: Path) -> Iterator[tuple[str, int]]:
    """Size of each -blockdev's image; a format's is that of the file below it."""
    files: dict[str, str] = {}
    for option, value in pairs:
        if option == "-blockdev" and value is not None:
            fields = _fields(value)
            below = fields.get("file", fields.get("file.filename", ""))
            path = fields.get("filename") or fields.get("file.filename") or files.get(below, "")
            if below.lstrip().startswith("{"):
                path = _fields(below).get("filename", "")
            files[fields.get("node-name", "")] = path
            size = fields.get("size", "")
            yield fields.get("node-name", ""), int(size) if size.isdigit() else _image_bytes(path, folder)


def _image_bytes(name: str, folder: Path) -> int:
    """As the guest sees it: firmware in flash becomes a memory block of this size."""
    try:
        with (folder / name).open("rb") as file:
            head = file.read(32)
            return int.from_bytes(head[24:32], "big") if head[:4] == QCOW2 else os.fstat(file.fileno()).st_size
    except OSError:
        return UNKNOWN_BYTES
