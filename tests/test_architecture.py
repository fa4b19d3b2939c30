"""Who may import whom: the handshake is liftable, runners do not lean on each other, one owner per outside library."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "simlib"
FILES = sorted(ROOT.rglob("*.py"))
STDLIB = set(sys.stdlib_module_names)

# Each package with those that it may import, itself always; `record` and `case` know no runner, runners not each other.
LAYERS = {
    "simlib": set(),
    "simlib.handshake": set(),
    "simlib.handshake.v1": {"simlib.handshake"},
    "simlib.handshake.v2": {"simlib.handshake"},
    "simlib.case": {"simlib.handshake", "simlib.handshake.v1", "simlib.handshake.v2"},
    "simlib.record": {"simlib.case", "simlib.handshake"},
    "simlib.process": {"simlib.case", "simlib.handshake", "simlib.handshake.v2", "simlib.record"},
    "simlib.world": {"simlib.case", "simlib.handshake", "simlib.handshake.v2", "simlib.process", "simlib.record"},
    "simlib.live": {"simlib.case", "simlib.handshake", "simlib.process", "simlib.record"},
    "simlib.explore": {"simlib.case", "simlib.handshake", "simlib.handshake.v2", "simlib.record"},
    "simlib.real_qemu": {
        "simlib.case",
        "simlib.handshake",
        "simlib.handshake.v2",
        "simlib.live",
        "simlib.process",
        "simlib.record",
    },
    "simlib.study": {
        "simlib",
        "simlib.case",
        "simlib.explore",
        "simlib.handshake",
        "simlib.handshake.v2",
        "simlib.record",
    },
    "simlib.api": {"simlib.case", "simlib.explore", "simlib.live", "simlib.record", "simlib.study", "simlib.world"},
    "simlib.cli": {
        "simlib",
        "simlib.case",
        "simlib.explore",
        "simlib.handshake",
        "simlib.live",
        "simlib.real_qemu",
        "simlib.record",
        "simlib.study",
        "simlib.world",
    },
    "simlib.__main__": {"simlib.cli"},
}
BOTH_VERSIONS = {"detect.py", "variants.py"}  # of handshake: the only files that see v1 and v2
SAY_NOTHING = {"told", "found", "given", "made", "held", "kept", "mine"}  # as names of variables
HANDSHAKE_ALLOWS = {
    "__future__",
    "collections",
    "copy",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "hmac",
    "itertools",
    "json",
    "operator",
    "re",
    "struct",
    "types",
    "typing",
}
OWNERS = {
    "simpy": "world",
    "tomli_w": "case",
    "OpenSSL": "live",
    "service_identity": "live",
    "trustme": "live",
    "qemu": "real_qemu",
    "msgspec": "real_qemu",
    "pandas": "study api record",  # what returns tables
    "cloudpickle": "study",
    "matplotlib": "study",
    "numpy": "study",
    "IPython": "study",
    "ipywidgets": "study",
    "jupyter_server": "study",
    "pyarrow": "study",
    "scipy": "study",
    "SALib": "study",
    "distributed": "study",
    "tqdm": "cli explore study",  # what takes long
}


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, at any depth."""
    here = ("simlib", *path.relative_to(ROOT).with_suffix("").parts)
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            name = ".".join((*base, *((node.module or "").split(".") if node.module else ())))
            modules |= {name} if node.module else {f"{name}.{a.name}" for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module or "")
    return modules


def package(name: str) -> str:
    """The entry of LAYERS that a module belongs to."""
    while name not in LAYERS and "." in name:
        name = name.rpartition(".")[0]
    return name


def names(path: Path) -> str:
    return ".".join(("simlib", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=names)
def test_imports_point_downwards(path: Path) -> None:
    own = package(names(path))
    allowed = LAYERS[own] | {own}
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
    assert all(package(names(path)).removeprefix("simlib.") in OWNERS.get(n, "").split() for n in outside)


@pytest.mark.parametrize("path", FILES, ids=names)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 560
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 80, f"{node.name} is too long"


def test_no_module_imports_itself_through_others() -> None:
    known = {names(path) for path in FILES}
    graph = {}
    for path in FILES:
        modules = {name if name in known else name.rpartition(".")[0] for name in imports(path)}
        graph[names(path)] = (modules & known) - {names(path), "simlib"}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", FILES, ids=names)
def test_what_only_one_line_could_excuse_is_not_excused(path: Path) -> None:
    assert "fmt: skip" not in path.read_text() and "fmt: off" not in path.read_text()


def test_types_are_named_and_dispatch_is_explicit() -> None:
    anything, dynamic = 0, 0
    for node in (n for path in FILES for n in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            hints = [*(a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg)), node.returns]
            anything += any(isinstance(n, ast.Name) and n.id == "Any" for h in hints if h for n in ast.walk(h))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            dynamic += not isinstance(node.args[1], ast.Constant)  # of methods and of fields
    assert anything <= 20 and dynamic <= 24


@pytest.mark.parametrize("path", FILES, ids=names)
def test_variables_say_what_they_hold(path: Path) -> None:
    nodes = [*ast.walk(ast.parse(path.read_text()))]
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    assert not (stored | {n.arg for n in nodes if isinstance(n, ast.arg)}) & SAY_NOTHING


def test_each_module_of_the_handshake_has_a_test_file_named_after_it() -> None:
    """v1/source.py has tests/handshake/test_v1_source.py. Modules that define nothing need none."""
    expected, defined = set(), (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    for path in (ROOT / "handshake").rglob("*.py"):
        parts = path.relative_to(ROOT / "handshake").with_suffix("").parts
        defines = any(isinstance(node, defined) for node in ast.parse(path.read_text()).body)
        expected |= {f"test_{'_'.join(parts)}.py"} if defines else set()
    present = {path.name for path in (ROOT.parent / "tests" / "handshake").iterdir()}
    assert {"test_buffer.py", "test_v1_source.py"} <= expected and sorted(expected - present) == []


def test_importing_the_handshake_loads_no_simulator_and_no_pandas() -> None:
    code = "import sys, simlib.handshake.detect; print({'simpy', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"


def test_the_lock_holds_no_stranger_of_our_name() -> None:
    """PyPI has a package called simlib; a dependency on ourselves by name would install that one."""
    lock = (ROOT.parent / "requirements.lock").read_text()
    assert "\nsimlib==" not in lock and "\nsimpy==" in lock


def test_no_merge_was_left_half_done() -> None:
    result = subprocess.run(
        ["git", "-C", str(ROOT.parent), "grep", "-nE", "^(<{7}|>{7}|={7}$)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "" and result.returncode == 1
