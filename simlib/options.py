"""What the verbs that work with real sockets, files and profiles can be asked, and the ranges of numbers everywhere.

Imports nothing of what answers. `of_real(name)` gives the function of `real_qemu.describe` that a command calls.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any

Verb = Callable[[Any], int]
Call = Callable[[str], Verb]


def within(least: float, most: float = float("inf"), of: type = int) -> Callable[[str], Any]:
    """How argparse reads a number of that range; whatever else is told with the option's name, and exit status 2."""

    def read(text: str) -> Any:
        try:
            found = of(text)
        except ValueError:
            found = None
        if found is None or not least <= found <= most:  # NaN is in no range
            kind = "whole number" if of is int else "number"
            span = f"from {least:,} to {most:,}" if most < float("inf") else f"of at least {least:,}"
            raise ArgumentTypeError(f"must be a {kind} {span}; it is {text!r}")
        return found

    return read


def add_inspect(verbs: Any, of_real: Call) -> None:
    inspect = verbs.add_parser(
        "inspect", help="a real saved guest or captured stream: what is in it, what a destination could know",
        description="Reads a stream that a real QEMU wrote (migrate to file:PATH or exec:cat>PATH, also mapped-ram; "
        "one direction of a captured connection; with or without our manifest in front) and shows header, "
        "configuration, memory blocks and devices with version, size and place. Loads nothing.",
        epilog="simlib inspect guest.stream --json")  # fmt: skip
    inspect.add_argument("file", type=Path, help="a file of any size")
    inspect.add_argument("--offset", type=within(0), default=0, metavar="N", help="byte where it starts (%(default)s)")
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
    profile.add_argument("--pid", type=within(1), metavar="N", help="of a running QEMU, by its process id")
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


def add_channels(verb: Any) -> None:
    """As many as QEMU's multifd-channels allows (migration/options.c)."""
    verb.add_argument("--channels", type=within(0, 255), default=0, metavar="N", help="multifd channels (%(default)s)")


def add_live(verbs: Any, call_connect: Verb, call_serve: Verb, call_certificates: Verb) -> None:
    serve = verbs.add_parser(
        "serve", help="the destination, on a real socket", description="Listens for a real handshake and takes the "
        "guest. A refused attempt leaves it listening.", epilog="simlib serve tcp:127.0.0.1:4444")  # fmt: skip
    connect = verbs.add_parser(
        "connect", help="the source, on a real socket", description="Migrates a made-up guest to `simlib serve`; what "
        "does not match is told before it moves. Exit status 0: migrated, 1: not.",
        epilog="simlib connect tcp:127.0.0.1:4444 --channels 4 --profile pc-q35-7.2")  # fmt: skip
    for verb, at_source in ((serve, False), (connect, True)):
        verb.add_argument("address", help="tcp:HOST:PORT, unix:PATH, fd:N (an inherited socket), or exec:COMMAND")
        verb.add_argument("--profile", default="pc-i440fx-7.2", metavar="MACHINE",
                          help="this side's machine, from data/profiles (%(default)s)")  # fmt: skip
        verb.add_argument("--qemu", default="10.0", metavar="VERSION", help="this side's QEMU (%(default)s)")
        verb.add_argument("--protocol", default="v2", metavar="NAME",
                          help="v1, v2, f: found out by TLS (its ALPN), which old peers survive, or "
                          "package.module:name (%(default)s)")  # fmt: skip
        verb.add_argument("--capability", action="append", default=[], help="a migration capability that is on")
        verb.add_argument("--require", action="append", default=[], metavar="FEATURE", help="v2: it must be on")
        verb.add_argument("--forbid", action="append", default=[], metavar="FEATURE", help="v2: it must not be on")
        verb.add_argument("--session", default="", help="v2: the migration's name; both sides must say the same")
        verb.add_argument("--psk-file", type=Path, help="v2: a secret that both sides share")
        verb.add_argument("--tls", type=Path, metavar="FOLDER",
                          help="certificates as for tls-creds-x509; `simlib certificates` makes some")  # fmt: skip
        verb.add_argument("--pcap", type=Path, metavar="FILE", help="the bytes, with TLS keys, for Wireshark")
        verb.add_argument("--json", action="store_true", help="status, errors and steps as JSON, at the end")
        verb.set_defaults(call=call_connect if at_source else call_serve)
    serve.add_argument("--accept", default="v2", choices=("v2", "v2-or-v1"), help="what it takes (%(default)s)")
    serve.add_argument("--on-maybe", default="warn", choices=("warn", "reject"), help="v2: of doubts (%(default)s)")
    for verb in (serve, connect):
        add_channels(verb)
    connect.add_argument(
        "--ram-mib", type=within(0, 1 << 24, float), default=64.0, metavar="N", help="the guest's memory (%(default)s)"
    )
    connect.add_argument(
        "--tls-hostname", default="", metavar="NAME", help="whom to expect; the address's host if none"
    )
    made = verbs.add_parser("certificates", help="certificates to try --tls with", description="Makes a CA, a server "
                            "and a client in a folder laid out as QEMU's tls-creds-x509 wants it.")  # fmt: skip
    made.add_argument("folder", type=Path)
    made.add_argument("hostname", nargs="*", help="names and addresses of the destination (localhost)")
    made.set_defaults(call=call_certificates)
