"""Everything that a user may define works wherever the page simlib/case/README.md says so."""

from __future__ import annotations

import inspect
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import simlib as lab
from simlib.case.files import dumps
from simlib.case.registry import ALL, FAULTS, PROTOCOLS
from simlib.explore import Faults
from simlib.record.outcome import Row
from simlib.study.sweep import _by_value
from simlib.study.widget import Explorer
from simlib.world import run as in_world
from tests import own_parts as own

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "simlib/case/README.md").read_text(encoding="utf-8")
MATCHED = lab.scenario("matched").vary(versions=("10.0",), guest__ram_mib=1.0)
TWO_CHANNELS = lab.scenario("matched_multifd").vary(versions=("10.0",), guest__ram_mib=1.0)
OLD = MATCHED.vary(destination__knows_v2=False)
MACHINE = str(ROOT / "data/profiles/qemu-10.0.json#pc-q35-7.2")


class Own:
    """One thing of a user's: the scenario and what is named besides, and what a row must show of it."""

    def __init__(
        self, scenario: lab.Scenario, protocol: Any, seen: Callable[[Row], bool], manager: Any = "", **search: Any
    ) -> None:
        self.scenario, self.protocol, self.seen, self.manager, self.search = scenario, protocol, seen, manager, search


def visited(says: Any) -> lab.Scenario:
    return MATCHED.vary(faults=(lab.Fault("intruder", payload=says, at_s=0.0),))


MOVED = ("migrated", "v3", True)
THINGS = {
    "protocol": Own(MATCHED, own.V3, lambda row: (row.outcome, row.spoken, row.spoken_right) == MOVED),
    "timeout on one side": Own(own.ONE_TIMEOUT, "c", lambda row: row.spoken == "v1", timers=True),
    "manager": Own(OLD, "v2", lambda row: (row.outcome, row.spoken) == ("migrated", "v1"), own.FallsBack),
    "intruder": Own(visited(own.MAIL), "v1", lambda row: row.outcome == "failed", intruders=[own.MAIL]),
    "kind of fault": Own(
        TWO_CHANNELS.vary(faults=(own.ResetOne(at_s=0.0),)), "v2", lambda row: True, faults=[own.ResetOne()]
    ),
    "property": Own(MATCHED, "v2", lambda row: True, properties=[own.NEVER_STOPS]),
    "delay distribution": Own(
        MATCHED.vary(link__delay_law=own.TWO_PATHS, link__delay_ms=2), "v2", lambda row: row.outcome == "migrated"
    ),
    "machine": Own(
        MATCHED.vary(source__machine=MACHINE, destination__machine=MACHINE), "v2", lambda row: row.outcome == "migrated"
    ),
}
COLUMNS = ("world", "sockets", "search", "sweep", "Dask", "compare", "widget", "command")


def cells() -> list[tuple[str, str]]:
    """Thing and place of each cell of the page's table that says yes."""
    table = PAGE[PAGE.index("## Where each works") :].split("\n\n")[1].splitlines()
    assert [c.strip() for c in table[0].strip("|").split("|")][1:] == list(COLUMNS)
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in table[2:]]
    assert [row[0] for row in rows] == list(THINGS)
    return [(row[0], place) for row in rows for place, says in zip(COLUMNS, row[1:], strict=True) if says[:3] == "yes"]


def run_on(thing: Own, on: str) -> None:
    result = lab.run(thing.scenario, thing.protocol, version="10.0", manager=thing.manager, on=on)
    assert thing.seen(result.row), str(result)


def searched(thing: Own) -> None:
    named = dict(thing.search)
    result = lab.search(thing.scenario, thing.protocol, version="10.0", **named)
    assert result.complete and result.states > 50
    if "properties" in named:
        assert "U1 never stops" in result.violations
        assert "guest" in str(result.story("U1"))
    if "faults" in named:
        assert result.states > lab.search(thing.scenario, thing.protocol, version="10.0").states


def swept(thing: Own, **where: Any) -> None:
    managers = [thing.manager] if thing.manager else []
    table = lab.sweep(
        thing.scenario,
        {"guest.ram-mib": [1, 2]},
        protocols=[thing.protocol],
        managers=managers,
        versions=["10.0"],
        **where,
    )
    rows = table[list(Row.__slots__)].to_dict("records")
    assert len(rows) == 2 and not table.error.any(), list(table.error)
    assert all(thing.seen(Row(**row)) for row in rows)


def compared(thing: Own) -> None:
    managers = [thing.manager] if thing.manager else []
    comparison = lab.compare(thing.scenario, protocols=[thing.protocol], managers=managers, version="10.0")
    assert thing.seen(comparison.rows[0]) and len(comparison.table) == len(comparison.rows)
    assert "<table" in comparison._repr_html_()


def in_widget(thing: Own) -> None:
    explorer = Explorer(in_world, thing.scenario, thing.protocol)
    if thing.manager:
        explorer.controls["manager"].value = thing.manager.name
    assert explorer.result is not None and thing.seen(explorer.result.row)
    protocol = PROTOCOLS.get(PROTOCOLS.name_of(thing.protocol))
    assert protocol.label in dict(explorer.controls["protocol"].options)


NAMED = {
    "v3": "tests.own_parts:V3",
    "mail": "tests.own_parts:MAIL",
    "two-paths": "tests.own_parts:TWO_PATHS",
    "reset-one": "tests.own_parts:ResetOne",
}


def commanded(thing: Own, folder: Path) -> None:
    """By file and by the command line of another process, which imports what the names stand for."""
    text = dumps(thing.scenario)
    for name, place in NAMED.items():
        text = text.replace(f'"{name}"', f'"{place}"')
    file = folder / "own.toml"
    file.write_text(text)
    protocol = PROTOCOLS.name_of(thing.protocol)
    words = [str(file), "--qemu", "10.0", "--protocol", NAMED.get(protocol, protocol), "--json"]
    if "properties" in thing.search:
        report = simlib("explore", *words, "--property", "tests.own_parts:NEVER_STOPS")
        assert [v["property"] for v in report["violations"]] == ["U1 never stops"]
        return
    manager = ["--manager", "tests.own_parts:FallsBack"] if thing.manager else []
    assert thing.seen(Row(**simlib("run", *words, *manager)["row"]))


def simlib(*words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "simlib", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@contextmanager
def dask() -> Any:
    from tests.study.million import dask as cluster

    with cluster(2) as address:
        yield address


@pytest.mark.parametrize(("thing", "place"), [cell for cell in cells() if cell[1] != "Dask"])
def test_what_the_page_says_works_does(thing: str, place: str, tmp_path: Path) -> None:
    own_thing = THINGS[thing]
    {
        "world": lambda: run_on(own_thing, "world"),
        "sockets": lambda: run_on(own_thing, "sockets"),
        "search": lambda: searched(own_thing),
        "sweep": lambda: swept(own_thing, workers=1),
        "compare": lambda: compared(own_thing),
        "widget": lambda: in_widget(own_thing),
        "command": lambda: commanded(own_thing, tmp_path),
    }[place]()


def test_what_has_travelled_by_value_is_still_the_class_that_it_was() -> None:
    own_thing = THINGS["kind of fault"]
    swept(own_thing, workers=1)
    base, added = _by_value(own_thing.scenario)
    assert pickle.loads(base) == own_thing.scenario and pickle.loads(added)[ALL.index(FAULTS)]
    swept(own_thing, workers=1)
    assert "reset-one" in dumps(own_thing.scenario)


@pytest.mark.slow
def test_on_dask_it_does_too() -> None:
    with dask() as address:
        for thing, place in cells():
            if place == "Dask":
                swept(THINGS[thing], cluster=address)


@pytest.mark.parametrize(
    "part", [own.IntroducingSource, own.FallsBack, own.KnowsNoDevice, own.ResetOne], ids=lambda part: part.__name__
)
def test_none_of_them_needs_more_than_thirty_lines(part: Any) -> None:
    assert len(inspect.getsource(part).splitlines()) <= 30


def test_a_manager_that_does_not_know_device_cancels_and_the_guest_stays() -> None:
    result = lab.run(MATCHED, "v1", version="11.1", manager=own.KnowsNoDevice)
    assert any(s.text == "the status 'device' is unknown" for s in result.trace.steps)
    assert (result.row.source_status, result.row.guest_at) == ("cancelled", "source")


def test_a_fault_that_is_about_time_alone_is_refused_by_a_search_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="about time"):
        lab.search(MATCHED, "v2", faults=[lab.Fault("delay-accept", connection="main")])


def test_a_hit_is_part_of_the_state() -> None:
    assert Faults(hits=(own.ResetOne(),)) != Faults()


@pytest.mark.parametrize(
    "words,expected",
    [
        (("run", "matched", "--protocol", "tests.nowhere:V3"), "there is no module 'tests.nowhere'"),
        (("run", "matched", "--protocol", "tests.own_parts:V33"), "did you mean 'V3'"),
        (("run", "matched", "--protocol", "tests.own_parts:MAIL"), "is no protocol"),
        (("run", "matched", "--manager", "bogus"), "there is no manager 'bogus'"),
        (("explore", "matched", "--property", "tests.own_parts:MAIL"), "is no simlib.Property"),
        (("explore", "matched", "--intruder", "tests.own_parts:V3"), "is no intruder"),
        (("explore", "matched", "--fault", "delay-accept"), "about time"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_a_name_that_leads_nowhere_is_one_sentence_and_exit_status_two(words: tuple[str, ...], expected: str) -> None:
    done = subprocess.run([sys.executable, "-m", "simlib", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and expected in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_names_of_the_labs_own_can_t_be_taken_and_a_user_s_can_be_defined_again() -> None:
    with pytest.raises(ValueError, match="the lab's own"):
        lab.protocol("v2", own.IntroducingSource, own.IntroducedDestination)
    with pytest.raises(ValueError, match="speaks 'v3'"):
        lab.protocol("v4", own.IntroducingSource, own.IntroducedDestination)
    again = lab.protocol("v3", own.IntroducingSource, own.IntroducedDestination)
    assert PROTOCOLS.get("v3") is again
    lab.protocol(own.V3)


def test_the_page_names_only_what_there_is() -> None:
    for name in re.findall(r"`lab\.(\w+)", PAGE):
        assert hasattr(lab, name), name
