"""The tables of names: protocols, managers, kinds of fault, intruders and delay distributions.

Whatever takes one of these by name looks it up here: scenarios, sweeps, the command line, widgets and Python. The lab's
own entries hold the place of their definition and are imported when one is looked up. A user's are added as objects,
or are named by the place of their definition, "package.module:name".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class ScenarioError(ValueError):
    """What is wrong with a scenario or with how it is to be run, in one sentence that names file and key."""


RENAMED = {  # names of earlier versions, in files and options
    "swallow": "blackhole",
    "lose": "packet-loss",
    "late": "delay-accept",
    "hold": "delay-data",
    "stranger": "intruder",
    "says": "payload",
    "before": "before_start",
    "gap_s": "accept_gap_s",
    "retries": "tcp_retries",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: its new name, or the known one that is close; empty if none is."""
    import difflib  # here: a sweep's workers never need it

    names = list(known)
    if RENAMED.get(name) in names:
        return f"; it is called {RENAMED[name].replace('_', '-')!r} now"
    close = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def choose(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the closest one that is known, and all of them."""
    close, everything = nearest(name, known), ", ".join(map(repr, known))
    end = "" if close.endswith("?") else "."
    return f"{close}{end} Known are {everything}" if close else f"; known are {everything}"


def require(what: str, name: object, known: Sequence[str]) -> None:
    """Raises ScenarioError where a name is none of those that are known."""
    if name not in known:
        raise ScenarioError(f"there is no {what} {name!r}{choose(str(name), known)}")


def require_whole(what: str, value: object, least: int) -> None:
    """Raises ScenarioError for what is no whole number of at least so much."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ScenarioError(f"{what} must be a whole number of at least {least}; it is {value!r:.40}")


def imported(place: str) -> Any:
    """The object that "package.module:name" names. Raises ScenarioError."""
    module, _, name = place.partition(":")
    try:
        imported_module = import_module(module)
    except ModuleNotFoundError as error:
        raise ScenarioError(f"{place!r}: there is no module {error.name or module!r} on Python's path") from None
    except Exception as error:  # whatever a user's module raises
        raise ScenarioError(f"{place!r}: importing it raised {type(error).__name__}: {error}") from error
    if not hasattr(imported_module, name):
        raise ScenarioError(
            f"{place!r}: the module {module!r} defines no {name!r}{nearest(name, vars(imported_module))}"
        )
    return getattr(imported_module, name)


class Registry(Sequence[str], Generic[T]):
    """One table from names to objects; as a sequence, its names.

    Args:
        what: what an entry is called in messages, as "protocol".
        kind: where the class of its entries is defined, as "package.module:Class".
        own: the lab's entries, each by the place of its definition.
    """

    def __init__(self, what: str, kind: str, own: Mapping[str, str]) -> None:
        self.what, self.kind, self.own = what, kind, own
        self.added: dict[str, T] = {}
        self.unlisted: dict[str, T] = {}
        self._imported: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from self.added

    def __len__(self) -> int:
        return len(self.own) + len(self.added)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[str, ...]: ...
    def __getitem__(self, at: int | slice) -> str | tuple[str, ...]:
        return tuple(self)[at]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (
            name in self.own or name in self.added or name in self.unlisted or ":" in name
        )

    def get(self, name: str) -> T:
        """The entry of a name. Raises ScenarioError with the closest name for one that is not known."""
        entry = self._imported.get(name) or self.added.get(name) or self.unlisted.get(name)
        if entry is None:
            require(self.what, name, self)
            entry = self._imported[name] = self.checked(imported(self.own.get(name, name)), name)
        return entry

    def add(self, entry: T) -> T:
        """Register an object by its name, in the place of an earlier one of the user's. Raises ScenarioError."""
        self.checked(entry, repr(entry))
        name = str(entry.name)  # type: ignore[attr-defined]
        if name in self.own:
            raise ScenarioError(f"the {self.what} {name!r} is the lab's own; give yours another name")
        if not name or ":" in name or not name.isprintable():
            raise ScenarioError(f"a {self.what} can't be called {name!r}; choose a word without a colon")
        self.added[name] = entry
        return entry

    def keep(self, entry: T) -> str:
        """Register an object without listing it, as a mutant; returns its name here: its own, or that and a number."""
        own = name = str(self.checked(entry, repr(entry)).name)
        number = 1
        while self.unlisted.setdefault(name, entry) != entry:
            number += 1
            name = f"{own} ({number})"
        return name

    def name_of(self, entry: object) -> str:
        """The name of an entry, which is added if it is passed as an object; a name as it is."""
        if isinstance(entry, str):
            return entry
        name = str(getattr(entry, "name", ""))
        if self.added.get(name) is not entry and not (name in self.own and self.get(name) is entry):
            self.add(entry)  # type: ignore[arg-type]
        return name

    def holds(self, entry: object) -> bool:
        """Whether it is what the table is for: an object, or a class, of the kind."""
        if isinstance(entry, (str, int, float, list, tuple, dict)):
            return False
        kind = imported(self.kind)
        return isinstance(entry, kind) or (isinstance(entry, type) and issubclass(entry, kind))

    def checked(self, entry: Any, called: str) -> Any:
        """The entry, if it is what the table holds. Raises ScenarioError."""
        if not self.holds(entry):
            raise ScenarioError(f"{called} is no {self.what}: it must be a {self.kind.replace(':', '.')}")
        return entry


PROTOCOLS: Registry[Any] = Registry(
    "protocol",
    "simlib.case.protocols:Protocol",
    {
        "v1": "simlib.case.protocols:V1",
        "v2": "simlib.case.protocols:V2",
        "a": "simlib.case.protocols:A",
        "b": "simlib.case.protocols:B",
        "c": "simlib.case.protocols:C",
        "d": "simlib.case.protocols:D",
        "d'": "simlib.case.protocols:D_TRANSFORMED",
        "f": "simlib.case.protocols:F",
    },
)
MANAGERS: Registry[Any] = Registry(
    "manager",
    "simlib.case.managers:Manager",
    {"naive": "simlib.case.managers:Naive", "libvirt": "simlib.case.managers:Libvirt"},
)
FAULTS: Registry[Any] = Registry(
    "kind of fault",
    "simlib.case.faults:Fault",
    {
        "cut": "simlib.case.faults:Cut",
        "blackhole": "simlib.case.faults:Blackhole",
        "stall": "simlib.case.faults:Stall",
        "packet-loss": "simlib.case.faults:PacketLoss",
        "freeze": "simlib.case.faults:Freeze",
        "kill": "simlib.case.faults:Kill",
        "order": "simlib.case.faults:Order",
        "delay-data": "simlib.case.faults:DelayData",
        "delay-accept": "simlib.case.faults:DelayAccept",
        "intruder": "simlib.case.faults:Intrusion",
    },
)
INTRUDERS: Registry[Any] = Registry(
    "intruder",
    "simlib.case.intruders:Intruder",
    {
        "silent": "simlib.case.intruders:SILENT",
        "garbage": "simlib.case.intruders:GARBAGE",
        "half-magic": "simlib.case.intruders:HALF_MAGIC",
        "multifd": "simlib.case.intruders:MULTIFD",
        "qevm": "simlib.case.intruders:QEVM",
        "scan": "simlib.case.intruders:SCAN",
        "v2-hello": "simlib.case.intruders:V2_HELLO",
        "bad-channel": "simlib.case.intruders:BAD_CHANNEL",
        "flood": "simlib.case.intruders:FLOOD",
    },
)
DELAYS: Registry[Any] = Registry(
    "delay distribution",
    "simlib.case.delays:Delay",
    {
        "constant": "simlib.case.delays:CONSTANT",
        "lognormal": "simlib.case.delays:LOGNORMAL",
        "pareto": "simlib.case.delays:PARETO",
        "exponential": "simlib.case.delays:EXPONENTIAL",
        "empirical": "simlib.case.delays:EMPIRICAL",
    },
)
BOTH = ("v1", "v2")  # the protocols that the lab's own studies compare
USUAL_MANAGER = "naive"  # trusts the source; what a run has unless another is named
ALL: tuple[Registry[Any], ...] = (PROTOCOLS, MANAGERS, FAULTS, INTRUDERS, DELAYS)
