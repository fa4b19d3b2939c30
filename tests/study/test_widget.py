"""The explorer, without a browser: moving a control is setting its value."""

from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree

import pytest

pytest.importorskip("ipywidgets")

from simlib import world
from simlib.case.files import load_all
from simlib.case.registry import PROTOCOLS
from simlib.study.widget import FAULTS, VERSIONS, Explorer


def moved(explorer: Explorer, **values: object) -> str:
    """The chart after some controls were set."""
    for name, value in values.items():
        explorer.controls[name].value = value
    return str(explorer.chart.value)


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("situation", "stranger_multifd"),
        ("protocol", "c"),
        ("fault", "cut at the first bytes"),
        ("round_trip_ms", 50.0),
        ("loss_percent", 20.0),
        ("channels", 3),
        ("source_version", "5.2"),
        ("destination_version", "11.1"),
        ("seed", 7),
    ],
)
def test_each_control_redraws_the_chart(control: str, value: object) -> None:
    explorer = Explorer(world.run, "slow_path", "v2")
    before = explorer.chart.value
    assert moved(explorer, **{control: value}) != before
    ElementTree.fromstring(explorer.chart.value)


def test_jitter_and_its_law_move_the_times() -> None:
    explorer = Explorer(world.run, protocol="v2")
    charts = {
        moved(explorer, jitter_ms=j, law=law)
        for j, law in ((0, "exponential"), (5, "exponential"), (5, "Pareto, alpha 1"))
    }
    assert len(charts) == 3


def test_a_timeout_below_the_round_trip_makes_detection_miss() -> None:
    explorer = Explorer(world.run, "detect_new_and_new", "c", "7.2")
    assert "takes it for v2" in moved(explorer, round_trip_ms=100.0, detect_timeout_s=1.0)
    assert "takes it for v1" in moved(explorer, detect_timeout_s=0.05)
    assert not explorer.controls["detect_timeout_s"].disabled
    moved(explorer, protocol="v2")
    assert explorer.controls["detect_timeout_s"].disabled  # v2 is told, it asks no clock


def test_a_slider_stays_within_its_bounds() -> None:
    explorer = Explorer(world.run)
    moved(explorer, channels=1000, loss_percent=-3.0, seed=0, jitter_ms=1e9, round_trip_ms=1e9)
    values = {name: explorer.controls[name].value for name in ("channels", "loss_percent", "seed", "jitter_ms")}
    assert values == {"channels": 16, "loss_percent": 0, "seed": 1, "jitter_ms": 200}
    assert explorer.controls["round_trip_ms"].value == pytest.approx(10**3.5)
    assert explorer.result is not None


def test_a_situation_brings_its_own_path_and_nothing_else_is_changed() -> None:
    explorer = Explorer(world.run, "channels_2_and_4", "v2")
    assert explorer.controls["channels"].value == 4
    assert explorer.scenario.source.parameters != explorer.scenario.destination.parameters  # not moved: as written
    moved(explorer, channels=3)
    assert explorer.scenario.source.parameters == explorer.scenario.destination.parameters == {"multifd-channels": 3}
    moved(explorer, situation="slow_path")
    assert explorer.controls["round_trip_ms"].value == 2 * explorer.scenario.link.delay_ms


@pytest.mark.parametrize(
    ("situation", "values", "expected"),
    [
        ("matched", {"protocol": "a", "channels": 4}, "detection by (a) is played with main alone"),
        ("exec_cat", {"fault": "an intruder sends garbage"}, "nobody else can connect where the path is 'exec-cat'"),
    ],
)
def test_what_can_not_be_run_is_one_sentence_and_no_stale_chart(
    situation: str, values: dict[str, object], expected: str
) -> None:
    explorer = Explorer(world.run, situation)
    assert moved(explorer, **values) == ""
    assert expected in explorer.message.value and "Traceback" not in explorer.message.value
    assert moved(explorer, protocol="v1", channels=0, fault="nothing more") != ""


def test_where_no_kernel_answers_the_chart_stands_still_in_its_place() -> None:
    explorer = Explorer(world.run, "stranger_silent", version="11.1")
    shown = explorer._repr_mimebundle_()
    assert shown["image/svg+xml"] == explorer.chart.value and "application/vnd.jupyter.widget-view+json" in shown
    assert shown["text/plain"] == "stranger_silent: v1, 11.1, seed 1: hung"


def test_every_situation_under_every_protocol_is_drawn_or_explained() -> None:
    explorer = Explorer(world.run)
    for number, scenario in enumerate(load_all()):
        moved(
            explorer,
            situation=scenario.name,
            fault=list(FAULTS)[number % len(FAULTS)],
            source_version=VERSIONS[number % 5],
            destination_version=VERSIONS[number // 5 % 5],
        )
        for protocol in PROTOCOLS:
            assert moved(explorer, protocol=protocol) or "can't be run" in explorer.message.value


def test_the_explorer_needs_no_pandas_and_no_matplotlib() -> None:
    code = "import sys, simlib.study.widget; print({'pandas', 'numpy', 'matplotlib'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"
