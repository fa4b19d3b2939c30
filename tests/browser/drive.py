"""A real browser for tests: Debian's Chromium, cut off from everything but this machine, and what tests do in it."""

from __future__ import annotations

import html
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "build" / "site"
SCREENS = ROOT / "build" / "screens"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-domain-reliability",
)
LOCAL = re.compile(r"(http|ws)://127\.0\.0\.1[:/]|file:|data:|blob:|about:")
# What Chromium asks for by itself, on an empty page too. No page of ours may, but its own requests are noted apart.
OWN = re.compile(
    r"([a-z\d-]+\.)+google\.com|(update|safebrowsing|[a-z]+-(autofill|pa))\.googleapis\.com|"
    r"[a-z0-9-]+\.gvt1\.com"
)
AREA = ".jp-OutputArea-output:has(.widget-slider)"  # the output in which a slider and its chart stand
HANDLE = f"{AREA} .widget-slider .noUi-handle"
CHART = f"{AREA} svg"
TIMER = """area => {
  if (window.redraws) { window.redraws = []; return }
  window.redraws = []; let moved = null;
  document.addEventListener('keydown', () => { moved = performance.now() }, true);
  const drawn = m => [...m.addedNodes].some(n => n.nodeName === 'svg' || (n.querySelector && n.querySelector('svg')));
  new MutationObserver(found => {
    if (moved === null || !found.some(drawn)) return;
    const began = moved; moved = null;
    requestAnimationFrame(() => window.redraws.push(performance.now() - began));
  }).observe(area, {subtree: true, childList: true});
}"""


# Each picture of an output on the page, by the number of its cell: whether it is loaded, and whether it lies inside its
# output area and that inside the window; else it is cut off.
PICTURES = """() => [...document.querySelectorAll('.jp-OutputArea-output img')].map(image => {
  const area = image.closest('.jp-OutputArea-output'), cell = area.closest('.jp-Cell');
  const number = cell.dataset.windowedListIndex ?? [...document.querySelectorAll('.jp-Cell')].indexOf(cell);
  const box = image.getBoundingClientRect(), outer = area.getBoundingClientRect();
  return {of: number + '.' + [...cell.querySelectorAll('img')].indexOf(image),
    loaded: image.complete && image.naturalWidth > 0, wide: box.width, room: outer.width,
    inside: box.width > 0 && box.left >= outer.left - 1 && box.right <= outer.right + 1 && box.top >= outer.top - 1 &&
      box.bottom <= outer.bottom + 1 && outer.left >= 0 && outer.right <= innerWidth + 1};
})"""
# Pairs of texts of an SVG whose boxes overlap, and texts that stick out of it.
CROWDED = """() => {
  const svg = document.querySelector('svg'), sheet = svg.getBoundingClientRect(), crowded = [];
  const boxes = [...svg.querySelectorAll('text')].filter(t => t.textContent.trim())
    .map(t => [t.textContent.trim(), t.getBoundingClientRect()]);
  boxes.forEach(([text, a], n) => {
    if (a.left < sheet.left - 1 || a.right > sheet.right + 1 || a.top < sheet.top - 1 || a.bottom > sheet.bottom + 1)
      crowded.push(text);
    for (const [other, b] of boxes.slice(n + 1))
      if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
          Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1) crowded.push(text + ' | ' + other);
  });
  return crowded;
}"""
SCROLLED = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer"  # what holds a notebook's cells


def program() -> str | None:
    """Where Chromium is; Playwright's own can't be counted on where there is no network."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Watched:
    """A page, and all that should not have happened on it."""

    page: Any
    outside: list[str]  # what was asked of other hosts
    errors: list[str] = field(default_factory=list)

    def look(self, name: str, whole: bool = False) -> None:
        """Leave a screenshot for people."""
        SCREENS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENS / f"{name}.png", full_page=whole)


@contextmanager
def watched(width: int = 1280, height: int = 900) -> Iterator[Watched]:
    """A fresh browser. Whatever isn't for this machine goes to a proxy that notes it and hangs up; that catches
    workers, too, and requests that no page made."""
    from playwright.sync_api import sync_playwright

    with _refusing() as (port, outside), sync_playwright() as playwright:
        arguments = [*QUIET, f"--proxy-server=http://127.0.0.1:{port}"]
        browser = playwright.chromium.launch(executable_path=program(), headless=True, args=arguments)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            watched_page = Watched(page, outside)
            page.context.on("request", lambda r: None if LOCAL.match(r.url) else outside.append(r.url))
            page.on("pageerror", lambda error: watched_page.errors.append(str(error)))
            page.on("console", lambda said: watched_page.errors.append(_told(said)) if said.type == "error" else None)
            yield watched_page
        finally:
            browser.close()


def _told(said: Any) -> str:
    return f"{said.text} ({said.location['url'].partition('?')[0]})"


@contextmanager
def _refusing() -> Iterator[tuple[int, list[str]]]:
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # closed: the test is over
                    return
                with connection, suppress(OSError):
                    connection.settimeout(2)
                    words = connection.recv(4096).decode("latin-1").split()
                    host = re.sub(r"^\w+://|[:/].*", "", words[1]) if len(words) > 1 else "?"
                    if not OWN.fullmatch(host):
                        asked.append(" ".join(words[:2]))

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1], asked
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *said: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder on a static server of this machine; its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def lab(folder: Path, notebook: Path) -> Iterator[str]:
    """The URL of a copy of the notebook in a real JupyterLab, which draws all of it at once."""
    whole = {"notebook-extension/tracker": {"windowingMode": "none"}}  # else what is out of sight isn't there
    with make_lab(folder, [notebook], whole) as url_of:
        yield url_of(notebook)


@contextmanager
def make_lab(folder: Path, notebooks: Iterable[Path], chosen: Mapping[str, Any]) -> Iterator[Callable[[Path], str]]:
    """JupyterLab with the very command of `make lab`, on copies of notebooks; where each of them is opened. Of its
    user there are no settings but those that are chosen, and that it may not look for news."""
    (folder / "notebooks").mkdir(parents=True)
    for notebook in notebooks:
        shutil.copy(notebook, folder / "notebooks")
    quiet = {"apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False}}
    for plugin, values in {**quiet, **chosen}.items():
        file = folder / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    places = {
        name: str(folder / name.lower())
        for name in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_RUNTIME_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
            "IPYTHONDIR",
        )
    }
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    url = f"http://127.0.0.1:{port}"
    command = [
        *makes("lab"),
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        "--LabApp.expose_app_in_browser=True",
    ]
    environment = {**os.environ, **places, "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            _answers(f"{url}/api/status?token={token}", server)
            yield lambda notebook: f"{url}/lab/tree/{notebook.name}?token={token}&reset"
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def makes(target: str) -> list[str]:
    """The command of a target of the Makefile, with the program that stands beside this Python."""
    asked = ["make", "--no-print-directory", "-n", target]
    recipe = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    name, *words = shlex.split(recipe.splitlines()[-1])  # before it, .venv may be set up
    return [str(Path(sys.executable).with_name(Path(name).name)), *words]


def _answers(url: str, server: subprocess.Popen[bytes], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise TimeoutError(f"JupyterLab does not answer at {url.partition('?')[0]}")


def run_all(page: Any, seconds: float = 180) -> None:
    """Wait for the kernel, run every cell, and wait for the chart beside a slider."""
    timeout = seconds * 1000
    idle = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    page.wait_for_function(idle, timeout=timeout)
    for command in ("notebook:clear-all-cell-outputs", "runmenu:run-all"):  # what is seen later was made here
        page.evaluate("command => window.jupyterapp.commands.execute(command)", command)
    page.wait_for_selector(HANDLE, timeout=timeout)
    page.wait_for_selector(CHART, timeout=timeout)
    waiting = "() => [...document.querySelectorAll('.jp-InputPrompt')].some(e => e.textContent.includes('*'))"
    page.wait_for_function(f"{idle.replace('() =>', '() => !(' + waiting + ')() &&', 1)}", timeout=timeout)


def failures(page: Any) -> list[str]:
    """What went wrong in cells: the kernel's word for it."""
    return [
        e.inner_text()
        for e in page.query_selector_all(
            ".jp-OutputArea-output[data-mime-type*='error'], .jp-RenderedText[data-mime-type*='stderr']"
        )
    ]


def move(page: Any, steps: int = 1) -> tuple[str, str]:
    """Move the first slider; the chart before and after."""
    before = page.locator(CHART).first.evaluate("e => e.outerHTML")
    page.locator(HANDLE).first.focus()
    for _ in range(steps):
        page.keyboard.press("ArrowRight")
    changed = "([css, old]) => { const e = document.querySelector(css); return e && e.outerHTML !== old }"
    page.wait_for_function(changed, arg=[CHART, before], timeout=30_000)
    return before, page.locator(CHART).first.evaluate("e => e.outerHTML")


def redraws(page: Any, moves: int = 20) -> list[float]:
    """Milliseconds from each move of the first slider to the first frame after its chart has changed."""
    page.locator(AREA).first.evaluate(TIMER)
    page.locator(HANDLE).first.focus()
    for n in range(moves):
        page.keyboard.press("ArrowRight")
        page.wait_for_function("n => window.redraws.length > n", arg=n, timeout=30_000)
    times_ms = list(page.evaluate("() => window.redraws"))
    assert len(times_ms) == moves, f"{moves} moves were counted as {len(times_ms)}"
    return times_ms


def pictures(page: Any) -> str:
    """The SVGs that cells have shown as their results, in images."""
    urls = page.eval_on_selector_all(".jp-OutputArea-output img", "all => all.map(i => i.src)")
    return "".join(svg_of(url) for url in urls if url.startswith("data:image/svg+xml"))


def svg_of(url: str) -> str:
    """What a data URL holds."""
    with urllib.request.urlopen(url) as opened:
        return str(opened.read().decode())


@dataclass
class Seen:
    """What a reader who scrolls from the top of a notebook to its end has seen."""

    charts: dict[str, dict[str, Any]] = field(default_factory=dict)
    text: str = ""


def scrolled(page: Any) -> Seen:
    """Scroll through the notebook on the page, a lab's or an exported one; out of sight a lab draws nothing."""
    page.wait_for_selector(".jp-OutputArea-output")
    page.wait_for_function("() => !window.jupyterapp || window.jupyterapp.shell.currentWidget?.context?.isReady")
    seen, place, first = Seen(), -1, 0
    outer = page.query_selector(SCROLLED) or page.query_selector("html")
    outer.evaluate("e => e.scrollTo(0, 0)")
    while (now := outer.evaluate("e => e.scrollTop")) > place:
        place = now
        page.wait_for_timeout(200)  # what came into sight is drawn
        seen.charts |= {chart["of"]: chart for chart in page.evaluate(PICTURES)}
        first = first if seen.charts else place
        seen.text += outer.inner_text()
        outer.evaluate("e => e.scrollBy(0, 600)")
    outer.evaluate("(e, place) => e.scrollTo(0, place)", first + 600)  # to a chart, for a screenshot
    return seen


def write(page: Any, text: str) -> None:
    """Write a sentence into a notebook's first cell, which is text, and save."""
    page.locator(".jp-MarkdownCell").first.dblclick()
    page.locator(".jp-MarkdownCell .cm-content").first.press_sequentially(text)
    page.keyboard.press("Shift+Enter")
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")


def crowded(page: Any, svg: str) -> list[str]:
    """The texts of a chart that overlap another, or are cut off at its edge."""
    page.set_content(svg)
    return list(page.evaluate(CROWDED))


def titles(svg: str) -> set[str]:
    """What a chart tells where one points at it, in words."""
    return {html.unescape(t) for t in re.findall(r"<title>(.*?)</title>", svg)}


def with_slider() -> Path:
    """The first committed notebook that has one."""
    return next(p for p in sorted((ROOT / "notebooks").glob("*.ipynb")) if "Explorer" in p.read_text(encoding="utf-8"))
