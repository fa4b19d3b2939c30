"""Item 2, seedloop: it wants Python 3.12, so the comparison runs whole in such an interpreter, both sides of it.

Run by a Python that has seedloop this file is the comparison itself and prints what it measured as JSON.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / "build" / "bench" / "seedloop"
WANTS = ("seedloop==0.4.1", "simpy>=4.1.1", "tomli_w>=1.2")
SEEDS = 20


def exchange(count: int) -> Any:
    """So many messages in turn between two endpoints, each awaited with a timeout: seedloop's own idiom."""
    import seedloop

    async def scenario(world: Any) -> None:
        here, there = world.net.bind(0), world.net.bind(1)

        async def player(me: int, endpoint: Any) -> None:
            for n in range(count // 2):
                if me == 0 or n:
                    await endpoint.send(1 - me, n)
                async with asyncio.timeout(30):
                    await endpoint.recv()
            if me == 1:
                await endpoint.send(0, count)

        await asyncio.gather(player(0, here), player(1, there))

    return lambda: seedloop.check(scenario, seeds=SEEDS)


def compare(times: int) -> dict[str, Any]:
    """Inside an interpreter that has seedloop."""
    from simlib.handshake import interface as i

    from .bare import VERSION, scenario
    from .clocks import ours
    from .handshake import inputs, run
    from .measure import rounds

    report: dict[str, Any] = {"python": sys.version.split()[0], "found": {}, "messages": {}}
    for name, protocol in (("v1", "v1"), ("v2", "v2")):
        count = sum(isinstance(input, i.Received) for _, input in inputs(protocol, 0)) // 2 * 2

        def world(protocol: str = protocol) -> None:
            for seed in range(SEEDS):
                run(scenario(0), protocol=protocol, version=VERSION, seed=seed)

        def clock(count: int = count) -> None:
            for _ in range(SEEDS):
                ours(count, 30)

        report["found"][name] = rounds({"seedloop": exchange(count), "world": world, "clock": clock}, times)
        report["messages"][name] = count
    return report


def pythons() -> Iterator[str]:
    """Each Python 3.12 or newer on the path that runs, the most wanted first; pyenv's too, which its shims hide."""
    names = [f"python3.{minor}" for minor in (13, 12, 14)]
    for name in names:
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", "pass"], capture_output=True, check=False).returncode == 0:
            yield path
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    known = (p for name in names for p in versions.glob(f"{name.removeprefix('python')}.*/bin/python"))
    yield from map(str, sorted(known, reverse=True))


def _venv() -> tuple[Path | None, str]:
    """An interpreter with seedloop, or why there is none."""
    python = VENV / "bin" / "python"
    if not python.exists():
        base = next(pythons(), None)
        if base is None:
            return None, "seedloop wants Python 3.12 or newer, and none is installed"
        subprocess.run([base, "-m", "venv", str(VENV)], check=True)
        result = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *WANTS],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            shutil.rmtree(VENV)
            return None, f"seedloop could not be installed: {result.stderr.strip().splitlines()[-1]}"
    return python, ""


def lines(times: int) -> Iterator[Any]:
    from .measure import Line, Missing, over

    python, why = _venv()
    if python is None:
        yield Missing(2, "a world's run / seedloop", why)
        return
    got = subprocess.run(
        [python, "-m", "tests.bench.peers", str(times)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if got.returncode:
        yield Missing(2, "a world's run / seedloop", f"it failed: {got.stderr.strip().splitlines()[-1]}")
        return
    report = json.loads(got.stdout)
    for name, samples in report["found"].items():
        count, where = report["messages"][name], f"Python {report['python']}, both"
        anchor = f"seedloop, {count} messages"
        yield Line(
            2,
            f"runs a second of a whole {name} world, {count} messages, engine inside",
            anchor,
            over(samples, "seedloop", "world"),
            3,
            4,
            more_is_better=True,
            note=where,
        )
        yield Line(
            2,
            f"runs a second of {count} messages with timers: our clock alone",
            anchor,
            over(samples, "seedloop", "clock"),
            more_is_better=True,
            note=where,
        )


if __name__ == "__main__":
    if importlib.util.find_spec("seedloop") is None:
        sys.exit("run `make bench`: it makes an interpreter that has seedloop")
    json.dump(compare(int(sys.argv[1])), sys.stdout)
