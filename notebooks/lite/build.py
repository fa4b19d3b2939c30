"""The browser edition: `python notebooks/lite/build.py build/site`, or `make site`.

The lab in JupyterLite, with Python compiled to WebAssembly, all notebooks as pages, and a page that leads to them. The
site asks no other host for anything. To build it, npm brings Pyodide and pip the wheels; both are held against what is
written down here, and kept in build/site-parts.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pages
from jupyterlite_pyodide_kernel.constants import PYODIDE_PYTHON_VERSION, PYODIDE_VERSION
from nbclient import NotebookClient
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PARTS = ROOT / "build" / "site-parts"
EXTENSIONS = Path(sys.prefix) / "share" / "jupyter" / "labextensions"
KERNEL = "@jupyterlite/pyodide-kernel-extension"  # which the Makefile has put where JupyterLab doesn't look
KERNEL_AT = Path(sys.prefix) / "share" / "jupyterlite" / KERNEL
SHOWN = (KERNEL_AT, EXTENSIONS / "@jupyter-widgets" / "jupyterlab-manager", EXTENSIONS / "jupyterlab_pygments")
PYODIDE_SHA512 = "BKDTJyIqFxC4BExLqeRS3f5xvXZIjOt8C3zGLN/Cc7tFxSwvKVhVkchQQ2AGLOtR4YrVOIFxbV8poyDOOmWwxQ=="  # 314.0.6
RUNTIME = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip")
NEEDED_DATA = ("simlib/data/scenarios/", "simlib/data/profiles/")  # captures and results stay at home
EPOCH = (2020, 1, 1, 0, 0, 0)  # of the files in our wheel: the same bytes every time


class Failure(Exception):
    """Why there is no site, in a sentence."""


def call(*words: object, cwd: Path = ROOT) -> str:
    """What a program prints; its complaint if it fails."""
    done = subprocess.run([str(w) for w in words], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"{' '.join(map(str, words[:4]))} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


# --- what is brought --------------------------------------------------------------------------------------------------
def bring_pyodide() -> Path:
    """The folder of Pyodide's own files, of the version that the kernel was built for."""
    archive = PARTS / f"pyodide-{PYODIDE_VERSION}.tgz"
    if not archive.exists():
        if shutil.which("npm") is None:
            raise Failure("npm is missing, which brings Pyodide (Debian: apt-get install npm)")
        call("npm", "pack", "--silent", f"pyodide@{PYODIDE_VERSION}", cwd=PARTS)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != PYODIDE_SHA512:
        archive.unlink()
        raise Failure(f"{archive.name} has the SHA-512 {digest}, not the one that notebooks/lite/build.py names")
    with tarfile.open(archive) as packed:
        safely = (
            {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        )  # since 3.11.4; its SHA-512 is ours anyway
        packed.extractall(PARTS / "pyodide", **safely)
    return PARTS / "pyodide" / "package"


def bring_wheels() -> list[Path]:
    """Every wheel that Python in the browser loads: PyPI's, the kernel's, and ours."""
    lock, folder = HERE / "browser.lock", PARTS / "wheels"
    stamp = folder / hashlib.sha256(lock.read_bytes()).hexdigest()
    if not stamp.exists():
        shutil.rmtree(folder, ignore_errors=True)
        call(
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--python-version",
            PYODIDE_PYTHON_VERSION,
            "--implementation",
            "py",
            "--abi",
            "none",
            "--platform",
            "any",
            "--dest",
            folder,
            "-r",
            lock,
        )
        stamp.touch()
    kernel = (KERNEL_AT / "static" / "pypi").glob("*.whl")
    ours = [w for w in kernel if not w.name.startswith("widgetsnbextension")]
    return sorted([*folder.glob("*.whl"), *ours, build_wheel()], key=lambda p: p.name)


def build_wheel() -> Path:
    """simlib as a wheel, with the data that a run needs and no more."""
    folder = PARTS / "simlib"
    shutil.rmtree(folder, ignore_errors=True)
    call(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        folder / "whole",
        ROOT,
    )
    whole = next((folder / "whole").glob("*.whl"))
    small = folder / whole.name
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as new:
        names = [n for n in old.namelist() if not n.startswith("simlib/data/") or n.startswith(NEEDED_DATA)]
        for name in sorted(names):
            data = old.read(name)
            if name.endswith("/RECORD"):
                lines = data.decode().splitlines(keepends=True)
                data = "".join(line for line in lines if line.partition(",")[0] in names).encode()
            new.writestr(zipfile.ZipInfo(name, EPOCH), data, zipfile.ZIP_DEFLATED)
    return small


# --- what is laid out -------------------------------------------------------------------------------------------------
def entry(wheel: Path) -> tuple[str, dict[str, Any]]:
    """A wheel as Pyodide's lock names it. Nothing depends on anything: all of them are loaded at the start."""
    with zipfile.ZipFile(wheel) as file:
        parts = {n.partition("/")[0] for n in file.namelist()}
    name, version = wheel.name.split("-")[:2]
    name = re.sub(r"[-_.]+", "-", name).lower()
    return name, {
        "name": name,
        "version": version,
        "file_name": wheel.name,
        "install_dir": "site",
        "package_type": "package",
        "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "depends": [],
        "unvendored_tests": False,
        "imports": sorted(p.removesuffix(".py") for p in parts if not p.endswith((".dist-info", ".data"))),
    }


def lay_out(lite: Path) -> None:
    """JupyterLite's folder: Pyodide with a lock of our own, the notebook, the settings."""
    shutil.rmtree(lite, ignore_errors=True)
    target = lite / "static" / "pyodide"
    target.mkdir(parents=True)
    source = bring_pyodide()
    for name in RUNTIME:
        shutil.copy(source / name, target)
    wheels = bring_wheels()
    for wheel in wheels:
        shutil.copy(wheel, target)
    packages = dict(entry(w) for w in wheels)
    lock = json.loads((source / "pyodide-lock.json").read_text())
    (target / "pyodide-lock.json").write_text(json.dumps({**lock, "packages": packages}, indent=1))
    plugin = {"disablePyPIFallback": True, "loadPyodideOptions": {"packages": sorted(packages)}}
    config = {
        "appName": "The migration handshake lab",
        "exposeAppInBrowser": True,
        "litePluginSettings": {f"{KERNEL}:kernel": plugin},
    }
    settings = {"jupyter-lite-schema-version": 0, "jupyter-config-data": config}
    (lite / "jupyter-lite.json").write_text(json.dumps(settings, indent=1))
    quiet = {
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
        "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    }  # a chart stays where it is
    (lite / "overrides.json").write_text(json.dumps(quiet, indent=1))
    (lite / "files").mkdir()
    # not by nbformat.write: that cuts texts into lists of lines, which JupyterLite does not join again
    (lite / "files" / "try_it.ipynb").write_text(json.dumps(executed(HERE / "try_it.py")), encoding="utf-8")


def executed(source: Path) -> Any:
    """The notebook with what it shows, so that there is something to see before Python has come."""
    notebook = jupytext.read(source)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    config = Config()
    config.KernelManager.transport_encryption = "auto"
    NotebookClient(notebook, timeout=120, store_widget_state=False, config=config).execute()
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if not any("widget" in kind for kind in o.get("data", {}))]
    notebook.metadata["kernelspec"] = {**kernel, "display_name": "Python (Pyodide)", "name": "python"}
    return notebook


def build_lite(lite: Path, out: Path) -> None:
    """JupyterLite itself, with the extensions that are used."""
    config = {
        "LiteBuildConfig": {
            "apps": ["lab"],
            "contents": [str(lite / "files")],
            "no_sourcemaps": True,
            "no_unused_shared_packages": True,
            "no_libarchive": True,
            "ignore_sys_prefix": ["federated_extensions"],
            "output_dir": str(out),
            "federated_extensions": [str(path) for path in SHOWN],
        }
    }
    (lite / "jupyter_lite_config.json").write_text(json.dumps(config, indent=1))
    call(sys.executable, "-m", "jupyter", "lite", "build", cwd=lite)


def inputs() -> str:
    """A digest of whatever the site is made of, so that it is made anew only then."""
    folders = (ROOT / "simlib", ROOT / "data" / "scenarios", ROOT / "data" / "profiles", HERE)
    kinds = (".py", ".toml", ".json", ".lock", ".html")
    files = [p for folder in folders for p in sorted(folder.rglob("*")) if p.suffix in kinds]
    files += sorted((ROOT / "notebooks").glob("*.ipynb"))
    files += [
        ROOT / name
        for name in ("data/results/claims.md", "data/vectors/SPEC.md", "requirements.lock", "build/slides/review.html")
    ]
    return hashlib.sha256(b"".join(f"{p}\n".encode() + p.read_bytes() for p in files if p.exists())).hexdigest()


def main() -> int:
    began, out = time.monotonic(), Path(sys.argv[1]).resolve()
    PARTS.mkdir(parents=True, exist_ok=True)
    try:
        made_of, stamp = inputs(), out / "made-of.txt"
        if not stamp.exists() or stamp.read_text() != made_of:
            lay_out(PARTS / "lite")
            shutil.rmtree(out, ignore_errors=True)
            build_lite(PARTS / "lite", out / "lite")
            pages.write(ROOT, out)
            stamp.write_text(made_of)
    except Failure as error:
        print(f"no site: {error}", file=sys.stderr)
        return 1
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    print(f"{out}: {size / 1e6:.0f} MB in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
