"""What every test in a browser starts with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser import drive


@pytest.fixture(autouse=True)
def chromium() -> None:
    if drive.program() is None:
        pytest.skip("NO CHROMIUM HERE, so nothing was tried in a browser (Debian: apt-get install chromium)")


@pytest.fixture
def page() -> Iterator[drive.Watched]:
    """A page; at the end nothing may have been asked of another host, and nothing may have gone wrong."""
    with drive.watched() as watched:
        yield watched
        assert watched.outside == []
        assert watched.errors == []
