"""The deck is one page that needs nothing from anywhere, and says what it was made with."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jupytext
import nbformat
import pytest

from tests.browser import drive

HERE = Path(__file__).resolve().parents[1] / "notebooks"
DECK = HERE / "slides" / "review.py"


@pytest.fixture
def deck(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(HERE)
    spec = importlib.util.spec_from_file_location("slides", HERE / "slides.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("build", None)


def small(*outputs: dict[str, str]) -> nbformat.NotebookNode:
    """A notebook of two slides; the second shows these outputs."""
    code = nbformat.v4.new_code_cell("secret_code()")
    code.outputs = [nbformat.v4.new_output("display_data", data=data) for data in outputs]
    cells = [nbformat.v4.new_markdown_cell(text) for text in ("# Told or detected?", "## A picture")]
    return nbformat.v4.new_notebook(cells=[*cells, code])


def test_a_heading_starts_a_slide_and_the_code_is_hidden(deck: ModuleType) -> None:
    page = deck.page(small({"text/markdown": "**7** of 9", "text/plain": "no"}))
    assert page.count("<section>") == 2 and "1 of 2" in page and "<title>Told or detected?</title>" in page
    assert "<strong>7</strong>" in page and "secret_code" not in page


def test_every_slide_says_seed_and_versions(deck: ModuleType) -> None:
    for slide in re.findall(r"<section>(.*?)</section>", deck.page(small()), re.DOTALL):
        assert re.search(r"seed \d+ · simlib \d.*simpy \d.*Python 3", slide)


def test_the_page_asks_no_network_for_anything(deck: ModuleType) -> None:
    page = deck.page(small({"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg'/>", "text/plain": "no"}))
    assert "data:image/svg+xml;base64," in page
    assert not re.search(r"https?://|@import|url\(|<link|src=\"(?!data:)", page)


def test_without_a_chromium_one_sentence_says_what_to_install(
    deck: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deck.shutil, "which", lambda name: None)
    monkeypatch.delenv("CHROMIUM", raising=False)
    message = deck.without_pdf()
    assert "apt-get install" in message and "chromium" in message and "\n" not in message


def test_the_review_has_twelve_slides_and_defines_nothing() -> None:
    cells = jupytext.read(DECK).cells
    assert sum(c.cell_type == "markdown" and c.source.startswith("#") for c in cells) == 12
    assert not any(re.search(r"^\s*(def|class) ", c.source, re.MULTILINE) for c in cells if c.cell_type == "code")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the kernel's client may warn; what it runs has its own filters
def test_the_review_is_made_and_every_slide_fits_and_no_two_labels_overlap(deck: ModuleType, tmp_path: Path) -> None:
    notebook = deck.build.build(DECK)
    assert not any(o.output_type == "error" for c in notebook.cells for o in c.get("outputs", ()))
    written = tmp_path / "review.html"
    written.write_text(deck.page(notebook), encoding="utf-8")
    if why := deck.without_pdf():
        pytest.skip(f"{why}, so the PDF was not tested")
    assert deck.print_pdf(written) == []
    assert len(re.findall(rb"/Type /Page\b", written.with_suffix(".pdf").read_bytes())) == 12
    with drive.watched() as browser:
        browser.page.goto(written.as_uri())
        urls = browser.page.eval_on_selector_all("figure img", "all => all.map(i => i.src)")
        assert len(urls) >= 5
        assert [text for url in urls for text in drive.crowded(browser.page, drive.svg_of(url))] == []
