"""slides/NAME.py (jupytext percent) to build/slides/NAME.html and .pdf: what its cells print, the code left out.

A heading starts a slide. The page is one file that asks no network for anything; pictures are inside. The PDF is made by
a Chromium of this machine through Playwright, a slide a page; without one the page alone is written, and that is said.

python notebooks/slides.py           all decks
"""

from __future__ import annotations

import base64
import html
import importlib.metadata
import os
import platform
import shutil
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mistune

import build
import simlib

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "build" / "slides"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SEED = 1  # that the cells run with, as all of simlib does unless told otherwise
MARKDOWN = mistune.create_markdown(escape=False, plugins=["table"])


def versions() -> str:
    """What the numbers were computed with."""
    packages = [f"{name} {importlib.metadata.version(name)}" for name in ("simpy", "matplotlib", "pandas")]
    return ", ".join([f"simlib {simlib.__version__}", *packages, f"Python {platform.python_version()}"])


def shown(output: Any) -> str:
    """One output as HTML; a picture goes inside, where its fonts and ids meet no other's."""
    data = output.get("data", {})
    if "image/svg+xml" in data:
        encoded = base64.b64encode(data["image/svg+xml"].encode()).decode()
        return f'<figure><img alt="" src="data:image/svg+xml;base64,{encoded}"></figure>'
    if "text/markdown" in data:
        return str(MARKDOWN(data["text/markdown"]))
    if "text/html" in data:
        return str(data["text/html"])
    return f"<pre>{html.escape(data.get('text/plain', '') or output.get('text', ''))}</pre>"


def slides(notebook: Any) -> Iterator[str]:
    """The body of each slide."""
    parts: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            if cell.source.startswith("#") and parts:
                yield "\n".join(parts)
                parts = []
            parts.append(str(MARKDOWN(cell.source)))
        else:
            parts += [shown(o) for o in cell.outputs]
    yield "\n".join(parts)


def page(notebook: Any) -> str:
    """The whole deck as one page."""
    bodies = list(slides(notebook))
    foot = f"seed {SEED} · {html.escape(versions())}"
    sections = [
        f"<section>\n{body}\n<footer><span>{foot}</span><span>{number} of {len(bodies)}</span></footer>\n</section>"
        for number, body in enumerate(bodies, 1)
    ]
    title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    frame = string.Template((HERE / "slides" / "deck.html").read_text(encoding="utf-8"))
    return frame.substitute(title=html.escape(title), slides="\n".join(sections))


def browser() -> str:
    """Where a Chromium is; empty if there is none."""
    return os.environ.get("CHROMIUM", "") or next((path for b in BROWSERS if (path := shutil.which(b))), "")


def without_pdf() -> str:
    """Why no PDF can be made; empty if one can."""
    if not browser():
        return "no Chromium is here; Debian's is `apt-get install --no-install-recommends chromium fonts-dejavu-core`"
    try:
        import playwright  # noqa: F401
    except ModuleNotFoundError:
        return "Playwright is missing; `pip install playwright` brings it, `make` has it"
    return ""


def print_pdf(source: Path) -> list[str]:
    """The PDF beside the page. Returns the titles of slides whose text does not fit."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser(), args=["--no-sandbox", "--disable-gpu"])
        view = started.new_page(viewport={"width": 1280, "height": 720}, offline=True)
        view.goto(source.as_uri())
        view.emulate_media(media="print")
        view.pdf(path=source.with_suffix(".pdf"), prefer_css_page_size=True, print_background=True)
        code = "all => all.filter(s => s.scrollHeight > 720).map(s => s.querySelector('h1, h2').textContent)"
        titles = view.eval_on_selector_all("section", code)
        started.close()
    return [str(title) for title in titles]


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    status = 0
    for source in sorted((HERE / "slides").glob("*.py")):
        written = OUT / f"{source.stem}.html"
        written.write_text(page(build.build(source)), encoding="utf-8")
        print(written.relative_to(HERE.parent))
        if why := without_pdf():
            print(f"the PDF was left out: {why}", file=sys.stderr)
            continue
        if cut := print_pdf(written):
            print(f"too full: {'; '.join(cut)}", file=sys.stderr)
            status = 1
        print(written.with_suffix(".pdf").relative_to(HERE.parent))
    return status


if __name__ == "__main__":
    sys.exit(main())
