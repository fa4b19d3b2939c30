"""Who may import whom: the handshake is liftable, runners do not lean on each other, one owner per outside library."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "simlib"
FILES = sorted(ROOT.rglob("*.py"))
STDLIB = set(sys.stdlib_module_names)

# package -> what of ours it may import (itself always)
OURS = {
    "simlib": set(),
    "simlib.handshake": set(),
    "simlib.handshake.v1": {"simlib.handshake"},
    "simlib.handshake.v2": {"simlib.handshake"},
    "simlib.case.profiles": {"simlib.handshake"},
    "simlib.case.registry": {
        "simlib.case.delays",
        "simlib.case.faults",
        "simlib.case.intruders",
        "simlib.case.managers",
        "simlib.case.protocols",
    },
    "simlib.case.checks": {"simlib.case.registry", "simlib.handshake", "simlib.handshake.v2"},
    "simlib.case.delays": {"simlib.case.scenario"},
    "simlib.case.faults": {"simlib.case.checks", "simlib.case.intruders", "simlib.case.registry"},
    "simlib.case.intruders": {"simlib.case.registry", "simlib.handshake", "simlib.handshake.v2"},
    "simlib.case.effects": {"simlib.case.checks", "simlib.case.registry", "simlib.case.scenario"},
    "simlib.case.scenario": {
        "simlib.case.checks",
        "simlib.case.effects",
        "simlib.case.faults",
        "simlib.case.profiles",
        "simlib.case.registry",
        "simlib.handshake",
    },
    "simlib.case.protocols": {
        "simlib.case.endpoints",
        "simlib.case.registry",
        "simlib.handshake",
        "simlib.handshake.v1",
        "simlib.handshake.v2",
    },
    "simlib.case.managers": {"simlib.case.endpoints", "simlib.handshake"},
    "simlib.management": {
        "simlib.case.endpoints",
        "simlib.case.managers",
        "simlib.case.registry",
        "simlib.handshake",
        "simlib.host",
        "simlib.record.trace",
    },
    "simlib.record.trace": set(),
    "simlib.extras": set(),
    "simlib.record.chart": {"simlib.record.trace"},
    "simlib.record.capture": {"simlib.record.trace"},
    "simlib.record.outcome": {"simlib.handshake"},
    "simlib.host": {"simlib.handshake", "simlib.record.trace"},
    "simlib.case.endpoints": {
        "simlib.case.checks",
        "simlib.case.effects",
        "simlib.case.faults",
        "simlib.case.protocols",
        "simlib.case.registry",
        "simlib.case.scenario",
        "simlib.handshake",
        "simlib.handshake.v2",
        "simlib.host",
    },
    "simlib.record.result": {
        "simlib.case.endpoints",
        "simlib.case.registry",
        "simlib.handshake",
        "simlib.handshake.v2",
        "simlib.host",
        "simlib.record.capture",
        "simlib.record.chart",
        "simlib.record.outcome",
        "simlib.record.trace",
    },
    "simlib.record.compare": {
        "simlib.case.registry",
        "simlib.case.scenario",
        "simlib.record.chart",
        "simlib.record.outcome",
        "simlib.record.trace",
    },
    "simlib.explore": {
        "simlib.case",
        "simlib.case.endpoints",
        "simlib.case.faults",
        "simlib.case.intruders",
        "simlib.case.registry",
        "simlib.case.scenario",
        "simlib.handshake",
        "simlib.handshake.v2",
        "simlib.record.chart",
        "simlib.record.trace",
    },
    "simlib.study": {
        "simlib",
        "simlib.case",
        "simlib.case.checks",
        "simlib.case.faults",
        "simlib.case.profiles",
        "simlib.case.protocols",
        "simlib.case.registry",
        "simlib.case.scenario",
        "simlib.comparison",
        "simlib.explore",
        "simlib.extras",
        "simlib.handshake",
        "simlib.handshake.v2",
        "simlib.record.chart",
        "simlib.record.compare",
        "simlib.record.outcome",
        "simlib.record.trace",
    },
    "simlib.world": {
        "simlib.case.endpoints",
        "simlib.case.intruders",
        "simlib.case.registry",
        "simlib.case.scenario",
        "simlib.handshake",
        "simlib.handshake.v2",
        "simlib.host",
        "simlib.management",
        "simlib.record.outcome",
        "simlib.record.result",
        "simlib.record.trace",
    },
    "simlib.live": {
        "simlib.case.endpoints",
        "simlib.case.faults",
        "simlib.case.intruders",
        "simlib.case.registry",
        "simlib.case.scenario",
        "simlib.handshake",
        "simlib.host",
        "simlib.management",
        "simlib.record.capture",
        "simlib.record.result",
        "simlib.record.trace",
    },
    "simlib.real_qemu": {
        "simlib.case.checks",
        "simlib.case.endpoints",
        "simlib.case.faults",
        "simlib.case.profiles",
        "simlib.case.registry",
        "simlib.case.scenario",
        "simlib.handshake",
        "simlib.handshake.v2",
        "simlib.host",
        "simlib.live",
        "simlib.record.capture",
        "simlib.record.outcome",
        "simlib.record.result",
        "simlib.record.trace",
    },
    "simlib.case": set(),
    "simlib.record": set(),
    "simlib.comparison": {
        "simlib.case.scenario",
        "simlib.record.compare",
        "simlib.record.outcome",
        "simlib.record.result",
    },
    "simlib.api": {
        "simlib.case",
        "simlib.case.faults",
        "simlib.case.intruders",
        "simlib.case.managers",
        "simlib.case.protocols",
        "simlib.case.registry",
        "simlib.case.scenario",
        "simlib.comparison",
        "simlib.explore",
        "simlib.live",
        "simlib.record.result",
        "simlib.study",
        "simlib.world",
    },
    "simlib.__main__": {
        "simlib",
        "simlib.case",
        "simlib.case.profiles",
        "simlib.explore",
        "simlib.extras",
        "simlib.live",
        "simlib.real_qemu",
        "simlib.record",
        "simlib.study",
        "simlib.world",
    },
}
BOTH_VERSIONS = {"detect.py", "variants.py"}  # of handshake: the only files that see v1 and v2
HANDSHAKE_ALLOWS = {
    "__future__",
    "collections",
    "copy",
    "dataclasses",
    "functools",
    "hashlib",
    "hmac",
    "itertools",
    "json",
    "re",
    "struct",
    "typing",
}
OWNERS = {
    "simpy": "simlib.world",
    "tomli_w": "simlib.case.scenario",
    "OpenSSL": "simlib.live",
    "service_identity": "simlib.live",
    "trustme": "simlib.live",
    "qemu": "simlib.real_qemu",
    "msgspec": "simlib.real_qemu",
    "pandas": "simlib.study simlib.api simlib.comparison simlib.record.result",  # what returns tables
    "cloudpickle": "simlib.study",
    "matplotlib": "simlib.study",
    "numpy": "simlib.study",
    "IPython": "simlib.study",
    "ipywidgets": "simlib.study",
    "jupyter_server": "simlib.study",
    "pyarrow": "simlib.study",
    "scipy": "simlib.study",
    "SALib": "simlib.study",
    "distributed": "simlib.study",
}


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, at any depth."""
    here = ("simlib", *path.relative_to(ROOT).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            name = ".".join((*base, *((node.module or "").split(".") if node.module else ())))
            found |= {name} if node.module else {f"{name}.{a.name}" for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def package(name: str) -> str:
    """The entry of OURS that a module belongs to."""
    while name not in OURS and "." in name:
        name = name.rpartition(".")[0]
    return name


def names(path: Path) -> str:
    return ".".join(("simlib", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=names)
def test_imports_point_downwards(path: Path) -> None:
    mine = package(names(path))
    allowed = OURS[mine] | {mine}
    if path.name in BOTH_VERSIONS and path.parent.name == "handshake":
        allowed |= {"simlib.handshake.v1", "simlib.handshake.v2"}
    ours = {package(n) for n in imports(path) if n.split(".")[0] == "simlib"}
    assert ours <= allowed


@pytest.mark.parametrize("path", [p for p in FILES if "handshake" in p.parts], ids=names)
def test_the_handshake_has_no_clock_socket_random_number_or_thread(path: Path) -> None:
    outside = {n.split(".")[0] for n in imports(path)} - {"simlib"}
    assert outside <= HANDSHAKE_ALLOWS


@pytest.mark.parametrize("path", FILES, ids=names)
def test_each_outside_library_has_one_owner(path: Path) -> None:
    outside = {n.split(".")[0] for n in imports(path)} - STDLIB - {"simlib"}
    assert all(package(names(path)) in OWNERS.get(n, "").split() for n in outside)


@pytest.mark.parametrize("path", FILES, ids=names)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"


def test_importing_the_handshake_loads_no_simulator_and_no_pandas() -> None:
    code = "import sys, simlib.handshake.detect; print({'simpy', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "set()"


def test_the_lock_holds_no_stranger_of_our_name() -> None:
    """PyPI has a package called simlib; a dependency on ourselves by name would install that one."""
    lock = (ROOT.parent / "requirements.lock").read_text()
    assert "\nsimlib==" not in lock and "\nsimpy==" in lock


def test_no_merge_was_left_half_done() -> None:
    told = subprocess.run(["git", "-C", str(ROOT.parent), "grep", "-nE", "^(<{7}|>{7}|={7}$)"], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert told.stdout == "" and told.returncode == 1
