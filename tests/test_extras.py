"""What is missing is named with a command that installs it, and never by a package that is on no index."""

from __future__ import annotations

import shlex

import pytest

from simlib.study.extras import DISTRIBUTION, install_command


@pytest.mark.parametrize(("extra", "needs"), [("live", "msgspec"), ("qemu", "qemu-qmp"), ("study", "pyarrow")])
def test_the_command_names_the_requirements_and_not_this_package(extra: str, needs: str) -> None:
    pip, install, *requirements = shlex.split(install_command(extra))
    assert (pip, install) == ("pip", "install")
    assert any(r.startswith(needs) for r in requirements)
    assert not any("simlib" in r or DISTRIBUTION in r for r in requirements)
