"""A scenario: all that a run is given, read from a TOML file that people write or made in Python.

Every part checks its own fields when it is made, so that a wrong name, type or number never reaches a run, whoever
wrote it; `load(path)` adds the file and the key as it is spelt there. Units are part of the names.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from .handshake.machine import Machine, Settings
from .handshake.stream import COMPRESSION_FLAG
from .handshake.v1.versions import is_modelled, not_modelled
from .profiles import DATA, ProfileError, edited, machine

PROTOCOLS = ("v1", "v2", "a", "b", "c", "d", "d'", "f")
MANAGERS = ("naive", "libvirt")
SIZE_LIMIT_BYTES = 8 << 20
Numbers = tuple[float, ...]


class ScenarioError(ValueError):
    """What is wrong with a scenario, in one sentence that names file and key."""


class FieldError(ScenarioError):
    """What is wrong with one field of a part."""

    def __init__(self, part: type, key: str, text: str) -> None:
        super().__init__(f"{part.__name__}: '{key}' {text}")
        self.key, self.text = key, text


@dataclass(frozen=True)
class Part:
    """A dataclass whose fields are checked when it is made. Raises FieldError."""

    def __post_init__(self) -> None:
        cls: type = type(self)
        for key, hint, default in _fields(cls):
            value = getattr(self, key)
            if value is not default:
                checked = _checked(cls, key, hint, value)
                if checked is not value:
                    object.__setattr__(self, key, checked)


@dataclass(frozen=True)
class Side(Part):
    """One side: its QEMU, its machine, its migration settings, and how it speaks v2."""

    machine: str = "pc-i440fx-7.2"  # a configuration of data/profiles
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
class Fault(Part):
    """One thing that goes wrong. `kind`: cut, swallow, stall, lose, freeze, kill, order, hold, late, stranger."""

    kind: str
    direction: str = "to-destination"
    after_mib: float = -1.0
    at_s: float = -1.0
    order: tuple[str, ...] = ()  # channels in the order in which a proxy takes them to the destination
    gap_s: float = 0.3
    connection: str = "main"
    for_s: float = -1.0  # negative: for ever
    says: str = "silent"  # stranger: a word of simlib.strangers
    side: str = "destination"
    retries: int = 15
    before: bool = False


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

    def vary(self, **changes: Any) -> Scenario:
        """A copy with some keys changed; `link__delay_ms=5` reaches into a part. Raises ScenarioError."""
        flat = {k: v for k, v in changes.items() if "__" not in k}
        _require_keys(Scenario, flat)
        for key, value in changes.items():
            name, _, inner = key.partition("__")
            if inner:
                _require_keys(Scenario, (name,))
                part = flat.get(name, getattr(self, name))
                if not isinstance(part, Part):
                    raise ScenarioError(f"Scenario: nothing is below '{name}', so that there is no '{key}'")
                _require_keys(type(part), (inner,))
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


def pair(version: str) -> tuple[str, str]:
    """("7.2", "10.0") of "7.2>10.0"."""
    source, _, destination = version.partition(">")
    return source, destination or source


def _machine(scenario: Scenario, side: Side, version: str) -> Machine:
    asked = (side.machine_type, side.memory_mib, side.vcpus, side.cpu, tuple(side.cpu_features), side.uuid)
    try:
        found = _started(version, side.machine, *asked)
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
CHOICES: dict[tuple[str, str], tuple[str, ...]] = {
    ("Scenario", "protocols"): PROTOCOLS, ("Scenario", "managers"): MANAGERS,
    ("Link", "transport"): (
        "tcp", "unix", "exec-socat", "exec-cat", "exec-tee", "exec-true", "exec-null", "file", "fd"),
    ("Link", "load_transport"): ("", "exec-cat", "exec-none", "file"),
    ("Link", "delay_law"): ("constant", "lognormal", "pareto", "exponential", "empirical"),
    ("Side", "apply_code"): ("apply-failed", "port", "memory"),
    ("Side", "accept"): ("v2", "v1", "v2-or-v1"), ("Side", "on_maybe"): ("warn", "reject"),
    ("Fault", "kind"): ("cut", "swallow", "stall", "lose", "freeze", "kill", "order", "hold", "late", "stranger"),
    ("Fault", "direction"): ("to-destination", "to-source"), ("Fault", "side"): ("source", "destination"),
    ("Fault", "says"): ("silent", "garbage", "half-magic", "multifd", "qevm", "scan", "v2-hello", "bad-channel",
                        "flood"),
}  # fmt: skip
# What is allowed of a number, by the end of its name, unless its own key stands below.
MOST = {"_ms": 1e9, "_s": 1e5, "_mib": 1 << 24, "_kib": 1 << 24, "_mib_s": 1 << 20}
RANGES: dict[tuple[str, str], tuple[float, float]] = {
    ("Side", "vcpus"): (0, 4096), ("Link", "loss"): (0, 0.99), ("Link", "syn_loss"): (0, 0.99),
    ("Link", "shape"): (0.01, 100), ("Link", "rate_mib_s"): (1e-3, 1 << 20), ("Link", "buffer_kib"): (1, 1 << 24),
    ("Management", "retries"): (0, 1000), ("Management", "observe_s"): (1e-3, 1e5), ("Fault", "retries"): (0, 255),
}  # fmt: skip
VERSION = r"\d{1,3}(\.\d{1,3}){0,3}"
CHANNEL = r"main|multifd\[\d{1,3}\]|preempt|postcopy-preempt|control|stranger(\[\d{1,3}\])?"
PATTERNS = {
    ("Scenario", "name"): (r"(?!\.)[^/\x00-\x1f]{1,100}", "up to 100 characters, none of them a /, the first no dot"),
    ("Scenario", "versions"): (f"{VERSION}(>{VERSION})?", '"7.2" or "7.2>10.0"'),
    ("Side", "uuid"): ("([0-9a-f]{32})?", "32 hexadecimal digits"),
    **dict.fromkeys((("Fault", "connection"), ("Fault", "order"), ("Timing", "connection")), (
        CHANNEL, "a channel's name: main, control (v2), multifd[0], preempt (postcopy-preempt in 7.2)")),
}  # fmt: skip
NOT_EMPTY = {(Scenario, "versions"), (Scenario, "protocols"), (Scenario, "managers")}


def load(path: Path) -> Scenario:
    """The scenario in a TOML file. Raises ScenarioError."""
    table = read_table(path)
    if not table:
        raise ScenarioError(f"{path}: is empty; a scenario needs at least a title")
    found = _read(Scenario, {"name": path.stem, **table}, str(path), "")
    assert isinstance(found, Scenario)
    if not found.title:
        raise ScenarioError(f"{path}: lacks the key 'title', one line that says what happens")
    for version in found.versions:
        for side, number in zip((True, False), pair(version), strict=True):
            found.settings(side, number)
    return found


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
    found = {}
    for f in fields(part):
        value = getattr(part, f.name)
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if value != default:
            found[f.name] = _told(value)
    return found


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
    if key not in _names(type(part)):
        raise ScenarioError(f"{file}: unknown key '{path}'{nearest(key, _names(type(part)))}")
    inner = _with(getattr(part, key), rest, value, file, path) if rest else value
    try:
        return replace(part, **{key: inner})
    except FieldError as error:
        raise ScenarioError(f"{file}: '{path}' {error.text}") from None


def nearest(word: str, known: Iterable[str]) -> str:
    """What a sentence about an unknown word ends with, if a known one is close."""
    import difflib

    close = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def choose(word: str, known: Iterable[str]) -> str:
    """What a sentence about an unknown word ends with: the closest one that is known, and all of them."""
    close, everything = nearest(word, known), ", ".join(map(repr, known))
    return f"{close} Known are {everything}" if close else f"; known are {everything}"


def require(what: str, word: str, known: Sequence[str]) -> None:
    """Raises ScenarioError where a name is none of those that are known."""
    if word not in known:
        raise ScenarioError(f"there is no {what} {word!r}{choose(str(word), known)}")


def _require_keys(part: type, keys: Iterable[str]) -> None:
    for key in keys:
        if key not in _names(part):
            raise ScenarioError(f"{part.__name__} has no key '{key}'{nearest(key, _names(part))}")


@cache
def _fields(part: type) -> tuple[tuple[str, Any, object], ...]:
    """Name, type and default of each field; resolving the types costs more than checking a whole scenario."""
    hints = typing.get_type_hints(part)
    return tuple((f.name, hints[f.name], f.default) for f in fields(part))


def _names(part: type) -> tuple[str, ...]:
    return tuple(name for name, _, _ in _fields(part))


def _read(part: type, table: dict[str, Any], file: str, where: str) -> Any:
    """A part from a table. Keys may be written with hyphens or underscores."""
    hints = {name: hint for name, hint, _ in _fields(part)}
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


def _checked(part: type, key: str, hint: Any, value: Any) -> Any:
    """The value as the field holds it: a tuple for a list, a float for a whole number. Raises FieldError."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    name = key.partition("[")[0]
    if is_dataclass(hint):
        if not isinstance(value, typing.cast(type, hint)):
            raise FieldError(part, key, f"must be a {typing.cast(type, hint).__name__}; it is {_kind(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise FieldError(part, key, f"must be a list, as in {key} = [...]; it is {_kind(value)}")
        if not value and (part, key) in NOT_EMPTY:
            raise FieldError(part, key, "names none; leave it out for the usual ones")
        return tuple(_checked(part, f"{key}[{n}]", inner[0], one) for n, one in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise FieldError(part, key, f"must be a table; it is {_kind(value)}")
        if key == "parameters":
            for parameter, one in value.items():
                _check_parameter(part, parameter, one)
        return value
    wanted = inner if origin is types.UnionType else (hint,)
    if float in wanted and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1e300 else float("inf")  # no float is as large as a whole number may be
    if not any(isinstance(value, w) and (w is bool or not isinstance(value, bool)) for w in wanted):
        names = " or ".join(_NAMES.get(w, w.__name__) for w in wanted)
        raise FieldError(part, key, f"must be {names}; it is {_kind(value)}")
    allowed = CHOICES.get((part.__name__, name))
    if allowed and value not in allowed:
        raise FieldError(part, key, f"is {value!r}{choose(value, allowed)}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_range(part, key, value)
    pattern, meant = PATTERNS.get((part.__name__, name), ("", ""))
    if pattern and not re.fullmatch(pattern, value, re.ASCII):
        raise FieldError(part, key, f"is {value[:80]!r}; write {meant}")
    if (part.__name__, name) == ("Scenario", "versions"):
        for side in pair(value):
            if not is_modelled(side):
                raise FieldError(part, key, f"is {value!r}: {not_modelled(side)}")
    return value


def _check_range(part: type, key: str, value: float) -> None:
    """By the key's own range, or by its unit. A time or place that may be "never" is negative then."""
    name = key.partition("[")[0]
    units = [most for unit, most in MOST.items() if name.endswith(unit)]  # the last is the longest
    least, most = RANGES.get((part.__name__, name), (0, units[-1] if units else 1 << 20))
    usual = getattr(part, name, None)
    if value < 0 and (part is Timing or (isinstance(usual, float) and usual < 0)):
        least = -most
    if not least <= value <= most:  # NaN is in no range
        raise FieldError(part, key, f"must be a number from {least:,g} to {most:,g}; it is {value}")


def _check_parameter(part: type, name: str, value: Any) -> None:
    """A migration parameter. Those that the engines read are checked as QMP would."""
    key = f"parameters.{name}"
    if name == "multifd-channels" and not (type(value) is int and 1 <= value <= 255):
        raise FieldError(part, key, f"must be a whole number from 1 to 255; it is {_kind(value)}")
    if name == "multifd-compression" and value not in COMPRESSION_FLAG:
        raise FieldError(part, key, f"is {value!r}{choose(str(value), COMPRESSION_FLAG)}")
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise FieldError(part, key, f"must be a whole number or a text; it is {_kind(value)}")


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _kind(value: Any) -> str:
    return f"{_NAMES.get(type(value), 'a table' if isinstance(value, dict) else 'a list')} ({str(value)[:40]})"
