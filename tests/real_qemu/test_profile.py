"""A QEMU's profile is made by a second, harmless one; the guest that is asked about does not notice."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from simlib.case.profiles import DATA, ProfileError
from simlib.real_qemu.preflight import answers, party
from simlib.real_qemu.profile import Binary, Monitor, collected, of_command_line
from simlib.real_qemu.reprofile import Running, harmless, of_process

ARGUMENTS = ("-M", "pc-q35-7.2", "-m", "64M", "-accel", "tcg", "-nodefaults")
HERE = Path("/nowhere")


def simlib(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "simlib", "qemu", *args], capture_output=True, text=True, timeout=120)


@contextmanager
def started(binary: str, folder: Path, *more: str) -> Iterator[tuple[int, str]]:
    """A guest as somebody else would have started it: process id, and monitor."""
    monitor = folder / "guest.qmp"
    program = str(Path(shutil.which(binary) or binary).absolute())
    command = [program, *ARGUMENTS, "-display", "none", *more, "-qmp", f"unix:{monitor},server=on,wait=off"]
    with subprocess.Popen(command, cwd=folder) as process:
        try:
            while not answers_at(monitor):
                assert process.poll() is None
                time.sleep(0.01)
            yield process.pid, str(monitor)
        finally:
            process.kill()


def answers_at(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def children() -> set[str]:
    """Names of the processes below us."""
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {Path(f"/proc/{n}/comm").read_text().strip() for n in pids}


# --- the harmless command line (needs no QEMU) ----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("-nodefaults -qmp unix:a,server=on -S -daemonize -pidfile p -incoming defer", "-nodefaults"),
        ("-nodefaults -vnc :1 -display gtk -monitor stdio -name x -sandbox on", "-nodefaults"),
        ("-nodefaults -serial tcp::4444 -m 1G", "-nodefaults -serial null -m 1G"),
        (
            "-nodefaults -netdev tap,id=n,fd=3 -device e1000,netdev=n",
            "-nodefaults -netdev hubport,hubid=0,id=n -device e1000,netdev=n",
        ),
        ("-nodefaults -chardev socket,id=c,path=/x,server=on", "-nodefaults -chardev null,id=c"),
        (
            "-nodefaults -object memory-backend-memfd,id=m,size=1G,share=on,hugetlb=on",
            "-nodefaults -object memory-backend-ram,id=m,size=1G",
        ),
        (
            '-nodefaults -object {"qom-type":"memory-backend-file","id":"m","size":1024,"mem-path":"/x"}',
            "-nodefaults -object memory-backend-ram,id=m,size=1024",
        ),
        ("-nodefaults -object secret,id=s,file=/x --accel kvm", "-nodefaults --accel kvm"),
        (
            "-nodefaults -blockdev driver=file,filename=/x,node-name=f",
            "-nodefaults -blockdev driver=null-co,read-zeroes=on,node-name=f,size=1073741824",
        ),
        (
            "-nodefaults -drive file=/x,if=none,id=d,format=raw,cache=none",
            "-nodefaults -drive driver=null-co,read-zeroes=on,size=1073741824,if=none,id=d",
        ),
        ("-m 1G", "-m 1G -serial null -parallel null -monitor none"),
    ],
)
def test_what_belongs_to_the_guest_is_left_out_or_leads_nowhere(command: str, expected: str) -> None:
    actual = " ".join(harmless(command.split(), HERE))
    assert actual.replace("--accel", "-accel") == expected.replace("--accel", "-accel")


@pytest.mark.parametrize(
    "command",
    [
        "-device vfio-pci,host=01:00.0",
        "-device usb-host,hostbus=1",
        "-hda /x",
        "-virtfs local,path=/",
        "-m",
        "-netdev {x",
    ],
)
def test_what_can_not_be_started_twice_is_said(command: str) -> None:
    with pytest.raises(ProfileError):
        harmless(command.split(), HERE)


def test_firmware_in_flash_keeps_its_size(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(4096))
    (tmp_path / "cow").write_bytes(b"QFI\xfb" + bytes(20) + (8192).to_bytes(8, "big") + bytes(99))
    for name, size in (("raw", 4096), ("cow", 8192)):
        assert f"size={size}" in harmless(["-drive", f"if=pflash,file={name}"], tmp_path)[1]
        nodes = [
            "-blockdev",
            json.dumps({"driver": "file", "filename": name, "node-name": "f"}),
            "-blockdev",
            json.dumps({"driver": "qcow2", "file": "f", "node-name": "q"}),
        ]
        assert harmless(nodes, tmp_path)[3].endswith(f"node-name=q,size={size}")


def test_a_process_that_is_no_qemu_or_gone_is_said() -> None:
    for pid, why in ((os.getpid(), "no QEMU"), (1 << 30, "no process")):
        with pytest.raises(ProfileError, match=why):
            of_process(pid)


@pytest.mark.slow
def test_mistakes_get_one_sentence() -> None:
    for args, code in (
        ((), 2),
        (("--pid", "1", "qemu-system-x86_64"), 2),
        (("no-such-qemu", "--", "-M", "q35"), 1),
        (("--qmp", "/no/such/monitor"), 1),
        (("/bin/true", "--", "-M", "q35"), 1),
    ):
        result = simlib("profile", *args)
        assert (result.returncode, result.stderr.count("\n")) == (code, 1), result.stderr


GREETING = b'{"QMP": {"version": {}}}\n{"return": {}}\n'
NO_QEMU = {
    "no JSON": (b"hello\n", "is not answered as QEMU does"),
    "NaN": (b'{"return": NaN}\n', "is not answered as QEMU does"),
    "a list": (b"[]\n", "is not answered as QEMU does"),
    "an error of another shape": (b'{"error": 3}\n', "is not answered as QEMU does"),
    "another shape": (b'{"return": {"qemu": {"major": "ten"}}}\n', r"Expected `int`, got `str` - at `\$.qemu.major`"),
    "nothing more": (b"", "ended before it answered"),
    "a line without end": (b"{" * (4 << 20), "a line of more than 1 MiB is not QMP"),
    "events for ever": (b'{"event": "STOP"}\n' * (1 << 16), "is blocked, query-version was not answered in 0.5 s"),
    "a drop at a time": (None, "is blocked, query-version was not answered in 0.5 s"),
    "an error without a word": (b'{"error": {"desc": ""}}\n', "query-version: refused, QEMU does not say why"),
    "colours": (b'{"error": {"desc": "no \\u001b[31m"}}\n', r"query-version: no  \[31m$"),
}


@pytest.mark.parametrize("name", NO_QEMU)
def test_whoever_answers_nonsense_gets_one_sentence_in_good_time(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simlib.real_qemu.profile.PATIENCE_S", 0.5)
    monkeypatch.setattr("simlib.real_qemu.profile.LINE_LIMIT_BYTES", 1 << 20)
    answer, expected = NO_QEMU[name]

    def serve() -> None:
        with suppress(OSError), listener.accept()[0] as peer:
            peer.sendall(GREETING)
            asked = b""
            while b"query-version" not in asked:
                asked += peer.recv(1000)
            while answer is None or "ever" in name:
                peer.sendall(answer or b" ")
                time.sleep(0.1)
            peer.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "qmp"))
        listener.listen()
        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(ProfileError, match=expected), Monitor.at(str(tmp_path / "qmp")) as monitor:
            monitor.ask("query-version")
        server.join()


# --- with QEMU ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_the_committed_profiles_are_what_the_binaries_say(qemus: dict[str, str], version: str, tmp_path: Path) -> None:
    committed = json.loads((DATA / f"profiles/qemu-{version}.json").read_text())
    actual = collected(Binary(qemus[version], (), tmp_path), committed["command"])
    if actual["package"] != committed["package"]:
        pytest.skip(f"THIS IS ANOTHER BUILD: {actual['package']}, so the committed profile was not compared")
    assert actual == committed


@pytest.mark.slow
def test_a_running_guest_is_profiled_and_notices_nothing(qemus: dict[str, str], tmp_path: Path) -> None:
    more = (
        "-blockdev",
        "driver=file,filename=disk,node-name=f",
        "-device",
        "virtio-blk-pci,drive=f",
        "-chardev",
        "socket,id=c,path=serial,server=on,wait=off",
        "-serial",
        "chardev:c",
        "-object",
        "memory-backend-file,id=m,size=64M,mem-path=memory,share=on",
        "-machine",
        "memory-backend=m",
    )
    for version in qemus:
        folder = tmp_path / version
        folder.mkdir()
        (folder / "disk").write_bytes(bytes(1 << 20))
        machine = ("-M", "q35") if version == "5.2" else ()  # it is older than the others' type
        with started(qemus[version], folder, *more, *machine) as (pid, monitor):
            before = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir() if p.name != "memory"}
            by_pid, by_qmp = folder.parent / f"pid-{version}", folder.parent / f"qmp-{version}"
            assert simlib("profile", "--pid", str(pid), "--out", str(by_pid)).returncode == 0
            assert simlib("profile", "--qmp", monitor, "--out", str(by_qmp)).returncode == 0
            after = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir() if p.name != "memory"}
            with Monitor.at(monitor) as qmp:
                assert before == after and qmp.ask("query-status")["running"]
                assert qmp.ask("query-migrate") == {}
        assert by_pid.read_text() == by_qmp.read_text()
        assert len(children() & {"qemu-system-x86"}) == 0
    both = [party(str(tmp_path / f"pid-{v}")) for v in ("7.2", "10.0")]
    assert [a.verdict != "no" for a in (*answers(both[0], both[1:]), *answers(both[1], both[:1]))] == [True, True]


def test_devices_plugged_in_later_are_said_to_be_missing(qemus: dict[str, str], tmp_path: Path) -> None:
    bridge = ("-device", "pcie-root-port,id=rp")
    with started(qemus["10.0"], tmp_path, *bridge) as (pid, monitor), Monitor.at(monitor) as qmp:
        qmp.ask("device_add", driver="virtio-rng-pci", id="late", bus="rp")
        it = of_process(pid)
        binary = Binary(it.program, it.data_dirs, tmp_path, it.environment)
        profile = of_command_line(binary, harmless(it.arguments, it.folder), "guest", "", qmp)
        assert profile["notes"] == ["late was plugged in after the start and is not in this profile"]


@pytest.mark.slow
def test_every_kind_of_obstacle_is_found_between_real_machines(qemus: dict[str, str], tmp_path: Path) -> None:
    def profile(version: str, *arguments: str) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        result = simlib("profile", qemus[version], "--out", str(path), "--", *arguments)
        assert result.returncode == 0, result.stderr
        return str(path)

    guest = profile("7.2", *ARGUMENTS, "-device", "virtio-rng-pci", "-cpu", "qemu64,+avx")
    same = ("-device", "virtio-rng-pci", "-cpu", "qemu64,+avx")
    fits = profile("10.0", *ARGUMENTS, *same)
    others = {
        "device-unknown": profile("10.0", *ARGUMENTS, "-cpu", "qemu64,+avx"),
        "machine-type": profile("10.0", *ARGUMENTS, *same, "-M", "pc-q35-10.0"),
        "ram-size": profile("10.0", *ARGUMENTS, *same, "-m", "128M"),
        "cpu-feature": profile("10.0", *ARGUMENTS, "-device", "virtio-rng-pci"),
    }
    first, *rest = answers(party(guest), [party(p) for p in (fits, *others.values())])
    assert first.verdict == "maybe"
    for code, answer in zip(others, rest, strict=True):
        assert {e.code for e in answer.findings if e.severity == "error"} == {code}


def test_a_binary_that_refuses_is_quoted_and_nothing_is_left(qemus: dict[str, str], tmp_path: Path) -> None:
    result = simlib("profile", qemus["7.2"], "--out", str(tmp_path / "x"), "--", "-M", "pc-banana")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1) and "unsupported machine type" in result.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_a_binary_that_ends_behind_its_monitor_is_quoted(qemus: dict[str, str], version: str) -> None:
    result = simlib("profile", qemus[version], "--", *ARGUMENTS, "-device", "nosuchdevice")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "'nosuchdevice' is not a valid device model name" in result.stderr


@pytest.mark.slow
def test_a_silent_monitor_is_said_to_be_taken(qemus: dict[str, str], tmp_path: Path) -> None:
    with started(qemus["7.2"], tmp_path) as (_, monitor), Monitor.at(monitor):
        second = Monitor.at(monitor)
        with pytest.raises(ProfileError, match="another manager holds it"), second:
            pass
        second.__exit__()


def test_its_own_libraries_lead_a_running_binary(qemus: dict[str, str], tmp_path: Path) -> None:
    with started(qemus["10.0"], tmp_path) as (pid, _):
        it = of_process(pid)
        assert isinstance(it, Running) and Binary(it.program, it.data_dirs, tmp_path, it.environment).run(["--version"])
