"""The command `simlib`, also `python -m simlib`. Results go to stdout, progress and complaints to stderr.

Exit status: 0 done, 1 it could not be done, 2 it was asked wrongly, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from . import __version__, shown
from .options import add_channels, add_inspect, add_live, add_profiles, within

T = TypeVar("T")


class Failure(Exception):
    """One sentence: what, where, what to do."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "simlib", description="A lab for the QEMU live-migration handshake: v1 (today's stream) against v2.",
        epilog="Start with: simlib compare. Then: simlib list; simlib run device_only_at_source --protocol v1",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"simlib {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    compare = verbs.add_parser("compare", help="every scenario under v1 and v2: table, pictures, traces",
                               description="Runs every scenario (or those named) in the simulated world under both "
                               "protocols, prints the table, writes pictures and traces below --out.")  # fmt: skip
    compare.add_argument("scenario", nargs="*", help="a name that `simlib list` shows, or a TOML file; all if none")
    compare.add_argument("--out", type=Path, help="folder to write to (build/compare, of some: build/compare-some)")
    compare.add_argument("--seed", type=int, default=1, help="same seed, same run (%(default)s)")
    compare.add_argument("--json", action="store_true", help="the rows as JSON on stdout instead of the table")
    compare.set_defaults(call=_compare)
    run = verbs.add_parser("run", help="one scenario: readable trace, chart, capture",
                           description="Runs one scenario and prints its trace; with --out also writes trace.txt, "
                           "chart.svg, capture.pcapng (for Wireshark, see data/wireshark) and row.json.")  # fmt: skip
    run.add_argument("scenario", help="a name that `simlib list` shows, or a TOML file")
    run.add_argument("--protocol", default="", help="v1, v2, or a way to detect: a, b, c, d, d', f (default: v1)")
    run.add_argument("--qemu", default="", metavar="VERSION", help='QEMU of both sides, as "10.0", or "10.0>7.2"')
    run.add_argument("--manager", default="", help="naive (trusts the source) or libvirt")
    run.add_argument("--seed", type=int, default=1, help="same seed, same run (%(default)s)")
    run.add_argument("--out", type=Path, help="folder to write to")
    run.add_argument("--json", action="store_true", help="the row and the steps as JSON")
    run.set_defaults(call=_run)
    _add_explore(verbs)
    add_live(verbs, _connect, _serve, _certificates)
    add_inspect(verbs, _of_real)
    _add_qemu(verbs)
    _add_study(verbs)
    listed = verbs.add_parser("list", help="the scenarios", description="Shows every scenario that the lab knows, and "
                             "which claims of June 2023 (P, D: `simlib claims`) and which guarantees of order (S, L: "
                             "`simlib explore`) it is about.")  # fmt: skip
    listed.add_argument("--json", action="store_true", help="as JSON")
    listed.set_defaults(call=_list)
    return parser


def _add_explore(verbs: Any) -> None:
    explore = verbs.add_parser(
        "explore", help="every order of events: what holds, and the shortest story of what does not",
        description="Searches every interleaving of the real endpoints of a scenario: deliveries, accepts, timers in "
        "any order, and the faults that you allow at any moment. The scenario's own faults and times are left out. "
        "Without a scenario: all models of the lab, every mutant, and the argument about detection.",
        epilog="simlib explore matched_multifd --protocol v2 --cuts 1 --stranger garbage --stranger replay",
    )  # fmt: skip
    explore.add_argument("scenario", nargs="?", help="a name that `simlib list` shows, or a TOML file")
    explore.add_argument("--protocol", default="", help="v1, v2, or a way to detect: a, b, c, d, d', f (default: v1)")
    explore.add_argument("--qemu", default="", metavar="VERSION", help='QEMU of both sides, as "10.0", or "10.0>7.2"')
    explore.add_argument(
        "--cuts", type=within(0), default=0, metavar="N", help="times that all connections may be reset"
    )
    explore.add_argument("--losses", type=within(0), default=0, metavar="N", help="times that one connection may be")
    explore.add_argument("--order", action="append", default=[], help="the manager may: cancel, deadline, postcopy")
    explore.add_argument("--stranger", action="append", default=[], metavar="WORD",
                         help="one may come and be silent, say garbage, replay a channel's opening, ...")  # fmt: skip
    explore.add_argument("--fault", action="append", default=[], metavar="NAME",
                         help="a kind of fault that defines `strike`, as package.module:name")  # fmt: skip
    explore.add_argument("--property", action="append", default=[], metavar="NAME",
                         help="one of your own, as package.module:name")  # fmt: skip
    explore.add_argument("--rival", action="store_true", help="a second source wants the same destination")
    explore.add_argument("--timers", action="store_true", help="timers ring, at any moment")
    explore.add_argument(
        "--room", type=within(0), default=0, metavar="N", help="messages that a buffer holds (0: endless)"
    )
    explore.add_argument("--plain", action="store_true", help="without the two reductions")
    explore.add_argument(
        "--limit", type=within(1), default=2_000_000, metavar="N", help="states to visit (%(default)s)"
    )
    explore.add_argument("--out", type=Path, help="folder for each story: text, chart, and a scenario for `simlib run`")
    explore.add_argument("--json", action="store_true", help="as JSON")
    explore.set_defaults(call=_explore)


def _add_study(verbs: Any) -> None:
    sweep = verbs.add_parser(
        "sweep", help="many runs of one scenario, into a Parquet file",
        description="Runs what a sweep's TOML file says (see data/sweeps) on processes of this machine or "
        "on a Dask cluster, and writes one row a run. Stopped or killed at any moment, the same "
        "command goes on where it was.",
        epilog="simlib sweep data/sweeps/detection.toml --out build/detection.parquet")  # fmt: skip
    sweep.add_argument("sweep", type=Path, help="the sweep's TOML file")
    sweep.add_argument("--out", type=Path, required=True, metavar="FILE", help="the Parquet file to write")
    sweep.add_argument("--workers", type=within(0, 4096), default=0, metavar="N", help="processes (one a processor)")
    sweep.add_argument("--cluster", default="", metavar="ADDRESS", help="a Dask scheduler, as tcp://127.0.0.1:8786")
    sweep.set_defaults(call=_sweep)
    claims = verbs.add_parser(
        "claims", help="what became of each claim of June 2023", description="Runs the experiment of each claim and "
        "prints its verdict, the numbers it rests on, and the command that shows them.")  # fmt: skip
    claims.add_argument("claim", nargs="*", help="P1 to P8, P4b, P5-growth, P5-strong, D1 to D4; all if none")
    claims.add_argument("--full", action="store_true", help="larger grids, more channels, more runs")
    claims.add_argument("--out", type=Path, metavar="FILE", help="also write the verdicts and their numbers there")
    claims.add_argument("--readme", type=Path, metavar="FILE", help="also write the verdicts between FILE's markers")
    claims.add_argument("--json", action="store_true", help="as JSON")
    claims.set_defaults(call=_claims)


def _add_qemu(verbs: Any) -> None:
    qemu = verbs.add_parser(
        "qemu", help="real QEMU: is the simulated v1 its v1, and v2 beside it",
        description="Works with real QEMU processes.",
    ).add_subparsers(dest="what", required=True, metavar="WHAT")  # fmt: skip
    _add_check(qemu)
    migrate = qemu.add_parser(
        "migrate", help="move a running guest with the v2 handshake", description="The handshake runs beside two QEMUs "
        "that have none: what does not fit is told before the guest moves, and whatever fails leaves it running here.",
        epilog="simlib qemu migrate --source-qmp source.qmp --destination-qmp destination.qmp --channels 4",
    )  # fmt: skip
    migrate.add_argument(
        "--source-qmp", required=True, metavar="ADDRESS", help="its monitor: a unix socket, or HOST:PORT"
    )
    migrate.add_argument("--destination-qmp", metavar="ADDRESS", help="started with -S -incoming defer, on this host")
    migrate.add_argument(
        "--to", metavar="ADDRESS", help="instead: where an agent of another host listens (tcp:HOST:PORT)"
    )
    add_channels(migrate)
    migrate.add_argument(
        "--postcopy-after",
        type=within(0, 1e6, float),
        metavar="SECONDS",
        help="switch to postcopy then, if it has not ended before",
    )
    migrate.add_argument("--destination-profile", default="", metavar="MACHINE", help="the destination's")
    agent = qemu.add_parser(
        "agent", help="the destination's half, on another host",
        description="Listens for `simlib qemu migrate --to` and takes the guest into the QEMU beside. A refused "
        "attempt leaves both as they were.",
        epilog="simlib qemu agent tcp:0.0.0.0:4444 --qmp destination.qmp",
    )  # fmt: skip
    agent.add_argument("address", help="where to listen: tcp:HOST:PORT or unix:PATH")
    agent.add_argument("--qmp", required=True, metavar="ADDRESS", help="its monitor; started with -S -incoming defer")
    for verb, call in ((migrate, _qemu_migrate), (agent, _qemu_agent)):
        verb.add_argument(
            "--profile", default="", metavar="MACHINE", help="its devices, of data/profiles or as FILE or FILE#MACHINE "
            "of `simlib qemu profile` (the running QEMU is looked at)",
        )  # fmt: skip
        verb.add_argument("--capability", action="append", default=[], help="a migration capability that is wanted")
        verb.add_argument("--require", action="append", default=[], metavar="FEATURE", help="it must be on")
        verb.add_argument("--forbid", action="append", default=[], metavar="FEATURE", help="it must not be on")
        verb.add_argument("--session", default="", help="the migration's name; both sides must say the same")
        verb.add_argument("--on-maybe", default="warn", choices=("warn", "reject"), help="of doubts (%(default)s)")
        verb.add_argument("--tls", type=Path, metavar="FOLDER", help="between the agents; see `simlib certificates`")
        verb.add_argument("--json", action="store_true", help="status, errors and steps as JSON, at the end")
        verb.set_defaults(call=call)
    add_profiles(qemu, _of_real)


def _add_check(qemu: Any) -> None:
    check = qemu.add_parser(
        "check", help="the simulated v1 against real QEMU, scenario by scenario",
        description="Runs each scenario that two real QEMUs can play, on each pair of versions that is here, and says "
        "whether they end as the simulated ones do.",
        epilog="simlib qemu check device_only_at_source order_multifd_first --repeats 3",
    )  # fmt: skip
    check.add_argument("scenario", nargs="*", help="a name that `simlib list` shows, or a TOML file; all if none")
    check.add_argument("--binary", action="append", default=[], metavar="PROGRAM",
                       help="a QEMU; may be given again (those of $PATH and of data/profiles/get-qemu)")  # fmt: skip
    check.add_argument("--qemu", action="append", default=[], metavar="VERSION",
                       help='every scenario on this, as "5.2", or "11.1>7.2"; again for more (its own)')  # fmt: skip
    check.add_argument("--protocol", action="append", metavar="NAME",
                       help="v1 between the QEMUs, v2 by agents beside them; may be given twice (v1)")  # fmt: skip
    check.add_argument(
        "--repeats", type=within(1), default=3, metavar="N", help="real runs of each, for races (%(default)s)"
    )
    check.add_argument("--jobs", type=within(1, 4096), default=2, metavar="N", help="cells at a time (%(default)s)")
    check.add_argument("--captures", type=Path, metavar="FOLDER", help="keep each run's trace and first bytes there")
    check.add_argument("--out", type=Path, metavar="FILE", help="write the table there, and FILE.json beside it")
    check.add_argument("--json", action="store_true", help="the cells as JSON")
    check.set_defaults(call=_qemu_check)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    shown.protect()
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # where people have modules of their own, as in --protocol module:name
    words = sys.argv[1:] if argv is None else argv
    end = words.index("--") if words[:2] == ["qemu", "profile"] and "--" in words else len(words)
    options = _parser().parse_args(words[:end])
    if end < len(words):
        options.rest = words[end + 1 :]  # QEMU's own, whatever it looks like
    try:
        status = int(options.call(options))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as stopped:
        print(f"simlib: {str(stopped) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone; there is nobody to tell
        return _mute()
    except Failure as error:
        print(f"simlib: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        wanted = (getattr(options, name, None) for name in ("out", "captures", "file"))
        print(f"simlib: {error.filename or next(filter(None, wanted), 'output')}: {error.strerror}", file=sys.stderr)
        return _mute()
    except ValueError as error:
        print(f"simlib: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        place = _place_outside(error)
        if not place:
            raise
        print(f"simlib: {place}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _place_outside(error: Exception) -> str:
    """File and line of a user's own module, if it was that which raised the error."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(last.filename).is_relative_to(Path(__file__).parent) or "site-packages" in last.filename
    return "" if ours or last.filename.startswith(sys.base_prefix) else f"{last.filename}, line {last.lineno}"


def _mute() -> int:
    """What could not be written is not tried again when Python ends, where it would be told a second time."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _compare(options: Any) -> int:
    from . import world
    from .case import scenario
    from .record import compare

    chosen = [scenario.find(n) for n in options.scenario] if options.scenario else scenario.load_all()
    options.out = options.out or Path("build/compare-some" if options.scenario else "build/compare")
    work = compare.jobs(chosen)
    rows: list[Any] = []
    command = "simlib " + " ".join(["compare", *options.scenario, "--seed", str(options.seed)])
    try:
        for row in _progress(compare.run_all(world.run, work, options.out, options.seed), len(work), "runs"):
            rows.append(row)
    finally:
        if rows:
            try:
                compare.finish(rows, chosen, options.out, command)
            finally:  # a full disk takes none of it
                _tell_rows(rows, options, command)
    return 0


def _tell_rows(rows: list[Any], options: Any, command: str) -> None:
    from .record import compare

    if options.json:
        json.dump({"command": command, "rows": [r.as_dict() for r in rows]}, sys.stdout, indent=1)
        print()
        return
    for line in (*compare.text_table(rows), "", *compare.summary(rows)):
        print(line)
    print(f"\npictures, table and traces: {options.out}/index.html (seed {options.seed})")


def _run(options: Any) -> int:
    from . import world
    from .case import checks, scenario

    found = scenario.find(options.scenario)
    given = {
        "protocol": options.protocol or found.protocols[0], "version": options.qemu or found.versions[0],
        "manager": options.manager or found.managers[0],
    }  # fmt: skip
    for number, at_source in zip(checks.pair(given["version"]), (True, False), strict=True):
        found.settings(at_source, number)
    result = world.run(found, seed=options.seed, **given)
    try:
        if options.out:
            _write(options.out, result)
    finally:  # a folder that can't be written takes none of it
        if options.json:
            json.dump({"row": result.row.as_dict(), "steps": result.trace.rows()}, sys.stdout, indent=1)
            print()
        else:
            again = f"simlib run {options.scenario} --protocol {given['protocol']} --qemu '{given['version']}'"
            _tell_run(result, found.title, f"{again} --manager {given['manager']} --seed {options.seed}")
    return 0


def _tell_run(result: Any, title: str, again: str) -> None:
    print(result.trace)
    print(f"\n{shown.line(title)}: {result.row.outcome}, the guest is at: {result.row.guest_at}")
    if result.row.source_text:
        print(f"the source is told: {result.row.source_text}")
    print(f"again: {again}")


def _write(out: Path, result: Any) -> None:
    from .record import capture, chart

    out.mkdir(parents=True, exist_ok=True)
    (out / "trace.txt").write_text(f"{result.trace}\n", encoding="utf-8")
    (out / "chart.svg").write_text(chart.sequence_svg(result.trace, result.row.outcome), encoding="utf-8")
    (out / "row.json").write_text(json.dumps(result.row.as_dict(), indent=1), encoding="utf-8")
    capture.write(out / "capture.pcapng", capture.segments(result.trace.packets), result.trace.title)


def _serve(options: Any) -> int:
    return int(_live().serve(options))


def _connect(options: Any) -> int:
    return int(_live().connect(options))


def _certificates(options: Any) -> int:
    return int(_live().certificates(options))


def _of_real(name: str) -> Callable[[Any], int]:
    """A command of `real_qemu.describe`, imported when it is called."""

    def call(options: Any) -> int:
        with _needs("live"):
            from .real_qemu import describe
        from .case.profiles import ProfileError
        from .real_qemu.saved import SavedError

        try:
            return int(getattr(describe, name)(options))
        except (ProfileError, SavedError) as error:
            raise Failure(str(error)) from None

    return call


def _live() -> Any:
    with _needs("live"):
        from .live import command
    return command


def _qemu() -> Any:
    with _needs("qemu"):
        from .real_qemu import command
    return command


@contextmanager
def _needs(extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        from .extras import install_command

        raise Failure(f"{error.name} is missing; `{install_command(extra)}` brings it, `make` has it") from None


def _qemu_check(options: Any) -> int:
    from . import world
    from .case import scenario

    command = _qemu()
    chosen = [scenario.find(n) for n in options.scenario] if options.scenario else scenario.load_all()
    with _failing(command):
        return int(command.check(options, chosen, world.run, _progress))


def _qemu_migrate(options: Any) -> int:
    with _failing(_qemu()) as command:
        return int(command.migrate(options))


def _qemu_agent(options: Any) -> int:
    with _failing(_qemu()) as command:
        return int(command.agent(options))


@contextmanager
def _failing(command: Any) -> Iterator[Any]:
    try:
        yield command
    except command.QemuError as error:
        raise Failure(str(error)) from None


def _explore(options: Any) -> int:
    from .explore import command

    return command.run(options)


def _sweep(options: Any) -> int:
    from .study import command, store

    try:
        return command.sweep(options, {"world": _world_run, "live": _live_run, "real-qemu": _real_run})
    except store.StoreError as error:
        raise Failure(str(error)) from None


def _claims(options: Any) -> int:
    from .study import command

    return command.claims(options, _world_run())


def _world_run() -> Any:
    from .world import run

    return run


def _live_run() -> Any:
    _live()
    from .live import run

    return run


def _real_run() -> Any:
    with _failing(_qemu()):
        from .real_qemu.run import runner

        return runner()


def _list(options: Any) -> int:
    from .case import scenario

    found = scenario.load_all()
    if options.json:
        told = [{"name": s.name, "title": s.title, "claims": s.claims, "versions": s.versions} for s in found]
        json.dump(told, sys.stdout, indent=1)
        print()
    else:
        for s in found:
            print(f"{s.name:40} {shown.line(s.title)} ({', '.join(s.claims)})")
    return 0


def _progress(items: Iterable[T], total: int, unit: str, clock: Callable[[], float] = time.monotonic) -> Iterator[T]:
    """A bar with the time left, on a terminal and after two seconds; silent otherwise."""
    started = drawn = clock()
    shows = sys.stderr.isatty()
    for done, item in enumerate(items, 1):
        yield item
        now = clock()
        if shows and now - started > 2 and now - drawn > 0.1:
            drawn = now
            left = (now - started) / done * (total - done)
            bar = "#" * (30 * done // total)
            print(f"\r[{bar:30}] {done}/{total} {unit}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
    if shows and drawn > started:
        print("\r" + " " * 70 + "\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
