"""What an optional part needs, as the command that installs it wherever this package came from."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires

DISTRIBUTION = "migration-handshake-lab"


def install_command(extra: str) -> str:
    """Names the requirements themselves, since this package is on no index.

    >>> install_command("live").startswith("pip install ")
    True
    """
    try:
        return f"pip install {shlex.join(dict.fromkeys(_requirements(extra)))}"
    except PackageNotFoundError:  # run from a checkout that was never installed
        return f"pip install '.[{extra}]' in the checkout"


def _requirements(extra: str) -> Iterator[str]:
    """As the metadata has them: `msgspec>=0.19; extra == "live"`, or another extra of ours."""
    for line in requires(DISTRIBUTION) or ():
        requirement, _, condition = line.partition(";")
        if f'"{extra}"' not in condition.replace("'", '"'):
            continue
        inner = re.fullmatch(rf"{DISTRIBUTION}\[(\w+)\]", requirement.strip())
        yield from _requirements(inner[1]) if inner else [requirement.strip()]
