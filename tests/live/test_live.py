"""Real sockets: TLS is bound into the key, faults do what they say, and nothing is left behind."""

from __future__ import annotations

import gc
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL

from simlib import live
from simlib.case.files import find
from simlib.case.scenario import (
    Fault,
    Scenario,
    Side,
)
from simlib.live.address import AddressError, parse
from simlib.live.tls import UNEXPECTED, Tls, TlsError, make_credentials

MATCHED = find("matched_multifd")


def simlib(*args: str) -> list[str]:
    return [sys.executable, "-m", "simlib", *args]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def killed(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """It is gone afterwards, whatever it did."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def both(address: str, serve: tuple[str, ...] = (), connect: tuple[str, ...] = ()) -> tuple[Any, Any]:
    """`simlib serve` and `simlib connect` in two processes: what each said, and its exit status."""
    with subprocess.Popen(
        simlib("serve", address, "--json", *serve), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None and "listening on" in server.stderr.readline()
            source = subprocess.run(
                simlib("connect", address, "--json", *connect), capture_output=True, text=True, timeout=60
            )
            if source.returncode:
                server.send_signal(signal.SIGINT)
            out, _ = server.communicate(timeout=60)
        finally:
            server.kill()
    return (source.returncode, json.loads(source.stdout)), (server.returncode, json.loads(out))


# --- the command line -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [0, 1, 16, 64])
@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_two_processes_migrate(kind: str, channels: int, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket" if kind == "unix" else f"tcp:127.0.0.1:{free_port()}"
    secure: tuple[str, ...] = ()
    if kind == "tls":
        make_credentials(tmp_path / "creds")
        secure = ("--tls", str(tmp_path / "creds"))
    (code, source), (server_code, destination) = both(
        address, secure, ("--channels", str(channels), "--ram-mib", "8", *secure)
    )
    assert (code, source["status"], server_code, destination["status"]) == (0, "completed", 0, "completed")
    names = {s["connection"] for s in source["steps"]}
    assert {f"multifd[{n}]" for n in range(channels)} <= names and source["guest_bytes"] >= 8 << 20
    assert not (tmp_path / "socket").exists()


def test_a_profile_that_does_not_fit_is_refused_with_item_and_both_values() -> None:
    (code, source), (_, destination) = both(
        f"tcp:127.0.0.1:{free_port()}", (), ("--profile", "pc-i440fx-7.2+virtio-rng")
    )
    (error,) = source["errors"]
    assert code == 1 and source["guest_bytes"] == 0 and destination["status"] == "none"
    assert (error["code"], error["destination"]) == ("device-unknown", "absent") and "virtio-rng" in error["item"]


def test_a_refusal_is_printed_as_a_table() -> None:
    port = free_port()
    with subprocess.Popen(
        simlib("serve", f"tcp:127.0.0.1:{port}"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None and server.stderr.readline()
        command = simlib("connect", f"tcp:127.0.0.1:{port}", "--profile", "pc-i440fx-7.2+virtio-rng")
        output = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    assert "item" in output and "absent" in output and "device-unknown" in output and server.returncode == 130


def test_another_secret_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name * 10)
    (code, source), _ = both(
        f"tcp:127.0.0.1:{free_port()}", ("--psk-file", str(tmp_path / "one")), ("--psk-file", str(tmp_path / "two"))
    )
    assert code == 1 and source["errors"][0]["code"] == "transcript"


@pytest.mark.parametrize(
    "args",
    [
        ["connect", "tcp:127.0.0.1"],
        ["connect", "pigeon:x"],
        ["serve", "fd:x"],
        ["connect", "tcp:[::1]:99999"],
        ["connect", "tcp:127.0.0.1:1", "--tls", "/nowhere"],
        ["serve", "tcp:127.0.0.1:0", "--profile", "none"],
        ["connect", "exec:cat", "--channels", "2"],
        ["connect", "tcp:127.0.0.1:1", "--psk-file", "/nowhere"],
        ["connect", "tcp:a..b:1"],
        ["connect", "fd:99"],
        ["serve", "fd:99999999999999999999"],
        ["connect", "tcp:h:²"],
    ],
)
def test_wrong_usage_is_exit_2_and_one_sentence(args: list[str]) -> None:
    got = subprocess.run(simlib(*args), capture_output=True, text=True, timeout=60)
    assert got.returncode == 2 and got.stderr.count("\n") == 1 and "Traceback" not in got.stderr


def test_a_port_in_use_and_nobody_there_are_exit_1() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        got = subprocess.run(simlib("serve", address), capture_output=True, text=True, timeout=60)
    assert got.returncode == 1 and "Address already in use" in got.stderr and "Traceback" not in got.stderr
    got = subprocess.run(simlib("connect", address), capture_output=True, text=True, timeout=60)
    assert got.returncode == 1 and "Connection refused" in got.stdout and "Traceback" not in got.stderr


def test_a_capture_that_can_not_be_written_is_told_before_anybody_is_listened_to(tmp_path: Path) -> None:
    command = simlib("serve", "tcp:127.0.0.1:0", "--pcap", str(tmp_path / "no" / "c.pcapng"))
    got = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert got.returncode == 1 and got.stderr == f"simlib: {tmp_path}/no/c.pcapng: No such file or directory\n"


def test_a_capture_on_a_full_disk_takes_nothing_from_the_report() -> None:
    (code, source), _ = both(f"tcp:127.0.0.1:{free_port()}", (), ("--pcap", "/dev/full"))
    assert code == 0 and source["status"] == "completed" and source["steps"]


def test_a_command_that_ends_at_once_is_not_waited_for() -> None:
    got = subprocess.run(simlib("serve", "exec:false"), capture_output=True, text=True, timeout=60)
    assert got.returncode == 1 and "exec:false: its other end is gone" in got.stderr


@pytest.mark.slow
def test_a_command_that_heeds_no_signal_is_killed() -> None:
    command = simlib("connect", "exec:trap '' TERM INT; while true; do sleep 0.1; done")
    with killed(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)) as source:
        assert source.stdout is not None and "setup" in source.stdout.readline()
        source.send_signal(signal.SIGINT)
        output, err = source.communicate(timeout=60)
    assert source.returncode == 130 and "cancelled" in output and not err


@pytest.mark.parametrize("both_streams", [False, True])
def test_a_listener_whose_reader_is_gone_ends(both_streams: bool) -> None:
    command = simlib("serve", f"tcp:127.0.0.1:{(port := free_port())}")
    stderr = subprocess.STDOUT if both_streams else subprocess.PIPE
    with killed(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)) as server:
        assert server.stdout is not None
        while "listening" not in (server.stdout if both_streams else server.stderr).readline():
            pass
        server.stdout.close()
        with socket.create_connection(("127.0.0.1", port)) as intruder:
            intruder.sendall(b"hello, this is no handshake at all")
            server.wait(timeout=60)
        err = "" if both_streams else server.stderr.read()
    assert server.returncode == 1 and err == "simlib: output: Broken pipe: nothing more is told\n" * (not both_streams)


@pytest.mark.slow
def test_who_asks_and_never_reads_is_not_read_any_more(tmp_path: Path) -> None:
    """v1's PING, answered each time: the answers of gigabytes would not be a peer's to store with us."""
    ping = struct.pack(">BHHI", 8, 2, 4, 1)
    head = b"QEVM" + struct.pack(">IBI", 3, 7, 13) + b"pc-i440fx-7.2" + struct.pack(">BHH", 8, 1, 0)
    command = simlib("serve", f"unix:{tmp_path}/s", "--protocol", "v1", "--json")
    with killed(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)) as server:
        assert server.stderr is not None and server.stderr.readline()
        with socket.socket(socket.AF_UNIX) as intruder:
            intruder.connect(f"{tmp_path}/s")
            intruder.settimeout(5)
            intruder.sendall(head)
            with pytest.raises(TimeoutError):
                for _ in range(64):
                    intruder.sendall(ping * (1 << 17))
            pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)
    assert pages * 4096 < 300 << 20


@pytest.mark.parametrize("name", ["bad..name", "a b"])
def test_a_name_that_no_host_has_leaves_no_half_made_folder(name: str, tmp_path: Path) -> None:
    got = subprocess.run(simlib("certificates", str(tmp_path / "c"), name), capture_output=True, text=True, timeout=60)
    assert got.returncode == 2 and got.stderr.count("\n") == 1 and name in got.stderr and not (tmp_path / "c").exists()


def test_a_command_at_each_end_carries_the_handshake_inline(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    serve = " ".join(simlib("serve", "fd:0"))
    got = subprocess.run(simlib("connect", f"exec:{serve} 1>&2"), capture_output=True, text=True, timeout=60)
    assert got.returncode == 0 and "says GO [control]" in got.stdout and not path.exists()


def test_wireshark_reads_a_tls_capture_with_the_keys_that_are_inside(tmp_path: Path) -> None:
    make_credentials(tmp_path / "creds")
    secure = ("--tls", str(tmp_path / "creds"))
    capture = tmp_path / "c.pcapng"
    both(f"tcp:127.0.0.1:{free_port()}", secure, (*secure, "--ram-mib", "1", "--pcap", str(capture)))
    assert b"CLIENT_TRAFFIC_SECRET_0" in capture.read_bytes() and capture.stat().st_mode & 0o777 == 0o600
    from shutil import which

    if which("tshark") is None:
        pytest.skip("tshark is not installed: apt-get install tshark")
    shown = subprocess.run(
        ["tshark", "-r", str(capture), "-d", "tcp.port==4444,tls", "-q", "-z", "follow,tls,ascii,0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "session-id" in shown.stdout, shown.stderr


def test_private_keys_are_their_owner_s_from_the_first_byte_on(tmp_path: Path) -> None:
    left = tmp_path / "server-key.pem"  # by somebody who was killed on the way
    left.write_bytes(b"old")
    left.chmod(0o644)
    with left.open("rb") as reader:
        make_credentials(tmp_path)
        assert reader.read() == b"old"
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.glob("*-key.pem")}
    assert modes == {"server-key.pem": 0o600, "client-key.pem": 0o600}


def test_a_disk_that_is_full_of_keys_is_told_with_the_path(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    command = ["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *simlib("certificates", str(folder))]
    got = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (got.returncode, got.stderr) == (1, f"simlib: {folder}/server-key.pem: File too large\n")


# --- TLS ------------------------------------------------------------------------------------------------------------
def shaken(client: Tls, server: Tls) -> None:
    for _ in range(4):
        for one, other in ((client, server), (server, client)):
            said = one.take()
            if said:
                other.arrived(said)
                if not other.secured:
                    other.shake()


def test_both_sides_export_the_same_key_and_each_connection_another(tmp_path: Path) -> None:
    credentials = make_credentials(tmp_path)
    contexts = [credentials.context(server) for server in (False, True)]
    pairs = [(Tls(contexts[0], False, "localhost"), Tls(contexts[1], True)) for _ in range(2)]
    for client, server in pairs:
        client.shake()
        shaken(client, server)
        assert client.exporter == server.exporter
    assert pairs[0][0].exporter != pairs[1][0].exporter


def test_a_broken_record_behind_plain_bytes_is_told_with_them(tmp_path: Path) -> None:
    credentials = make_credentials(tmp_path)
    client, server = Tls(credentials.context(False), False, "localhost"), Tls(credentials.context(True), True)
    client.shake()
    shaken(client, server)
    client.write(b"hello")
    server.arrived(client.take() + b"\x17\x03\x03\0\x20" + bytes(32))
    assert server.read() == b"hello"
    assert server.failed == UNEXPECTED and not server.ended


@pytest.mark.parametrize("hostname", ["example.org", "10.1.2.3"])
def test_a_certificate_for_another_name_is_refused(hostname: str, tmp_path: Path) -> None:
    credentials = make_credentials(tmp_path)
    client, server = Tls(credentials.context(False), False, hostname), Tls(credentials.context(True), True)
    client.shake()
    with pytest.raises(TlsError, match=hostname):
        shaken(client, server)


def test_what_is_not_tls_is_called_so_and_a_stranger_s_certificate_is_refused(tmp_path: Path) -> None:
    ours, theirs = make_credentials(tmp_path / "a"), make_credentials(tmp_path / "b")
    server = Tls(ours.context(True), True)
    server.arrived(b"QEVM\0\0\0\3" + bytes(64))
    with pytest.raises(TlsError, match="unexpected TLS packet"):
        server.shake()
    client, server = Tls(theirs.context(False), False), Tls(ours.context(True), True)
    client.shake()
    with pytest.raises(TlsError, match="verify failed"):
        shaken(client, server)
    with pytest.raises(SSL.Error):
        client.connection.export_keying_material(b"x", 32)


# --- faults and leftovers -------------------------------------------------------------------------------------------
def leftovers(folder: Path) -> tuple[int, int, int]:
    gc.collect()
    return (sum(1 for _ in Path("/proc/self/fd").iterdir()), threading.active_count(), len(list(folder.iterdir())))


ENDINGS: dict[str, Scenario] = {
    "success": MATCHED,
    "refusal": find("device_only_at_source"),
    "cut": find("cut_midway"),
    "cancel": find("cancelled"),
    "intruder": find("stranger_garbage"),
    "tls": MATCHED.vary(source=Side(parameters={"tls-creds": "a"}), destination=Side(parameters={"tls-creds": "a"})),
    "stall": MATCHED.vary(faults=(Fault("stall", after_mib=1.0),), management__deadline_s=0.5),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_socket_task_thread_or_file_is_left(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    live.run(MATCHED)  # what is loaded once
    before = leftovers(tmp_path)
    live.run(ENDINGS[ending])
    assert leftovers(tmp_path) == before == (before[0], before[1], 0)


def test_ctrl_c_at_either_side_leaves_nothing_and_cancels(tmp_path: Path) -> None:
    address, pipes = f"unix:{tmp_path}/socket", {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with killed(subprocess.Popen(simlib("serve", address), **pipes)) as server:
        assert server.stderr is not None and server.stderr.readline()
        with killed(subprocess.Popen(simlib("connect", address, "--ram-mib", "60000"), **pipes)) as source:
            assert source.stdout is not None
            while "hears READY" not in source.stdout.readline():
                assert source.poll() is None
            source.send_signal(signal.SIGINT)
            output, err = source.communicate(timeout=30)
        assert source.returncode == 130 and "cancelled" in output and "Traceback" not in err
        server.send_signal(signal.SIGINT)
        _, err = server.communicate(timeout=30)
    assert "Traceback" not in err and not (tmp_path / "socket").exists()


def test_an_address_is_one_of_four_kinds() -> None:
    assert parse("localhost:4444") == parse("tcp:localhost:4444") and parse("tcp:[::1]:5").host == "::1"
    assert parse("exec:socat - TCP:b:1").inline and not parse("unix:/a:b").inline
    with pytest.raises(AddressError):
        parse("tcp::")


def test_an_engine_s_defect_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    from simlib.handshake.interface import Received
    from simlib.handshake.v2.destination import Destination

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Destination, "_handlers", {**Destination._handlers, Received: broken})
    with pytest.raises(ZeroDivisionError):
        live.run(find("matched"))
