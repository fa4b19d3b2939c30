"""No code but the tables of names, and what stands in them, decides by the name of a protocol or a manager, or by the
class of an endpoint: it asks the object."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from simlib.case.registry import MANAGERS, PROTOCOLS

ROOT = Path(__file__).resolve().parents[1] / "simlib"
FILES = sorted(ROOT.rglob("*.py"))
NAMES = {*PROTOCOLS, *MANAGERS}
DEFINED_HERE = {
    "case/scenario.py",  # a scenario's data: what a destination accepts
    "handshake/variants.py",  # the detection variants themselves, by their letters
}
ENDPOINTS = {
    "Source",
    "Destination",
    "V1Source",
    "V1Destination",
    "V2Source",
    "V2Destination",
    "Adaptive",
    "ProbingSource",
    "ProbingDestination",
    "Endpoint",
}


def constants(node: ast.AST) -> set[str]:
    """The texts that an expression consists of."""
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_compared_with_the_name_of_a_protocol_or_manager(path: Path) -> None:
    if str(path.relative_to(ROOT)) in DEFINED_HERE:
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            plain = [s for s in sides if isinstance(s, ast.Constant | ast.Tuple | ast.List | ast.Set)]
            names = set().union(*map(constants, plain)) & NAMES
            assert not names, f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.match_case):
            assert not constants(node.pattern) & NAMES, f"line {node.pattern.lineno}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_asks_for_the_class_of_an_endpoint(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            asked = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
            assert not asked & ENDPOINTS, f"line {node.lineno}: {ast.unparse(node)}"


def test_no_second_list_of_their_names_exists() -> None:
    """Three or more of them in one literal are a list; the table itself is the only one."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Tuple | ast.List | ast.Set):
                own = {e.value for e in node.elts if isinstance(e, ast.Constant)} & NAMES
            elif isinstance(node, ast.Dict):
                own = {k.value for k in node.keys if isinstance(k, ast.Constant)} & NAMES
            else:
                continue
            assert len(own) < 3 or path.name == "registry.py", f"{path}, line {node.lineno}: {sorted(own)}"
