"""A scenario: all that a run is given, read from a TOML file that people write or made in Python.

Every part checks its own fields when it is made, so that a wrong name, type or number never reaches a run, whoever
wrote it; `load(path)` adds the file and the key as it is spelt there. Units are part of the names.
"""

from __future__ import annotations

import re
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..handshake.machine import Machine, Settings
from . import effects
from .checks import FieldError, Part, changed_fields, field_names, pair, require_keys, typed_fields
from .faults import Fault
from .profiles import DATA, ProfileError, edited, is_file, machine
from .registry import FAULTS, ScenarioError, choose, nearest

SIZE_LIMIT_BYTES = 8 << 20
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Side(Part):
    """One side: its QEMU, its machine, its migration settings, and how it speaks v2."""

    machine: str = "pc-i440fx-7.2"  # a configuration of data/profiles, or FILE.json#MACHINE
    machine_type: str = ""  # another machine type for the same devices
    memory_mib: int = 0  # 0: as in the profile
    vcpus: int = 0
    cpu: str = "qemu64"
    cpu_features: tuple[str, ...] = ()
    uuid: str = ""
    edit: tuple[dict[str, Any], ...] = ()  # devices changed, for version skew that no profile has
    capabilities: tuple[str, ...] = ()
    parameters: dict[str, int | str] = field(default_factory=dict)
    exit_on_error: bool = True
    knows_v2: bool = True  # False: a binary from before the handshake
    accept: str = "v2"  # destination: v2, v1, v2-or-v1
    require: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    on_maybe: str = "warn"
    session: str = ""
    psk: str = ""
    memory_limit_mib: int = 0
    detect_timeout_s: float = -1.0  # of its own; negative: the scenario's

    @property
    def accepts_both(self) -> bool:
        return self.accept == "v2-or-v1"

    @property
    def accepts_stream_alone(self) -> bool:
        return self.accept == "v1"

    apply_error: str = ""  # why the agreed configuration can't be set there
    apply_code: str = "apply-failed"  # or port, memory


@dataclass(frozen=True)
class Link(Part):
    """The way between the hosts. Delays are one way; `delay_law` with its parameters draws the jitter on top."""

    transport: str = "tcp"  # tcp, unix, exec-socat, exec-cat, exec-tee, exec-true, file
    delay_ms: float = 0.05
    delay_law: str = "constant"  # lognormal, pareto, exponential, empirical
    jitter_ms: float = 0.0  # scale of the law
    shape: float = 1.0  # lognormal: sigma; pareto: alpha
    samples_ms: Numbers = ()  # empirical
    rate_mib_s: float = 1200.0
    loss: float = 0.0
    syn_loss: float = 0.0
    buffer_kib: int = 4096
    told_bidirectional: bool = True  # what the manager says of exec:
    load_transport: str = ""  # saved files: how the destination reads them; empty: as they were written

    @property
    def has_listener(self) -> bool:
        """Whether a destination listens at the other end, and no file or command takes the stream."""
        return self.transport not in ("file", "exec-cat", "exec-tee", "exec-true", "exec-null")

    @property
    def local(self) -> bool:
        """Whether there is no network between the two: delays and losses have no effect."""
        return self.transport == "unix" or self.transport.startswith("exec")


@dataclass(frozen=True)
class GuestFacts(Part):
    """The guest: what moves, how fast it dirties memory, how its devices load."""

    ram_mib: float = 64.0  # that it has touched
    dirty_mib_s: float = 0.0
    working_set_mib: float = 8.0
    load_ms: float = 1.0
    jitter_ms: float = 0.0  # whatever the hosts do takes up to so much longer
    post_load_error: str = ""
    source_ms: Numbers = ()  # when its answers come at the source, for an exact replay; empty: when they are ready
    destination_ms: Numbers = ()


@dataclass(frozen=True)
class Management(Part):
    """What the manager does besides starting both sides; times count from the start of the migration."""

    cancel_at_s: float = -1.0
    deadline_s: float = -1.0
    postcopy_at_s: float = -1.0
    retries: int = 0  # further attempts at the same destination, while it listens; faults hit the first only
    observe_s: float = 60.0  # what has not ended by then counts as hung
    loads_anyway: bool = False  # loads a saved file even if the source says that saving failed
    lies: bool = False  # the manager told the sides something untrue: v2's properties do not cover it


@dataclass(frozen=True)
class Timing(Part):
    """When one connection is up and its messages arrive, in ms from the start: replays one order of events exactly.
    A negative time: it is lost in its sender's buffer. What is not listed stays there (to the destination), or takes
    its normal time (to the source)."""

    connection: str
    connected_ms: float = -1.0  # its opener knows; negative: never
    accepted_ms: float = -1.0
    to_destination_ms: Numbers = ()
    to_source_ms: Numbers = ()
    reset_at_destination_ms: float = -1.0  # that side learns that the connection is broken
    reset_at_source_ms: float = -1.0


@dataclass(frozen=True)
class Scenario(Part):
    """One situation: two sides, the link between them, their managers, and what goes wrong."""

    name: str = ""
    title: str = ""
    about: str = ""
    claims: tuple[str, ...] = ()
    versions: tuple[str, ...] = ("7.2", "10.0")  # "7.2" for both sides, or "7.2>10.0"
    protocols: tuple[str, ...] = ("v1", "v2")
    managers: tuple[str, ...] = ("naive",)
    source: Side = field(default_factory=Side)
    destination: Side = field(default_factory=Side)
    link: Link = field(default_factory=Link)
    guest: GuestFacts = field(default_factory=GuestFacts)
    management: Management = field(default_factory=Management)
    faults: tuple[Fault, ...] = ()
    schedule: tuple[Timing, ...] = ()
    detect_timeout_s: float = 1.0

    def covers(self, protocol: str) -> bool:
        """Whether it is meant to be played with a protocol."""
        return protocol in self.protocols

    def vary(self, **changes: Any) -> Scenario:
        """A copy with some keys changed; `link__delay_ms=5` reaches into a part. Raises ScenarioError."""
        flat = {k: v for k, v in changes.items() if "__" not in k}
        require_keys(Scenario, flat)
        for key, value in changes.items():
            name, _, inner = key.partition("__")
            if inner:
                require_keys(Scenario, (name,))
                part = flat.get(name, getattr(self, name))
                if not isinstance(part, Part):
                    raise ScenarioError(f"Scenario: nothing is below '{name}', so that there is no '{key}'")
                require_keys(type(part), (inner,))
                flat[name] = replace(part, **{inner: value})
        return replace(self, **flat)

    def settings(self, source: bool, version: str) -> Settings:
        """One side's settings on a QEMU version. Raises ScenarioError."""
        side = self.source if source else self.destination
        transport = self.link.transport if source else (self.link.load_transport or self.link.transport)
        return Settings(
            version, _machine(self, side, version), side.capabilities, tuple(sorted(side.parameters.items())),
            transport.partition("-")[0], side.exit_on_error,
        )  # fmt: skip


def _machine(scenario: Scenario, side: Side, version: str) -> Machine:
    asked = (side.machine_type, side.memory_mib, side.vcpus, side.cpu, tuple(side.cpu_features), side.uuid)
    try:
        started = _started.__wrapped__ if is_file(side.machine) else _started  # a file may change
        found = started(version, side.machine, *asked)
        return edited(found, side.edit) if side.edit else found
    except ProfileError as error:
        raise ScenarioError(f"{scenario.name}: {error}") from None


@lru_cache(maxsize=64)
def _started(version: str, profile: str, machine_type: str, memory_mib: int, vcpus: int, cpu: str,
             cpu_features: tuple[str, ...], uuid: str) -> Machine:  # fmt: skip
    """A profile's machine as a command line asks for it, the same one for each run. Raises ProfileError."""
    found = machine(version, profile)
    blocks = found.ram_blocks
    if memory_mib:
        blocks = (replace(blocks[0], size_bytes=memory_mib << 20), *blocks[1:])
    return replace(
        found, type=machine_type or found.type, ram_blocks=blocks, vcpus=vcpus or found.vcpus, cpu=cpu,
        cpu_features=cpu_features, uuid=uuid,
    )  # fmt: skip


# --- reading --------------------------------------------------------------------------------------------------------
def load(path: Path) -> Scenario:
    """The scenario in a TOML file. Raises ScenarioError."""
    table = read_table(path)
    if not table:
        raise ScenarioError(f"{path}: is empty; a scenario needs at least a title")
    found = _read(Scenario, {"name": path.stem, **table}, str(path), "")
    assert isinstance(found, Scenario)
    found = replace(found, source=_beside(path, found.source), destination=_beside(path, found.destination))
    if not found.title:
        raise ScenarioError(f"{path}: lacks the key 'title', one line that says what happens")
    for version in found.versions:
        for side, number in zip((True, False), pair(version), strict=True):
            found.settings(side, number)
    try:
        effects.check(found)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {str(error).removeprefix(f'{found.name}: ')}") from None
    return found


def _beside(path: Path, side: Side) -> Side:
    """A machine's file is looked for beside the scenario's, if it is not here."""
    name, _, _ = side.machine.partition("#")
    if not is_file(side.machine) or Path(name).exists() or not (path.parent / name).exists():
        return side
    return replace(side, machine=str(path.parent / side.machine))


def read_table(path: Path) -> dict[str, Any]:
    """What a TOML file holds. Raises ScenarioError."""
    import tomllib  # here, and difflib below: a sweep's workers need neither

    try:
        with path.open("rb") as file:
            text = file.read(SIZE_LIMIT_BYTES + 1)
        if len(text) > SIZE_LIMIT_BYTES:
            raise ScenarioError(f"{path}: is longer than the {SIZE_LIMIT_BYTES >> 20} MiB that are read")
        return tomllib.loads(text.decode())
    except OSError as error:
        raise ScenarioError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{path}: is not UTF-8 text") from None
    except ScenarioError:
        raise
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or a number with more digits than Python reads
        raise ScenarioError(f"{path}: is not TOML: {error}") from None


def load_all(folder: Path | None = None) -> list[Scenario]:
    """Every scenario of a folder, by name. Raises ScenarioError."""
    folder = folder or DATA / "scenarios"
    paths = sorted(folder.glob("*.toml"))
    if not paths:
        raise ScenarioError(f"{folder}: holds no scenario (*.toml)")
    return [load(p) for p in paths]


def find(name: str) -> Scenario:
    """A scenario by file or by name. Raises ScenarioError."""
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        return load(path)
    known = [p.stem for p in sorted((DATA / "scenarios").glob("*.toml"))]
    if name in known:
        return load(DATA / "scenarios" / f"{name}.toml")
    raise ScenarioError(f"there is no scenario {name!r}{nearest(name, known)}; `simlib list` shows all {len(known)}")


def dumps(scenario: Scenario) -> str:
    """The scenario as TOML: what differs from the defaults."""
    import tomli_w

    return tomli_w.dumps({k: v for k, v in _changed(scenario).items() if k != "name"})


def _changed(part: Any) -> dict[str, Any]:
    kind = {"kind": part.kind} if isinstance(part, Fault) else {}
    return kind | {name: _told(value) for name, value in changed_fields(part).items()}


def _told(value: Any) -> Any:
    if is_dataclass(value):
        return _changed(value)
    return [_told(v) for v in value] if isinstance(value, tuple) else value


def with_key(scenario: Scenario, path: str, value: Any, file: str) -> Scenario:
    """A copy with one key changed, as a TOML file would write it: `link.delay-ms`, `faults.0.at-s`,
    `source.parameters.multifd-channels`; `both.` stands for source and destination. Raises ScenarioError."""
    first, _, rest = path.partition(".")
    if first == "both" and rest:
        return with_key(with_key(scenario, f"source.{rest}", value, file), f"destination.{rest}", value, file)
    found = _with(scenario, path.split("."), value, file, path)
    assert isinstance(found, Scenario)
    return found


def _with(part: Any, words: list[str], value: Any, file: str, path: str) -> Any:
    word, rest = words[0], words[1:]
    if isinstance(part, dict):
        if rest:
            return {**part, word: _with(part.get(word, {}), rest, value, file, path)}
        return {**part, word: value}
    if isinstance(part, tuple):
        if not word.isdigit() or int(word) >= len(part) or not rest:
            raise ScenarioError(f"{file}: '{path}': the scenario has {len(part)} of these, counted from 0")
        return tuple(_with(p, rest, value, file, path) if n == int(word) else p for n, p in enumerate(part))
    if not is_dataclass(part) or isinstance(part, type):
        raise ScenarioError(f"{file}: '{path}': nothing is below a single value")
    key = word.replace("-", "_")
    if key not in field_names(type(part)):
        raise ScenarioError(f"{file}: unknown key '{path}'{nearest(key, field_names(type(part)))}")
    inner = _with(getattr(part, key), rest, value, file, path) if rest else value
    try:
        return replace(part, **{key: inner})
    except FieldError as error:
        raise ScenarioError(f"{file}: '{path}' {error.text}") from None


def _read(part: type, table: dict[str, Any], file: str, where: str) -> Any:
    """A part from a table. Keys may be written with hyphens or underscores."""
    if part is Fault:
        part = _kind_of(table, file, where)
        table = {**table, "kind": part.name}
    hints = {name: hint for name, hint, _ in typed_fields(part)}
    given: dict[str, Any] = {}
    spelt: dict[str, str] = {}
    for raw, value in table.items():
        key = raw.replace("-", "_")
        if key not in hints:
            raise ScenarioError(f"{file}: unknown key '{where}{raw}'{nearest(key, hints)}")
        given[key], spelt[key] = _part(hints[key], value, file, f"{where}{raw}"), raw
    for f in fields(part):
        if f.default is MISSING and f.default_factory is MISSING and f.name not in given:
            raise ScenarioError(f"{file}: lacks the key '{where}{f.name}'")
    try:
        return part(**given)
    except FieldError as error:
        key = re.match(r"\w+", error.key)[0]  # type: ignore[index]
        at = f"{where}{spelt.get(key, key)}{error.key[len(key) :]}"
        raise ScenarioError(f"{file}: '{at}' {error.text}") from None


def _kind_of(table: dict[str, Any], file: str, where: str) -> type[Fault]:
    kind = table.get("kind")
    if kind is None:
        raise ScenarioError(f"{file}: lacks the key '{where}kind'")
    if kind not in FAULTS:
        raise ScenarioError(f"{file}: '{where}kind' is {kind!r}{choose(str(kind), FAULTS)}")
    found = FAULTS.get(kind)
    if ":" in kind:  # from now on it is known by its name, to workers too
        FAULTS.name_of(found)
    return found


def _part(hint: Any, value: Any, file: str, at: str) -> Any:
    """The parts that a value of a file holds; any other value as it is."""
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise ScenarioError(f"{file}: '{at}' must be a table, as in [{at}]")
        return _read(typing.cast(type, hint), value, file, f"{at}.")
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and is_dataclass(inner[0]) and isinstance(value, list):
        return tuple(_part(inner[0], one, file, f"{at}[{n}]") for n, one in enumerate(value))
    return value
