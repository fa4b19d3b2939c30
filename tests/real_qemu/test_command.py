"""`simlib qemu`: from two shells, with clear words for what can't be done."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simlib.real_qemu import guest, process
from simlib.real_qemu.monitor import QemuError
from simlib.real_qemu.run import runner
from tests.real_qemu.conftest import HERE, needs


def simlib(*args: str) -> list[str]:
    return [sys.executable, "-m", "simlib", *args]


def said(*args: str) -> tuple[int, str]:
    result = subprocess.run(simlib(*args), capture_output=True, text=True, timeout=120)
    return result.returncode, result.stdout + result.stderr


class Started:
    """A QEMU started as a user would."""

    def __init__(self, binary: str, folder: Path, name: str, *more: str) -> None:
        image = folder / f"{name}.firmware"  # its own: a QEMU reads it after its monitor exists
        image.write_bytes(guest.firmware(4 << 20))
        self.qmp = str(folder / f"{name}.qmp")
        command = [
            binary,
            "-M",
            "pc-i440fx-7.2",
            "-m",
            "128M",
            "-accel",
            "tcg",
            "-nodefaults",
            "-display",
            "none",
            "-bios",
            str(image),
            "-qmp",
            f"unix:{self.qmp},server=on,wait=off",
            *more,
        ]
        self.process = subprocess.Popen(command)
        while not Path(self.qmp).exists():
            assert self.process.poll() is None

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


INCOMING = ("-S", "-incoming", "defer")


@pytest.mark.slow
@pytest.mark.parametrize(("older", "newer"), [("5.2", "10.0"), ("7.2", "11.1"), ("5.2", "11.1")])
def test_six_years_of_qemu_take_each_other_s_guests(older: str, newer: str, tmp_path: Path) -> None:
    needs(older, newer)
    for number, (one, other) in enumerate(((older, newer), (newer, older))):
        place = tmp_path / str(number)
        place.mkdir()
        machine = ("-M", f"pc-i440fx-{older}")
        with (
            Started(HERE[one], place, "here", *machine) as here,
            Started(HERE[other], place, "there", *INCOMING, *machine) as there,
        ):
            code, text = said("qemu", "migrate", "--source-qmp", here.qmp, "--destination-qmp", there.qmp)
            assert code == 0, text


@pytest.mark.parametrize("more", [("--channels", "2"), ("--postcopy-after", "0")], ids=lambda m: m[0])
def test_one_command_moves_a_guest_between_two_versions(
    qemus: dict[str, str], tmp_path: Path, more: tuple[str, ...]
) -> None:
    with Started(qemus["7.2"], tmp_path, "here") as here, Started(qemus["10.0"], tmp_path, "there", *INCOMING) as there:
        monitors = ("--source-qmp", here.qmp, "--destination-qmp", there.qmp)
        code, text = said("qemu", "migrate", *monitors, *more, "--json")
        report = json.loads(text)
        assert (code, report["status"], report["guest_runs_here"]) == (0, "completed", False)
        assert any(s["text"].startswith("sets postcopy-ram") for s in report["steps"]) == ("--postcopy-after" in more)


def test_two_running_qemus_are_looked_at_so_that_nobody_has_to_say_what_they_are(
    qemus: dict[str, str], tmp_path: Path
) -> None:
    rng = ("-device", "virtio-rng-pci,addr=5")
    with (
        Started(qemus["7.2"], tmp_path, "here", *rng, "-cpu", "qemu64,+aes") as here,
        Started(qemus["10.0"], tmp_path, "bare", *INCOMING, "-cpu", "qemu64") as bare,
        Started(qemus["10.0"], tmp_path, "same", *INCOMING, *rng, "-cpu", "qemu64,+aes") as same,
    ):
        code, text = said("qemu", "migrate", "--source-qmp", here.qmp, "--destination-qmp", bare.qmp)
        assert code == 1 and "device-unknown" in text and "cpu-feature[aes]" in text, text
        code, text = said("qemu", "migrate", "--source-qmp", here.qmp, "--destination-qmp", same.qmp)
        assert code == 0, text


@pytest.mark.slow
def test_a_profile_in_a_file_may_be_named_if_it_is_of_this_version(qemus: dict[str, str], tmp_path: Path) -> None:
    file = str(tmp_path / "host.json")
    with Started(qemus["10.0"], tmp_path, "there", *INCOMING) as there:
        assert said("qemu", "profile", "--qmp", there.qmp, "--out", file)[0] == 0
        with Started(qemus["10.0"], tmp_path, "here") as here, Started(qemus["7.2"], tmp_path, "older") as older:
            migrate = ("qemu", "migrate", "--destination-qmp", there.qmp, "--profile", file, "--source-qmp")
            code, text = said(*migrate, older.qmp)
            assert code == 1 and f"{file}: is a profile of QEMU 10.0, and this is 7.2" in text, text
            assert said(*migrate, here.qmp)[0] == 0


@pytest.mark.parametrize("tls", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_agent_elsewhere_refuses_what_does_not_fit_and_takes_what_does(
    qemus: dict[str, str], tmp_path: Path, tls: bool
) -> None:
    secure = ("--tls", str(tmp_path / "keys")) if tls else ()
    if tls:
        assert said("certificates", str(tmp_path / "keys"))[0] == 0
    with (
        Started(qemus["10.0"], tmp_path, "here") as here,
        Started(qemus["10.0"], tmp_path, "there", *INCOMING) as there,
        subprocess.Popen(
            simlib("qemu", "agent", "tcp:127.0.0.1:0", "--qmp", there.qmp, *secure),
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as agent,
    ):
        try:
            assert agent.stderr is not None
            at = agent.stderr.readline().split()[2]
            migrate = ("qemu", "migrate", "--source-qmp", here.qmp, "--to", at, *secure)
            if tls:  # a source without it is not even heard
                code, text = said(*migrate[:-2])
                assert code == 1 and "peer-closed" in text, text
            code, text = said(*migrate, "--profile", "pc-i440fx-7.2+virtio-rng")
            assert code == 1 and "device-unknown" in text and "guest runs on here" in text, text
            assert said(*migrate)[0] == 0
            assert agent.wait(20) == 0
        finally:
            agent.kill()


def test_what_can_t_be_done_gets_one_clear_sentence(tmp_path: Path) -> None:
    nobody = str(tmp_path / "nobody")
    for args, code, words in (
        (("migrate", "--source-qmp", nobody), 2, "name the destination"),
        (("migrate", "--source-qmp", nobody, "--to", "tcp:127.0.0.1:1"), 1, "no QMP monitor answers there"),
        (("migrate", "--source-qmp", nobody, "--to", "nowhere"), 1, "no QMP monitor answers there"),
        (("agent", "tcp:127.0.0.1:0", "--qmp", nobody), 1, "no QMP monitor answers there"),
        (("agent", "nowhere", "--qmp", nobody), 2, "is not an address"),
        (("check", "--binary", nobody), 1, "there is no such program"),
        (("check", "--binary", sys.executable), 1, "is no QEMU"),
        (("check", "no-such-scenario"), 2, "there is no scenario"),
    ):
        actual, text = said("qemu", *args)
        assert (actual, text.count("\n")) == (code, 1) and words in text, (args, actual, text)


def test_a_full_disk_is_named_and_takes_nothing_that_was_found(qemus: dict[str, str]) -> None:
    code, text = said(
        "qemu", "check", "machine_type_differs", "--binary", qemus["7.2"], "--repeats", "1", "--out", "/dev/full"
    )
    assert code == 1 and "simlib: /dev/full: No space left on device" in text and "1 agree" in text, text


HOLDS_ONE = """
import asyncio, sys
from pathlib import Path
from simlib.real_qemu.process import Qemu
async def main():
    async with Qemu(sys.argv[1], ("-M", "none", "-display", "none"), Path(sys.argv[2]), "held") as qemu:
        print(qemu.process.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_who_is_killed_leaves_no_qemu_behind(qemus: dict[str, str], version: str, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_ONE, qemus[version], str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        holder.kill()
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    raise AssertionError(f"QEMU {pid} runs on")


def test_a_qemu_that_waits_for_nobody_is_no_destination(qemus: dict[str, str], tmp_path: Path) -> None:
    with Started(qemus["10.0"], tmp_path, "here") as here:
        code, text = said("qemu", "agent", "tcp:127.0.0.1:0", "--qmp", here.qmp)
        assert code == 1 and "-S -incoming defer" in text


@pytest.mark.slow
def test_one_sweep_ends_alike_in_the_world_and_on_real_qemu(qemus: dict[str, str], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    versions = '["7.2", "10.0"]'
    outcomes = []
    for place in ("world", "real-qemu"):
        sweep, out = tmp_path / f"{place}.toml", tmp_path / f"{place}.parquet"
        sweep.write_text(
            f'scenario = "device_only_at_source"\nrunner = "{place}"\nversions = {versions}\n'
            '[grid]\n"guest.ram-mib" = [8]\n'
        )
        assert said("sweep", str(sweep), "--out", str(out)) == (0, f"{out}: 4 rows of 1 points (seed 1)\n")
        rows = parquet.read_table(out).to_pylist()
        outcomes.append([(r["protocol"], r["source_version"], r["outcome"], r["guest_at"], r["error"]) for r in rows])
    assert outcomes[0] == outcomes[1] and {(r[0], r[2]) for r in outcomes[0]} == {("v1", "lost"), ("v2", "refused")}


def test_a_sweep_without_qemu_says_so_before_it_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QemuError, match="no QEMU is here; install"):
        runner()
