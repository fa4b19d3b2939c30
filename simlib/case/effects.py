"""Keys of a scenario that have no effect: a key that nothing reads is a mistake."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .checks import changed_fields
from .registry import DELAYS, PROTOCOLS, ScenarioError
from .scenario import Scenario

NEGOTIATED = (
    "require",
    "forbid",
    "on_maybe",
    "session",
    "psk",
    "memory_limit_mib",
    "apply_error",
    "keepalive_s",
    "keepalive_count",
)
OF_DESTINATION = ("accept", "exit_on_error", "apply_error", "apply_code")
OF_NETWORK = ("delay_ms", "delay_law", "loss", "syn_loss")


def check(scenario: Scenario, protocols: Iterable[str] = ()) -> None:
    """Every key that is not as by default has an effect under one of the scenario's protocols, or of these.

    Raises:
        ScenarioError: for the first that has none, with the reason.

    >>> from simlib.case.scenario import Scenario
    >>> check(Scenario(name="steady").vary(link__jitter_ms=3.0))
    Traceback (most recent call last):
    simlib.case.registry.ScenarioError: steady: 'link.jitter-ms' has no effect: the delay-law 'constant' does not use it
    """
    played = {*scenario.protocols, *protocols}
    checked = vars(scenario).setdefault("_effects_of", set())  # a sweep asks for each of its runs
    if played in checked:
        return
    for path, why in _without_effect(scenario, played):
        raise ScenarioError(f"{scenario.name}: '{path.replace('_', '-')}' has no effect: {why}")
    checked.add(frozenset(played))


def _without_effect(scenario: Scenario, protocols: set[str]) -> Iterator[tuple[str, str]]:
    link, guest, management = scenario.link, scenario.guest, scenario.management
    piped = link.transport.startswith("exec")
    saved = not link.has_listener
    changed = {f"link.{key}" for key in changed_fields(link)}
    for key in ("jitter_ms", "shape", "samples_ms"):
        if f"link.{key}" in changed and key not in DELAYS.get(link.delay_law).uses:
            yield f"link.{key}", f"the delay-law {link.delay_law!r} does not use it"
    for key in OF_NETWORK:
        if link.local and f"link.{key}" in changed:
            yield f"link.{key}", f"there is no network between the two hosts where the path is {link.transport!r}"
    if "link.load_transport" in changed and not saved:
        yield "link.load_transport", f"nothing is saved where the path is {link.transport!r}"
    if "link.told_bidirectional" in changed and not piped:
        yield "link.told_bidirectional", "it is about exec: alone"
    if "link.buffer_kib" in changed and link.local:
        yield "link.buffer_kib", f"the kernel's buffers of {link.transport!r} have one size"
    if guest.working_set_mib != type(guest).working_set_mib and not guest.dirty_mib_s:
        yield "guest.working_set_mib", "the guest writes nothing (dirty-mib-s is 0)"
    if management.loads_anyway and not saved:
        yield "management.loads_anyway", f"nothing is saved where the path is {link.transport!r}"
    if management.retries and saved:
        yield "management.retries", f"nobody listens behind {link.transport!r}"
    yield from _of_sides(scenario, protocols)


def _of_sides(scenario: Scenario, protocols: set[str]) -> Iterator[tuple[str, str]]:
    named = [PROTOCOLS.get(name) for name in protocols]
    shown = ", ".join(sorted(protocols))
    for where in ("source", "destination"):
        side = getattr(scenario, where)
        changed = {f"{where}.{key}" for key in changed_fields(side)}
        for key in NEGOTIATED:
            if f"{where}.{key}" in changed and not any(p.negotiates for p in named):
                yield f"{where}.{key}", f"nothing is negotiated under {shown}"
        for key in OF_DESTINATION if where == "source" else ():
            if f"{where}.{key}" in changed and getattr(side, key) != getattr(scenario.destination, key):
                yield f"{where}.{key}", "it is about the destination alone"
        if f"{where}.detect_timeout_s" in changed and not any(p.probes for p in named):
            yield f"{where}.detect_timeout_s", f"nothing is detected under {shown}"
        if f"{where}.apply_code" in changed and not side.apply_error:
            yield f"{where}.apply_code", "there is no apply-error"
    if scenario.detect_timeout_s != type(scenario).detect_timeout_s and not any(p.probes for p in named):
        yield "detect_timeout_s", f"nothing is detected under {shown}"
