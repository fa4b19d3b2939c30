"""What simlib/README.md says of changes: each touches few files, and what it adds runs in the world and in the search.

Each change is a patch of the source, applied to a copy of it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
Patch = dict[
    str, list[tuple[str, str]]
]  # file of simlib -> what stands there, and what stands there afterwards; "": new

MESSAGE: Patch = {
    "handshake/v2/messages.py": [
        (
            '@message(0x06, "START")\n',
            '@message(0x0D, "PLACE")\nclass Place(Message):\n    """Where the source is."""\n\n    rack: int\n\n\n'
            '@message(0x06, "START")\n',
        )
    ],
    "handshake/v2/source.py": [
        (
            "        for name in plan:\n            self._add_link(",
            "        self._say(conn, messages.Place(rack=4))\n        for name in plan:\n            self._add_link(",
        )
    ],
    "handshake/v2/destination.py": [
        (
            "    def _config_applied(",
            "    def _placed(self, conn: int, place: messages.Place) -> None:\n"
            '        self._out.append(i.Printed(f"the source is in rack {place.rack}"))\n\n'
            "    def _config_applied(",
        ),
        (
            "        messages.ChannelOpen: Receive({}, ",
            "        messages.Place: Receive({S.STARTED: S.STARTED}, _placed),\n"
            "        messages.ChannelOpen: Receive({}, ",
        ),
    ],
}
CODE: Patch = {
    "handshake/errors.py": [
        ('    ARCH = "arch", "machine"\n', '    ARCH = "arch", "machine"\n    NAME = "name", "machine"\n')
    ],
    "handshake/v2/inventory.py": [
        (
            "    if source.arch != destination.arch:\n",
            "    if source.cpu != destination.cpu:\n"
            '        yield Error(Code.NAME, item="machine.cpu", text="Other names.")\n'
            "    if source.arch != destination.arch:\n",
        )
    ],
}
VERSION: Patch = {
    "handshake/versions.py": [
        ("BEHAVIOURS = (_5_2,", "_11_3 = replace(_11_2, since=(11, 3), ram_section=3)\nBEHAVIOURS = (_11_3, _5_2,"),
        (
            "for minor in range(3) if (5, 2) <= (major, minor) <= (11, 2)",
            "for minor in range(4) if (major, minor) >= (5, 2)",
        ),
    ]
}
FAULT: Patch = {
    "case/faults.py": [
        (
            "# --- the hosts ---",
            "@dataclass(frozen=True)\nclass ResetMain(Strike):\n"
            '    """Main is reset, and no other connection."""\n\n    kind: str = "reset-main"\n\n'
            '    def strike(self, breaks: Breaks) -> None:\n        breaks.reset("main")\n\n\n# --- the hosts ---',
        )
    ],
    "case/registry.py": [
        (
            '        "cut": "simlib.case.faults:Cut",',
            '        "reset-main": "simlib.case.faults:ResetMain",\n        "cut": "simlib.case.faults:Cut",',
        )
    ],
}
PROTOCOL: Patch = {
    "case/hasty.py": [
        (
            "",
            '"""v2 under another name."""\n\nfrom ..handshake.v2.destination import Destination\n'
            "from ..handshake.v2.source import Source\nfrom .protocols import from_endpoints\n\n\n"
            'class HastySource(Source):\n    speaks = "hasty"\n\n\n'
            'class HastyDestination(Destination):\n    speaks = "hasty"\n\n\n'
            'HASTY = from_endpoints("hasty", HastySource, HastyDestination)\n',
        )
    ]
}
CHANGES = {
    "a message": (
        MESSAGE,
        3,
        """
        run = lab.run("matched_multifd", "v2", version="10.0")
        assert run.outcome == "migrated" and "the source is in rack 4" in str(run), run
        assert lab.search("matched", "v2", version="10.0").violations == {}
        """,
    ),
    "an error code": (
        CODE,
        2,
        """
        other = lab.scenario("matched").vary(destination__cpu="max")
        assert lab.run(other, "v2", version="10.0").row.error_codes == "name"
        assert [end.source for end in lab.search(other, "v2", version="10.0").result.endings] == ["failed"]
        """,
    ),
    "a version of QEMU": (
        VERSION,
        2,
        """
        run = lab.run("matched", "v1", version="11.3")
        assert run.outcome == "migrated" and run.row.source_version == "11.3", run
        assert lab.search("matched", "v1", version="11.3").complete
        """,
    ),
    "a kind of fault": (
        FAULT,
        2,
        """
        hit = lab.Fault("reset-main", at_s=0.01)
        assert lab.run(lab.scenario("matched_multifd").vary(faults=(hit,)), "v2", version="10.0").outcome == "failed"
        alone = lab.search("matched", "v2", version="10.0")
        assert lab.search("matched", "v2", version="10.0", faults=[hit]).states > alone.states
        """,
    ),
    "a protocol": (
        PROTOCOL,
        1,
        """
        run = lab.run("matched", "simlib.case.hasty:HASTY", version="10.0")
        assert run.outcome == "migrated" and run.row.spoken == "hasty", run.row
        assert lab.search("matched", "simlib.case.hasty:HASTY", version="10.0").violations == {}
        """,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_touches_few_files_and_what_it_adds_runs(change: str, tmp_path: Path) -> None:
    patch, most, check = CHANGES[change]
    assert len(patch) <= most
    copy = tmp_path / "simlib"
    shutil.copytree(ROOT / "simlib", copy, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data").symlink_to(ROOT / "data")
    for file, replacements in patch.items():
        path = copy / file
        for before, after in replacements:
            text = path.read_text() if before else ""
            assert text.count(before) == 1 or not before, f"{file} has changed; so must the patch: {before!r}"
            path.write_text(text.replace(before, after) if before else after)
    program = "import simlib as lab\n" + "\n".join(line.strip() for line in check.splitlines())
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
