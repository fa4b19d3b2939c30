"""What `simlib inspect` and `simlib qemu profile|preflight|save` can be asked; imports nothing of what answers.

`of_real(name)` gives the function of `describe` that a command calls.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[[str], Callable[[Any], int]]


def add_inspect(verbs: Any, of_real: Call) -> None:
    inspect = verbs.add_parser(
        "inspect", help="a real saved guest or captured stream: what is in it, what a destination could know",
        description="Reads a stream that a real QEMU wrote (migrate to file:PATH or exec:cat>PATH, also mapped-ram; "
        "one direction of a captured connection; with or without our manifest in front) and shows header, "
        "configuration, memory blocks and devices with version, size and place. Loads nothing.",
        epilog="simlib inspect guest.stream --json")  # fmt: skip
    inspect.add_argument("file", type=Path, help="a file of any size")
    inspect.add_argument("--offset", type=int, default=0, metavar="N", help="byte where it starts (%(default)s)")
    inspect.add_argument("--json", action="store_true", help="as JSON")
    inspect.set_defaults(call=of_real("inspect"))


def add_profiles(qemu: Any, of_real: Call) -> None:
    profile = qemu.add_parser(
        "profile", help="what a QEMU's machine is, as a file that preflight takes",
        description="Starts the binary once more, paused, with the command line given (or that of a running guest), "
        "saves its state to see every device, and asks what it would accept. Nothing of a running guest is touched: no "
        "image is opened, no port is bound, memory is fresh; with --qmp it is asked some questions.",
        epilog="simlib qemu profile qemu-system-x86_64 --out host.json -- -M q35 -m 2G -device virtio-net-pci",
    )  # fmt: skip
    profile.add_argument("binary", nargs="?", default="", help="a QEMU; behind -- its command line")
    profile.add_argument("--pid", type=int, metavar="N", help="of a running QEMU, by its process id")
    profile.add_argument("--qmp", default="", metavar="ADDRESS",
                         help="of a running QEMU, by its monitor (socket's PATH, or HOST:PORT and --pid)")  # fmt: skip
    profile.add_argument("--name", default="guest", help="what the machine is called in the profile (%(default)s)")
    profile.add_argument("--out", type=Path, metavar="FILE", help="where to write to; stdout if absent")
    profile.set_defaults(call=of_real("profile"), rest=[])
    preflight = qemu.add_parser(
        "preflight", help="can this guest go there, to which of these hosts, and what is in the way?",
        description="Compares profiles with the rules of the live handshake; touches neither guest nor host. The first "
        "may be a saved guest instead (`simlib qemu save`). Exit status 0: some host can take it, 1: none.",
        epilog="simlib qemu preflight guest.json host-a.json host-b.json --capability multifd")  # fmt: skip
    preflight.add_argument("guest", help="the guest: a profile, FILE or FILE#MACHINE, or a saved guest")
    preflight.add_argument("host", nargs="+", help="each host: a profile, FILE or FILE#MACHINE")
    preflight.add_argument("--capability", action="append", default=[], help="the migration shall use it, e.g. multifd")
    preflight.add_argument("--on-maybe", default="warn", choices=("warn", "reject"), help="of doubts (%(default)s)")
    preflight.add_argument("--json", action="store_true", help="as JSON, with every doubt")
    preflight.set_defaults(call=of_real("preflight"))
    save = qemu.add_parser(
        "save", help="save a running guest with a manifest in front",
        description="Saves the guest to a file that says what it needs, so that a load that can't work is refused "
        "before the first page. The guest stands still afterwards.",
        epilog="simlib qemu save vm.saved --qmp /run/vm.qmp",
    )  # fmt: skip
    save.add_argument("file", type=Path, help="a new file; QEMU must be allowed to write to it")
    save.add_argument("--qmp", required=True, metavar="ADDRESS", help="the monitor's socket, or HOST:PORT")
    save.add_argument("--resume", action="store_true", help="the guest runs on when it is saved")
    save.add_argument("--json", action="store_true", help="as JSON")
    save.set_defaults(call=of_real("save_guest"))
