"""Negotiation: `resolve` is pure, and both sides compute it (SPEC section 4).

A stance is what one side thinks of a feature: forbid, allow, prefer, require; absent means forbid. A feature is on if
both sides at least allow it and one at least prefers it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..capabilities import known_capabilities
from ..errors import Code, Error
from ..machine import Settings
from ..versions import behaviour

FORBID, ALLOW, PREFER, REQUIRE = "forbid", "allow", "prefer", "require"
NEEDS = (FORBID, ALLOW, PREFER, REQUIRE)
Range = tuple[int, int]  # lowest and highest that would do
Choice = tuple[str, ...]  # best first
Names = frozenset[str]  # all that would do: agreed is what both have
Parameters = tuple[tuple[str, Range | Choice | Names], ...]
Value = int | str | tuple[str, ...]
Values = tuple[tuple[str, Value], ...]  # of parameters that were agreed


@dataclass(frozen=True, slots=True)
class FeatureOffer:
    """One side's position on a feature, with `need` one of NEEDS, and its parameters."""

    feature: str
    need: str
    parameters: Parameters = ()


@dataclass(frozen=True, slots=True)
class Agreement:
    """What is on, with each parameter's one value; what is not, and why; errors that forbid an agreement."""

    on: tuple[tuple[str, Values], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    errors: tuple[Error, ...] = ()

    def has(self, feature: str) -> bool:
        """Whether a feature is on."""
        return any(name == feature for name, _ in self.on)

    def parameter(self, feature: str, name: str, default: int | str) -> Value:
        """The agreed value of a feature's parameter, or `default` where the feature is off."""
        return next((dict(parameters).get(name, default) for f, parameters in self.on if f == feature), default)

    def body(self) -> dict[str, object]:
        """Features with their parameters, as both sides digest them (SPEC 4.4)."""
        return {
            name: {key: list(value) if isinstance(value, tuple) else value for key, value in parameters}
            for name, parameters in self.on
        }


# The registry, in its order: each feature with those it depends on. Names are QEMU's capabilities.
DEPENDS: dict[str, tuple[str, ...]] = {
    "final-ack": (),
    "multifd": (),
    "postcopy-ram": (),
    "postcopy-preempt": ("postcopy-ram",),
    "switchover-ack": (),
    "xbzrle": (),
    "zero-copy-send": ("multifd",),
    "mapped-ram": (),
    "x-ignore-shared": (),
    "compress": (),
    "dirty-bitmaps": (),
    "release-ram": (),
    "auto-converge": (),
    "validate-uuid": (),
    "late-block-activate": (),
    "pause-before-switchover": (),
    "x-colo": (),
    "dirty-limit": (),
}
CONFLICTS = (("multifd", "xbzrle"), ("multifd", "compress"), ("postcopy-ram", "x-ignore-shared"))
# Which of them change the bytes or the channels, or need the destination's consent; the rest stay the source's affair.
SHARED = (
    "final-ack",
    "multifd",
    "postcopy-ram",
    "postcopy-preempt",
    "switchover-ack",
    "xbzrle",
    "x-ignore-shared",
    "compress",
    "validate-uuid",
    "zero-copy-send",
)
OWN_CHANNELS = ("multifd", "postcopy-preempt", "zero-copy-send")  # need connections besides control
CHANNEL_LIMIT = 64


def stances(
    settings: Settings, at_source: bool, require: tuple[str, ...] = (), forbid: tuple[str, ...] = ()
) -> tuple[FeatureOffer, ...]:
    """The position of a QEMU with these settings on each feature that both sides must have alike (SPEC 4.1).

    What was set it prefers, what it knows and could do it allows, the rest it forbids; `require` and `forbid` are the
    user's and win.
    """
    listed = [FeatureOffer("final-ack", FORBID if "final-ack" in forbid else REQUIRE)]
    known = known_capabilities(settings.version)
    for name in DEPENDS:
        if name not in SHARED or name not in known:
            continue
        need = FORBID if name in forbid or not _possible(name, settings) else ALLOW
        if need == ALLOW and settings.has(name):
            need = PREFER
        if name in require:
            need = REQUIRE
        listed.append(FeatureOffer(name, need, _parameters(name, settings, at_source)))
    return tuple(listed)


def _possible(name: str, settings: Settings) -> bool:
    """Some features need a transport, or a guest, that isn't there; the user's own wish is left to fail by name."""
    if settings.has(name):
        return True
    several = settings.transport in ("tcp", "unix")
    excludes = behaviour(settings.version).multifd_excludes_postcopy
    if name in OWN_CHANNELS:
        clash = settings.has("postcopy-ram") and excludes
        return several and not (clash and name == "multifd")
    if name == "postcopy-ram":
        return not (settings.has("multifd") and excludes)
    return name in ("switchover-ack", "xbzrle", "x-ignore-shared", "validate-uuid")


def _parameters(name: str, settings: Settings, at_source: bool) -> Parameters:
    """multifd's number of channels, and its compression: the source has one wish, the destination a range (SPEC
    4.2)."""
    if name != "multifd":
        return ()
    wanted = settings.channels or 2
    if at_source:
        return ("channels", (1, wanted)), ("compression", (settings.compression,))
    return ("channels", (1, CHANNEL_LIMIT)), ("compression", behaviour(settings.version).compressions)


def resolve(source: tuple[FeatureOffer, ...], destination: tuple[FeatureOffer, ...], inline: bool = False) -> Agreement:
    """The agreement of two lists of stances (SPEC 4.3).

    Symmetric, but for the order of choices, which is the source's. It is a function of its arguments alone, so that
    both sides compute the same. `inline`: control carries the stream, and there is no other connection.
    """
    ours, theirs = {s.feature: s for s in source}, {s.feature: s for s in destination}
    names = [n for n in DEPENDS if n in ours or n in theirs]
    names += sorted((set(ours) | set(theirs)) - set(names))
    required_names = _transitively_required(ours, theirs)
    on: dict[str, Values] = {}
    skipped: list[tuple[str, str]] = []
    errors: list[Error] = []
    for name in names:
        one, other = _need(ours, name), _need(theirs, name)
        no_channel = inline and name in OWN_CHANNELS
        if no_channel or FORBID in (one, other):
            if REQUIRE in (one, other):
                errors.append(_refused(name, one, other, no_channel))
            elif PREFER in (one, other):
                why = "main is inline" if no_channel else f"source: {one}, destination: {other}"
                skipped.append((name, why))
        elif name in required_names or {one, other} & {PREFER, REQUIRE}:
            values, error = _intersect(name, ours[name].parameters, theirs[name].parameters)
            if error is None:
                on[name] = values
            elif name in required_names:
                errors.append(error)
            else:
                skipped.append((name, error.text))
    required = required_names & set(on)
    errors += _drop_conflicts(on, skipped, required, ours, theirs)
    errors += _drop_dependents(on, skipped, required)
    return Agreement(tuple(on.items()), tuple(skipped), tuple(errors))


def _transitively_required(*sides: dict[str, FeatureOffer]) -> set[str]:
    """What is required, by either side or by something that is."""
    required = {n for side in sides for n, s in side.items() if s.need == REQUIRE}
    while more := {d for n in required for d in DEPENDS.get(n, ())} - required:
        required |= more
    return required


def _need(stances: dict[str, FeatureOffer], name: str) -> str:
    """A feature that a side does not list, it forbids (SPEC 4.1)."""
    return stances[name].need if name in stances else FORBID


def _refused(name: str, one: str, other: str, no_channel: bool) -> Error:
    """The error of a feature that one side requires and the other does not have, or the transport can't carry."""
    who = "source" if one == REQUIRE else "destination"
    why = "main is inline, on one connection" if no_channel else "the other side lacks or forbids it"
    return Error(
        Code.FEATURE_REQUIRED,
        item=f"feature[{name}]",
        source=one,
        destination=other,
        text=f"The {who} requires {name}; {why}.",
        hint=f"Do not require {name}, or use "
        + ("a transport with several connections." if no_channel else "a QEMU that has it on both sides."),
    )


def _intersect(name: str, ours: Parameters, theirs: Parameters) -> tuple[Values, Error | None]:
    """Each parameter that both sides name, with the value that both can do."""
    one_side, other_side = dict(ours), dict(theirs)
    values: list[tuple[str, Value]] = []
    for key in sorted(set(one_side) & set(other_side)):
        value = _common(one_side[key], other_side[key])
        if value is None:
            return (), Error(
                Code.PARAMETER,
                item=f"feature[{name}].{key}",
                source=_shown(one_side[key]),
                destination=_shown(other_side[key]),
                text=f"The two sides have no value of {name}'s {key} in common.",
                hint=f"Choose a {key} that both sides can do.",
            )
        values.append((key, value))
    return tuple(values), None


def _common(one: Range | Choice | Names, two: Range | Choice | Names) -> Value | None:
    """Of ranges the highest value in both, of choices the source's best that both have, of sets all that is in both;
    None without any, and where the two are of different kinds."""
    if isinstance(one, frozenset) or isinstance(two, frozenset):
        both = isinstance(one, frozenset) and isinstance(two, frozenset)
        return (tuple(sorted(map(str, frozenset(one) & frozenset(two)))) or None) if both else None
    if isinstance(one[0], int) and isinstance(two[0], int):
        low, high = max(one[0], two[0]), min(int(one[1]), int(two[1]))
        return high if low <= high else None
    return next((str(c) for c in one if c in two), None)


def _shown(values: Range | Choice | Names) -> str:
    """A parameter's values, for errors (SPEC section 7)."""
    if isinstance(values, frozenset):
        return " and ".join(sorted(values))
    return ("..".join if isinstance(values[0], int) else " or ".join)(map(str, values))


def _drop_conflicts(
    on: dict[str, Values],
    skipped: list[tuple[str, str]],
    required: set[str],
    ours: dict[str, FeatureOffer],
    theirs: dict[str, FeatureOffer],
) -> list[Error]:
    """Of two features that exclude each other the weaker one goes: first the one that nobody requires, then the one
    that is wanted less, then the second of the table (SPEC 4.3). If both are required that is an error."""
    errors = []
    for one, other in CONFLICTS:
        if one not in on or other not in on:
            continue
        weight = {n: (n in required, max(NEEDS.index(_need(s, n)) for s in (ours, theirs))) for n in (one, other)}
        if one in required and other in required:
            errors.append(
                Error(
                    Code.FEATURE_CONFLICT,
                    item=f"feature[{one}]",
                    source=one,
                    destination=other,
                    text=f"{one} and {other} exclude each other and both are required.",
                    hint=f"Give up {one} or {other}.",
                )
            )
        dropped = other if weight[one] >= weight[other] else one
        del on[dropped]
        skipped.append((dropped, f"excluded by {one if dropped == other else other}"))
    return errors


def _drop_dependents(on: dict[str, Values], skipped: list[tuple[str, str]], required: set[str]) -> list[Error]:
    """To a fixpoint: what depends on something that is off goes off too."""
    errors: list[Error] = []
    while True:
        lost = next(((n, d) for n in on for d in DEPENDS.get(n, ()) if d not in on), None)
        if lost is None:
            return errors
        name, missing = lost
        del on[name]
        skipped.append((name, f"depends on {missing}, which is off"))
        if name in required:
            errors.append(
                Error(
                    Code.FEATURE_DEPENDENCY,
                    item=f"feature[{name}]",
                    source=f"{name} required",
                    destination=f"{missing} off",
                    text=f"{name} is required and depends on {missing}, which is off.",
                    hint=f"Switch {missing} on at both sides.",
                )
            )
