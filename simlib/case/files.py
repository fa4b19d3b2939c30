"""Scenario files: read, written, and one key changed as a file would write it.

Knows the parts of a scenario and the keys that files may have; errors name the file and the key as it is spelt there.
"""

from __future__ import annotations

import re
import typing
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from . import effects
from .checks import FieldError, Part, changed_fields, field_names, pair, typed_fields
from .faults import Fault
from .profiles import DATA, is_file
from .registry import FAULTS, ScenarioError, choose, nearest
from .scenario import Scenario, Side

SIZE_LIMIT_BYTES = 8 << 20
TomlTable = dict[str, Any]


def load(path: Path) -> Scenario:
    """The scenario in a TOML file. Raises ScenarioError."""
    table = read_table(path)
    if not table:
        raise ScenarioError(f"{path}: is empty; a scenario needs at least a title")
    scenario = _read(Scenario, {"name": path.stem, **table}, str(path), "")
    assert isinstance(scenario, Scenario)
    scenario = replace(scenario, source=_beside(path, scenario.source), destination=_beside(path, scenario.destination))
    if not scenario.title:
        raise ScenarioError(f"{path}: lacks the key 'title', one line that says what happens")
    for version in scenario.versions:
        for side, number in zip((True, False), pair(version), strict=True):
            scenario.settings(side, number)
    try:
        effects.check(scenario)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {str(error).removeprefix(f'{scenario.name}: ')}") from None
    return scenario


def _beside(path: Path, side: Side) -> Side:
    """The side with its machine's file beside the scenario's, if the file is not in the current folder."""
    name, _, _ = side.machine.partition("#")
    if not is_file(side.machine) or Path(name).exists() or not (path.parent / name).exists():
        return side
    return replace(side, machine=str(path.parent / side.machine))


def read_table(path: Path) -> TomlTable:
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


def _changed(part: Part) -> TomlTable:
    kind = {"kind": part.kind} if isinstance(part, Fault) else {}
    return kind | {name: _as_toml(value) for name, value in changed_fields(part).items()}


def _as_toml(value: object) -> object:
    if isinstance(value, Part):
        return _changed(value)
    return [_as_toml(v) for v in value] if isinstance(value, tuple) else value


def with_key(scenario: Scenario, path: str, value: object, file: str) -> Scenario:
    """A copy with one key changed, as a TOML file would write it.

    Args:
        path: the key, as `link.delay-ms`, `faults.0.at-s`, `source.parameters.multifd-channels`; `both.` stands for
            source and destination.
        value: in the key's unit.
        file: the name that errors begin with.

    Raises:
        ScenarioError: for an unknown key or a wrong value.
    """
    first, _, rest = path.partition(".")
    if first == "both" and rest:
        return with_key(with_key(scenario, f"source.{rest}", value, file), f"destination.{rest}", value, file)
    changed = _with(scenario, path.split("."), value, file, path)
    assert isinstance(changed, Scenario)
    return changed


def _with(part: object, words: list[str], value: object, file: str, path: str) -> object:
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


def _read(part: type, table: TomlTable, file: str, where: str) -> object:
    """A part from a table. Keys may be written with hyphens or underscores."""
    if part is Fault:
        part = _kind_of(table, file, where)
        table = {**table, "kind": part.name}
    hints = {name: hint for name, hint, _ in typed_fields(part)}
    values: dict[str, Any] = {}
    spelt: dict[str, str] = {}
    for raw, value in table.items():
        key = raw.replace("-", "_")
        if key not in hints:
            raise ScenarioError(f"{file}: unknown key '{where}{raw}'{nearest(key, hints)}")
        values[key], spelt[key] = _part(hints[key], value, file, f"{where}{raw}"), raw
    for f in fields(part):
        if f.default is MISSING and f.default_factory is MISSING and f.name not in values:
            raise ScenarioError(f"{file}: lacks the key '{where}{f.name}'")
    try:
        return part(**values)
    except FieldError as error:
        key = re.match(r"\w+", error.key)[0]  # type: ignore[index]
        at = f"{where}{spelt.get(key, key)}{error.key[len(key) :]}"
        raise ScenarioError(f"{file}: '{at}' {error.text}") from None


def _kind_of(table: TomlTable, file: str, where: str) -> type[Fault]:
    kind = table.get("kind")
    if kind is None:
        raise ScenarioError(f"{file}: lacks the key '{where}kind'")
    if kind not in FAULTS:
        raise ScenarioError(f"{file}: '{where}kind' is {kind!r}{choose(str(kind), FAULTS)}")
    cls: type[Fault] = FAULTS.get(kind)
    if ":" in kind:  # from now on it is known by its name, to workers too
        FAULTS.name_of(cls)
    return cls


def _part(hint: object, value: object, file: str, at: str) -> object:
    """The parts that a value of a file holds; any other value as it is."""
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise ScenarioError(f"{file}: '{at}' must be a table, as in [{at}]")
        return _read(typing.cast(type, hint), value, file, f"{at}.")
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and is_dataclass(inner[0]) and isinstance(value, list):
        return tuple(_part(inner[0], one, file, f"{at}[{n}]") for n, one in enumerate(value))
    return value
