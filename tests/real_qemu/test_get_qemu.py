"""data/profiles/get-qemu waits for another apt instead of failing. Its apt-get and dpkg are stand-ins here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from simlib.case.profiles import DATA

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_GET = """#!/bin/bash
echo "$*" >> "$0.log"
case " $* " in
    *" indextargets "*) echo "bookworm bookworm http://mirror" ;;
    *" update "*)
        [ "$(grep -c ' update' "$0.log")" -ge "$HELD" ] || { echo "$SAYS" >&2; exit 100; } ;;
    *" -s "*) echo "Inst libfoo [1]" ;;
    *" download patchelf "*) touch patchelf_1.deb ;;
    *" download "*) touch qemu.deb ;;
esac
"""
DPKG = """#!/bin/bash
mkdir -p "$3/usr/bin"
for program in patchelf qemu-system-x86_64; do
    printf '#!/bin/sh\\necho "QEMU emulator version 5.2.0"\\n' > "$3/usr/bin/$program"
    chmod 755 "$3/usr/bin/$program"
done
"""
LOCKED = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)\nE: Unable to lock directory"


def got(folder: Path, tries: int, says: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What get-qemu said, and its calls of apt-get, whose `update` says so until it was called `tries` times."""
    if "VERSION_CODENAME=bookworm" not in Path("/etc/os-release").read_text().splitlines() or not KEYRING.exists():
        pytest.skip("THIS IS NOT DEBIAN 12, so get-qemu was not tried")
    for name, text in (("apt-get", APT_GET), ("dpkg", DPKG), ("sleep", "#!/bin/sh\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    more = {"PATH": f"{folder}:{os.environ['PATH']}", "HELD": str(tries), "SAYS": says}
    result = subprocess.run(
        [DATA / "profiles/get-qemu", folder / "qemu", "5.2"],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return result, (folder / "apt-get.log").read_text().splitlines()


def test_a_lock_that_another_apt_holds_is_waited_for_and_told_once(tmp_path: Path) -> None:
    result, calls = got(tmp_path, 4, LOCKED)
    assert (result.returncode, result.stdout) == (0, f"5.2 {tmp_path}/qemu/qemu-5.2/qemu-system-x86_64\n"), (
        result.stderr
    )
    assert sum(" update" in call for call in calls) == 4
    assert result.stderr.count("waits") == 1 and "It is held by process 7 (apt-get)" in result.stderr
    assert "Unable to lock" not in result.stderr
    assert all("DPkg::Lock::Timeout=600" in call for call in calls) and len(calls) == 8
    (download,) = [call for call in calls if "download" in call and "patchelf" not in call]
    assert {"libfoo/bullseye", "qemu-system-x86/bullseye"} <= set(download.split())


def test_what_is_no_lock_is_not_tried_again(tmp_path: Path) -> None:
    result, calls = got(tmp_path, 4, "E: Failed to fetch http://mirror")
    assert result.returncode == 1 and sum(" update" in call for call in calls) == 1
    assert result.stderr == "E: Failed to fetch http://mirror\nget-qemu: apt could not read bullseye.\n"
