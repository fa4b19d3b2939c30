"""Every chart of every notebook is seen whole: in JupyterLab as `make lab` opens it, and in what is exported of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.browser import drive

pytestmark = pytest.mark.slow
NOTEBOOKS = sorted((drive.ROOT / "notebooks").glob("*.ipynb"))
WIDTHS = (1280, 1440)
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], str]]:
    with drive.make_lab(tmp_path_factory.mktemp("lab"), NOTEBOOKS, {}) as url_of:
        yield url_of


def outputs(notebook: Path) -> list[dict[str, Any]]:
    """What the cells of a notebook show, by kind."""
    return [o.get("data", {}) for cell in nbformat.read(notebook, 4).cells for o in cell.get("outputs", ())]


def charts(notebook: Path) -> int:
    """How many outputs are pictures."""
    return sum(any(k.startswith("image/") for k in o) or "<img " in o.get("text/html", "") for o in outputs(notebook))


def assert_all_are_seen_whole(page: Any, notebook: Path) -> None:
    seen = drive.scrolled(page)
    assert len(seen.charts) == charts(notebook) > 0
    assert [c for c in seen.charts.values() if not c["loaded"]] == []
    assert [c for c in seen.charts.values() if not c["inside"]] == []
    assert re.findall(r"<[\w.]+ object>", seen.text) == []


@each_notebook
def test_make_lab_shows_every_chart_whole_without_trust(
    page: drive.Watched, lab: Callable[[Path], str], notebook: Path
) -> None:
    page.page.goto(lab(notebook))
    for width in WIDTHS:
        page.page.set_viewport_size({"width": width, "height": 900})
        assert_all_are_seen_whole(page.page, notebook)
        page.look(f"jupyterlab-{notebook.stem}-{width}")
    page.page.goto("about:blank")  # before its server goes, whose absence is no error of the page


def test_charts_are_still_there_after_a_reader_has_written_and_saved(page: drive.Watched, tmp_path: Path) -> None:
    copy = tmp_path / "notebooks" / NOTEBOOKS[0].name
    with drive.make_lab(tmp_path, NOTEBOOKS[:1], {}) as url_of:
        page.page.goto(url_of(copy))
        drive.scrolled(page.page)
        drive.write(page.page, "A word of the reader.")
        page.page.goto(url_of(copy))
        assert_all_are_seen_whole(page.page, copy)
        page.page.goto("about:blank")
    assert "A word of the reader." in copy.read_text(encoding="utf-8") and charts(copy) == charts(NOTEBOOKS[0])


@each_notebook
def test_an_exported_notebook_shows_every_chart_whole(tmp_path: Path, notebook: Path) -> None:
    HTMLExporter = pytest.importorskip("nbconvert", reason="NO nbconvert HERE, so no export was tried").HTMLExporter
    body, _ = HTMLExporter().from_filename(str(notebook))
    exported = tmp_path / "notebook.html"
    exported.write_text(body, encoding="utf-8")
    with drive.watched(width=1024) as browser:  # nbconvert's page asks a host for its mathematics; it is not answered
        browser.page.goto(exported.as_uri(), wait_until="domcontentloaded")
        assert_all_are_seen_whole(browser.page, notebook)


@each_notebook
def test_no_two_labels_of_a_chart_overlap_and_none_is_cut_off(page: drive.Watched, notebook: Path) -> None:
    sources = re.findall(r'src="(data:image/svg[^"]+)"', "".join(o.get("text/html", "") for o in outputs(notebook)))
    assert len(sources) == charts(notebook)
    for url in sources:
        assert drive.crowded(page.page, drive.svg_of(url)) == []
