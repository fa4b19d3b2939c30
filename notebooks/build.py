"""Text notebooks (NN_name.py, jupytext percent) to executed NN_name.ipynb: the same bytes every time.

python notebooks/build.py            write them
python notebooks/build.py --check    exit 1 if what they print has changed (pictures are not compared)
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
          "language_info": {"name": "python"}}  # fmt: skip


def build(source: Path) -> Any:
    """The executed notebook of a text notebook."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(KERNEL)
    config = Config()
    config.KernelManager.transport_encryption = "auto"
    client = NotebookClient(notebook, timeout=120, record_timing=False, resources={"metadata": {"path": str(HERE)}},
                            store_widget_state=False, config=config)  # fmt: skip
    client.execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02}"
        cell.metadata = nbformat.from_dict({})
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    notebook.metadata = nbformat.from_dict(KERNEL)
    return notebook


def text_of(notebook: Any) -> list[str]:
    """Sources and what they print, without pictures."""
    told = []
    for cell in notebook.cells:
        told.append(cell.source)
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            shown = output.get("text") or data.get("text/markdown") or data.get("text/plain", "")
            told.append(re.sub(r"0x[0-9a-f]+", "0x", shown))
    return told


def main() -> int:
    stale = []
    for source in sorted(HERE.glob("[0-9]*.py")):
        target = source.with_suffix(".ipynb")
        notebook = build(source)
        if "--check" not in sys.argv:
            nbformat.write(notebook, target)
        elif text_of(nbformat.read(target, 4)) != text_of(notebook):
            stale.append(target.name)
    if stale:
        print(f"{', '.join(stale)}: not what its text says; run `make notebooks` and read the diff", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
