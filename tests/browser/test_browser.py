"""What a reader sees in a real browser: notebooks whose sliders move charts, and pages that ask nobody else.

Without Chromium these tests are left out, and the summary says so. Screenshots are left in build/screens.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from simlib import world
from simlib.case.files import load_all
from simlib.record import compare
from tests.browser import drive

pytestmark = pytest.mark.slow
SLIDES = drive.ROOT / "build" / "slides" / "review.html"


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The site as `make site` makes it, and its URL on a plain file server of this machine."""
    drive.SITE.parent.mkdir(exist_ok=True)
    with (drive.SITE.parent / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one build, whoever of pytest's processes comes first
        build = subprocess.run(
            [sys.executable, drive.ROOT / "notebooks/lite/build.py", drive.SITE], capture_output=True, text=True
        )
    if "npm is missing" in build.stderr:
        pytest.skip("NO npm HERE, so the site was not built and not tried (Debian: apt-get install npm)")
    assert build.returncode == 0, build.stderr
    with drive.served(drive.SITE) as url:
        yield url


def test_a_slider_moves_the_chart_of_a_notebook_in_jupyterlab(page: drive.Watched, tmp_path: Path) -> None:
    with drive.lab(tmp_path, drive.with_slider()) as url:
        page.page.goto(url)
        drive.run_all(page.page)
        before, after = drive.move(page.page)
        page.look("jupyterlab")
        assert before.startswith("<svg") and after.startswith("<svg") and before != after
        assert drive.failures(page.page) == []
        page.page.goto("about:blank")  # before its server goes, whose absence is no error of the page


def test_the_site_runs_the_lab_without_a_server(page: drive.Watched, site: str) -> None:
    page.page.goto(f"{site}/lite/lab/index.html?path=try_it.ipynb")
    drive.run_all(page.page)
    before, after = drive.move(page.page)
    page.look("site-try-it")
    assert before.startswith("<svg") and after.startswith("<svg") and before != after
    assert drive.failures(page.page) == []
    results = [
        world.run(j.scenario, protocol=j.protocol, version=j.version, manager=j.manager, seed=1)
        for j in compare.jobs(load_all())
    ]
    matrix = compare.matrix_svg([r.row for r in results])
    here, there = (drive.titles(svg) for svg in (matrix, drive.pictures(page.page)))
    assert here <= there  # each run ends in a browser as it ends here
    digest = sha256("".join(r.trace.digest() for r in results).encode()).hexdigest()
    assert digest in page.page.content()


def test_every_page_of_the_site_shows_all_that_it_holds(page: drive.Watched, site: str) -> None:
    pages = sorted(p.relative_to(drive.SITE).as_posix() for p in drive.SITE.rglob("*.html") if "lite" not in p.parts)
    assert {"index.html", "spec.html", "runs/index.html"} < set(pages) and any("notebooks/" in p for p in pages)
    for name in pages:
        page.page.goto(f"{site}/{name}", wait_until="load")
        page.look(f"site-{name.removesuffix('.html').replace('/', '-')}", whole=name == "index.html")
        assert page.page.evaluate("() => [...document.images].filter(i => !i.naturalWidth).map(i => i.src)") == []
        links = page.page.eval_on_selector_all("a[href]", "all => all.map(a => a.href)")
        for link in {u.partition("#")[0].partition("?")[0] for u in links if u.startswith(site)}:
            assert (drive.SITE / unquote(link.removeprefix(site)).strip("/")).exists(), f"{name} leads to {link}"


def test_the_first_page_fits_a_telephone(site: str) -> None:
    with drive.watched(390, 844) as narrow:
        narrow.page.goto(f"{site}/index.html")
        narrow.look("site-index-narrow", whole=True)
        assert narrow.page.evaluate("() => document.documentElement.scrollWidth") <= 390


def test_the_slides_open_from_a_file(page: drive.Watched) -> None:
    if not SLIDES.exists():
        pytest.skip("NO build/slides/review.html HERE, so the slides were not opened; `make slides` writes it")
    page.page.goto(SLIDES.as_uri())
    page.page.wait_for_load_state("networkidle")
    page.look("slides")
    assert page.page.locator("h1, h2, svg, img").count() > 0


def test_what_a_page_asks_of_others_and_what_fails_on_it_is_noticed(tmp_path: Path) -> None:
    """The two lists that the other tests want empty are filled when they should be."""
    (tmp_path / "index.html").write_text("<img src='http://example.org/a.png'><script>console.error('no')</script>")
    with drive.served(tmp_path) as url, drive.watched() as watched:
        watched.page.goto(f"{url}/index.html")
        watched.page.evaluate(ASKING_WORKER)
    requests: Any = " ".join(watched.outside)
    assert "example.org/a.png" in requests and "example.org/from-a-worker" in requests
    assert [e for e in watched.errors if e.startswith("no (")]


ASKING_WORKER = """() => new Promise(done => {
  const source = "fetch('http://example.org/from-a-worker').catch(() => 0).then(() => postMessage(0))";
  new Worker(URL.createObjectURL(new Blob([source]))).onmessage = done;
})"""
