"""Notebooks show what their text twins say, define nothing, and open with a question."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import jupytext
import nbformat
import pytest

HERE = Path(__file__).resolve().parents[1] / "notebooks"
SOURCES = sorted(HERE.glob("[0-9]*.py"))
spec = importlib.util.spec_from_file_location("build", HERE / "build.py")
assert spec and spec.loader
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)


def test_every_notebook_has_a_text_twin() -> None:
    assert SOURCES
    assert [p.with_suffix(".ipynb") for p in SOURCES] == sorted(HERE.glob("*.ipynb"))


@each_notebook
def test_a_notebook_has_the_cells_of_its_text_and_is_small(source: Path) -> None:
    notebook = nbformat.read(source.with_suffix(".ipynb"), 4)
    assert [c.source for c in notebook.cells] == [c.source for c in jupytext.read(source).cells]
    assert source.with_suffix(".ipynb").stat().st_size < 400_000
    for cell in notebook.cells:
        assert len(cell.source.splitlines()) <= 15, cell.source
        assert not any(o.output_type == "error" for o in cell.get("outputs", ()))


@each_notebook
def test_a_notebook_has_a_picture_that_needs_no_trust_wherever_it_has_a_picture_or_a_widget(source: Path) -> None:
    cells = nbformat.read(source.with_suffix(".ipynb"), 4).cells
    shown = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    drawn = [data for data in shown if any(kind.startswith("image/") or kind == build.WIDGET for kind in data)]
    assert [data for data in drawn if "<img " not in data.get("text/html", "")] == []


@each_notebook
def test_a_notebook_asks_first_answers_last_and_defines_nothing(source: Path) -> None:
    """But for the one that is about definitions."""
    cells = jupytext.read(source).cells
    assert cells[0].cell_type == "markdown"
    assert "?" in cells[0].source.splitlines()[0]
    assert cells[-1].source.startswith("Markdown(")  # words with computed numbers
    for cell in cells:
        if cell.cell_type == "code" and source.stem != "07_your_own":
            assert not any(isinstance(n, DEFINITIONS) for n in ast.walk(ast.parse(cell.source)))


@pytest.mark.filterwarnings("default")  # the kernel's client may warn; what it runs has its own filters
@pytest.mark.parametrize(
    "source",
    [pytest.param(p, marks=pytest.mark.slow) if p.stem.startswith(("02", "03", "04", "06")) else p for p in SOURCES],
    ids=lambda p: p.stem,
)
def test_a_notebook_prints_the_same_when_it_is_built_again(source: Path) -> None:
    assert build.difference(build.build(source), source.with_suffix(".ipynb")) == ""
