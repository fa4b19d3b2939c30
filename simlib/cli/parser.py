"""The options of the command line: every verb with its options, and the ranges of numbers.

Imports no command: a verb's command is imported when it is called.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

from .. import __version__
from ..case.failure import Failure

Verb = Callable[[argparse.Namespace], int]
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def command(place: str, extra: str = "") -> Verb:
    """The function of a module of this package, as "runs.compare", for which the package's `extra` must be there."""
    module, _, name = place.partition(".")

    def call(options: argparse.Namespace) -> int:
        try:
            function: Verb = getattr(import_module(f".{module}", __package__), name)
        except ModuleNotFoundError as error:
            from ..study.extras import install_command

            raise Failure(f"{error.name} is missing; `{install_command(extra)}` brings it, `make` has it") from None
        return function(options)

    return call


def within(least: float, most: float = float("inf"), of: Callable[[str], float] = int) -> Callable[[str], float]:
    """How argparse reads a number of that range; anything else is an error with the option's name and exit status 2."""

    def read(text: str) -> float:
        value: float | None
        try:
            value = of(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:  # NaN is in no range
            kind = "whole number" if of is int else "number"
            span = f"from {least:,} to {most:,}" if most < float("inf") else f"of at least {least:,}"
            raise argparse.ArgumentTypeError(f"must be a {kind} {span}; it is {text!r}")
        return value

    return read


def _renamed(new: str) -> Callable[[str], str]:
    """How argparse reads an option that has another name now."""

    def read(text: str) -> str:
        raise argparse.ArgumentTypeError(f"is called {new} now")

    return read


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "simlib",
        description="A lab for the QEMU live-migration handshake: v1 (today's stream) against v2.",
        epilog="Start with: simlib compare. Then: simlib list; simlib run device_only_at_source --protocol v1",
    )
    parser.add_argument("--version", action="version", version=f"simlib {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    compare = verbs.add_parser(
        "compare",
        help="every scenario under v1 and v2: table, pictures, traces",
        description="Runs every scenario (or those named) in the simulated world under both "
        "protocols, prints the table, writes pictures and traces below --out.",
    )
    compare.add_argument("scenario", nargs="*", help="a name that `simlib list` shows, or a TOML file; all if none")
    compare.add_argument("--out", type=Path, help="folder to write to (build/compare, of some: build/compare-some)")
    compare.add_argument("--seed", type=int, default=1, help="same seed, same run (%(default)s)")
    compare.add_argument("--json", action="store_true", help="the rows as JSON on stdout instead of the table")
    compare.set_defaults(call=command("runs.compare"))
    run = verbs.add_parser(
        "run",
        help="one scenario: readable trace, chart, capture",
        description="Runs one scenario and prints its trace; with --out also writes trace.txt, "
        "chart.svg, capture.pcapng (for Wireshark, see data/wireshark) and row.json.",
    )
    run.add_argument("scenario", help="a name that `simlib list` shows, or a TOML file")
    run.add_argument("--protocol", default="", help="v1, v2, or a way to detect: a, b, c, d, d', f (default: v1)")
    run.add_argument("--qemu", default="", metavar="VERSION", help='QEMU of both sides, as "10.0", or "10.0>7.2"')
    run.add_argument("--manager", default="", help="naive (trusts the source) or libvirt")
    run.add_argument("--seed", type=int, default=1, help="same seed, same run (%(default)s)")
    run.add_argument("--out", type=Path, help="folder to write to")
    run.add_argument("--json", action="store_true", help="the row and the steps as JSON")
    run.set_defaults(call=command("runs.run"))
    _add_explore(verbs)
    _add_sockets(verbs)
    _add_inspect(verbs)
    _add_qemu(verbs)
    _add_study(verbs)
    listed = verbs.add_parser(
        "list",
        help="the scenarios",
        description="Shows every scenario that the lab knows, and "
        "which claims of June 2023 (P, D: `simlib claims`) and which guarantees of order (S, L: "
        "`simlib explore`) it is about.",
    )
    listed.add_argument("--json", action="store_true", help="as JSON")
    listed.set_defaults(call=command("runs.show_list"))
    return parser


def _add_explore(verbs: Verbs) -> None:
    explore = verbs.add_parser(
        "explore",
        help="every order of events: what holds, and the shortest story of what does not",
        description="Searches every interleaving of the real endpoints of a scenario: deliveries, accepts, timers in "
        "any order, and the faults that you allow at any moment. The scenario's own faults and times are left out. "
        "Without a scenario: all models of the lab, every mutant, and the argument about detection.",
        epilog="simlib explore matched_multifd --protocol v2 --cuts 1 --intruder garbage --intruder replay",
    )
    explore.add_argument("scenario", nargs="?", help="a name that `simlib list` shows, or a TOML file")
    explore.add_argument("--protocol", default="", help="v1, v2, or a way to detect: a, b, c, d, d', f (default: v1)")
    explore.add_argument("--qemu", default="", metavar="VERSION", help='QEMU of both sides, as "10.0", or "10.0>7.2"')
    explore.add_argument(
        "--cuts", type=within(0), default=0, metavar="N", help="times that all connections may be reset"
    )
    explore.add_argument(
        "--losses", type=within(0), default=0, metavar="N", help="times that one connection may be reset"
    )
    explore.add_argument("--order", action="append", default=[], help="the manager may: cancel, deadline, postcopy")
    explore.add_argument(
        "--intruder",
        action="append",
        default=[],
        metavar="NAME",
        help="one may connect: silent, garbage, replay (of a channel's opening), ...",
    )
    explore.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAME",
        help="a kind of fault that defines `strike`, as package.module:name",
    )
    explore.add_argument(
        "--property", action="append", default=[], metavar="NAME", help="one of your own, as package.module:name"
    )
    explore.add_argument(
        "--silence",
        action="append",
        default=[],
        metavar="WAY",
        help="the path swallows everything from some moment on: to-destination, to-source, both",
    )
    explore.add_argument(
        "--freeze", action="append", default=[], metavar="SIDE", help="a process stops: source, destination"
    )
    explore.add_argument("--rival", action="store_true", help="a second source wants the same destination")
    explore.add_argument("--timers", action="store_true", help="timers ring, at any moment")
    explore.add_argument(
        "--send-buffer-messages",
        type=within(0),
        default=0,
        metavar="N",
        help="messages that a buffer holds (0: endless)",
    )
    for old, new in (("--room", "--send-buffer-messages"), ("--stranger", "--intruder")):
        explore.add_argument(old, type=_renamed(new), help=argparse.SUPPRESS)
    explore.add_argument("--plain", action="store_true", help="without the two reductions")
    explore.add_argument(
        "--limit", type=within(1), default=2_000_000, metavar="N", help="states to visit (%(default)s)"
    )
    explore.add_argument("--out", type=Path, help="folder for each story: text, chart, and a scenario for `simlib run`")
    explore.add_argument("--json", action="store_true", help="as JSON")
    explore.set_defaults(call=command("explore.explore"))


def _add_sockets(verbs: Verbs) -> None:
    serve = verbs.add_parser(
        "serve",
        help="the destination, on a real socket",
        description="Listens for a real handshake and takes the guest. A refused attempt leaves it listening.",
        epilog="simlib serve tcp:127.0.0.1:4444",
    )
    connect = verbs.add_parser(
        "connect",
        help="the source, on a real socket",
        description="Migrates a made-up guest to `simlib serve`; mismatches "
        "are reported before it moves. Exit status 0: migrated, 1: not.",
        epilog="simlib connect tcp:127.0.0.1:4444 --channels 4 --profile pc-q35-7.2",
    )
    for verb, at_source in ((serve, False), (connect, True)):
        verb.add_argument("address", help="tcp:HOST:PORT, unix:PATH, fd:N (an inherited socket), or exec:COMMAND")
        verb.add_argument(
            "--profile",
            default="pc-i440fx-7.2",
            metavar="MACHINE",
            help="this side's machine, from data/profiles (%(default)s)",
        )
        verb.add_argument("--qemu", default="10.0", metavar="VERSION", help="this side's QEMU (%(default)s)")
        verb.add_argument(
            "--protocol",
            default="v2",
            metavar="NAME",
            help="v1, v2, f: detected by TLS (its ALPN), which old peers ignore, or package.module:name (%(default)s)",
        )
        verb.add_argument("--capability", action="append", default=[], help="a migration capability that is on")
        verb.add_argument("--require", action="append", default=[], metavar="FEATURE", help="v2: it must be on")
        verb.add_argument("--forbid", action="append", default=[], metavar="FEATURE", help="v2: it must not be on")
        verb.add_argument("--session", default="", help="v2: the migration's name; must be equal on both sides")
        verb.add_argument("--psk-file", type=Path, help="v2: a secret that both sides share")
        verb.add_argument(
            "--tls",
            type=Path,
            metavar="FOLDER",
            help="certificates as for tls-creds-x509; `simlib certificates` makes some",
        )
        verb.add_argument("--pcap", type=Path, metavar="FILE", help="the bytes, with TLS keys, for Wireshark")
        verb.add_argument("--json", action="store_true", help="status, errors and steps as JSON, at the end")
        verb.set_defaults(call=command("sockets.connect" if at_source else "sockets.serve", "live"))
    serve.add_argument("--accept", default="v2", choices=("v2", "v2-or-v1"), help="what it takes (%(default)s)")
    serve.add_argument(
        "--on-maybe", default="warn", choices=("warn", "reject"), help="v2: what to do with doubts (%(default)s)"
    )
    for verb in (serve, connect):
        _add_channels(verb)
    connect.add_argument(
        "--ram-mib", type=within(0, 1 << 24, float), default=64.0, metavar="N", help="the guest's memory (%(default)s)"
    )
    connect.add_argument(
        "--tls-hostname", default="", metavar="NAME", help="the expected peer; the address's host if none"
    )
    certificates = verbs.add_parser(
        "certificates",
        help="certificates to try --tls with",
        description="Makes a CA, a server and a client in a folder laid out as QEMU's tls-creds-x509 wants it.",
    )
    certificates.add_argument("folder", type=Path)
    certificates.add_argument("hostname", nargs="*", help="names and addresses of the destination (localhost)")
    certificates.set_defaults(call=command("sockets.certificates", "live"))


def _add_inspect(verbs: Verbs) -> None:
    inspect = verbs.add_parser(
        "inspect",
        help="a real saved guest or captured stream: what is in it, what a destination could know",
        description="Reads a stream that a real QEMU wrote (migrate to file:PATH or exec:cat>PATH, also mapped-ram; "
        "one direction of a captured connection; with or without our manifest in front) and shows header, "
        "configuration, memory blocks and devices with version, size and place. Loads nothing.",
        epilog="simlib inspect guest.stream --json",
    )
    inspect.add_argument("file", type=Path, help="a file of any size")
    inspect.add_argument("--offset", type=within(0), default=0, metavar="N", help="byte where it starts (%(default)s)")
    inspect.add_argument("--json", action="store_true", help="as JSON")
    inspect.set_defaults(call=command("machines.inspect", "live"))


def _add_qemu(verbs: Verbs) -> None:
    qemu = verbs.add_parser(
        "qemu",
        help="real QEMU: compare the simulated v1 with its v1, run v2 beside it",
        description="Works with real QEMU processes.",
    ).add_subparsers(dest="what", required=True, metavar="WHAT")
    _add_check(qemu)
    migrate = qemu.add_parser(
        "migrate",
        help="move a running guest with the v2 handshake",
        description="The handshake runs beside two QEMUs "
        "that have none: mismatches are reported before the guest moves, and any failure leaves it running here.",
        epilog="simlib qemu migrate --source-qmp source.qmp --destination-qmp destination.qmp --channels 4",
    )
    migrate.add_argument(
        "--source-qmp", required=True, metavar="ADDRESS", help="its monitor: a unix socket, or HOST:PORT"
    )
    migrate.add_argument("--destination-qmp", metavar="ADDRESS", help="started with -S -incoming defer, on this host")
    migrate.add_argument(
        "--to", metavar="ADDRESS", help="instead: where an agent of another host listens (tcp:HOST:PORT)"
    )
    _add_channels(migrate)
    migrate.add_argument(
        "--postcopy-after",
        type=within(0, 1e6, float),
        metavar="SECONDS",
        help="switch to postcopy then, if it has not ended before",
    )
    migrate.add_argument("--destination-profile", default="", metavar="MACHINE", help="the destination's")
    agent = qemu.add_parser(
        "agent",
        help="the destination's half, on another host",
        description="Listens for `simlib qemu migrate --to` and takes the guest into the QEMU beside. A refused "
        "attempt leaves both as they were.",
        epilog="simlib qemu agent tcp:0.0.0.0:4444 --qmp destination.qmp",
    )
    agent.add_argument("address", help="where to listen: tcp:HOST:PORT or unix:PATH")
    agent.add_argument("--qmp", required=True, metavar="ADDRESS", help="its monitor; started with -S -incoming defer")
    for verb, call in ((migrate, command("qemu.migrate", "qemu")), (agent, command("qemu.agent", "qemu"))):
        verb.add_argument(
            "--profile",
            default="",
            metavar="MACHINE",
            help="its devices, of data/profiles or as FILE or FILE#MACHINE "
            "of `simlib qemu profile` (the running QEMU is looked at)",
        )
        verb.add_argument("--capability", action="append", default=[], help="a migration capability that is wanted")
        verb.add_argument("--require", action="append", default=[], metavar="FEATURE", help="it must be on")
        verb.add_argument("--forbid", action="append", default=[], metavar="FEATURE", help="it must not be on")
        verb.add_argument("--session", default="", help="the migration's name; must be equal on both sides")
        verb.add_argument(
            "--on-maybe", default="warn", choices=("warn", "reject"), help="what to do with doubts (%(default)s)"
        )
        verb.add_argument("--tls", type=Path, metavar="FOLDER", help="between the agents; see `simlib certificates`")
        verb.add_argument("--json", action="store_true", help="status, errors and steps as JSON, at the end")
        verb.set_defaults(call=call)
    _add_profiles(qemu)


def _add_check(qemu: Verbs) -> None:
    check = qemu.add_parser(
        "check",
        help="the simulated v1 against real QEMU, scenario by scenario",
        description="Runs each scenario that two real QEMUs can play, on each pair of versions that is here, and "
        "reports whether they end as the simulated ones do.",
        epilog="simlib qemu check device_only_at_source order_multifd_first --repeats 3",
    )
    check.add_argument("scenario", nargs="*", help="a name that `simlib list` shows, or a TOML file; all if none")
    check.add_argument(
        "--binary",
        action="append",
        default=[],
        metavar="PROGRAM",
        help="a QEMU; may be given again (those of $PATH and of data/profiles/get-qemu)",
    )
    check.add_argument(
        "--qemu",
        action="append",
        default=[],
        metavar="VERSION",
        help='every scenario on this, as "5.2", or "11.1>7.2"; again for more (its own)',
    )
    check.add_argument(
        "--protocol",
        action="append",
        metavar="NAME",
        help="v1 between the QEMUs, v2 by agents beside them; may be given twice (v1)",
    )
    check.add_argument(
        "--repeats", type=within(1), default=3, metavar="N", help="real runs of each, for races (%(default)s)"
    )
    check.add_argument("--jobs", type=within(1, 4096), default=2, metavar="N", help="cells at a time (%(default)s)")
    check.add_argument("--captures", type=Path, metavar="FOLDER", help="keep each run's trace and first bytes there")
    check.add_argument("--out", type=Path, metavar="FILE", help="write the table there, and FILE.json beside it")
    check.add_argument("--json", action="store_true", help="the cells as JSON")
    check.set_defaults(call=command("qemu.check", "qemu"))


def _add_profiles(qemu: Verbs) -> None:
    profile = qemu.add_parser(
        "profile",
        help="what a QEMU's machine is, as a file that preflight takes",
        description="Starts the binary once more, paused, with the command line given (or that of a running guest), "
        "saves its state to see every device, and queries what it would accept. Nothing of a running guest is touched: "
        "no image is opened, no port is bound, memory is fresh; with --qmp some values are queried.",
        epilog="simlib qemu profile qemu-system-x86_64 --out host.json -- -M q35 -m 2G -device virtio-net-pci",
    )
    profile.add_argument("binary", nargs="?", default="", help="a QEMU; behind -- its command line")
    profile.add_argument("--pid", type=within(1), metavar="N", help="of a running QEMU, by its process id")
    profile.add_argument(
        "--qmp",
        default="",
        metavar="ADDRESS",
        help="of a running QEMU, by its monitor (socket's PATH, or HOST:PORT and --pid)",
    )
    profile.add_argument("--name", default="guest", help="the machine's name in the profile (%(default)s)")
    profile.add_argument("--out", type=Path, metavar="FILE", help="where to write to; stdout if absent")
    profile.set_defaults(call=command("machines.profile", "live"), rest=[])
    preflight = qemu.add_parser(
        "preflight",
        help="can this guest go there, to which of these hosts, and what is in the way?",
        description="Compares profiles with the rules of the live handshake; touches neither guest nor host. The first "
        "may be a saved guest instead (`simlib qemu save`). Exit status 0: some host can take it, 1: none.",
        epilog="simlib qemu preflight guest.json host-a.json host-b.json --capability multifd",
    )
    preflight.add_argument("guest", help="the guest: a profile, FILE or FILE#MACHINE, or a saved guest")
    preflight.add_argument("host", nargs="+", help="each host: a profile, FILE or FILE#MACHINE")
    preflight.add_argument("--capability", action="append", default=[], help="the migration shall use it, e.g. multifd")
    preflight.add_argument(
        "--on-maybe", default="warn", choices=("warn", "reject"), help="what to do with doubts (%(default)s)"
    )
    preflight.add_argument("--json", action="store_true", help="as JSON, with every doubt")
    preflight.set_defaults(call=command("machines.preflight", "live"))
    save = qemu.add_parser(
        "save",
        help="save a running guest with a manifest in front",
        description="Saves the guest to a file that states what it needs, so that a load that can't work is refused "
        "before the first page. The guest stays paused afterwards.",
        epilog="simlib qemu save vm.saved --qmp /run/vm.qmp",
    )
    save.add_argument("file", type=Path, help="a new file; QEMU must be allowed to write to it")
    save.add_argument("--qmp", required=True, metavar="ADDRESS", help="the monitor's socket, or HOST:PORT")
    save.add_argument("--resume", action="store_true", help="the guest runs on when it is saved")
    save.add_argument("--json", action="store_true", help="as JSON")
    save.set_defaults(call=command("machines.save_guest", "live"))


def _add_channels(verb: argparse.ArgumentParser) -> None:
    """As many as QEMU's multifd-channels allows (migration/options.c)."""
    verb.add_argument("--channels", type=within(0, 255), default=0, metavar="N", help="multifd channels (%(default)s)")


def _add_study(verbs: Verbs) -> None:
    sweep = verbs.add_parser(
        "sweep",
        help="many runs of one scenario, into a Parquet file",
        description="Runs the sweep that a TOML file describes (see data/sweeps) on processes of this machine or "
        "on a Dask cluster, and writes one row for each run. If it is stopped or killed at any moment, the same "
        "command continues there.",
        epilog="simlib sweep data/sweeps/detection.toml --out build/detection.parquet",
    )
    sweep.add_argument("sweep", type=Path, help="the sweep's TOML file")
    sweep.add_argument("--out", type=Path, required=True, metavar="FILE", help="the Parquet file to write")
    sweep.add_argument("--workers", type=within(0, 4096), default=0, metavar="N", help="processes (one a processor)")
    sweep.add_argument("--cluster", default="", metavar="ADDRESS", help="a Dask scheduler, as tcp://127.0.0.1:8786")
    sweep.set_defaults(call=command("study.sweep", "study"))
    claims = verbs.add_parser(
        "claims",
        help="the verdict on each claim of June 2023",
        description="Runs the experiment of each claim and "
        "prints its verdict, the numbers it rests on, and the command that shows them.",
    )
    claims.add_argument("claim", nargs="*", help="P1 to P8, P4b, P5-growth, P5-strong, D1 to D4; all if none")
    claims.add_argument("--full", action="store_true", help="larger grids, more channels, more runs")
    claims.add_argument("--out", type=Path, metavar="FILE", help="also write the verdicts and their numbers there")
    claims.add_argument("--readme", type=Path, metavar="FILE", help="also write the verdicts between FILE's markers")
    claims.add_argument("--json", action="store_true", help="as JSON")
    claims.set_defaults(call=command("study.claims", "study"))
