"""Mutants of the v2 engine, drawn with a fixed seed, against the tests: `make mutants COUNT=100 SEED=1`.

One change each: a comparison or a condition turned round, a constant changed, a statement left out. The tests run in
stages, the quick ones first, and a mutant is killed by the first that fails. Survivors are listed in
data/results/mutants.md with their lines; what is known of them is in EXPLAINED.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from tqdm import tqdm

from simlib.study.sweep import commit

ROOT = Path(__file__).resolve().parents[1]
ENGINE = "simlib/handshake/v2"
PAGE = ROOT / "data/results/mutants.md"
STAGES = (
    ["tests/handshake/test_vectors.py", "tests/handshake/test_codes.py", "tests/handshake/test_liveness.py"],
    ["tests/handshake"],
    ["tests/explore", "tests/world", "tests/live", "-m", "not slow"],
    ["tests", "-m", "not slow", "--ignore=tests/browser", "--ignore=tests/real_qemu"],
    ["tests/handshake", "tests/explore", "tests/world", "tests/live", "-m", "slow"],
)
STAGE_S = 1500
OPPOSITE: dict[type, type] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
}
EXPLAINED: dict[str, str] = {}  # a survivor's line, and why no test needs to notice it


@dataclass(frozen=True)
class Mutant:
    """The `number`-th place of a file where something can be changed."""

    file: str
    number: int
    line: int
    change: str


class Places(ast.NodeTransformer):
    """Counts the places of a module, and changes one of them."""

    def __init__(self, target: int = -1) -> None:
        self.target, self.places = target, 0
        self.changes: list[tuple[int, str]] = []

    def _here(self, line: int, change: str) -> bool:
        self.changes.append((line, change))
        self.places += 1
        return self.places - 1 == self.target

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        for n, op in enumerate(node.ops):
            if self._here(node.lineno, f"{type(op).__name__} becomes {OPPOSITE[type(op)].__name__}"):
                node.ops[n] = OPPOSITE[type(op)]()
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        if self._here(node.lineno, f"{type(node.op).__name__} becomes {OPPOSITE[type(node.op)].__name__}"):
            node.op = OPPOSITE[type(node.op)]()
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if type(node.op) in OPPOSITE and self._here(node.lineno, f"{type(node.op).__name__} turned round"):
            node.op = OPPOSITE[type(node.op)]()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and self._here(node.lineno, "not is left out"):
            return node.operand
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = node.value
        if isinstance(value, bool):
            changed: object = not value
        elif isinstance(value, int):
            changed = value + 1
        else:
            return node  # texts are for people; codes and names are members of enumerations
        if self._here(node.lineno, f"{value} becomes {changed}"):
            return ast.copy_location(ast.Constant(changed), node)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Call) and self._here(node.lineno, "the call is left out"):
            return ast.copy_location(ast.Pass(), node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.body = [self.visit(statement) for statement in node.body]
        return node


def places(file: Path) -> list[Mutant]:
    """All of a file."""
    seen = Places()
    seen.visit(ast.parse(file.read_text(encoding="utf-8")))
    name = file.relative_to(ROOT).as_posix()
    return [Mutant(name, number, line, change) for number, (line, change) in enumerate(seen.changes)]


def mutated(mutant: Mutant) -> str:
    """The file with that one change."""
    tree = Places(mutant.number).visit(copy.deepcopy(ast.parse((ROOT / mutant.file).read_text(encoding="utf-8"))))
    return ast.unparse(ast.fix_missing_locations(tree))


def drawn(seed: int, count: int) -> list[Mutant]:
    """So many of all files of the engine."""
    every = [mutant for file in sorted((ROOT / ENGINE).glob("*.py")) for mutant in places(file)]
    return random.Random(seed).sample(every, count)


def killer(mutant: Mutant, copy_of: Path) -> str:
    """The first test that fails, in a copy of the project; empty if none does."""
    file = copy_of / mutant.file
    before = file.read_text(encoding="utf-8")
    file.write_text(mutated(mutant), encoding="utf-8")
    try:
        for stage in STAGES:
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *stage]
            try:
                done = subprocess.run(
                    command,
                    cwd=copy_of,
                    capture_output=True,
                    text=True,
                    timeout=STAGE_S,
                    env=os.environ | {"PYTHONPATH": str(copy_of)},
                )
            except subprocess.TimeoutExpired:
                return f"{stage[0]} takes longer than {STAGE_S} s"
            if done.returncode != 0:
                failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
                return failed[0].split(" - ")[0].partition(" ")[2] if failed else f"{stage[0]}: {done.returncode}"
        return ""
    finally:
        file.write_text(before, encoding="utf-8")


def copies(folder: Path, count: int) -> Iterator[Path]:
    """Copies of the project without what is built, as git lists it."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for number in range(count):
        for name in listed.splitlines():
            if (ROOT / name).is_file():
                target = folder / str(number) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target)
        yield folder / str(number)


def page(killed: dict[Mutant, str], seed: int) -> str:
    """The table: how many are killed, the survivors, and who kills the others."""
    survivors = [mutant for mutant, by in killed.items() if not by]
    lines = [
        "# Mutants of the v2 engine",
        "",
        f"Written by `make mutants COUNT={len(killed)} SEED={seed}` at {commit()[:12]}: "
        f"{len(killed) - len(survivors)} of {len(killed)} are killed.",
        "",
        "| survivor | change | why no test notices it |",
        "|---|---|---|",
        *(f"| {m.file}:{m.line} | {m.change} | {EXPLAINED.get(f'{m.file}:{m.line}', '')} |" for m in survivors),
        "",
        "| killed | change | by |",
        "|---|---|---|",
        *(f"| {m.file}:{m.line} | {m.change} | `{by}` |" for m, by in killed.items() if by),
    ]
    return "\n".join([*lines, ""])


def main() -> int:
    """Test the mutants, two at a time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("count", type=int)
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args()
    mutants = drawn(arguments.seed, arguments.count)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        free: Queue[Path] = Queue()
        for path in copies(Path(folder), os.cpu_count() or 1):
            free.put(path)

        def one(mutant: Mutant) -> str:
            path = free.get()
            try:
                return killer(mutant, path)
            finally:
                free.put(path)

        killed = dict(zip(mutants, tqdm(pool.map(one, mutants), total=len(mutants), unit=" mutants"), strict=True))
    PAGE.write_text(page(killed, arguments.seed), encoding="utf-8")
    print(f"{PAGE}: {sum(map(bool, killed.values()))} of {len(killed)} are killed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
