"""S9: negotiation is monotone, and two sides that ask for the same get it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from simlib.handshake.v2.features import ALLOW, DEPENDS, FORBID, NEEDS, PREFER, REQUIRE, FeatureOffer, resolve
from simlib.handshake.versions import behaviour

RANGES = st.tuples(st.integers(1, 8), st.integers(1, 8)).map(lambda ends: (min(ends), max(ends)))
CHOICES = st.lists(st.sampled_from(behaviour("11.1").compressions), min_size=1, unique=True).map(tuple)
PARAMETERS = st.fixed_dictionaries({}, optional={"channels": RANGES, "compression": CHOICES})
NAMES = ("multifd", "postcopy-ram", "postcopy-preempt", "xbzrle", "zero-copy-send", "compress", "x-ignore-shared")
STANCE = st.builds(
    lambda name, need, parameters: FeatureOffer(name, need, tuple(sorted(parameters.items()))),
    st.sampled_from(NAMES),
    st.sampled_from((ALLOW, PREFER, *NEEDS)),
    PARAMETERS,
)
SIDE = st.lists(STANCE, min_size=2, max_size=5, unique_by=lambda s: s.feature).map(tuple)
MILDER = {REQUIRE: PREFER, PREFER: ALLOW, FORBID: ALLOW, ALLOW: ALLOW}


def wider(stance: FeatureOffer) -> FeatureOffer:
    """The same stance, content with all that it was content with, and more."""
    return replace(
        stance,
        parameters=tuple(
            (key, (value[0], int(value[1]) + 3) if isinstance(value[0], int) else (*value, "xyz"))
            for key, value in stance.parameters
        ),
    )


@settings(max_examples=150)
@given(SIDE, SIDE, st.data())
def test_asking_for_less_or_allowing_more_never_turns_an_agreement_into_a_refusal(
    source: tuple[FeatureOffer, ...], destination: tuple[FeatureOffer, ...], data: st.DataObject
) -> None:
    assume(source and not resolve(source, destination).errors)
    which = data.draw(st.integers(0, len(source) - 1))
    mild = replace(source[which], need=MILDER[source[which].need])
    for easier in (mild, wider(source[which])):
        changed = (*source[:which], easier, *source[which + 1 :])
        assert not resolve(changed, destination).errors
        assert not resolve(destination, changed).errors


@given(SIDE, SIDE)
def test_what_is_required_is_on_or_it_is_an_error_and_what_is_forbidden_is_off(
    source: tuple[FeatureOffer, ...], destination: tuple[FeatureOffer, ...]
) -> None:
    agreed = resolve(source, destination)
    needs = {s.feature: {s.need} for s in source}
    for name in set(DEPENDS) | {s.feature for s in destination}:
        here = needs.get(name, {FORBID}) | next(({s.need} for s in destination if s.feature == name), {FORBID})
        assert not (FORBID in here and agreed.has(name))
        assert REQUIRE not in here or agreed.has(name) or agreed.errors
