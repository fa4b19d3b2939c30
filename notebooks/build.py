"""Text notebooks (NN_name.py, jupytext percent) to executed NN_name.ipynb: the same bytes every time.

python notebooks/build.py            write them
python notebooks/build.py --check    exit 1 if what they print has changed (pictures are not compared)
"""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
WIDGET = "application/vnd.jupyter.widget-view+json"  # dead without its kernel, and its ids are random
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def build(source: Path) -> Any:
    """The executed notebook of a text notebook."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(KERNEL)
    config = Config()
    config.KernelManager.transport_encryption = "auto"  # else ipykernel warns of plain TCP
    client = NotebookClient(
        notebook,
        timeout=600,
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
        store_widget_state=False,
        config=config,
    )
    client.execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
        cell.metadata = nbformat.from_dict({})
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {}) or _picture(o)]
            for output in cell.outputs:
                _make_lasting(output.get("data", {}), number)
    notebook.metadata = nbformat.from_dict(KERNEL)
    return notebook


def _picture(output: Any) -> bool:
    """Whether there is a still picture in the place of a dead widget; then it alone is kept."""
    output.data.pop(WIDGET)
    return any(kind.startswith("image/") for kind in output.data)


def _make_lasting(data: dict[str, Any], cell: int) -> None:
    """Without what is another with every run: an object's address, the name that pandas gives a styled table."""
    for kind, text in data.items():
        if isinstance(text, str):
            named = re.sub(r"\bT_[0-9a-f]{5}(?![0-9a-z])", f"T_{cell:05}", text)
            data[kind] = re.sub(r" at 0x[0-9a-f]+>", ">", named)


def _each_picture_once(notebook: Any) -> None:
    """A picture that stands in its HTML, which is what notebooks show, does not stand beside it too."""
    for output in (o for cell in notebook.cells for o in cell.get("outputs", ())):
        if "<img " in output.get("data", {}).get("text/html", ""):
            output.data.pop("image/svg+xml", None)


def text_of(notebook: Any) -> list[tuple[str, ...]]:
    """Each cell's source and what it prints, without pictures."""
    texts = []
    for cell in notebook.cells:
        datas = [{"text/plain": o.get("text", ""), **o.get("data", {})} for o in cell.get("outputs", ())]
        shown = [d.get("text/markdown") or d["text/plain"] for d in datas]
        texts.append((cell.source, *shown))
    return texts


def difference(built: Any, target: Path) -> str:
    """How the committed notebook differs from what its text makes, in a sentence; empty if it does not."""
    if not target.exists():
        return f"{target.name} is missing"
    pairs = itertools.zip_longest(text_of(built), text_of(nbformat.read(target, 4)))
    cells = [str(number) for number, (new, old) in enumerate(pairs) if new != old]
    return f"{target.name} is not what its text says, in cell {', '.join(cells)} (counted from 0)" if cells else ""


def main() -> int:
    stale = []
    for source in sorted(HERE.glob("[0-9]*.py")):
        built, target = build(source), source.with_suffix(".ipynb")
        if "--check" not in sys.argv:
            _each_picture_once(built)
            nbformat.write(built, target)
        elif text := difference(built, target):
            stale.append(text)
    if stale:
        print("; ".join(stale) + ": `make notebooks` rebuilds", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
