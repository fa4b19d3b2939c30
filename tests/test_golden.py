"""Stories in plain text, one file a situation. A changed story is read before it is rewritten (`pytest --rewrite`):
commit it only if you understand what changed and want it."""

from __future__ import annotations

from pathlib import Path

import pytest

from simlib.case.files import find
from simlib.world import run

GOLDEN = Path(__file__).parent / "golden"
STORIES = (
    ("matched", "v1", "10.0"),
    ("matched", "v2", "10.0"),
    ("matched_multifd", "v1", "7.2"),
    ("matched_multifd", "v2", "7.2"),
    ("matched_postcopy", "v1", "10.0"),
    ("matched_postcopy", "v2", "10.0"),
    ("exec_socat", "v2", "10.0"),
    ("device_only_at_source", "v1", "10.0"),
    ("device_only_at_source", "v2", "10.0"),
    ("multifd_only_at_destination_small", "v1", "10.0"),
    ("order_multifd_first", "v1", "7.2"),
    ("order_multifd_first", "v2", "7.2"),
    ("stranger_multifd", "v1", "10.0"),
    ("stranger_multifd", "v2", "10.0"),
    ("post_load_fails", "v2", "10.0"),
    ("destination_cannot_apply", "v2", "10.0"),
    ("tls_only_at_source", "v1", "7.2"),
    ("exec_cat_return_path", "v1", "10.0"),
    ("told_v2_and_adaptive", "v1", "10.0"),
    ("detect_slow_path", "b", "7.2"),
    ("detect_tls_new_source", "f", "7.2"),
)


@pytest.mark.parametrize(("name", "protocol", "version"), STORIES, ids=["-".join(s) for s in STORIES])
def test_the_story_is_still_the_same(name: str, protocol: str, version: str, request: pytest.FixtureRequest) -> None:
    result = run(find(name), protocol=protocol, version=version, seed=1)
    story = f"{result.trace}\n\n{result.row.outcome}, the guest is at: {result.row.guest_at}\n"
    path = GOLDEN / f"{name}.{protocol}.{version}.txt"
    if request.config.getoption("--rewrite"):
        path.write_text(story, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == story


def test_no_golden_is_left_over() -> None:
    assert {p.name for p in GOLDEN.iterdir()} == {f"{n}.{p}.{v}.txt" for n, p, v in STORIES}
