"""What `record.capture` writes, read back by struct alone, and, where there is a tshark, by Wireshark's own code."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from simlib.record.capture import Capture, Segment, write

DISSECTOR = Path(__file__).parents[1] / "data" / "wireshark" / "qemu_migration.lua"
HANDSHAKE = [Segment(0, 0, True, "syn"), Segment(1_000, 0, False, "syn-ack"), Segment(2_000, 0, True, "ack")]
PING = bytes.fromhex("08 0002 0004 00000001")
MAIN = b"QEVM" + bytes.fromhex("00000003 07 0000000a") + b"pc-q35-5.2" + bytes.fromhex("08 0001 0000") + PING
INITIAL = struct.pack("!II16sB39x", 0x11223344, 1, b"", 5)
GIB = 1 << 30


def frame(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack("!IBBHI", len(body) if length is None else length, kind, 0, 0, 0) + body


def preface(role: bytes) -> bytes:
    return b"\x89QM" + role + b"\r\n\x1a\n" + struct.pack("!HHHH", 32, 0x200, 0x200, 0) + bytes(16)


def blocks(path: Path) -> list[tuple[int, bytes]]:
    """Split a pcapng into (type, body), holding every block to its alignment and to its two lengths."""
    raw, parsed, at = path.read_bytes(), [], 0
    while at < len(raw):
        kind, length = struct.unpack_from("<II", raw, at)
        assert length % 4 == 0 and at + length <= len(raw)
        assert struct.unpack_from("<I", raw, at + length - 4) == (length,)
        parsed.append((kind, raw[at + 8 : at + length - 4]))
        at += length
    return parsed


def options(raw: bytes) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    while raw:
        code, length = struct.unpack_from("<HH", raw)
        if not code:
            break
        values[code], raw = raw[4 : 4 + length], raw[4 + length + -length % 4 :]
    return values


def packets(path: Path) -> list[tuple[int, bytes, int, str]]:
    """Return (time in ns, captured bytes, original length, comment) of every packet."""
    records = []
    for kind, body in blocks(path):
        if kind == 6:
            _, high, low, captured, original = struct.unpack_from("<IIIII", body)
            comment = options(body[20 + captured + -captured % 4 :]).get(1, b"").decode()
            records.append((high << 32 | low, body[20 : 20 + captured], original, comment))
    return records


def ones_complement(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_every_block_of_the_file_is_aligned_and_the_head_says_who_wrote_it(tmp_path: Path) -> None:
    write(tmp_path / "run.pcapng", HANDSHAKE, "scenario 12", secrets=b"CLIENT_RANDOM 00 11\n")
    parsed = blocks(tmp_path / "run.pcapng")
    assert [kind for kind, _ in parsed] == [0x0A0D0D0A, 1, 0x0A, 6, 6, 6]
    assert options(parsed[0][1][16:]) == {1: b"scenario 12", 2: b"simulated", 3: b"none", 4: b"simlib"}
    assert parsed[1][1][:2] == b"\x65\0" and options(parsed[1][1][8:])[9] == b"\x09"
    assert parsed[2][1][:8] == struct.pack("<II", 0x544C534B, 20)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_only_the_owner_reads_a_capture_with_secrets_from_its_first_byte(tmp_path: Path) -> None:
    path = tmp_path / "new.pcapng"
    usual = os.umask(0)
    try:
        capture = Capture(path, private=True)
        assert mode(path) == 0o600
        capture.close()
        write(path, HANDSHAKE, secrets=b"CLIENT_RANDOM 00 11\n")
        write(tmp_path / "plain.pcapng", HANDSHAKE)
    finally:
        os.umask(usual)
    assert mode(path) == 0o600 and mode(tmp_path / "plain.pcapng") == 0o666


def test_who_has_an_old_capture_open_sees_no_secret_of_the_one_that_takes_its_place(tmp_path: Path) -> None:
    (tmp_path / "old.pcapng").write_bytes(b"old")
    (tmp_path / "old.pcapng").chmod(0o644)
    (tmp_path / "link.pcapng").symlink_to("old.pcapng")
    with (tmp_path / "old.pcapng").open("rb") as reader:
        write(tmp_path / "link.pcapng", HANDSHAKE, secrets=b"CLIENT_RANDOM 00 11\n")
        assert reader.read() == b"old"
    assert mode(tmp_path / "old.pcapng") == 0o600 and b"CLIENT_RANDOM" in (tmp_path / "old.pcapng").read_bytes()
    assert (tmp_path / "link.pcapng").is_symlink()


def test_secrets_do_not_get_into_a_capture_that_others_can_read(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "run.pcapng")
    with pytest.raises(ValueError, match="private"):
        capture.add_secrets(b"CLIENT_RANDOM 00 11\n")
    capture.close()
    assert b"CLIENT_RANDOM" not in (tmp_path / "run.pcapng").read_bytes()


def test_a_pipe_takes_a_private_capture_as_any_other(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write(tmp_path / "pipe", HANDSHAKE, secrets=b"CLIENT_RANDOM 00 11\n")
    assert b"CLIENT_RANDOM" in os.read(reader, 1 << 16)
    os.close(reader)


def test_lengths_checksums_and_sequence_numbers_of_every_packet_are_right(tmp_path: Path) -> None:
    talk = [*HANDSHAKE, Segment(5 << 32, 0, True, "data", b"odd" * 33_333), Segment(6 << 32, 0, False, "data", b"yes")]
    assert write(tmp_path / "run.pcapng", [*talk, Segment(7 << 32, 0, True, "fin")]) == 7
    following = {(50_000, 4444): 1_000_000, (4444, 50_000): 2_000_000}
    for _, ip, original, _ in packets(tmp_path / "run.pcapng"):
        assert struct.unpack_from("!H", ip, 2) == (len(ip),) and original == len(ip)
        assert ones_complement(ip[:20]) == 0xFFFF
        pseudo = ip[12:20] + struct.pack("!II", 6, len(ip) - 20)
        assert ones_complement(pseudo + ip[20:] + bytes(len(ip) % 2)) == 0xFFFF
        here, there, sequence, acknowledged, words, flags = struct.unpack_from("!HHIIBB", ip, 20)
        assert sequence == following[here, there]
        assert acknowledged == (following[there, here] if flags & 0x10 else 0)
        following[here, there] += len(ip) - 20 - (words >> 2) + (flags & 3 != 0)
    assert [time_ns for time_ns, *_ in packets(tmp_path / "run.pcapng")][3:] == [n << 32 for n in (5, 5, 6, 7)]


def test_stand_in_bytes_are_counted_and_named_but_never_written(tmp_path: Path) -> None:
    run = [*HANDSHAKE, Segment(9, 0, True, "data", b"head", 5 * GIB, "one page"), Segment(9, 0, True, "data", b"tail")]
    write(tmp_path / "run.pcapng", run)
    sent = [each for each in packets(tmp_path / "run.pcapng")[3:] if each[1][20:22] == struct.pack("!H", 50_000)]
    assert sum(original - 40 for _, _, original, _ in sent) == 8 + 5 * GIB
    assert (tmp_path / "run.pcapng").stat().st_size < 4_000
    assert [comment for *_, comment in sent][:2] == ["one page", "536,870,912 stand-in bytes not captured"]
    assert struct.unpack_from("!I", sent[-1][1], 24) == ((1_000_001 + 4 + 5 * GIB) % (1 << 32),)


def test_a_syn_that_is_sent_again_has_its_old_number_and_an_idle_ack_is_left_out(tmp_path: Path) -> None:
    assert write(tmp_path / "run.pcapng", [HANDSHAKE[0], *HANDSHAKE, HANDSHAKE[2]]) == 4
    numbers = [struct.unpack_from("!I", ip, 24)[0] for _, ip, _, _ in packets(tmp_path / "run.pcapng")]
    assert numbers == [1_000_000, 1_000_000, 2_000_000, 1_000_001]


@pytest.mark.parametrize("wrong", [{"kind": "push"}, {"kind": "syn", "data": b"x"}, {"kind": "data", "fill": -1}])
def test_a_segment_that_no_packet_can_say_is_refused_when_it_is_made(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="segment"):
        Segment(0, 0, True, **wrong)  # type: ignore[arg-type]


def tshark(path: Path, *arguments: str) -> list[str]:
    program = shutil.which("tshark")
    if program is None:
        pytest.skip("tshark is not installed: what Wireshark makes of a capture stays unchecked (apt install tshark)")
    command = [program, "-r", str(path), "-X", f"lua_script:{DISSECTOR}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "Lua" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def conversation() -> list[Segment]:
    """A v1 main connection, a multifd one and a v2 control one; what is cut in two has to be reassembled."""
    offer = frame(2, b'{"machine": {"type": "' + b"q" * 70_000 + b'"}}')
    says = [
        (0, True, MAIN[:30], 0),
        (0, True, MAIN[30:], 0),
        (0, False, bytes.fromhex("0002 0004 00000001"), 0),
        (0, True, b"\x01\0\0\0\x02\x03ram" + bytes(7) + b"\x04", 700_000),
        (0, True, b"\x7e\0\0\0\x02" + PING, 0),
        (1, True, INITIAL, 0),
        (2, True, preface(b"S") + frame(1, b"{}") + offer, 0),
        (2, False, preface(b"D") + frame(1, b"{}") + frame(4, b"{}"), 0),
        (2, True, frame(0x40, b"", length=200_000), 200_000),
        (2, False, frame(5, b'{"errors": [{"code": "device-version"}]}'), 0),
    ]
    run = [Segment(n, each, n != 1, kind) for each in range(3) for n, kind in enumerate(("syn", "syn-ack", "ack"))]
    run += [Segment(10 + n, each, up, "data", data, fill) for n, (each, up, data, fill) in enumerate(says)]
    return run + [Segment(99, each, up, "fin") for each in range(3) for up in (True, False)]


@pytest.mark.parametrize("passes", [(), ("-2",)])
def test_wireshark_names_the_messages_of_both_protocols(tmp_path: Path, passes: tuple[str, ...]) -> None:
    write(tmp_path / "run.pcapng", conversation())
    shown = tshark(tmp_path / "run.pcapng", *passes, "-Y", "qemu-migration", "-T", "fields", "-e", "_ws.col.Info")
    assert shown == [
        'v1 QEVM 3, CONFIGURATION "pc-q35-5.2", OPEN_RETURN_PATH',
        "v1 PING 1",
        "v1 PONG 1",
        "v1 SECTION_START ram",
        "v1 FOOTER, PING 1",
        "multifd initial packet of channel 5",
        "v2 PREFACE(S), HELLO",
        "v2 OFFER",
        "v2 PREFACE(D), HELLO, ACCEPT",
        "v2 DATA (200000 bytes)",
        "v2 REJECT device-version",
    ]


def test_wireshark_finds_nothing_malformed_lost_or_sent_twice(tmp_path: Path) -> None:
    run = [*conversation(), *(Segment(200, 3, n != 1, kind) for n, kind in enumerate(("syn", "syn-ack", "ack")))]
    run += [Segment(300, 3, True, "data", b"QEVM\0\0\0\3", 5 * GIB), Segment(301, 3, True, "rst")]
    write(tmp_path / "run.pcapng", run)
    checks = ("-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
    fault = (
        "_ws.malformed || _ws.lua.error || tcp.analysis.flags || tcp.checksum.status == 0 || ip.checksum.status == 0"
    )
    assert tshark(tmp_path / "run.pcapng", *checks, "-Y", fault) == []
    assert len(tshark(tmp_path / "run.pcapng", *checks, "-Y", "tcp.checksum.status == 1")) > 20
