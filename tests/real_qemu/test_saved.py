"""Real streams are read to the last byte, and anything else gets one sentence."""

from __future__ import annotations

import json
import lzma
import random
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import pytest

from simlib.case.profiles import DATA
from simlib.cli.machines import _told, knowable
from simlib.handshake.stream import FOOTER, FULL, VMDESCRIPTION
from simlib.real_qemu import saved as saved_module
from simlib.real_qemu.preflight import machine_of
from simlib.real_qemu.saved import Saved, SavedError, read

STREAMS = sorted((DATA / "captures/streams").glob("*.xz"))
NAMES = [p.name.removesuffix(".stream.xz") for p in STREAMS]


def unpacked(name: str, folder: Path) -> Path:
    path = folder / name
    path.write_bytes(lzma.decompress((DATA / f"captures/streams/{name}.stream.xz").read_bytes()))
    return path


def simlib(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "simlib", *args], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", NAMES)
def test_every_device_stands_where_it_is_said_to_and_no_byte_between_them_is_left(name: str, tmp_path: Path) -> None:
    path = unpacked(name, tmp_path)
    data, saved = path.read_bytes(), read(path)
    at = saved.devices_at
    for d in saved.devices:
        head = bytes([len(d.id)]) + d.id.encode() + struct.pack(">II", d.instance, d.version)
        assert (d.offset, data[at], data[at + 5 : at + 5 + len(head)]) == (at, FULL, head)
        at += 5 + len(head) + d.size_bytes
        assert data[at] == FOOTER
        at += 5
    assert data[at : at + 2] == bytes([0, VMDESCRIPTION]) and at + 6 + saved.description_bytes == len(data)
    assert len(saved.devices) >= 29 and saved.machine_type == "pc-q35-7.2" and not saved.notes


def test_what_each_capture_declares_is_shown(tmp_path: Path) -> None:
    captures = {n: read(unpacked(n, tmp_path)) for n in NAMES}
    assert captures["10.0-mapped-ram"].capabilities == ("mapped-ram",)
    assert captures["10.0-tcp-ignore-shared"].capabilities == ("x-ignore-shared",)
    both_ways = captures["7.2-tcp-return-path-postcopy-uuid"]
    assert both_ways.uuid == "00112233445566778899aabbccddeeff"
    assert both_ways.commands == ["OPEN_RETURN_PATH", "PING", "POSTCOPY_ADVISE"]
    assert any(d.id.endswith("virtio-rng") for d in captures["10.0-file-virtio-rng"].devices)
    for saved in captures.values():
        assert saved.blocks[0].size_bytes == 16 << 20 and sum(saved.pages.values()) in (0, saved.ram_bytes // 4096)


def test_it_is_said_what_a_destination_could_know_and_what_it_could_not(tmp_path: Path) -> None:
    text = simlib("inspect", str(unpacked("10.0-file-virtio-rng", tmp_path))).stdout
    first, last = text.index("first: machine type pc-q35-7.2"), text.index("only after all of the memory")
    assert first < last < text.index("never: how long a device's state is")
    again = json.loads(simlib("inspect", "--json", str(tmp_path / "10.0-file-virtio-rng")).stdout)
    assert len(again["devices"]) == 30 and again["known"] == list(knowable(read(tmp_path / "10.0-file-virtio-rng")))


def test_a_stream_that_is_cut_anywhere_is_called_cut(tmp_path: Path) -> None:
    data = unpacked("7.2-exec", tmp_path).read_bytes()
    rng = random.Random(1)
    for size in (*range(1, 60), *(rng.randrange(60, len(data)) for _ in range(150))):
        path = tmp_path / "cut"
        path.write_bytes(data[:size])
        with pytest.raises(SavedError, match=r"cut short|no migration stream"):
            read(path)


def test_a_broken_stream_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    data = unpacked("7.2-tcp-return-path-postcopy-uuid", tmp_path).read_bytes()
    refused = 0
    for seed in range(250):
        rng = random.Random(seed)
        broken = bytearray(data)
        start = rng.choice((0, 0, len(data) - 60_000))
        for _ in range(rng.randrange(1, 4)):
            broken[rng.randrange(start, min(start + 400, len(data)) if start == 0 else len(data))] = rng.choice(
                (0, 255, rng.randrange(256))
            )
        path = tmp_path / "broken"
        path.write_bytes(broken)
        try:
            assert isinstance(read(path), Saved)
        except SavedError as error:
            refused += 1
            assert str(error).isprintable() and len(str(error)) < 400 + len(str(path))
    assert refused > 50


HEADER = b"QEVM\0\0\0\3"
CONFIGURED = HEADER + b"\7\0\0\0\2pc"
RAM = CONFIGURED + b"\1\0\0\0\2\3ram" + struct.pack(">II", 0, 4)
WRONG = {
    "empty": (b"", "is empty"),
    "not a stream": (b"hello, world" * 9, "no migration stream"),
    "another version": (b"QEVM\0\0\0\2", "file version 2"),
    "a long name": (HEADER + b"\7\xff\xff\xff\xff" + bytes(99), "4294967295"),
    "a strange subsection": (CONFIGURED + b"\5\3abc" + bytes(9), "holds abc"),
    "pages of 2^255": (CONFIGURED + b"\5\x1econfiguration/target-page-bits\0\0\0\1\0\0\0\xff", "2\\^255"),
    "an unknown section": (CONFIGURED + b"\x55", "section type 85"),
    "a part of nothing": (CONFIGURED + b"\2\0\0\0\7", "has not begun"),
    "blocks without end": (RAM + b"\xff" * 7 + b"\4" + b"\1a" + bytes(8) * 9999, "broken|cut short"),
    "blocks beyond the memory": (RAM + struct.pack(">Q", 4096 | 4) + b"\1a" + b"\xff" * 8, "more than the memory"),
    "unknown flags": (RAM + struct.pack(">QQ", 4, 0x400), "unknown flags 0x400"),
    "a packed page of 4 GiB": (RAM + struct.pack(">QQB", 4, 0x120, 0) + b"\xff" * 4, "cut short"),
    "a command that is cut": (CONFIGURED + b"\x08\0\1\xff\xff", "cut short"),
    "a manifest that is none": (b"\x89QMF\r\n\x1a\n" + b"\xff" * 20, "manifest"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_stream_gets_one_sentence(what: str, tmp_path: Path) -> None:
    data, expected = WRONG[what]
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(SavedError, match=expected):
        read(path)


@pytest.mark.slow
def test_the_command_ends_with_1_and_one_line_or_with_2_if_asked_wrongly(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for place in (tmp_path, tmp_path / "missing", tmp_path / "text", Path("/dev/null")):
        result = simlib("inspect", str(place))
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1), result.stderr
        assert result.stderr.startswith(f"simlib: {place}")
    assert simlib("inspect").returncode == 2
    for offset in ("-5", "nine"):
        assert simlib("inspect", "--offset", offset, str(tmp_path / "text")).returncode == 2


def test_a_description_nested_without_end_is_no_description(tmp_path: Path) -> None:
    path = tmp_path / "deep"
    text = b'{"devices": ' + b"[" * 200_000
    path.write_bytes(CONFIGURED + b"\0\6" + struct.pack(">I", len(text)) + text)
    with pytest.raises(SavedError, match="cut short"):
        read(path)


def test_a_description_with_nonsense_anywhere_is_read_or_left_alone(tmp_path: Path) -> None:
    from tests.real_qemu.test_preflight import with_nonsense

    data = unpacked("7.2-exec", tmp_path).read_bytes()
    at = data.rfind(b"\0\6")
    good, taken = json.loads(data[at + 6 :]), 0
    for seed in range(300):
        text = json.dumps(with_nonsense(good, random.Random(seed))).encode()
        path = tmp_path / "made-up"
        path.write_bytes(data[: at + 2] + struct.pack(">I", len(text)) + text)
        try:
            saved = read(path)
        except SavedError as error:
            assert "cut short" in str(error)
            continue
        taken += 1
        lines = [*_told(saved), *knowable(saved)]
        assert all(line.isprintable() for line in lines) and json.dumps([asdict(d) for d in saved.devices]), seed
        assert len(machine_of(saved).devices) == len(saved.devices), seed
    assert taken > 20


def test_of_a_million_marks_of_a_description_the_last_one_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(saved_module, "devices", lambda text: looked.append(len(text)))
    many = 1 << 20
    path = tmp_path / "marks"
    path.write_bytes(CONFIGURED + b"".join(b"\0\6" + struct.pack(">I", 6 * n) for n in reversed(range(many))))
    with pytest.raises(SavedError, match="cut short"):
        read(path)
    assert len(looked) <= 3


def test_a_file_of_8_gib_is_read_in_little_memory(tmp_path: Path) -> None:
    size, pages_at = 8 << 30, 1 << 20
    capability = b"\5\x1aconfiguration/capabilities\0\0\0\1\0\0\0\1\x0amapped-ram"
    block = b"\6pc.ram" + struct.pack(">QIQQQ", size, 1, 4096, 4096, pages_at)
    front = (
        CONFIGURED + capability + b"\1\0\0\0\2\3ram" + struct.pack(">II", 0, 4) + struct.pack(">Q", size | 4) + block
    )
    device = b"\4\0\0\0\3\1d" + struct.pack(">II", 0, 7) + b"state" + b"\x7e\0\0\0\3"
    fields = [{"name": "a", "size": 5, "type": "buffer"}]
    text = json.dumps({"devices": [{"name": "d", "instance_id": 0, "version": 7, "fields": fields}]}).encode()
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.write(front)
        file.seek(pages_at + size)
        file.write(struct.pack(">Q", 0x10) + b"\x7e\0\0\0\2" + device + b"\0\6" + struct.pack(">I", len(text)) + text)
    tracemalloc.start()
    saved = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path.unlink()
    assert saved.devices[0].offset == pages_at + size + 13 and saved.ram_bytes == size and peak < 4 << 20
