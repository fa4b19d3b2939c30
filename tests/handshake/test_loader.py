"""The loader reads what stream.py writes however it is cut, and refuses everything else in QEMU's words."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake import stream
from simlib.handshake.loader import Loader, MultifdReader, Position, StreamError
from simlib.handshake.machine import Device, Machine, RamBlock, Settings, Subsection
from tests.handshake.builders import FEW, FIRST_DEVICE_SECTION, QUICK, RAM_SECTION, SETTINGS, SIZES, cut, main_stream

TIMER = Device("timer", 1, 4, 2, size_bytes=8, subsections=(Subsection("timer/icount"),))
PC = Settings(machine=Machine("pc-7.2", ram_blocks=(RamBlock("pc.ram", 1 << 20),), devices=(TIMER,)))
HEADER = stream.header(PC)
UUID = "00112233445566778899aabbccddeeff"
Event = tuple[object, ...]


def events(loader: Loader, pieces: Sequence[stream.Piece]) -> list[Event]:
    """All events of these pieces; pages that come in several are one event."""
    result: list[Event] = []
    for data, fill in pieces:
        loader.feed(data, fill)
        while (event := loader.next_event()) is not None:
            last = result[-1] if result else ("",)
            if event[0] == last[0] == "ram":
                assert isinstance(event[1], int) and isinstance(last[1], int)
                event = ("ram", last[1] + event[1])
                result.pop()
            result.append(event)
    return result


def text_of(data: bytes, ours: Settings = PC) -> str:
    """The refusal of a stream, which comes at its last byte and not before."""
    loader = Loader(ours)
    events(loader, [(data[:-1], 0)])
    with pytest.raises(StreamError) as refusal:
        events(loader, [(data[-1:], 0)])
    return str(refusal.value)


def accepts(data: bytes, ours: Settings = PC) -> list[Event]:
    return events(Loader(ours), [(data, 0)])


def pc(*capabilities: str, version: str = "10.0", **facts: object) -> Settings:
    return replace(PC, version=version, capabilities=capabilities, machine=replace(PC.machine, **facts))  # type: ignore[arg-type]


def section(name: str, instance: int, version: int, kind: int = stream.FULL, number: int = 7) -> bytes:
    return struct.pack(">BIB", kind, number, len(name)) + name.encode() + struct.pack(">II", instance, version)


def block_list(name: str, size_bytes: int) -> bytes:
    """RAM's first section with one block, as far as that."""
    listed = struct.pack(">QB", size_bytes | stream.RAM_MEM_SIZE, len(name)) + name.encode()
    return section("ram", 0, 4, stream.START) + listed + struct.pack(">Q", size_bytes)


# --- good streams ---------------------------------------------------------------------------------------------------
@FEW
@given(SETTINGS, st.lists(st.integers(0, 40_000), max_size=3), SIZES)
def test_a_stream_is_read_to_its_end_however_it_is_cut(ours: Settings, passes: list[int], sizes: list[int]) -> None:
    loader, machine = Loader(ours), ours.machine
    result = events(loader, cut(main_stream(ours, passes), sizes))
    expected: list[Event] = [("machine", machine.type), ("setup", len(machine.ram_blocks)), ("eos",)]
    for size_bytes in passes:
        pages = -(-size_bytes // 4096) * 4096
        expected += [*([("page", pages), ("ram", pages)] if pages else []), ("eos",)]
    expected.append(("eos",))
    expected += [("device", device.id, device.size_bytes) for device in machine.devices]
    assert result == [*expected, ("eof",), ("description",)]
    assert loader.state == Position.FINISHED and len(loader.buffer) == 0


@FEW
@given(SETTINGS, st.lists(st.integers(0, 40_000), max_size=3), SIZES, st.binary(max_size=9))
def test_what_follows_the_end_of_a_stream_is_not_read(
    ours: Settings, passes: list[int], sizes: list[int], after: bytes
) -> None:
    loader = Loader(ours)
    events(loader, cut([*main_stream(ours, passes), (after, 0)], sizes))
    assert loader.state == Position.FINISHED and loader.buffer.peek(len(after) + 1) == after


@FEW
@given(SETTINGS, SIZES, st.data())
def test_a_fork_of_a_loader_reads_on_as_the_loader_itself(
    ours: Settings, sizes: list[int], data: st.DataObject
) -> None:
    pieces = cut(main_stream(ours), sizes)
    at = data.draw(st.integers(0, len(pieces)))
    loader = Loader(ours)
    events(loader, pieces[:at])
    fork = loader.fork()
    assert fork.key() == loader.key()
    assert events(loader, pieces[at:]) == events(fork, pieces[at:])
    assert fork.key() == loader.key()


@QUICK
@given(st.lists(st.sampled_from(sorted(stream.COMMAND_LENGTH)), max_size=6), SIZES)
def test_commands_are_reported_with_their_payloads(numbers: list[int], sizes: list[int]) -> None:
    commands = [(n, bytes(range(stream.COMMAND_LENGTH[n][-1]))) for n in numbers]
    data = HEADER + b"".join(stream.command(n, payload) for n, payload in commands)
    loader = Loader(PC)
    assert events(loader, cut([(data, 0)], sizes))[1:] == [("command", n, payload) for n, payload in commands]


def test_multifd_s_flush_is_reported_before_the_end_of_its_section() -> None:
    data = HEADER + stream.ram_start(RAM_SECTION, PC, flush=True)
    assert accepts(data)[1:] == [("setup", 1), ("flush",), ("eos",)]


def test_pages_of_the_same_block_need_not_name_it_again() -> None:
    start = HEADER + stream.ram_start(RAM_SECTION, PC, flush=False) + struct.pack(">BI", stream.PART, RAM_SECTION)
    again = struct.pack(">Q", 4096 | stream.RAM_PAGE | stream.RAM_CONTINUE) + bytes(4096)
    assert accepts(start + again)[-2:] == [("page", 4096), ("ram", 4096)]


# --- refusals -------------------------------------------------------------------------------------------------------
NOT_A_STREAM = "Not a migration stream"


@QUICK
@given(st.binary(min_size=1, max_size=6).filter(lambda data: data[:4] != stream.MAGIC[: len(data)]))
def test_another_magic_is_refused_at_its_first_wrong_byte(data: bytes) -> None:
    right = next(n for n in range(4) if data[n : n + 1] != stream.MAGIC[n : n + 1])
    if right < len(data):
        assert text_of(data[: right + 1]) == NOT_A_STREAM


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"QEVM\0\0\0\2", "SaveVM v2 format is obsolete and no longer supported"),
        (b"QEVM\0\0\0\4", "Unsupported migration stream version"),
        (b"QEVM\0\0\0\3\6", "Configuration section missing"),
        (b"QEVM\0\0\0\3\7\0\0\1\0", "Machine type name of 256 bytes is too long"),
        (b"QEVM\0\0\0\3\7\0\0\0\3pcx", "Machine type received is 'pcx' and local is 'pc-7.2'"),
        (b"QEVM\0\0\0\3\7\0\0\0\7pc-7.2x", "Machine type received is 'pc-7.2x' and local is 'pc-7.2'"),
        (HEADER + b"\5\1x\0\0\0\1", "Unknown savevm subsection 'x'"),
        (HEADER + b"\x09", "Unknown savevm section type 9"),
        (HEADER + b"\2\0\0\0\1", "Unknown savevm section 1"),
        (HEADER + b"\x08\0\x0d\0\1", "MIG_CMD 0xd unknown (len 0x1)"),
        (HEADER + b"\x08\0\2\0\5", "PING received with bad length - expecting 4, got 5"),
        (HEADER + b"\x08\0\3\0\4", "POSTCOPY_ADVISE received with bad length - expecting 16, got 4"),
        (HEADER + section("timer", 1, 5), "savevm: unsupported version 5 for 'timer' v4"),
        (HEADER + section("timer", 1, 1), "timer: incoming version_id 1 is too old for local minimum version id"),
        (HEADER + block_list("rom", 4096), 'Unknown ramblock "rom", cannot accept migration'),
        (HEADER + block_list("pc.ram", 4096), "Size mismatch: pc.ram: 0x1000 != 0x100000: Invalid argument"),
        (HEADER + section("timer", 1, 4) + bytes(8) + b"\x7d", "Missing section footer for timer"),
        (HEADER + section("timer", 1, 4) + bytes(8) + b"\x7e\0\0\0\6", "Mismatched section id in footer for timer: 6"),
        (HEADER + section("timer", 1, 4) + bytes(8) + b"\5\1x\0\0\0\1", "Failed to load timer: unknown subsection x"),
        (HEADER + b"\0\1", "Expected vmdescription section, but got something else"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_stream_that_cannot_be_loaded_is_refused_in_qemu_s_words(data: bytes, text: str) -> None:
    assert text_of(data) == text


@pytest.mark.parametrize(("name", "instance"), [("rtc", 1), ("timer", 0), ("timer", 2)])
def test_a_device_that_is_not_here_is_refused_by_name_and_instance(name: str, instance: int) -> None:
    text = text_of(HEADER + section(name, instance, 4))
    assert text.startswith(f"Unknown section or instance '{name}' {instance}. Make sure that your current VM setup")


@pytest.mark.parametrize("version", [2, 3, 4])
def test_every_version_of_a_device_from_the_lowest_to_its_own_is_loaded(version: int) -> None:
    assert accepts(HEADER + section("timer", 1, version) + bytes(8) + b"\x7e")[1:] == [("device", "timer", 8)]


@pytest.mark.parametrize("name", ["pc-7.2", "pc-7", "pc", ""])
def test_the_machine_type_is_compared_over_the_received_length_alone(name: str) -> None:
    data = b"QEVM\0\0\0\3\7" + struct.pack(">I", len(name)) + name.encode()
    assert accepts(data) == [("machine", name)]


def test_a_machine_type_may_have_255_bytes() -> None:
    name = "m" * stream.STRING_LIMIT
    assert accepts(stream.header(pc(type=name)), pc(type=name)) == [("machine", name)]


@pytest.mark.parametrize(("sent", "local"), [(14, 16), (13, 12)])
def test_other_page_bits_are_refused(sent: int, local: int) -> None:
    text = f"Received target_page_bits {sent} but local is {local}"
    assert text_of(stream.header(pc(page_bits=sent)), pc(page_bits=local)) == text


@pytest.mark.parametrize("capability", stream.VALIDATED)
def test_a_capability_that_a_stream_declares_must_be_on_here_and_the_other_way_round(capability: str) -> None:
    on, off = pc(capability), pc()
    text = f"Capability {capability} is off, but received capability is on"
    assert text_of(stream.header(on) + b"\x08", off) == text
    text = f"Capability {capability} is on, but received capability is off"
    assert text_of(stream.header(off) + b"\x08", on) == text
    assert len(accepts(stream.header(on) + b"\x08", on)) == 1


def test_mapped_ram_is_no_capability_of_a_stream_for_a_destination_before_9_0() -> None:
    data = stream.header(pc("mapped-ram")) + b"\x08"
    assert text_of(data, pc("mapped-ram", version="8.2")) == "Received unknown capability mapped-ram"
    assert len(accepts(data, pc("mapped-ram", version="9.0"))) == 1


def test_another_uuid_is_refused_by_a_machine_that_has_one() -> None:
    data = stream.header(pc("validate-uuid", uuid=UUID))
    assert text_of(data, pc(uuid="f" * 32)) == f"UUID received is {UUID} and local is {'f' * 32}"
    assert len(accepts(data, pc(uuid=UUID))) == len(accepts(data, pc())) == 1


def test_a_block_may_have_another_size_if_it_is_resizable_or_its_pages_stand_in_a_file() -> None:
    data, end = block_list("pc.ram", 4096), struct.pack(">Q", stream.RAM_EOS)
    resizable = pc(ram_blocks=(RamBlock("pc.ram", 1 << 20, resizable=True),))
    assert accepts(HEADER + data + end, resizable)[1:] == [("setup", 1), ("eos",)]
    mapped = pc("mapped-ram")
    assert accepts(stream.header(mapped) + data + end, mapped)[1:] == [("setup", 1), ("eos",)]


def test_compressed_pages_need_the_capability() -> None:
    start = stream.ram_start(RAM_SECTION, PC, flush=False) + struct.pack(">BI", stream.PART, RAM_SECTION)
    data = start + struct.pack(">Q", 4096 | stream.RAM_COMPRESS)
    assert text_of(HEADER + data) == f"error while loading state section id {RAM_SECTION}(ram)"
    assert accepts(HEADER + data + b"\x06pc.ram", pc("compress"))[-1] == ("page", 4096)


@pytest.mark.parametrize("flags", [0x00, 0x02, 0x20, 0x80, 0x400])
def test_a_record_that_is_none_is_refused_with_its_flags(flags: int) -> None:
    start = stream.ram_start(RAM_SECTION, PC, flush=False) + struct.pack(">BI", stream.PART, RAM_SECTION)
    text = f"Unknown combination of migration flags: 0x{flags:x}"
    assert text_of(HEADER + start + struct.pack(">Q", 4096 | flags)) == text


def test_only_ram_may_come_in_parts_and_under_its_own_number() -> None:
    data = HEADER + stream.ram_start(RAM_SECTION, PC, flush=False)
    for kind in (stream.PART, stream.END):
        wrong = struct.pack(">BI", kind, FIRST_DEVICE_SECTION)
        assert text_of(data + wrong) == f"Unknown savevm section {FIRST_DEVICE_SECTION}"


# --- multifd --------------------------------------------------------------------------------------------------------
PACKETS = st.lists(st.just("sync") | st.integers(1, 5000), max_size=6)


def packets(parts: list[str | int], compression: str = "none") -> list[stream.Piece]:
    sizes = [0 if part == "sync" else int(part) for part in parts]
    return [
        (stream.multifd_packet(number, compression, size, sync=part == "sync"), size)
        for number, (part, size) in enumerate(zip(parts, sizes, strict=True))
    ]


def read(pieces: Sequence[stream.Piece], compression: str = "none", until_sync: int = 99) -> MultifdReader:
    reader = MultifdReader()
    for data, fill in pieces:
        reader = reader.add(data, fill).read(compression, 0, until_sync)
    return reader


@FEW
@given(PACKETS, SIZES, st.sampled_from(("none", "zlib", "zstd")))
def test_packets_are_counted_however_they_are_cut(parts: list[str | int], sizes: list[int], compression: str) -> None:
    reader = read(cut(packets(parts, compression), sizes), compression)
    counted = (reader.syncs, reader.ram_bytes, reader.left, len(reader.buffer))
    assert counted == (parts.count("sync"), sum(p for p in parts if isinstance(p, int)), 0, 0)


@FEW
@given(PACKETS, st.integers(0, 3), SIZES)
def test_a_channel_is_read_as_far_as_the_sync_after_those_that_main_has_passed(
    parts: list[str | int], until_sync: int, sizes: list[int]
) -> None:
    syncs = [at for at, part in enumerate(parts) if part == "sync"]
    end = syncs[until_sync] + 1 if len(syncs) > until_sync else len(parts)
    reader = read(cut(packets(parts), sizes), until_sync=until_sync)
    assert (reader.syncs, reader.ram_bytes) == (
        parts[:end].count("sync"),
        sum(p for p in parts[:end] if isinstance(p, int)),
    )
    rest = sum(len(data) + fill for data, fill in packets(parts)[end:])
    assert len(reader.buffer) == rest


def test_a_packet_whose_payload_is_on_its_way_is_counted_as_far_as_it_has_come() -> None:
    ((head, _),) = packets([4096])
    reader = read([(head, 4000)])
    assert (reader.ram_bytes, reader.left) == (4000, 96)


@pytest.mark.parametrize(("sent", "ours"), [("none", "zlib"), ("zstd", "none"), ("zlib", "zstd")])
def test_packets_of_another_compression_are_refused_but_for_their_syncs(sent: str, ours: str) -> None:
    flags, expected = stream.COMPRESSION_FLAG[sent], stream.COMPRESSION_FLAG[ours]
    with pytest.raises(StreamError, match=f"multifd 0: flags received {flags:x} flags expected {expected:x}"):
        read(packets([4096], sent), ours)
    assert read(packets(["sync"], sent), ours).syncs == 1


def test_a_packet_with_another_magic_is_refused() -> None:
    ((head, _),) = packets(["sync"])
    with pytest.raises(StreamError, match="multifd: received packet magic 51223344 expected 11223344"):
        read([(b"Q" + head[1:], 0)])
