"""Options and helpers that several folders share."""

from __future__ import annotations

import signal

import pytest

# A shell that starts something in the background has it ignore Ctrl-C, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write tests/golden anew; read the diff before you commit")
