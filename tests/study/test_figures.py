"""Figures are the same every time, and the curves of D2 say what the closed forms say."""

from __future__ import annotations

from itertools import combinations

import pytest

pandas = pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

from matplotlib.figure import Figure  # noqa: E402
from matplotlib.text import Annotation, Text  # noqa: E402

from simlib import world  # noqa: E402
from simlib.study import costs, curves, figures  # noqa: E402
from simlib.study.claims import ExperimentContext  # noqa: E402
from simlib.study.detection import kinds  # noqa: E402


def test_a_figure_has_the_same_bytes_every_time() -> None:
    table = curves.by_path([0.02, 0.1, 1.0], kinds()[:2])
    one, two = (figures.error_curves(table, None, "A title").data for _ in range(2))
    assert one == two and "A title" in one and "<dc:date>" not in one


def test_a_heat_map_tells_each_cell_and_the_line_of_its_limit() -> None:
    table = curves.grid(ExperimentContext(world.run), (0.01, 1.0), (0.002, 0.2), runs=2)
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


@pytest.fixture(scope="module")
def mismatches() -> pandas.DataFrame:
    """What notebook 04 and the slides draw."""
    sizes_mib = (64, 256, 1024, 4096, 16384, 65536, 131072)
    return costs.savings(world.run, costs.mismatches(world.run), sizes_mib)


@pytest.fixture
def drawn(mismatches: pandas.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Figure:
    """The figure of what v2 saves, laid out."""
    monkeypatch.setattr(figures, "svg", lambda figure, salt: figure)
    figure = figures.waste(mismatches)
    figure.draw_without_rendering()
    return figure


def test_no_two_labels_of_what_v2_saves_overlap_and_none_is_cut_off(drawn: Figure) -> None:
    texts = [t for t in drawn.findobj(Text) if t.get_visible() and t.get_text()]
    # of the words alone: an annotation's own extent has its line in it
    boxes = {f"{t.get_text()} ({n})": Text.get_window_extent(t) for n, t in enumerate(texts)}
    assert sum(": " in text for text in boxes) >= 8
    pairs = [(one, two) for one, two in combinations(boxes, 2) if boxes[one].overlaps(boxes[two])]
    assert pairs == []
    for label in drawn.findobj(Annotation):
        box = Text.get_window_extent(label)
        assert drawn.bbox.contains(box.x0, box.y0) and drawn.bbox.contains(box.x1, box.y1), label.get_text()


def test_never_is_drawn_beside_the_scale_of_times_and_not_on_it(drawn: Figure, mismatches: pandas.DataFrame) -> None:
    scale = next(axis for axis in drawn.axes if axis.get_ylabel() == "s after the start")
    longest_s = mismatches.knows_s[mismatches.knows_s != costs.NEVER].max()
    times = [time for line in scale.lines for time in line.get_ydata() if not pandas.isna(time)]
    assert max(times) == longest_s
    strip = next(axis for axis in drawn.axes if [t.get_text() for t in axis.get_yticklabels()] == ["never"])
    assert all(line.get_linestyle() == "None" for line in strip.lines)
    one = mismatches[mismatches.protocol == "v1"].groupby("scenario").knows_s.apply(lambda s: (s == costs.NEVER).any())
    assert sum(int(t.get_text().split()[1]) for t in strip.texts) == one.sum()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.002, "2 ms"), (0.3, "0.3 s"), (30, "30 s"), (2000, "33.3 min"), (2e4, "5.56 h"), (3e5, "3.47 d")],
)
def test_times_are_told_short(value: float, expected: str) -> None:
    assert figures.seconds(value) == expected
