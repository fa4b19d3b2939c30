"""What the fields of a scenario may hold: types, units, ranges, names. Files, Python, the command line and
widgets all come through here.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

from ..handshake.capabilities import CAPABILITIES
from ..handshake.stream import COMPRESSION_FLAG
from ..handshake.v2.features import SHARED
from ..handshake.versions import is_modelled, not_modelled
from .registry import DELAYS, INTRUDERS, MANAGERS, PROTOCOLS, Registry, ScenarioError, choose, nearest

T = TypeVar("T")

CHOICES: dict[tuple[str, str], Sequence[str]] = {
    ("Scenario", "protocols"): PROTOCOLS,
    ("Scenario", "managers"): MANAGERS,
    ("Link", "transport"): (
        "tcp",
        "unix",
        "exec-socat",
        "exec-cat",
        "exec-tee",
        "exec-true",
        "exec-null",
        "file",
        "fd",
    ),
    ("Link", "load_transport"): ("", "exec-cat", "exec-none", "file"),
    ("Link", "delay_law"): DELAYS,
    ("Side", "apply_code"): ("apply-failed", "port", "memory"),
    ("Side", "capabilities"): tuple(CAPABILITIES),
    ("Side", "require"): SHARED,
    ("Side", "forbid"): SHARED,
    ("Side", "accept"): ("v2", "v1", "v2-or-v1"),
    ("Side", "on_maybe"): ("warn", "reject"),
    ("Fault", "direction"): ("to-destination", "to-source"),
    ("Fault", "side"): ("source", "destination"),
    ("Fault", "payload"): INTRUDERS,
}
# What is allowed of a number, by the end of its name, unless its own key stands below.
MOST = {"_ms": 1e9, "_s": 1e5, "_mib": 1 << 24, "_kib": 1 << 24, "_mib_s": 1 << 20}
RANGES: dict[tuple[str, str], tuple[float, float]] = {
    ("Side", "vcpus"): (0, 4096),
    ("Link", "loss"): (0, 0.99),
    ("Link", "syn_loss"): (0, 0.99),
    ("Link", "shape"): (0.01, 100),
    ("Link", "rate_mib_s"): (1e-3, 1 << 20),
    ("Link", "buffer_kib"): (1, 1 << 24),
    ("Management", "retries"): (0, 1000),
    ("Management", "observe_s"): (1e-3, 1e5),
    ("Fault", "tcp_retries"): (0, 255),
}
VERSION = r"\d{1,3}(\.\d{1,3}){0,3}"
CHANNEL = r"main|multifd\[\d{1,3}\]|preempt|postcopy-preempt|control|intruder(\[\d{1,3}\])?"
PATTERNS = {
    ("Scenario", "name"): (r"(?!\.)[^/\x00-\x1f]{1,100}", "up to 100 characters, none of them a /, the first no dot"),
    ("Scenario", "versions"): (f"{VERSION}(>{VERSION})?", '"7.2" or "7.2>10.0"'),
    ("Side", "uuid"): ("([0-9a-f]{32})?", "32 hexadecimal digits"),
    **dict.fromkeys(
        (("Fault", "connection"), ("Fault", "order"), ("Timing", "connection")),
        (CHANNEL, "a channel's name: main, control (v2), multifd[0], preempt (postcopy-preempt in 7.2), intruder[0]"),
    ),
}
NOT_EMPTY = {("Scenario", "versions"), ("Scenario", "protocols"), ("Scenario", "managers")}


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
        for key, hint, default in typed_fields(cls):
            value = getattr(self, key)
            if value is not default:
                checked = _checked(cls, key, hint, value)
                if checked is not value:
                    object.__setattr__(self, key, checked)


def require_keys(part: type, keys: Iterable[str]) -> None:
    """Raises ScenarioError for the first key that the part does not have."""
    for key in keys:
        if key not in field_names(part):
            raise ScenarioError(f"{part.__name__} has no key '{key}'{nearest(key, field_names(part))}")


@cache
def typed_fields(part: type) -> tuple[tuple[str, Any, object], ...]:
    """Name, type and default of each field; resolving the types costs more than checking a whole scenario."""
    hints = typing.get_type_hints(part)
    return tuple((f.name, hints[f.name], f.default) for f in fields(part))


def field_names(part: type) -> tuple[str, ...]:
    return tuple(name for name, _, _ in typed_fields(part))


def changed_fields(part: Part) -> dict[str, Any]:
    """The fields that are not as by default, with their values."""
    changed = {}
    for f in fields(part):
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if getattr(part, f.name) != default:
            changed[f.name] = getattr(part, f.name)
    return changed


def pair(version: str) -> tuple[str, str]:
    """("7.2", "10.0") of "7.2>10.0"."""
    source, _, destination = version.partition(">")
    return source, destination or source


def _checked(part: type, key: str, hint: object, value: object) -> object:
    """The value as the field holds it: a tuple for a list, a float for a whole number. Raises FieldError."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    name = key.partition("[")[0]
    allowed = _rule(CHOICES, part, name)
    if isinstance(allowed, Registry) and allowed.holds(value):
        return allowed.name_of(value)
    if is_dataclass(hint):
        if not isinstance(value, typing.cast(type, hint)):
            raise FieldError(part, key, f"must be a {typing.cast(type, hint).__name__}; it is {_kind(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise FieldError(part, key, f"must be a list, as in {key} = [...]; it is {_kind(value)}")
        if not value and (part.__name__, key) in NOT_EMPTY:
            raise FieldError(part, key, "names none; leave it out for the usual ones")
        return tuple(_checked(part, f"{key}[{n}]", inner[0], one) for n, one in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise FieldError(part, key, f"must be a table; it is {_kind(value)}")
        if key == "parameters":
            for parameter, one in value.items():
                _check_parameter(part, parameter, one)
        return value
    return _checked_single(part, key, inner if origin is types.UnionType else (hint,), value, allowed)


def _checked_single(part: type, key: str, wanted: tuple[type, ...], value: Any, allowed: Any) -> object:
    """A value that is no part, list or table: type, choice, range, pattern. Raises FieldError."""
    name = key.partition("[")[0]
    if float in wanted and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1e300 else float("inf")  # no float is as large as a whole number may be
    if not any(isinstance(value, w) and (w is bool or not isinstance(value, bool)) for w in wanted):
        names = " or ".join(_NAMES.get(w, w.__name__) for w in wanted)
        raise FieldError(part, key, f"must be {names}; it is {_kind(value)}")
    if allowed is not None and value not in allowed:
        raise FieldError(part, key, f"is {value!r}{choose(value, allowed)}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        _check_range(part, key, value)
    pattern, meant = _rule(PATTERNS, part, name) or ("", "")
    if pattern and not re.fullmatch(pattern, value, re.ASCII):
        raise FieldError(part, key, f"is {value[:80]!r}; write {meant}")
    if (part.__name__, name) == ("Scenario", "versions"):
        for side in pair(value):
            if not is_modelled(side):
                raise FieldError(part, key, f"is {value!r}: {not_modelled(side)}")
    return value


def _rule(rules: Mapping[tuple[str, str], T], part: type, name: str) -> T | None:
    """The rule of a field, of its own part or of one that it extends."""
    return next((rules[base.__name__, name] for base in part.__mro__ if (base.__name__, name) in rules), None)


def _check_range(part: type, key: str, value: float) -> None:
    """By the key's own range, or by its unit. A time or place that may be "never" is negative then."""
    name = key.partition("[")[0]
    units = [most for unit, most in MOST.items() if name.endswith(unit)]  # the last is the longest
    least, most = _rule(RANGES, part, name) or (0, units[-1] if units else 1 << 20)
    usual = getattr(part, name, None)
    if value < 0 and (part.__name__ == "Timing" or (isinstance(usual, float) and usual < 0)):
        least = -most
    if not least <= value <= most:  # NaN is in no range
        raise FieldError(part, key, f"must be a number from {least:,g} to {most:,g}; it is {value}")


def _check_parameter(part: type, name: str, value: object) -> None:
    """A migration parameter. Those that the engines read are checked as QMP would."""
    key = f"parameters.{name}"
    if name == "multifd-channels" and not (type(value) is int and 1 <= value <= 255):
        raise FieldError(part, key, f"must be a whole number from 1 to 255; it is {_kind(value)}")
    if name == "multifd-compression" and value not in COMPRESSION_FLAG:
        raise FieldError(part, key, f"is {value!r}{choose(str(value), COMPRESSION_FLAG)}")
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise FieldError(part, key, f"must be a whole number or a text; it is {_kind(value)}")


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _kind(value: object) -> str:
    return f"{_NAMES.get(type(value), 'a table' if isinstance(value, dict) else 'a list')} ({str(value)[:40]})"
