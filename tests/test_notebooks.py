"""Notebooks show what their text twins say, and define nothing."""

from __future__ import annotations

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


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_a_notebook_has_the_cells_of_its_text_and_is_small(source: Path) -> None:
    notebook = nbformat.read(source.with_suffix(".ipynb"), 4)
    assert [c.source for c in notebook.cells] == [c.source for c in jupytext.read(source).cells]
    assert source.with_suffix(".ipynb").stat().st_size < 300_000
    for cell in notebook.cells:
        assert cell.source.count("\n") < 15
        assert not (cell.cell_type == "code" and ("def " in cell.source or "class " in cell.source))
        assert not any(o.output_type == "error" for o in cell.get("outputs", ()))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_a_notebook_prints_the_same_when_it_is_built_again(source: Path) -> None:
    committed = nbformat.read(source.with_suffix(".ipynb"), 4)
    assert build.text_of(build.build(source)) == build.text_of(committed)
