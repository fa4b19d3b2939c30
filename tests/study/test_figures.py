"""Figures are the same every time, and the curves of D2 say what the closed forms say."""

from __future__ import annotations

import pytest

pandas = pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

from simlib import world  # noqa: E402
from simlib.study import curves, figures  # noqa: E402
from simlib.study.claims import Lab  # noqa: E402
from simlib.study.detection import kinds  # noqa: E402


def test_a_figure_has_the_same_bytes_every_time() -> None:
    table = curves.by_path([0.02, 0.1, 1.0], kinds()[:2])
    one, two = (figures.error_curves(table, None, "A title").data for _ in range(2))
    assert one == two and "A title" in one and "<dc:date>" not in one


def test_a_heat_map_tells_each_cell_and_the_line_of_its_limit() -> None:
    table = curves.grid(Lab(world.run), (0.01, 1.0), (0.002, 0.2), runs=2)
    assert list(table.missed) == [0, 1, 0, 0]  # a timeout below the round trip misses always
    drawn = figures.heat_maps(table, [("missed", "misses")], curves.limit((0.002, 0.2))).data
    assert drawn.count("100%<") == 1 and drawn.count("0%<") == 4 and "one error in a million" in drawn


def test_the_timeout_for_one_error_in_a_million_grows_with_the_tail() -> None:
    for _, family in curves.tails().groupby("family"):
        assert family.sort_values("weight").timeout_s.is_monotonic_increasing
    needed = curves.needed().timeout_s
    assert needed["Pareto, alpha 1"] == pytest.approx(
        2000, rel=0.01
    )  # two legs of scale 1 ms, each above with 1e-3 / s


def test_an_outage_is_outlasted_or_missed() -> None:
    table = curves.by_loss([0.1, 1.0, 30.0]).set_index(["path", "timeout_s"]).missed
    assert table["outages of 10 s, 1 % of the time, one way", 1.0] > 0.005
    assert table["outages of 0.1 s, 1 % of the time, one way", 30.0] < 1e-6


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.002, "2 ms"), (0.3, "0.3 s"), (30, "30 s"), (2000, "33.3 min"), (2e4, "5.56 h"), (3e5, "3.47 d")],
)
def test_times_are_told_short(value: float, told: str) -> None:
    assert figures.seconds(value) == told
