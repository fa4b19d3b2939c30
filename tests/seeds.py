"""Seeds for tests that draw their cases anew each time."""

from __future__ import annotations

import os
import random


def fresh(limit: int) -> int:
    """A seed below a limit: another one in each test run, and the same in all processes of one run."""
    return random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))).randrange(limit)
