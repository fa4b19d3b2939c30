"""The bytes of v1's stream: each as QEMU's sources have it, written here by hand or with struct."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake import stream
from simlib.handshake.machine import Device, Machine, RamBlock, Settings, Subsection
from tests.handshake.builders import QUICK, expanded

PIECES = st.lists(st.tuples(st.binary(max_size=5), st.just(0) | st.integers(0, 9)), max_size=8)
UUID = "00112233445566778899aabbccddeeff"
EOS = bytes.fromhex("0000000000000010")
FLUSH = bytes.fromhex("0000000000000200")


def pc(*capabilities: str, **facts: object) -> Settings:
    return Settings(machine=Machine("pc", **facts), capabilities=capabilities)  # type: ignore[arg-type]


@QUICK
@given(PIECES)
def test_joined_pieces_are_the_same_bytes_in_as_few_pieces_as_possible(pieces: list[stream.Piece]) -> None:
    fewer = stream.joined(pieces)
    assert expanded(fewer) == expanded(pieces)
    ends = sum(fill > 0 for _, fill in pieces)
    assert len(fewer) == ends + (len(pieces) > 0 and pieces[-1][1] == 0)


@pytest.mark.parametrize(
    ("settings", "behind"),
    [
        (pc(), ""),
        (pc(page_bits=14), "05 1e" + b"configuration/target-page-bits".hex() + "00000001 0000000e"),
        (
            pc("x-ignore-shared"),
            "05 1a" + b"configuration/capabilities".hex() + "00000001 00000001 0f" + b"x-ignore-shared".hex(),
        ),
        (
            pc("x-ignore-shared", "xbzrle", "mapped-ram"),
            "05 1a"
            + b"configuration/capabilities".hex()
            + "00000001 00000002 0a"
            + b"mapped-ram".hex()
            + "0f"
            + b"x-ignore-shared".hex(),
        ),
        (pc("validate-uuid", uuid=UUID), "05 12" + b"configuration/uuid".hex() + "00000001" + UUID),
        (pc("validate-uuid"), ""),
        (pc(uuid=UUID), ""),
    ],
    ids=["plain", "page bits", "one capability", "two capabilities", "uuid", "no uuid", "uuid, not asked for"],
)
def test_a_stream_begins_with_its_version_the_machine_type_and_what_must_be_alike(
    settings: Settings, behind: str
) -> None:
    assert stream.header(settings) == bytes.fromhex("5145564d 00000003 07 00000002 7063" + behind)


@QUICK
@given(st.sampled_from(sorted(stream.COMMANDS)), st.binary(max_size=300))
def test_a_command_has_its_number_and_the_length_of_its_payload(number: int, payload: bytes) -> None:
    kind, read, size = struct.unpack(">BHH", stream.command(number, payload)[:5])
    assert (kind, read, size, stream.command(number, payload)[5:]) == (8, number, len(payload), payload)


def test_postcopy_s_advice_sums_up_the_page_sizes_of_all_blocks_and_has_the_target_s() -> None:
    blocks = (RamBlock("a", 1 << 21), RamBlock("b", 1 << 21, 2 << 20), RamBlock("c", 1 << 21, 2 << 20))
    advice = stream.postcopy_advise(Machine(page_bits=14, ram_blocks=blocks))
    assert advice == bytes.fromhex("08 0003 0010 0000000000201000 0000000000004000")


@pytest.mark.parametrize(
    ("capabilities", "page_bytes", "more"),
    [
        ((), 2 << 20, ""),
        (("postcopy-ram",), 4096, ""),
        (("postcopy-ram",), 2 << 20, "0000000000200000"),
        (("x-ignore-shared",), 4096, "0000000000000000"),
        (("postcopy-ram", "x-ignore-shared"), 2 << 20, "0000000000200000 0000000000000000"),
    ],
)
@pytest.mark.parametrize("flush", [False, True])
def test_ram_s_first_section_lists_all_blocks_with_their_sizes(
    capabilities: tuple[str, ...], page_bytes: int, more: str, flush: bool
) -> None:
    settings = pc(*capabilities, ram_blocks=(RamBlock("pc.ram", 0x200000, page_bytes), RamBlock("rom", 0x1000)))
    rom = "0000000000000000" if "x-ignore-shared" in capabilities else ""
    expected = bytes.fromhex(
        "01 00000002 03 72616d 00000000 00000004 0000000000201004"
        f"06 70632e72616d 0000000000200000 {more} 03 726f6d 0000000000001000 {rom}"
    )
    assert stream.ram_start(2, settings, flush) == expected + FLUSH * flush + EOS + bytes.fromhex("7e 00000002")


@QUICK
@given(st.integers(0, 1 << 50), st.booleans(), st.sampled_from((stream.PART, stream.END)), st.booleans())
def test_a_pass_carries_whole_pages_and_ends_its_section(size: int, flush: bool, kind: int, compress: bool) -> None:
    settings = pc(*(["compress"] if compress else []), ram_blocks=(RamBlock("pc.ram", 4096), RamBlock("rom", 4096)))
    pieces = stream.ram_pass(5, settings, size, flush, kind)
    head, end = struct.pack(">BI", kind, 5), FLUSH * flush + EOS + bytes.fromhex("7e 00000005")
    if size == 0:
        assert pieces == [(head + end, 0)]
        return
    (first, fill), last = pieces
    assert fill % 4096 == 0 and size <= fill < size + 4096 and last == (end, 0)
    assert first == head + struct.pack(">Q", fill + (0x100 if compress else 0x008)) + b"\x06pc.ram"


def test_each_device_is_a_section_of_its_own_with_the_subsections_that_are_always_sent() -> None:
    subsections = (Subsection("t/a", 3, "always"), Subsection("t/b", 1, "maybe"), Subsection("t/cpuhp", 1, "always"))
    devices = (Device("timer", 2, 7, size_bytes=16, subsections=subsections), Device("rtc", size_bytes=9))
    pieces = [*stream.device_state(3, Machine(vcpus=2, devices=devices))]
    assert pieces == [
        (bytes.fromhex("04 00000003 05 74696d6572 00000002 00000007"), 16),
        (bytes.fromhex("05 03 742f61 00000003"), 0),
        (bytes.fromhex("05 07 742f6370756870 00000001"), 25),
        (bytes.fromhex("7e 00000003"), 0),
        (bytes.fromhex("04 00000004 03 727463 00000000 00000001"), 9),
        (bytes.fromhex("7e 00000004"), 0),
    ]


@pytest.mark.parametrize(("description", "expected"), [(b"", "00"), (b"{}", "00 06 00000002 7b7d")])
def test_only_a_precopy_s_end_has_a_description(description: bytes, expected: str) -> None:
    assert stream.end_of_stream(description) == bytes.fromhex(expected)


@pytest.mark.parametrize("uuid", ["", UUID])
@QUICK
@given(channel=st.integers(0, 255))
def test_a_multifd_channel_begins_with_64_bytes_that_name_it(uuid: str, channel: int) -> None:
    packet = stream.multifd_initial(Machine(uuid=uuid), channel)
    magic, version, read, number, unused = struct.unpack(">II16sB39s", packet)  # MultiFDInit_t
    assert (magic, version, number) == (0x11223344, 1, channel) and not any(unused)
    assert len(packet) == stream.MULTIFD_INITIAL_BYTES == 64 and read.hex() == (uuid if uuid else "0" * 32)


FLAGS = {"none": 0, "zlib": 2, "zstd": 4, "qpl": 8, "uadk": 16, "qatzip": 32}  # MULTIFD_FLAG_*, multifd.h


@QUICK
@given(st.integers(1, 1 << 60), st.sampled_from(sorted(FLAGS)), st.integers(0, 1 << 30), st.booleans())
def test_a_multifd_packet_s_header_has_its_flags_the_size_of_its_payload_and_its_number(
    number: int, compression: str, size: int, sync: bool
) -> None:
    packet = stream.multifd_packet(number, compression, size, sync)
    fields = struct.unpack(">IIIIIIQ", packet[:32])  # the first fields of MultiFDPacket_t
    assert fields == (0x11223344, 1, FLAGS[compression] + sync, 128, 0, size, number)
    assert len(packet) == stream.MULTIFD_PACKET_BYTES == 320 + 128 * 8 and not any(packet[32:])


LANES = st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True)


@QUICK
@given(LANES, st.integers(0, 5 * stream.PACKET_FILL_BYTES), st.integers(0, 1000))
def test_a_pass_over_multifd_is_spread_evenly_and_ends_with_a_sync_on_each_channel(
    lanes: list[int], size: int, number: int
) -> None:
    parts = [*stream.multifd_pass(lanes, size, "none", number)]
    numbers = [struct.unpack(">Q", head[24:32])[0] for _, (head, _), _ in parts]
    assert numbers == [*range(number + 1, number + 1 + len(parts))]
    for lane in lanes:
        of_lane = [(head, fill, named) for conn, (head, fill), named in parts if conn == lane]
        sizes = [fill for _, fill, named in of_lane if named == "pages"]
        assert sum(sizes) == size // len(lanes) and all(0 < s <= stream.PACKET_FILL_BYTES for s in sizes)
        assert len(sizes) == -(-(size // len(lanes)) // stream.PACKET_FILL_BYTES)
        assert [struct.unpack(">I", head[20:24])[0] for head, _, _ in of_lane] == [*sizes, 0]
        assert [head[11] for head, _, _ in of_lane] == [0] * len(sizes) + [stream.MULTIFD_SYNC]
        assert of_lane[-1][1:] == (0, "SYNC")
    assert [named for _, _, named in parts[-len(lanes) :]] == ["SYNC"] * len(lanes)


def test_a_pass_without_multifd_s_channels_is_empty() -> None:
    assert [*stream.multifd_pass([], 4096, "none", 0)] == []
