"""Runs a design on any executor: chunks of about 200 ms go out, packed rows come back and are kept at once.

Only seeds and parameters are sent; the rows do not depend on the worker that computes them, on the chunks or on their
order. At most a few chunks per worker are under way, so that memory does not grow with the sweep's length.
"""

from __future__ import annotations

import asyncio
import copyreg
import inspect
import json
import logging
import os
import pickle
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager, suppress
from dataclasses import MISSING, dataclass
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import active_children, get_context
from operator import attrgetter
from pathlib import Path
from subprocess import DEVNULL, SubprocessError, check_output
from typing import Any, ParamSpec, TypedDict, TypeVar

from .. import __version__
from ..case.registry import ALL
from ..case.scenario import Scenario
from ..record.compare import Runner
from ..record.outcome import Row
from .design import ROW_FIELDS, Batch, Design, Values, applied, columns, derived_seeds
from .extras import install_command
from .store import Log, StoreError, intact, metadata_of, packed, schema, write

CHUNK_S = 0.2
CHUNK_RUNS = 20_000
IN_FLIGHT = 3  # chunks per worker
CLUSTER_S = 5.0  # until a Dask scheduler has answered
_row_values = attrgetter(*ROW_FIELDS)
_READ: dict[bytes, object] = {}  # a sweep's pickles and what they hold: its scenario, and what the user has added
HERE = Path(__file__).resolve().parents[1]
ProgressCallback = Callable[[int], object]  # takes how many rows there are
Packed = tuple[bytes, float]  # a chunk's rows, and the seconds that one run took
T = TypeVar("T")
P = ParamSpec("P")


class SessionConfig(TypedDict):
    """What must be equal for rows to belong together."""

    simlib: str
    code: str
    sweep: dict[str, object]


@dataclass(frozen=True, slots=True)
class Task:
    """One chunk, as it travels to a worker. `base` and `added`, what the user has added to the tables of names, are
    pickled once a sweep, and read once a worker."""

    base: bytes
    added: bytes
    seed: int
    parameters: tuple[str, ...]
    batches: tuple[Batch, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """Where chunks are run: an executor, and how many of them it runs at once."""

    executor: Executor
    workers: int


def compute(run: Runner, task: Task) -> Packed:
    """Run a chunk. An error in a run is recorded in its row.

    Seeds are made before the runs of a point and rows after them: between two runs each costs several times as much,
    since the processor's caches no longer hold the code.

    Returns:
        The chunk's rows as `store.packed` makes them, and the seconds that one run took on average.
    """
    began_s = time.perf_counter()
    rows: list[tuple[object, ...]] = []
    for table, entries in zip(ALL, _read(task.added, list), strict=True):
        table.added.update(entries)
    base = _read(task.base, Scenario)
    for batch in task.batches:
        values = dict(batch.values)
        here = [values.get(p) for p in task.parameters]
        seeds = [*derived_seeds(task.seed, batch.values, batch.repetitions)]
        results = [_one(run, base, batch, seed) for seed in seeds]
        for n, (repetition, seed, one) in enumerate(zip(batch.repetitions, seeds, results, strict=True)):
            cells = (*_row_values(one), "") if isinstance(one, Row) else _failed_cells(base, batch, seed, one)
            rows.append((batch.first + n, batch.point, repetition, *here, *cells))
    return packed(rows), (time.perf_counter() - began_s) / len(rows)


def _one(run: Runner, base: Scenario, batch: Batch, seed: int) -> Row | Exception:
    try:
        return run(
            _scenario(base, batch.values),
            protocol=batch.protocol,
            version=batch.version,
            manager=batch.manager,
            seed=seed,
        ).row
    except Exception as error:  # whatever it is: one bad point is a row, not the end
        return error


def _failed_cells(base: Scenario, batch: Batch, seed: int, error: Exception) -> Iterator[object]:
    known = {"scenario": base.name, "protocol": batch.protocol, "manager": batch.manager, "seed": seed}
    yield from map(known.get, ROW_FIELDS)
    yield f"{type(error).__name__}: {error}"


def _scenario(base: Scenario, values: Values) -> Scenario:
    """A point's scenario; made once for its repetitions."""
    last = _LAST.get("point")
    if last is None or last[0] is not base or last[1] != values:
        last = _LAST["point"] = base, values, applied(base, values, "the point")
    return last[2]


_LAST: dict[str, tuple[Scenario, Values, Scenario]] = {}


def _read(pickled: bytes, kind: type[T]) -> T:
    """What the bytes hold. The process that pickled them uses its own objects: loading a class by value changes it."""
    content = _READ.get(pickled)
    if content is None:
        if len(_READ) > 1:  # an earlier sweep's
            _READ.clear()
        content = _READ[pickled] = pickle.loads(pickled)
    assert isinstance(content, kind)
    return content


def _by_value(base: Scenario) -> tuple[bytes, bytes]:
    """A scenario and the user's own entries as bytes. What a notebook has defined no worker could import: it travels
    whole. Raises StoreError."""
    added = [dict(table.added) for table in ALL]
    dumps = pickle.dumps
    if any(added):
        try:
            import cloudpickle
        except ModuleNotFoundError:
            raise StoreError(f"cloudpickle is missing; `{install_command('study')}` brings it, `make` has it") from None
        for module in {sys.modules[m] for m in _modules(added) if m in sys.modules}:
            cloudpickle.register_pickle_by_value(module)
        copyreg.pickle(type(MISSING), lambda _: "MISSING")  # by name: dataclasses compare it by identity
        dumps = cloudpickle.dumps
    pickled = dumps(base), dumps(added)
    _READ.clear()
    _READ.update(zip(pickled, (base, added), strict=True))
    return pickled


def _modules(added: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """Where the user's entries are defined: workers may not find these files."""
    for entries in added:
        for entry in entries.values():
            classes = entry.__mro__ if isinstance(entry, type) else type(entry).__mro__
            makers = [value for value in getattr(entry, "__dict__", {}).values() if hasattr(value, "__module__")]
            for one in (*classes, *makers):
                name = str(one.__module__)
                if name.partition(".")[0] not in ("simlib", "builtins", *sys.stdlib_module_names):
                    yield name


# --- executors ------------------------------------------------------------------------------------------------------
def _begin(parent: int) -> None:
    """A worker leaves Ctrl-C to its parent, and does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _interrupts_held_while_starting() -> Iterator[None]:
    """Ctrl-C in a terminal goes to the whole process group. Processes started in here ignore it from their first
    moment, by the mask that they inherit; this process handles it afterwards (a signal may reach any thread, so the
    mask alone would not hold it off)."""
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    pressed: list[int] = []
    usual = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, usual)
    if pressed:
        raise KeyboardInterrupt


@contextmanager
def processes(workers: int) -> Iterator[Pool]:
    """Processes on this machine."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (os.getpid(),))
    try:
        with _interrupts_held_while_starting():
            for _ in range(workers):
                pool.submit(int)  # which starts one
        yield Pool(pool, workers)
    except BaseException:  # their remaining work is not waited for: a second Ctrl-C ends it at once
        for child in active_children():
            child.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class InlineExecutor(Executor):
    """No workers: each chunk is run where it is handed in."""

    def submit(self, call: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(call(*arguments, **named))
        return done


@contextmanager
def cluster(address: str) -> Iterator[Pool]:
    """An existing Dask cluster, by its scheduler's address. Raises StoreError if no scheduler answers."""
    try:
        import distributed
    except ModuleNotFoundError:
        raise StoreError(f"Dask is missing; `{install_command('study')}` brings it, `make` has it") from None

    async def asked() -> None:
        rpc: Any = distributed.rpc
        async with asyncio.timeout(CLUSTER_S), rpc(address) as scheduler:
            await scheduler.identity()

    try:  # before a Client, which would wait for a silent address without limit
        asyncio.run(asked())
        client_of: Any = distributed.Client
        client = client_of(address, timeout=CLUSTER_S, set_as_default=False)
    except (OSError, ValueError) as error:
        why = (str(error) or f"no answer in {CLUSTER_S:g} s").splitlines()[0]
        raise StoreError(f"no Dask scheduler answers at {address}: {why}") from None
    logging.disable()  # a scheduler that dies would fill pages with what one sentence below reports
    try:
        many = sum(client.ncores().values())
        if not many:
            raise StoreError(f"the Dask cluster at {address} has no workers")
        yield Pool(client.get_executor(pure=False), many)
    finally:
        with suppress(OSError):  # it may be gone
            client.close(timeout=CLUSTER_S)
        logging.disable(logging.NOTSET)


# --- a sweep --------------------------------------------------------------------------------------------------------
def sweep(run: Runner, design: Design, pool: Pool, log: Log, progress: ProgressCallback = lambda done: None) -> None:
    """Run what the log lacks.

    Args:
        progress: receives the number of finished rows, whenever chunks are finished.

    Raises:
        KeyboardInterrupt: after Ctrl-C, once the chunks that end within 10 s are in the log.
        StoreError: if a worker dies, the disk is full, or cloudpickle, which the user's entries need, is missing.
    """
    todo, (base, added) = _chunks(design, log), _by_value(design.base)
    flying: dict[Future[Packed], tuple[int, int]] = {}
    size = _Size()
    next(todo)
    try:
        while True:
            while len(flying) < IN_FLIGHT * pool.workers:
                span = todo.send(size.runs)
                if span is None:
                    break
                task = Task(base, added, design.seed, design.parameters, tuple(design.batches(*span)))
                flying[pool.executor.submit(compute, run, task)] = span
            if not flying:
                return
            _keep(wait(flying, return_when=FIRST_COMPLETED).done, flying, log, size)
            progress(log.done)
    except KeyboardInterrupt:
        left = {f for f in flying if not f.cancel()}
        _keep(wait(left, timeout=10).done, flying, log, size)
        raise
    except (BrokenExecutor, CancelledError):
        raise StoreError(
            f"a worker died (killed, out of memory, or its scheduler gone?); {log.done:,} rows are kept, "
            "and the same command goes on"
        ) from None


def _keep(done: set[Future[Packed]], flying: dict[Future[Packed], tuple[int, int]], log: Log, size: _Size) -> None:
    for future in done:
        body, run_s = future.result()
        log.add(*flying.pop(future), body)
        size.learn(run_s)


class _Size:
    """How many runs make a chunk: one at first, then what takes about 200 ms."""

    def __init__(self) -> None:
        self.runs, self.run_s = 1, 0.0

    def learn(self, run_s: float) -> None:
        self.run_s = run_s if not self.run_s else 0.8 * self.run_s + 0.2 * run_s
        self.runs = max(1, min(CHUNK_RUNS, round(CHUNK_S / max(self.run_s, 1e-9))))


def _chunks(design: Design, log: Log) -> Generator[tuple[int, int] | None, int, None]:
    """A generator: send the wanted size, get a span of runs, or None at the end."""
    many = yield None
    for first, after in list(log.gaps(design.runs)):
        while first < after:
            last = min(after, first + many)
            many = yield first, last
            first = last
    while True:
        yield None


def identity(design: Design) -> SessionConfig:
    """What must be equal for rows to belong together: the sweep, and the code that runs it."""
    code = blake2b(digest_size=16)
    for path in sorted(HERE.rglob("*.py")):
        code.update(str(path.relative_to(HERE)).encode() + b"\0" + path.read_bytes() + b"\0")
    for table in ALL:
        for name, entry in table.added.items():
            code.update(f"{table.what} {name}\0{_source(entry)}\0".encode())
    return {"simlib": __version__, "code": code.hexdigest(), "sweep": design.description()}


def _source(entry: object) -> str:
    """The text that defines a user's entry, where there is one; else its value."""
    makers = [value for value in getattr(entry, "__dict__", {}).values() if callable(value)]
    texts = [repr(entry) if not isinstance(entry, type) and not makers else ""]
    for one in (entry if isinstance(entry, type) else type(entry), *makers):
        with suppress(OSError, TypeError):
            texts.append(inspect.getsource(one))
    return "\n".join(texts)


def metadata(design: Design, identified: SessionConfig, command: str) -> dict[str, object]:
    """What travels with the rows."""
    entries: dict[str, object] = {
        "command": command,
        "seed": design.seed,
        "commit": commit(),
        "python": platform.python_version(),
        **identified,
        "sweep": {**identified["sweep"], "points": len(design.points)},
    }
    for name in ("simpy", "pyarrow", "scipy"):
        try:
            entries[name] = version(name)
        except PackageNotFoundError:
            continue
    return entries


def commit() -> str:
    """The commit of this code, with a + when files differ from it; empty outside a repository."""
    try:
        head, *changed = check_output(["git", "log", "-1", "--format=%H"], cwd=HERE, stderr=DEVNULL, text=True).split()
        dirty = check_output(["git", "status", "--porcelain", "-uno"], cwd=HERE, stderr=DEVNULL, text=True)
        return head + ("+" if dirty or changed else "")
    except (OSError, SubprocessError, ValueError):
        return ""


def complete(design: Design, identified: SessionConfig, out: Path) -> bool:
    """Whether the result is there already. Raises StoreError if what is there came from elsewhere, or is damaged."""
    if not out.exists():
        return False
    if not out.is_file():
        raise StoreError(f"{out}: is no file; choose another --out")
    damaged = StoreError(
        f"{out}: is damaged: its bytes are not those that were written; remove it, and the same command makes it anew"
    )
    whole = intact(out)
    if whole is False:
        raise damaged
    stored = metadata_of(out)
    same: SessionConfig = {**identified, "sweep": {**identified["sweep"], "points": len(design.points)}}
    if stored.get("identity") != digest(identified):
        raise StoreError(f"{out}: is there, made by {_differs(stored, same)}; remove it, or choose another --out")
    if whole is None:  # it is ours, so it had a seal
        raise damaged
    return True


def opened(identified: SessionConfig, out: Path) -> Log:
    """The log of a sweep, new or continued. Raises StoreError if it was begun by another sweep."""
    out.parent.mkdir(parents=True, exist_ok=True)
    log = Log(log_path(out), identified)
    if digest(log.identity) != digest(identified):
        log.close()
        raise StoreError(
            f"{log.path}: is half done, begun by {_differs(log.identity, identified)}; go on with that, "
            "or remove the file to begin anew"
        )
    return log


def _differs(stored: Mapping[str, object], ours: SessionConfig) -> str:
    theirs = stored.get("sweep")
    for key, value in ours["sweep"].items():
        if not isinstance(theirs, dict) or theirs.get(key) != digestible(value):
            return f"another sweep ('{key}' differs)"
    return "other code (simlib has changed since)" if stored.get("code") != ours["code"] else "another sweep"


def digestible(value: object) -> object:
    """As it reads back from JSON."""
    return list(value) if isinstance(value, tuple) else value


def digest(identified: Mapping[str, object]) -> str:
    """One digest of all that must be equal."""
    return blake2b(json.dumps(identified, sort_keys=True).encode(), digest_size=16).hexdigest()


def log_path(out: Path) -> Path:
    return out.with_name(out.name + ".part")


def finish(design: Design, identified: SessionConfig, log: Log, out: Path, command: str) -> int:
    """Merge the log into the result, and remove it. Raises StoreError."""
    entries = {**metadata(design, identified, command), "identity": digest(identified)}
    examples = {p: [dict(values).get(p) for values in design.points] for p in design.parameters}
    count = write(log.columns(), schema(columns(design), examples, entries), out)
    log.close()
    log.path.unlink()
    return count
