"""A Python of 32 bits, as in a browser, can't say len() of more than 2 GiB; it tells the same stories."""

from __future__ import annotations

import pytest

from simlib.case.files import find
from simlib.handshake import buffer
from simlib.world import run


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize("name", ["device_only_at_source_128_gib", "matched_multifd", "matched"])
def test_what_len_cannot_say_is_taken_in_pieces(name: str, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(find(name), protocol=protocol)
    monkeypatch.setattr(buffer, "MOST", 2**20)
    pieces = run(find(name), protocol=protocol)
    assert (pieces.row, str(pieces.trace)) == (whole.row, str(whole.trace))


def test_a_buffer_says_no_more_than_len_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "MOST", 2**31 - 1)
    content = buffer.Buffer().add(b"a", 2**33)
    assert len(content) == 2**31 - 1 and len(content.skip(2**33 - 3)) == 4
