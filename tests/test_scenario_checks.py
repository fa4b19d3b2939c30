"""What is wrong is said in one sentence, also to those who write Python instead of TOML, and nothing runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from simlib.case.endpoints import Case
from simlib.case.files import (
    find,
    load_all,
    with_key,
)
from simlib.case.registry import ScenarioError
from simlib.case.scenario import (
    Fault,
    GuestFacts,
    Link,
    Management,
    Scenario,
    Side,
    Timing,
)
from simlib.explore import Model
from simlib.live.run import run as on_sockets
from simlib.world import run

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "protocol": (lambda: run(find("matched"), protocol="nonsense"), "there is no protocol 'nonsense'"),
    "protocol on sockets": (lambda: on_sockets(find("matched"), protocol="v2.1"), "did you mean 'v2'"),
    "protocol of a model": (lambda: Model(Case(find("matched"), "v9")), "there is no protocol 'v9'"),
    "manager": (lambda: run(find("matched"), manager="libvrt"), "did you mean 'libvirt'"),
    "future version": (lambda: run(find("matched"), version="99.0"), "from 5.2 to 11.2"),
    "ancient version": (lambda: run(find("matched"), version="7.2>2.0"), "QEMU 2.0 is not modelled"),
    "version that never was": (lambda: Scenario(versions=("7.5",)), "QEMU 7.5 is not modelled"),
    "version as a number": (lambda: run(find("matched"), version=10.0), "write it as text"),  # type: ignore[arg-type]
    "fault": (lambda: Fault("intrudr"), "did you mean 'intruder'"),
    "transport": (lambda: Link(transport="tpc"), "did you mean 'tcp'"),
    "distribution": (lambda: Link(delay_law="parreto"), "did you mean 'pareto'"),
    "text for a number": (lambda: GuestFacts(ram_mib="256"), "'ram_mib' must be a number; it is a text"),  # type: ignore[arg-type]
    "number out of range": (lambda: Link(loss=2.0), "from 0 to 0.99"),
    "not a number": (lambda: Link(delay_ms=float("nan")), "must be a number from 0"),
    "part": (lambda: find("matched").vary(lnk__delay_ms=5), "did you mean 'link'"),
    "key of a part": (lambda: find("matched").vary(link__delay=5), "did you mean 'delay_ms'"),
    "text for a list": (lambda: Side(capabilities="multifd"), "must be a list"),  # type: ignore[arg-type]
    "parameter": (lambda: Side(parameters={"multifd-channels": 0}), "from 1 to 255"),
    "key of a sweep": (
        lambda: with_key(find("matched"), "link.delay", 5, "x.toml"),
        "x.toml: unknown key 'link.delay'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_in_python_is_one_sentence_with_the_closest_name_or_the_range(name: str) -> None:
    call, words = WRONG[name]
    with pytest.raises(ScenarioError) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [Scenario, Side, Link, GuestFacts, Management, Fault, Timing])
def test_no_field_takes_an_object_of_another_kind(part: Any) -> None:
    needed = {Fault: {"kind": "cut"}, Timing: {"connection": "main"}}.get(part, {})
    for f in fields(part):
        with pytest.raises(ScenarioError):
            part(**{**needed, f.name: object()})


def test_a_part_holds_the_same_whether_it_was_written_in_toml_or_in_python() -> None:
    for scenario in load_all():
        assert scenario.vary(title=scenario.title) == scenario
    assert Link(delay_ms=5) == Link(delay_ms=5.0)
    assert Side(capabilities=["multifd"]) == Side(capabilities=("multifd",))  # type: ignore[arg-type]
