"""Fuzz with coverage: `make fuzz MINUTES=30`, of each target, two at a time; `TARGETS="v2-source frames"` chooses.

What covers something new goes to build/fuzz/TARGET; what breaks something stops that target, is written to
build/fuzz/broken-TARGET-… and told; the exit code is 1 then. `--keep` adds to the corpus that `make test` replays.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["simlib.handshake"]):
    from tests.fuzz.test_fuzz import CORPUS, TARGETS, kept

OUT = Path("build/fuzz")
LONGEST_BYTES = 1024


def command(target: str, *flags: str | Path) -> list[str]:
    return [sys.executable, "-m", "tests.fuzz", "--one", target, *map(str, flags)]


def keep(target: str) -> None:
    """What covers something new joins the target's corpus."""
    inputs = {path.read_bytes().hex() for path in (OUT / target).iterdir()} | set(kept(target))
    (CORPUS / f"{target}.txt").write_text("".join(f"{line}\n" for line in sorted(inputs, key=lambda x: (len(x), x))))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0, help="for each target (%(default)s)")
    parser.add_argument("--keep", action="store_true", help="renew tests/fuzz/corpus from what was found")
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="TARGET", help=", ".join(TARGETS))
    options = parser.parse_args()
    if unknown := [t for t in options.targets if t not in TARGETS]:
        parser.error(f"{unknown[0]}: no such target; there are {', '.join(TARGETS)}")
    waiting, running, broken = list(options.targets), {}, []
    while waiting or running:
        while waiting and len(running) < 2:
            target = waiting.pop(0)
            (OUT / target).mkdir(parents=True, exist_ok=True)
            for number, line in enumerate(kept(target)):
                (OUT / target / f"kept-{number}").write_bytes(bytes.fromhex(line))
            log = (OUT / f"{target}.log").open("w")
            flags = [
                f"-max_total_time={options.minutes * 60:.0f}",
                f"-artifact_prefix={OUT}/broken-{target}-",
                f"-max_len={LONGEST_BYTES}",
                "-timeout=60",
                "-rss_limit_mb=2048",
            ]
            arguments = command(target, *flags, OUT / target)
            running[target] = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)
        time.sleep(0.2)
        for target, process in list(running.items()):
            if process.poll() is not None:
                del running[target]
                broken += [target] if process.returncode else []
                lines = (OUT / f"{target}.log").read_text().splitlines()
                done = next((line for line in reversed(lines) if "cov:" in line), "").split("\t")
                print(
                    f"{target}: {'BROKEN, see build/fuzz' if process.returncode else 'nothing'}; {' '.join(done)}",
                    flush=True,
                )
    for target in options.targets if options.keep else ():
        keep(target)
    return 1 if broken else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        atheris.Case([sys.argv[0], *sys.argv[3:]], TARGETS[sys.argv[2]])
        atheris.Fuzz()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
