"""What every endpoint is: one door, a state that can be forked and compared."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Self, TypeVar, get_args

from .interface import Finished, Input, Output
from .machine import Settings

V = TypeVar("V")
HEARS = {told: "_on_" + told.__name__.lower() for told in get_args(Input)}
# given once, a function of the rest, or of no consequence for what comes
CONSTANT = ("settings", "own_settings", "identity", "rules", "stances", "variant", "timeout_s", "_out",
            "_known_blocks", "_known_devices", "_known_subsections", "_at")  # fmt: skip
PLAIN = {bool, bytes, float, int, str, tuple, type(None)}  # nearly all values, passed at once


@lru_cache(maxsize=256)
def changing(names: tuple[str, ...]) -> tuple[str, ...]:
    """Of an endpoint's fields those that are its state, in order."""
    return tuple(sorted(name for name in names if name not in CONSTANT))


class State:
    """Something whose fields are values, or are such things themselves."""

    def key(self) -> tuple[object, ...]:
        """The state as a value that can be hashed: equal keys behave alike for ever."""
        held = vars(self)
        values = [held[name] for name in changing(tuple(held))]
        return tuple([v if type(v) in PLAIN or not hasattr(v, "key") else v.key() for v in values])

    def fork(self) -> Self:
        """A copy that goes its own way."""
        other = object.__new__(type(self))
        held = vars(other)
        held.update(vars(self))
        for name, value in vars(self).items():
            if type(value) not in PLAIN and hasattr(value, "fork"):
                held[name] = value.fork()
        return other


class Table(dict[int, V]):
    """What a side knows of each connection that it has; a connection that is gone leaves nothing behind."""

    def key(self) -> tuple[tuple[int, V], ...]:
        return tuple(self.items())

    def fork(self) -> Table[V]:
        return Table(self)


class Endpoint(State):
    """One side of a migration. `_on_<input>` hears an input and appends to `_out`; an input without such a method means
    nothing to this side."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.status = "none"
        self.finished: Finished | None = None
        self._out: list[Output] = []

    @property
    def blocked(self) -> Any:
        """What holds the process's main loop, so that its monitor is silent; None or False when nothing does."""
        return None

    def handle(self, input: Input) -> list[Output]:
        """Tell it one thing; what it asks and reports, in order. Never raises for what a peer does."""
        self._out = []
        if self.finished is None:
            hears = getattr(self, HEARS[type(input)], None)
            if hears is not None:
                hears(input)
        return self._out
