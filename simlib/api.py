"""The functions of the package `simlib`: thin, and the same for a notebook, a script and the command line.

Arguments that name something (a scenario, protocol, manager, intruder, property) take the name or the object itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from .case import files
from .case.faults import Fault
from .case.intruders import Intruder
from .case.managers import Manager
from .case.protocols import Make, Protocol, from_endpoints
from .case.registry import FAULTS, INTRUDERS, MANAGERS, PROTOCOLS, USUAL_MANAGER, ScenarioError, require, require_whole
from .case.scenario import Scenario
from .record.result import Result

if TYPE_CHECKING:
    import pandas

    from .explore.properties import Property
    from .explore.request import Searched
    from .record.comparison import Comparison

T = TypeVar("T")
M = TypeVar("M", bound=type[Manager])
F = TypeVar("F", bound=type[Fault])
RUNNERS = ("world", "sockets")


def scenario(name: str | Path | Scenario) -> Scenario:
    """A scenario by its name in the library, or from a TOML file.

    Raises:
        ScenarioError: for a name that is not known (with the closest one), or a file that is no scenario.

    >>> scenario("matched").vary(link__delay_ms=5).link.delay_ms
    5.0
    """
    return name if isinstance(name, Scenario) else files.find(str(name))


def scenarios() -> pandas.DataFrame:
    """The library as a table: a row a scenario, with title, claims, versions, protocols and managers.

    >>> "matched" in scenarios().index
    True
    """
    import pandas

    columns = ("name", "title", "claims", "versions", "protocols", "managers")
    rows = [[getattr(s, c) for c in columns] for s in files.load_all()]
    return pandas.DataFrame(rows, columns=list(columns)).set_index("name")


def _outside_loop(call: Callable[[], T]) -> T:
    """Call what runs an event loop of its own: where one is running already, as in a notebook, on another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return call()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def runner(on: str) -> Callable[..., Result]:
    """What runs scenarios: in the simulated world, or on real sockets of this machine. Raises ScenarioError."""
    require("runner", on, RUNNERS)
    if on == "sockets":
        from .live import run as on_sockets

        return on_sockets
    from .world import run as in_world

    return in_world


def _callable_here(on: str) -> Callable[..., Result]:
    """The same; on sockets also where an event loop is running already."""
    call = runner(on)
    if on == "world":
        return call
    return lambda *values, **keys: _outside_loop(partial(call, *values, **keys))


def run(
    scenario_: str | Path | Scenario,
    protocol: str | Protocol = "",
    *,
    version: str = "",
    manager: str | type[Manager] = "",
    seed: int = 1,
    on: str = "world",
) -> Result:
    """One scenario under one protocol.

    Args:
        scenario_: a scenario, its name, or a file.
        protocol: a protocol or its name; the scenario's first if none is given.
        version: QEMU of both sides, as "10.0", or of source and destination, as "10.0>7.2"; the scenario's first.
        manager: a manager or its name; the one that trusts the source if none is given.
        seed: the same seed gives the same run in the simulated world.
        on: "world" or "sockets".

    Returns:
        The run: `outcome`, `row`, and as tables `steps`, `messages` and `packets`. A notebook shows its chart.

    Raises:
        ScenarioError: for what is not known, not modelled, or impossible there.

    >>> result = run("device_only_at_source", "v2", version="10.0")
    >>> result.outcome, result.row.error_codes
    ('refused', 'device-unknown')
    """
    chosen = scenario(scenario_)
    keys = {"protocol": protocol or chosen.protocols[0], "version": version, "manager": manager or USUAL_MANAGER}
    return _callable_here(on)(chosen, **keys, seed=seed)


def compare(
    scenario_: str | Path | Scenario | None = None,
    *,
    protocols: Sequence[str | Protocol] = (),
    managers: Sequence[str | type[Manager]] = (),
    version: str = "",
    seed: int = 1,
    on: str = "world",
) -> Comparison:
    """A scenario under several protocols, side by side; all scenarios of the library if none is given.

    Args:
        scenario_: as for `run`.
        protocols: the scenario's own, v1 and v2 mostly, if none are given.
        managers: for those protocols whose sides do not negotiate; the scenario's own if none are given.
        version: as for `run`; all of the scenario's if none is given.

    >>> sorted(compare("device_only_at_source", version="10.0").table.outcome.unique())
    ['failed', 'lost', 'refused']
    """
    from .record.comparison import Comparison

    chosen = files.load_all() if scenario_ is None else [scenario(scenario_)]
    changes: dict[str, Any] = {"versions": (version,)} if version else {}
    if protocols:
        changes["protocols"] = tuple(PROTOCOLS.name_of(p) for p in protocols)
    if managers:
        changes["managers"] = tuple(MANAGERS.name_of(m) for m in managers)
    return Comparison(_callable_here(on), [s.vary(**changes) for s in chosen], seed)


def search(
    scenario_: str | Path | Scenario,
    protocol: str | Protocol = "",
    *,
    version: str = "",
    cuts: int = 0,
    losses: int = 0,
    orders: Sequence[str] = (),
    intruders: Sequence[str | Intruder] = (),
    faults: Sequence[Fault] = (),
    silences: Sequence[str] = (),
    freezes: Sequence[str] = (),
    rival: bool = False,
    timers: bool = False,
    send_buffer_messages: int = 0,
    properties: Sequence[Property] = (),
    plain: bool = False,
    limit: int = 2_000_000,
) -> Searched:
    """Every order of events of a scenario's endpoints; its own faults and times are left out.

    Args:
        scenario_, protocol, version: as for `run`.
        cuts, losses: how often all connections, or one, may be reset, at any moment.
        orders: what the manager may order, at any moment: "cancel", "deadline", "postcopy".
        intruders: who may connect, at any moment; also "replay" and "forge", which listen to the conversation.
        faults: kinds of one's own that define `strike`.
        silences: directions in which nothing arrives any more, from any moment on: "to-destination", "to-source",
            "both". TCP does not notice; keepalive and guards may ring then.
        freezes: sides whose process stops, at any moment, while its kernel goes on: "source", "destination".
        rival: a second source wants the same destination.
        timers: timers ring, at any moment.
        send_buffer_messages: messages that a connection's buffer holds; 0: endless.
        properties: one's own, besides the lab's.
        plain: without the symmetry and partial-order reductions.
        limit: states after which it ends.

    Returns:
        `states`, `complete`, `violations` by property, and `story(property)`, the shortest way to one.

    >>> search("matched", "v2", cuts=1).violations
    {}
    """
    from .explore.properties import PROPERTIES
    from .explore.request import Searched, model_of
    from .explore.state import OVERHEARD, Faults

    names = tuple(who if who in OVERHEARD else INTRUDERS.name_of(who) for who in intruders)
    named = scenario(scenario_)
    model = model_of(
        named,
        protocol=PROTOCOLS.name_of(protocol) if protocol else named.protocols[0],
        version=version or named.versions[0],
        faults=Faults(cuts, losses, tuple(orders), names, tuple(faults), tuple(silences), tuple(freezes)),
        rival=rival,
        timers=timers,
        send_buffer_messages=send_buffer_messages,
    )
    return Searched(model, (*PROPERTIES, *properties), plain, limit)


def sweep(
    scenario_: str | Path | Scenario,
    over: Mapping[str, Sequence[Any]] | None = None,
    *,
    protocols: Sequence[str | Protocol] = (),
    versions: Sequence[str] = (),
    managers: Sequence[str | type[Manager]] = (),
    runs: int = 1,
    seed: int = 1,
    out: str | Path = "",
    workers: int = 0,
    cluster: str = "",
    on: str = "world",
) -> pandas.DataFrame:
    """Many runs of one scenario, on all processors or on a Dask cluster; interrupted, the same call goes on.

    Args:
        scenario_: as for `run`.
        over: keys of the scenario as files write them, each with its values: {"link.delay-ms": [1, 10, 100]}. Every
            combination is run.
        protocols, versions, managers: the scenario's own (of managers its first) if none are given.
        runs: of each combination, with different seeds.
        out: the Parquet file to write, which also keeps what was computed before an interrupt.
        workers: processes; 0: one a processor.
        cluster: the address of a Dask scheduler, as "tcp://127.0.0.1:8786".

    Returns:
        A row a run: the columns of `over`, and those of `outcome.Row`.

    >>> table = sweep("matched", {"link.delay-ms": [1, 100]}, protocols=["v2"], versions=["10.0"], workers=1)
    >>> list(table.outcome)
    ['migrated', 'migrated']
    """
    import pandas

    from .study.compute import computed
    from .study.design import designed

    require("runner", on, RUNNERS)
    require_whole("workers", workers, 0)
    base = scenario(scenario_)
    design = designed(
        base,
        over or {},
        protocols=tuple(PROTOCOLS.name_of(p) for p in protocols) or base.protocols,
        versions=tuple(versions) or base.versions,
        managers=tuple(MANAGERS.name_of(m) for m in managers) or base.managers[:1],
        repetitions=runs,
        seed=seed,
        runner=on,
    )
    with TemporaryDirectory(prefix="simlib-") as folder:
        path = Path(out or f"{folder}/rows.parquet")
        call = partial(computed, runner(on), design, path, "simlib.sweep(...)", workers=workers, cluster=cluster)
        _outside_loop(call) if cluster else call()
        return pandas.read_parquet(path)


# --- names for one's own --------------------------------------------------------------------------------------------
def protocol(
    name: str | Protocol, source: Make | None = None, destination: Make | None = None, label: str = ""
) -> Protocol:
    """Give a protocol of one's own its name, for scenarios, sweeps, widgets and the command line.

    Args:
        name: what it is to be called, or a whole `protocols.Protocol`.
        source, destination, label: as for `protocols.from_endpoints`.

    Returns:
        The protocol, which every function here takes as well.
    """
    if isinstance(name, Protocol):
        PROTOCOLS.add(name)
        return name
    if name in PROTOCOLS.own:
        raise ScenarioError(f"the protocol {name!r} is the lab's own; give yours another name")
    if source is None or destination is None:
        raise ScenarioError(f"protocol {name!r}: give both its source and its destination")
    named = from_endpoints(name, source, destination, label)
    PROTOCOLS.add(named)
    return named


def manager(cls: M) -> M:
    """Give a manager of one's own, a subclass of `Manager`, the name that its class has."""
    MANAGERS.add(cls)
    return cls


def fault(cls: F) -> F:
    """Give a kind of fault of one's own, a subclass of `Fault` or `Strike`, the name that its `kind` has."""
    FAULTS.add(cls)
    return cls
