"""`@dataclass(frozen=True)`, made when a class is first used instead of when it is defined.

Python's own writes and compiles six methods for each class as it is defined, which was a third of the time in which the
engine is imported; here `__init__`, `__eq__` and `__hash__` are compiled together when one of them is first called,
and what need not be fast is shared. In everything else these are Python's dataclasses, and mypy takes them for such:
`fields` and `replace` work, and values are equal to those of the same type alone.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, FrozenInstanceError, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, slots: bool = False) -> Any:
        """As dataclasses.dataclass; frozen it must be."""
        assert frozen, "what can change is hashed and forked in other ways: take Python's own"
        return lambda cls: _decorated(cls, slots)


def _decorated(cls: Any, slots: bool) -> Any:
    cls.__doc__ = cls.__doc__ or cls.__name__  # or a signature would be worked out
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)

    def init(self: Any, *given: Any, **named: Any) -> None:
        _compile(made)
        made.__init__(self, *given, **named)

    def equal(self: Any, other: object) -> Any:
        _compile(made)
        return made.__eq__(self, other)

    def hashed(self: Any) -> int:
        _compile(made)
        return int(made.__hash__(self))

    made.__init__, made.__eq__, made.__hash__ = init, equal, hashed
    made.__setattr__ = made.__delattr__ = _refuse
    made.__repr__, made.__reduce__ = _repr, _reduce
    return made


def _compile(cls: Any) -> None:
    names = [f.name for f in fields(cls)]
    given = {"_set": object.__setattr__, "_default": MISSING}
    heads, sets = [], []
    for f in fields(cls):
        name = value = f.name
        if f.default_factory is not MISSING:
            given[f"_make_{name}"] = f.default_factory
            value = f"_make_{name}() if {name} is _default else {name}"
            heads.append(f"{name}=_default")
        elif f.default is not MISSING:
            given[f"_default_{name}"] = f.default
            heads.append(f"{name}=_default_{name}")
        else:
            heads.append(name)
        sets.append(f"_set(self, {name!r}, {value})")
    ours, theirs = ("".join(f"{who}.{name}, " for name in names) for who in ("self", "other"))
    text = f"""
def __init__(self, {", ".join(heads)}):
    {"; ".join(sets) or "pass"}
def __eq__(self, other):
    return ({ours}) == ({theirs}) if other.__class__ is self.__class__ else NotImplemented
def __hash__(self):
    return hash(({ours}))
"""
    made: dict[str, Any] = {}
    exec(text, given, made)
    for name, method in made.items():
        method.__qualname__ = f"{cls.__qualname__}.{name}"
        setattr(cls, name, method)


def _refuse(self: Any, name: str, value: Any = None) -> None:
    raise FrozenInstanceError(f"{type(self).__name__}.{name} can't be changed")


def _repr(self: Any) -> str:
    return f"{type(self).__qualname__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in fields(self))})"


def _reduce(self: Any) -> Any:
    return type(self), tuple(getattr(self, f.name) for f in fields(self))
