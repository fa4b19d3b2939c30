"""What every endpoint is: one door, a state that can be forked and compared.

A class may declare fields beside their definitions, by name and with the reason, for those who search all states:

    NON_STATE   left out of the state: it changes no output (scratch, caches)
    RANDOM      only ever compared with other values, never interpreted: states that differ in its value alone are alike
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import cache, lru_cache
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar, cast

from .errors import Error
from .interface import Entered, Finished, Input, Output
from .machine import Settings
from .names import Status

V = TypeVar("V")
ATOMIC_TYPES: set[type] = {bool, bytes, float, int, str, tuple, type(None)}  # nearly all values, passed at once


_DECLARED: dict[type, dict[str, Mapping[str, str]]] = {}


def declare(cls: type, **fields: Mapping[str, str]) -> None:
    """NON_STATE and RANDOM of a class that has no room for them, such as a NamedTuple."""
    _DECLARED[cls] = fields


@cache
def declared(cls: Hashable, what: str) -> Mapping[str, str]:
    """The fields that a class and its bases declare in NON_STATE or RANDOM, each with its reason."""
    bases = reversed(cast(type, cls).__mro__)
    places = [place for base in bases for place in (vars(base), _DECLARED.get(base, {}))]
    return {name: why for place in places for name, why in place.get(what, {}).items()}


@lru_cache(maxsize=1024)
def state_fields(cls: Hashable, names: tuple[str, ...]) -> tuple[str, ...]:
    """Of the fields of an instance those that are its state, in order."""
    left_out = declared(cls, "NON_STATE")
    return tuple(sorted(name for name in names if name not in left_out))


class State:
    """Something whose fields are values, or are such things themselves."""

    NON_STATE: ClassVar[Mapping[str, str]] = {}
    RANDOM: ClassVar[Mapping[str, str]] = {}

    def key(self) -> tuple[object, ...]:
        """The state as a value that can be hashed: states with equal keys are bisimilar."""
        fields, cls = vars(self), cast(Hashable, type(self))
        values = [fields[name] for name in state_fields(cls, tuple(fields))]
        return tuple([v if type(v) in ATOMIC_TYPES or not hasattr(v, "key") else v.key() for v in values])

    def fork(self) -> Self:
        """A copy that goes its own way."""
        other = object.__new__(type(self))
        fields = vars(other)
        fields.update(vars(self))
        for name, value in vars(self).items():
            if type(value) not in ATOMIC_TYPES and hasattr(value, "fork"):
                fields[name] = value.fork()
        return other


class ConnectionTable(dict[int, V]):
    """What a side knows of each connection that it has; a connection that is gone leaves nothing behind."""

    def key(self) -> tuple[tuple[int, V], ...]:
        """The connections in the order in which they came, each with its value."""
        return tuple(self.items())

    def fork(self) -> ConnectionTable[V]:
        """A copy: the values themselves are never changed."""
        return ConnectionTable(self)


class Decomposition(NamedTuple):
    """An endpoint as the symmetry reduction sees it: what it knows of each connection, and the rest.

    `fields` are those that are taken apart here: `per_connection` is what they say of each connection, `shared` what
    they say of none.
    """

    fields: tuple[str, ...]
    shared: Any
    per_connection: Mapping[int, Any]


C = TypeVar("C", bound=type)


def reducible(cls: C) -> C:
    """Declare that a class meets what a search's reductions require of an endpoint (explore/symmetry.py, search.py).

    A subclass does not inherit that: of a class without it, every order of events is searched without reductions.
    """
    cls.REDUCIBLE = True  # type: ignore[attr-defined]
    return cls


def is_reducible(cls: type) -> bool:
    """Whether the class itself has been declared reducible, and not only one of its bases."""
    return bool(vars(cls).get("REDUCIBLE"))


class Answers:
    """What rows and searches ask of an endpoint. Each answer has a default that suits an endpoint to which the question
    does not apply."""

    speaks: str = ""  # the protocol, by name; empty while a side that finds out has not decided
    handshakes: bool = True  # the sides talk to each other before the stream; v1's do not
    authenticates: bool = False  # its channels prove that they belong to it, so that nobody else can disturb it
    offers_alpn: bool = False  # it asks in the TLS handshake what its peer speaks
    ended_as: tuple[Error, ...] = ()  # how the last attempt failed, of a destination that listens again
    postcopy: bool = False

    @property
    def silence_s(self) -> float:
        """After which time without an answer the peer counts as gone, in seconds; 0: never."""
        return 0.0

    @property
    def accepting(self) -> bool:
        """Of a destination: it would take one more connection from the listening socket now."""
        return False

    @property
    def ram_bytes(self) -> int:
        """Of a destination: bytes of guest memory that have come."""
        return 0

    @property
    def closed(self) -> bool:
        """Of a destination: its listening socket is closed although it goes on."""
        return False

    def negotiated(self) -> Mapping[str, object]:
        """What this side counts on, by name; empty before it has agreed. `session` identifies the attempt: where
        that is the same on both sides, everything else must be, too (S1)."""
        return {}

    def bound_channels(self) -> tuple[tuple[str, int], ...]:
        """Of a destination: each channel that it knows, with the connection it takes for it."""
        return ()

    def sends_guest(self) -> bool:
        """Of a source: the stream has begun."""
        return False

    def unready(self) -> bool:
        """Of a destination: it has agreed, and can't take the stream yet."""
        return False

    def hears_itself(self) -> bool:
        """It takes its own messages for its peer's."""
        return False

    def occupied(self) -> str:
        """Of a destination: the state in which an attempt has left it; empty if it listens again, or never can."""
        return ""

    def decomposition(self) -> Decomposition | None:
        """Itself, taken apart for the symmetry reduction; None: as one piece, which is always sound."""
        return None


class Endpoint(Protocol):
    """One side of a migration, as runners and searches see it: `BaseEndpoint`, or whatever answers as it does.

    Attributes:
        settings: of the side's QEMU, as agreed.
        status: what `query-migrate` shows.
        finished: how it has ended, once it has.
        speaks: the protocol, by name; empty while a side that finds out has not decided.
        blocked: what holds the process's main loop, so that its monitor is silent.
        silence_s: after which time without an answer the peer counts as gone, in seconds; 0: never.
        accepting: of a destination, whether it would take one more connection now.
        closed: of a destination, whether its listening socket is closed although it goes on.
        ended_as: of a destination that listens again, how the last attempt failed.
        offers_alpn: whether it asks in the TLS handshake what its peer speaks.
        ram_bytes: of a destination, bytes of guest memory that have come.

    The other members are explained in `Answers`, which has a default for each.
    """

    @property
    def settings(self) -> Settings: ...
    @property
    def status(self) -> str: ...
    @property
    def finished(self) -> Finished | None: ...
    @property
    def speaks(self) -> str: ...
    @property
    def blocked(self) -> object: ...
    @property
    def silence_s(self) -> float: ...
    @property
    def accepting(self) -> bool: ...
    @property
    def closed(self) -> bool: ...
    @property
    def ended_as(self) -> tuple[Error, ...]: ...
    @property
    def offers_alpn(self) -> bool: ...
    @property
    def ram_bytes(self) -> int: ...

    @property
    def handshakes(self) -> bool: ...
    @property
    def authenticates(self) -> bool: ...
    @property
    def postcopy(self) -> bool: ...

    def handle(self, input: Input) -> list[Output]:
        """What it asks and reports after one input, in order. Never raises for what a peer does."""

    def key(self) -> tuple[object, ...]:
        """Its state as a value: endpoints with equal keys are bisimilar."""

    def fork(self) -> Self:
        """A copy that goes its own way."""

    def negotiated(self) -> Mapping[str, object]: ...
    def bound_channels(self) -> tuple[tuple[str, int], ...]: ...
    def sends_guest(self) -> bool: ...
    def unready(self) -> bool: ...
    def hears_itself(self) -> bool: ...
    def occupied(self) -> str: ...
    def decomposition(self) -> Decomposition | None: ...


def as_overridden(cls: type, functions: Mapping[Any, Callable[..., Any]]) -> dict[Any, Callable[..., Any]]:
    """The functions of a table, each as the class has it: a subclass may override the methods that its base's table
    lists. A function that is no method stays as it is."""
    overridden = {}
    for key, function in functions.items():
        name = getattr(function, "__name__", "")
        is_method = any(vars(base).get(name) is function for base in cls.__mro__)
        overridden[key] = getattr(cls, name) if is_method else function
    return overridden


class BaseEndpoint(State, Answers):
    """One side of a migration: `handle(input)` returns what it asks and reports.

    A class lists in `HANDLERS` the methods that handle inputs; an input without one has no effect on this side. A
    method appends its outputs to `_out`.
    """

    NON_STATE: ClassVar[Mapping[str, str]] = {"_out": "what one call of `handle` returns, empty when that begins"}
    HANDLERS: ClassVar[Mapping[type, Callable[..., None]]] = {}
    _handlers: ClassVar[Mapping[type, Callable[..., None]]] = {}

    def __init_subclass__(cls) -> None:
        """Look the handlers up once for each class, with what it overrides."""
        cls._handlers = as_overridden(cls, cls.HANDLERS)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.status = Status.NONE
        self.finished: Finished | None = None
        self._out: list[Output] = []

    @property
    def blocked(self) -> object:
        """What holds the process's main loop, so that its monitor is silent; None or False when nothing does."""
        return None

    def handle(self, input: Input) -> list[Output]:
        """Handle one input.

        Returns:
            What the endpoint asks of its runner, and reports, in order.

        Never raises for what a peer does.
        """
        self._out = []
        if self.finished is None:
            handler = self._handlers.get(type(input))
            if handler is not None:
                handler(self, input)
        return self._out

    def _report_status(self, status: Status) -> None:
        """The one writer of `status`."""
        self.status = status
        self._out.append(Entered(status))

    def _finish(self, finished: Finished) -> None:
        """The one writer of `finished`; nothing is handled after it."""
        self.finished = finished
        self._out.append(finished)
