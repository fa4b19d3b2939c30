"""What v1's migration thread writes is one good stream, and it stands still where QEMU's does."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake import interface as i
from simlib.handshake import stream
from simlib.handshake.loader import Loader, Position
from simlib.handshake.machine import Device, RamBlock, Settings
from simlib.handshake.names import Reason, Status
from simlib.handshake.v1.migration_thread import DESCRIPTION
from simlib.handshake.v1.source import Source
from simlib.handshake.v1.states import Stage
from tests.handshake.builders import ACK, MACHINES, PONG, QUICK, SHUT, SMALL, expanded, outputs, sent, small, statuses

VERSIONS = ("7.2", "8.2", "9.1", "10.0", "11.1")
ENDED_WELL = i.Received(0, SHUT)
LAST = (i.RamCollected(4096, True), i.GuestStopped(), i.RamCollected(0, True), ENDED_WELL)
CAPABILITIES = st.sets(st.sampled_from(("return-path", "validate-uuid", "x-ignore-shared"))).map(tuple)
PASSES = st.lists(st.integers(0, 40_000), max_size=3)


def source(*capabilities: str, version: str = "10.0", channels: int = 2, machine_type: str = "pc-q35-8.1") -> Source:
    ours = small(*capabilities, version=version, channels=channels)
    return Source(replace(ours, machine=replace(SMALL, type=machine_type)))


def connected(endpoint: Source, *more: i.Input) -> list[i.Output]:
    """Started, and each connection made that it asks for."""
    out = outputs(endpoint, i.Start())
    for conn in range(9):
        if conn < len(endpoint.channels):
            out += outputs(endpoint, i.Opened(conn))
    return [*out, *outputs(endpoint, *more)]


def read(pieces: Sequence[stream.Piece], ours: Settings) -> tuple[Loader, list[tuple[object, ...]]]:
    loader, events = Loader(ours), []
    for data, fill in pieces:
        loader.feed(data, fill)
        while (event := loader.next_event()) is not None:
            events.append(event)
    return loader, events


# --- the stream -----------------------------------------------------------------------------------------------------
@QUICK
@given(st.sampled_from(VERSIONS), MACHINES, CAPABILITIES, PASSES)
def test_a_precopy_is_one_stream_from_header_to_description_with_all_memory_and_devices(
    version: str, machine: object, capabilities: tuple[str, ...], passes: list[int]
) -> None:
    ours = replace(Settings(version, capabilities=capabilities), machine=machine)  # type: ignore[arg-type]
    endpoint = Source(ours)
    out = connected(endpoint, *(i.RamCollected(size, False) for size in passes), *LAST)
    loader, events = read(sent(out), ours)
    assert loader.state == Position.FINISHED and len(loader.buffer) == 0
    pages = sum(-(-size // 4096) * 4096 for size in [*passes, 4096])
    assert sum(int(str(event[1])) for event in events if event[0] == "ram") == pages
    assert [event[1] for event in events if event[0] == "device"] == [d.id for d in ours.machine.devices]
    assert endpoint.finished == i.Finished(Status.COMPLETED)
    commands = [event[1] for event in events if event[0] == "command"]
    assert commands == ([stream.OPEN_RETURN_PATH, stream.PING] if "return-path" in capabilities else [])


@pytest.mark.parametrize(("version", "section"), [("9.0", 2), ("9.1", 1)])
def test_ram_has_the_number_that_block_migration_leaves_it(version: str, section: int) -> None:
    data = expanded(sent(connected(source(version=version))))
    assert struct.pack(">BI", stream.START, section) + b"\x03ram" in data


@pytest.mark.parametrize("version", ["10.0", "10.2"])
def test_a_postcopy_s_package_has_the_length_that_it_announces(version: str) -> None:
    devices = (Device("timer", size_bytes=16), Device("rtc", size_bytes=9))
    endpoint = Source(Settings(version, replace(SMALL, devices=devices), ("postcopy-ram",)))
    connected(endpoint)
    out = outputs(endpoint, i.SwitchToPostcopy(), i.RamCollected(4096, False), i.GuestStopped())
    package = expanded(sent(out)).partition(bytes.fromhex("08 0007 0004"))[2]
    assert struct.unpack(">I", package[:4]) == (len(package) - 4,)
    commands = [stream.command(stream.POSTCOPY_LISTEN), stream.command(stream.POSTCOPY_RUN)]
    assert package[4:].startswith(commands[0]) and package.endswith(commands[1])
    ping = stream.command(stream.PING, bytes.fromhex("00000042"))
    assert package.endswith(ping + commands[1]) == (version == "10.2")
    out = outputs(endpoint, i.RamCollected(8192, True), ENDED_WELL)
    data = expanded(sent(out))
    assert data.endswith(b"\0") and DESCRIPTION not in data and endpoint.status == Status.COMPLETED


@QUICK
@given(st.integers(1, 4), PASSES, st.sampled_from(("pc-q35-8.0", "pc-q35-8.1")))
def test_with_multifd_pages_go_on_its_channels_and_main_only_ends_the_pass(
    channels: int, passes: list[int], machine_type: str
) -> None:
    sizes = [size * 4096 * 12 for size in passes]
    endpoint = source("multifd", channels=channels, machine_type=machine_type)
    out = connected(endpoint, *(i.RamCollected(size, False) for size in sizes), *LAST)
    _, events = read(sent(out), endpoint.settings)
    assert not [event for event in events if event[0] == "ram"]
    ends = len(sizes) + 3  # START, one part for each pass, the converged one, END
    assert events.count(("eos",)) == ends
    assert events.count(("flush",)) == (ends if machine_type == "pc-q35-8.1" else 0)
    numbers = []
    for conn in range(1, channels + 1):
        initial, *packets = sent(out, conn)
        assert initial == (stream.multifd_initial(endpoint.settings.machine, conn - 1), 0)
        heads = [struct.unpack(">II", data[8:12] + data[20:24]) for data, _ in packets]
        assert (
            sum(size for _, size in heads)
            == sum(fill for _, fill in packets)
            == sum(sizes) // channels + 4096 // channels
        )
        assert [flags for flags, _ in heads].count(stream.MULTIFD_SYNC) == ends
        numbers += [struct.unpack(">Q", data[24:32])[0] for data, _ in packets]
    assert sorted(numbers) == [*range(1, len(numbers) + 1)]


def test_an_eighth_of_what_is_missing_in_postcopy_goes_on_the_preempt_channel_in_whole_pages() -> None:
    endpoint = source("postcopy-ram", "postcopy-preempt", version="7.2")
    connected(endpoint, i.SwitchToPostcopy(), i.RamCollected(4096, False), i.GuestStopped())
    assert endpoint.status == Status.POSTCOPY_ACTIVE and endpoint.channels == ("main", "preempt")
    out = outputs(endpoint, i.RamCollected(8 * 3 * 4096 + 100, True))
    ((head, urgent),) = sent(out, 1)
    assert (urgent, head) == (3 * 4096, struct.pack(">Q", 3 * 4096 | stream.RAM_PAGE) + b"\x06pc.ram")
    on_main = [fill for _, fill in sent(out, 0)]
    assert sum(on_main) == (8 - 1) * 3 * 4096 + 4096  # the odd bytes take a page


# --- where it stands still ------------------------------------------------------------------------------------------
@QUICK
@given(st.sampled_from(VERSIONS), st.sampled_from(((), ("return-path",), ("multifd",))), st.integers(0, 9))
def test_nothing_more_is_written_while_the_transport_has_not_taken_what_was(
    version: str, capabilities: tuple[str, ...], after: int
) -> None:
    """Nor is the guest stopped, or anything else begun."""
    endpoint = source(*capabilities, version=version)
    inputs: list[i.Input] = [i.RamCollected(8192, False), *LAST]
    connected(endpoint, *inputs[: after % len(inputs)])
    if endpoint.finished is not None:
        return
    following = inputs[after % len(inputs)]
    out = endpoint.handle(following)
    waiting = {o.conn for o in out if isinstance(o, i.Send)}
    for conn in sorted(waiting)[:-1]:
        out = endpoint.handle(i.Drained(conn))
        assert [o for o in out if not isinstance(o, i.Entered)] == []
    assert set(endpoint.undrained) == set(sorted(waiting)[-1:])


def test_the_guest_moves_on_only_when_the_second_of_two_connections_is_drained_too() -> None:
    endpoint = source("multifd", channels=2)
    connected(endpoint)
    out = endpoint.handle(i.RamCollected(8192, True))
    assert {o.conn for o in out if isinstance(o, i.Send)} == {1, 2}
    assert endpoint.handle(i.Drained(2)) == [] and endpoint.handle(i.Drained(9)) == []
    out = endpoint.handle(i.Drained(1))
    assert [o.conn for o in out if isinstance(o, i.Send)] == [0]
    assert i.StopGuest() in endpoint.handle(i.Drained(0))


@pytest.mark.parametrize(("version", "first"), [("8.2", True), ("9.0", False)])
def test_the_header_goes_before_or_after_all_channels_are_connected(version: str, first: bool) -> None:
    endpoint = source("multifd", "return-path", version=version)
    assert bool(sent(outputs(endpoint, i.Start(), i.Opened(0)))) == first
    assert not [o for o in outputs(endpoint, i.Opened(2)) if isinstance(o, i.CollectRam)]
    out = outputs(endpoint, i.Opened(1))
    assert i.CollectRam(first=True) in out and bool(sent(out)) and endpoint.stage == Stage.COLLECT


def test_switchover_ack_is_waited_for_and_postcopy_does_not_need_it() -> None:
    endpoint = source("switchover-ack", "return-path")
    connected(endpoint, i.RamCollected(0, True))
    assert endpoint.stage == Stage.WAIT_ACK
    assert i.CollectRam() in outputs(endpoint, i.Received(0, ACK))
    assert i.StopGuest() in outputs(endpoint, i.RamCollected(0, True))
    endpoint = source("switchover-ack", "return-path", "postcopy-ram")
    connected(endpoint, i.RamCollected(0, True))
    assert i.StopGuest() in outputs(endpoint, i.SwitchToPostcopy())


def test_the_preempt_channel_of_newer_versions_waits_for_the_first_pong() -> None:
    endpoint = source("postcopy-ram", "postcopy-preempt")
    connected(endpoint, i.SwitchToPostcopy(), i.RamCollected(0, False))
    assert (endpoint.stage, endpoint.channels) == (Stage.WAIT_PONG, ("main",))
    assert i.Open(1, "preempt") in outputs(endpoint, i.Received(0, PONG))
    assert endpoint.stage == Stage.WAIT_PREEMPT
    assert i.StopGuest() in outputs(endpoint, i.Opened(1))


def test_only_the_first_pass_begins_anew_and_only_one_is_the_last() -> None:
    endpoint = source()
    out = connected(endpoint, i.RamCollected(0, False), *LAST)
    assert [o for o in out if isinstance(o, i.CollectRam)] == [
        i.CollectRam(first=True),
        i.CollectRam(),
        i.CollectRam(last=True),
    ]
    assert out.count(i.StopGuest()) == 1 and i.ResumeGuest() not in out


# --- endings --------------------------------------------------------------------------------------------------------
def test_with_a_return_path_the_destination_has_the_last_word() -> None:
    endpoint = source("return-path")
    connected(endpoint, *LAST[:-1])
    assert endpoint.finished is None and endpoint.stage == Stage.WAIT_SHUT
    out = outputs(endpoint, ENDED_WELL)
    assert out[-2:] == [i.Drop(0), i.Finished(Status.COMPLETED)]
    alone = source()
    connected(alone, *LAST[:-1])
    assert alone.finished == i.Finished(Status.COMPLETED)


@pytest.mark.parametrize(("version", "expected"), [("10.0", ["failed"]), ("11.0", ["failing", "failed"])])
def test_a_write_that_fails_gives_the_guest_back_once_and_closes_everything(version: str, expected: list[str]) -> None:
    endpoint = source("multifd", "return-path", version=version)
    connected(endpoint, *LAST[:2])
    out = outputs(endpoint, i.Broken(1, "reset"), i.RamCollected(4096, True))
    assert statuses(out) == expected and out.count(i.ResumeGuest()) == 1
    assert [o for o in out if isinstance(o, i.Drop)] == [i.Drop(0), i.Drop(1), i.Drop(2)]
    assert endpoint.finished == i.Finished(Status.FAILED, "Unable to write to socket: reset", Reason.GENERIC)
    assert out.index(i.Drop(0)) < out.index(i.ResumeGuest()) < out.index(endpoint.finished)


def test_an_error_of_the_return_path_explains_a_write_that_fails() -> None:
    endpoint = source("return-path")
    connected(endpoint, i.RamCollected(4096, False), i.Received(0, bytes.fromhex("0001000400000005")))
    assert endpoint.finished is None
    outputs(endpoint, i.Broken(0, "reset"), i.RamCollected(4096, False))
    assert endpoint.finished == i.Finished(Status.FAILED, "Sibling indicated error 5", Reason.SPECIFIC)


def test_a_7_2_source_that_fails_keeps_main_while_it_reads_the_return_path() -> None:
    for version, capabilities, dropped in (
        ("7.2", ("multifd", "return-path"), [1, 2]),
        ("7.2", ("multifd",), [0, 1, 2]),
        ("8.2", ("multifd", "return-path"), [0, 1, 2]),
    ):
        endpoint = source(*capabilities, version=version)
        connected(endpoint)
        out = outputs(endpoint, i.Broken(1, "reset"), i.RamCollected(4096, False))
        assert endpoint.status == Status.FAILED
        assert [o.conn for o in out if isinstance(o, i.Drop)] == dropped


@pytest.mark.parametrize("capabilities", [("postcopy-ram",), ("postcopy-ram", "pause-before-switchover")])
def test_once_a_postcopy_runs_its_source_pauses_and_never_resumes_its_guest(capabilities: tuple[str, ...]) -> None:
    endpoint = source(*capabilities)
    connected(endpoint, i.SwitchToPostcopy(), i.RamCollected(0, False), i.GuestStopped(), i.Continue())
    assert endpoint.status == Status.POSTCOPY_ACTIVE
    out = outputs(endpoint, i.Broken(0, "reset"), i.RamCollected(4096, True))
    assert statuses(out) == [Status.POSTCOPY_PAUSED] and i.Drop(0) in out
    assert endpoint.finished is None and i.ResumeGuest() not in out


def test_a_block_s_name_stands_in_each_pass() -> None:
    machine = replace(SMALL, ram_blocks=(RamBlock("mem0", 1 << 20), RamBlock("mem1", 1 << 20)))
    endpoint = Source(Settings("10.0", machine))
    out = connected(endpoint, i.RamCollected(4096, False))
    assert sent(out)[-2][0].endswith(b"\x04mem0")


# --- the trace ------------------------------------------------------------------------------------------------------
def said(out: Sequence[i.Output], conn: int = 0) -> list[str]:
    return [o.text for o in out if isinstance(o, i.Said) and o.conn == conn]


def test_a_trace_names_what_is_written() -> None:
    endpoint = source("return-path", "multifd", channels=1)
    out = connected(endpoint, *LAST)
    opening = "QEVM, CONFIGURATION pc-q35-8.1, OPEN_RETURN_PATH, PING 1"
    assert said(out) == [opening, "START ram", "PART ram", "END ram", "devices", "EOF"]
    assert said(out, 1) == ["initial packet", "SYNC", "pages", "SYNC", "SYNC"]
    assert said(connected(source("postcopy-ram"))) == [f"{opening}, POSTCOPY_ADVISE", "START ram"]
    assert said(connected(source())) == ["QEVM, CONFIGURATION pc-q35-8.1, START ram"]


def test_a_postcopy_announces_itself_in_the_header_and_its_package_in_the_trace() -> None:
    endpoint = source("postcopy-ram", "postcopy-preempt", version="7.2")
    out = connected(endpoint, i.SwitchToPostcopy(), i.RamCollected(0, False), i.GuestStopped())
    assert stream.postcopy_advise(SMALL) in sent(out)[0][0] and said(out)[-1] == "PACKAGED devices, RUN"
    assert said(outputs(endpoint, i.RamCollected(65536, True)), 1) == ["urgent pages"]


def test_the_first_device_has_section_3() -> None:
    data = expanded(sent(connected(source(), *LAST)))
    assert bytes.fromhex("04 00000003 05") + b"timer" in data and bytes.fromhex("7e 00000003") in data


@pytest.mark.parametrize(("version", "text"), [("8.1", "Unable to write to socket: Bad file descriptor"), ("8.2", "")])
def test_before_8_2_an_error_of_the_return_path_shuts_the_file_for_the_next_write(version: str, text: str) -> None:
    endpoint = source("return-path", version=version)
    connected(endpoint, i.Received(0, bytes.fromhex("0001000400000001")), i.RamCollected(4096, False))
    assert (endpoint.finished.text if endpoint.finished else "") == text
