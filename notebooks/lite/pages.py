"""The site's pages: where one arrives, every notebook, every run, the specification. Each holds all that it shows."""

from __future__ import annotations

import re
import shutil
from html import escape
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import markdown2html_mistune as html_of
from pygments.formatters import HtmlFormatter

from simlib import world
from simlib.case.files import find, load_all
from simlib.record import compare
from simlib.record.compare import counts, groups
from simlib.record.outcome import Row

HERE = Path(__file__).resolve().parent
SHOWN = "device_only_at_source"  # the situation that the first page draws under both
TRY = "lite/lab/index.html?path=try_it.ipynb"
ABOUT = {
    "runs/index.html": ("Every run", "each situation under v1 and v2, as a chart and as a trace"),
    "spec.html": ("The specification", "v2 to the byte: enough to write a peer that fits"),
    "slides/review.html": ("The slides", "the same in ten minutes, for a meeting; one file, works offline"),
}


def write(root: Path, out: Path) -> None:
    """All pages into a folder that holds JupyterLite already."""
    rows = list(compare.run_all(world.run, compare.jobs(load_all()), out / "runs", 1))
    compare.finish(rows, load_all(), out / "runs", "simlib compare")
    code = f"<style>{HtmlFormatter(style='friendly').get_style_defs('.highlight')}</style>"
    (out / "notebooks").mkdir()
    asked = {}
    for source in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        notebook = nbformat.read(source, 4)
        name = f"notebooks/{source.stem}.html"
        asked[name] = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
        (out / name).write_text(page(asked[name], code + body, up="../"), encoding="utf-8")
    spec = (root / "data" / "vectors" / "SPEC.md").read_text(encoding="utf-8")
    (out / "spec.html").write_text(page(spec.splitlines()[0].lstrip("# "), code + html_of(spec)), encoding="utf-8")
    shutil.copy(root / "data" / "vectors" / "schema.json", out)  # the specification links to it
    if (root / "build" / "slides" / "review.html").exists():
        shutil.copytree(root / "build" / "slides", out / "slides", dirs_exist_ok=True)
    (out / "index.html").write_text(first(root, out, rows, asked), encoding="utf-8")
    shutil.copy(out / "lite" / "lab" / "favicon.ico", out)  # browsers ask for it, whatever a page says
    (out / ".nojekyll").touch()  # else some static hosts leave out what begins with _


def page(title: str, body: str, up: str = "") -> str:
    """A page of the house: its style inside, a way home above."""
    text = (HERE / "page.html").read_text(encoding="utf-8")
    for key, value in {"title": escape(title), "up": up, "try": up + TRY, "body": body}.items():
        text = text.replace(f"{{{{{key}}}}}", value)
    return text


def first(root: Path, out: Path, rows: list[Row], asked: dict[str, str]) -> str:
    """The page that a mail links to."""
    text = (HERE / "index.html").read_text(encoding="utf-8")
    values: dict[str, object] = {"try": TRY, "claims": claims(root), "situations": len({r.scenario for r in rows})}
    for name, group in groups(rows).items():
        short = name.replace("v1, ", "")
        values |= {f"{short}_{what}": count for what, count in counts(group)._asdict().items()}
    for protocol in ("v1", "v2"):
        values[f"{protocol}_chart"] = drawn(protocol)
    values["measured"] = sum(1 for _ in (root / "data" / "ground-truth.jsonl").open(encoding="utf-8"))
    links = [(where, *labels) for where, labels in ABOUT.items() if (out / where).exists()]
    values["read"] = "".join(f"<li><a href='{w}'>{escape(q)}</a></li>" for w, q in asked.items())
    values["links"] = "".join(f"<a class='card' href='{w}'><b>{t}</b><span>{a}</span></a>" for w, t, a in links)
    for key, value in values.items():
        text = text.replace(f"{{{{{key}}}}}", str(value))
    return page("The migration handshake lab", text)


def drawn(protocol: str) -> str:
    """The situation's chart, as wide as there is room."""
    svg = world.run(find(SHOWN), protocol=protocol, version="10.0")._repr_svg_()
    return re.sub(r" width='\d+' height='\d+'", "", svg, count=1)


def claims(root: Path) -> str:
    """The table of the claims of 2023 as rows with a coloured verdict."""
    table = (root / "data" / "results" / "claims.md").read_text(encoding="utf-8").splitlines()
    entries = []
    for line in table:
        cells = [c.strip() for c in line.strip("|").split(" | ")]
        if len(cells) != 4 or "**" not in cells[1]:
            continue
        claim, verdict, numbers, command = cells
        word, _, exception = verdict.removeprefix("**").partition("**")
        why = f"<p><b>Except:</b> {escape(exception.lstrip(': '))}</p>" if exception else ""
        shown = f"<code>{escape(command.strip('`'))}</code>"
        entries.append(
            f"<details><summary><span class='verdict {word.split()[0]}'>{escape(word)}</span>{escape(claim)}</summary>"
            f"{why}<p>{escape(numbers)}</p><p>{shown}</p></details>"
        )
    return "".join(entries)
