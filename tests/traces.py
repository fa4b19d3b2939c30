"""Whether the simulated world still does what it did: `python -m tests.traces COMMIT`.

Runs every scenario of the library in a checkout of that commit and in this one, and compares rows and traces. Words
that were renamed in between stand in WORDS: the old texts with them replaced must equal the new ones.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
WORDS = {r"\bstranger\b(?!_)": "intruder", r"\bStranger\b": "Intruder", r"\b([Aa]) (?=intruder)": r"\1n "}
COMPARED = ("table.csv", "traces/*.txt")


def results(code: Path, out: Path) -> dict[str, str]:
    """Rows and traces of the library, as the code in that folder makes them: text by file."""
    command = [sys.executable, "-m", "simlib", "compare", "--out", str(out)]
    subprocess.run(command, cwd=code, check=True, stdout=subprocess.DEVNULL)
    return {str(p.relative_to(out)): p.read_text() for pattern in COMPARED for p in sorted(out.glob(pattern))}


def renamed(text: str) -> str:
    for pattern, word in WORDS.items():
        text = re.sub(pattern, word, text)
    return text


def main(commit: str) -> int:
    with TemporaryDirectory() as folder:
        old = Path(folder, "code")
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", "--quiet", old, commit], check=True)
        try:
            before, after = results(old, Path(folder, "old")), results(ROOT, Path(folder, "new"))
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", old], check=True)
    differing = [name for name in sorted({*before, *after}) if renamed(before.get(name, "")) != after.get(name, "")]
    equal = sum(before.get(name) == text for name, text in after.items())
    print(
        f"{len(after)} files: {equal} as in {commit}, {len(after) - equal - len(differing)} but for renamed words, "
        f"{len(differing)} differ"
    )
    print("\n".join(differing[:20]))
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
