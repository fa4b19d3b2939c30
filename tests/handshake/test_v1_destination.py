"""What v1's destination waits for, whichever of its threads is late, and what it answers and does with bad bytes."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.case.files import find
from simlib.case.scenario import Fault, Scenario
from simlib.handshake import interface as i
from simlib.handshake import stream
from simlib.handshake.machine import Device, RamBlock, Settings
from simlib.handshake.names import Reason, Status
from simlib.handshake.v1.destination import EXTRA, Destination
from simlib.handshake.versions import BEHAVIOURS
from simlib.world import run
from tests.handshake.builders import (
    FIRST_DEVICE_SECTION,
    QUICK,
    RAM_SECTION,
    SHUT,
    SIZES,
    SMALL,
    cut,
    expanded,
    main_stream,
    outputs,
    printed,
    sent,
    small,
    statuses,
)

VERSIONS = [".".join(map(str, b.since)) for b in BEHAVIOURS]
PREEMPT_VERSIONS = ["7.2", *(v for v in VERSIONS if v not in ("5.2", "6.1"))]  # the capability came with 7.1


def assert_migrates(scenario: Scenario, version: str, at_least_s: float) -> None:
    row = run(scenario, protocol="v1", version=version).row
    assert (row.outcome, row.guest_at) == ("migrated", "destination")
    assert row.time_to_outcome_s is not None and row.time_to_outcome_s > at_least_s


@pytest.mark.parametrize("version", VERSIONS)
def test_a_postcopy_completes_only_when_the_devices_are_loaded_however_early_its_memory_is_there(version: str) -> None:
    assert_migrates(find("matched_postcopy").vary(guest__load_ms=10_000.0), version, 10)


@pytest.mark.parametrize("version", PREEMPT_VERSIONS)
def test_a_postcopy_waits_for_a_preempt_channel_that_is_late(version: str) -> None:
    late = Fault("delay-accept", connection="preempt", for_s=5.0)
    assert_migrates(find("matched_preempt").vary(faults=(late,)), version, 5)


# --- by hand --------------------------------------------------------------------------------------------------------
RETURN_PATH = stream.command(stream.OPEN_RETURN_PATH)
FAILED = bytes.fromhex("0001000400000001")  # SHUT with an error


def opened(ours: Settings, *data: bytes) -> tuple[Destination, list[i.Output]]:
    """A destination with one connection, and what it does with these bytes."""
    endpoint = Destination(ours)
    out = outputs(endpoint, i.Start(), i.Opened(0), *(i.Received(0, part) for part in data))
    return endpoint, out


def receive(endpoint: Destination, conn: int, pieces: list[stream.Piece]) -> list[i.Output]:
    return [o for data, fill in pieces for o in outputs(endpoint, i.Received(conn, data, fill))]


def sync(number: int) -> stream.Piece:
    return stream.multifd_packet(number, "none", 0, sync=True), 0


@QUICK
@given(st.integers(0, 0xFFFFFFFF), SIZES)
def test_a_ping_is_answered_with_its_own_value_however_it_is_cut(value: int, sizes: list[int]) -> None:
    endpoint, _ = opened(small())
    data = stream.header(small()) + RETURN_PATH + stream.command(stream.PING, struct.pack(">I", value))
    out = receive(endpoint, 0, cut([(data, 0)], sizes))
    assert sent(out) == [(struct.pack(">HHI", 2, 4, value), 0)]


def test_a_ping_before_the_return_path_is_open_ends_the_load() -> None:
    data = stream.header(small()) + stream.command(stream.PING, bytes.fromhex("0000002a"))
    endpoint, out = opened(small(), data)
    assert printed(out) == "CMD_PING (0x0000002a) received with no return path" and sent(out) == []
    assert endpoint.finished is not None and endpoint.finished.exited


@pytest.mark.parametrize("return_path", [False, True])
@QUICK
@given(st.lists(st.integers(0, 20_000), max_size=2), SIZES)
def test_a_good_stream_is_loaded_and_ends_with_shut_where_the_source_has_asked_for_it(
    return_path: bool, passes: list[int], sizes: list[int]
) -> None:
    first, *rest = main_stream(small(), passes)
    if return_path:
        header = stream.header(small())
        first = header + RETURN_PATH + first[0][len(header) :], first[1]
    endpoint, _ = opened(small())
    out = receive(endpoint, 0, cut([first, *rest], sizes))
    assert out[-1] == i.Load(sum(device.size_bytes for device in SMALL.devices)) and endpoint.finished is None
    assert outputs(endpoint, i.Loaded()) == [i.RunGuest()]
    out = outputs(endpoint, i.GuestRunning())
    assert sent(out) == ([(SHUT, 0)] if return_path else [])
    assert out[-2:] == [i.Drop(0), i.Finished(Status.COMPLETED)]
    assert endpoint.ram_bytes == sum(-(-size // 4096) * 4096 for size in passes)


@pytest.mark.parametrize(
    ("version", "return_path", "answered"), [("9.0", True, False), ("9.1", True, True), ("9.1", False, False)]
)
def test_a_device_that_would_not_load_is_reported_by_number_from_9_1_on(
    version: str, return_path: bool, answered: bool
) -> None:
    ours = small(version=version)
    endpoint, _ = opened(ours, stream.header(ours) + (RETURN_PATH if return_path else b""))
    out = outputs(endpoint, i.Loaded("virtio-net: post_load failed"))
    assert sent(out) == ([(FAILED, 0)] if answered else [])
    assert printed(out) == "virtio-net: post_load failed" and i.RunGuest() not in out
    text = "virtio-net: post_load failed"
    assert endpoint.finished == i.Finished(Status.FAILED, text, Reason.SPECIFIC, exited=True)


def test_nothing_is_sent_to_a_source_that_has_gone() -> None:
    endpoint, _ = opened(small(), stream.header(small()) + RETURN_PATH)
    assert sent(outputs(endpoint, i.Ended(0))) == []
    assert endpoint.finished is not None and endpoint.finished.text == "load of migration failed: Input/output error"


@pytest.mark.parametrize(
    ("version", "exit_on_error", "exited"), [("9.0", False, True), ("9.1", False, False), ("9.1", True, True)]
)
def test_from_9_1_on_a_destination_may_survive_its_failure(version: str, exit_on_error: bool, exited: bool) -> None:
    ours = replace(small(version=version), exit_on_error=exit_on_error)
    endpoint, out = opened(ours, b"garbage")
    assert endpoint.finished == i.Finished(Status.FAILED, "Not a migration stream", Reason.SPECIFIC, exited=exited)
    assert statuses(out)[-1] == Status.FAILED and i.Drop(0, unread=False) in out


def test_a_source_that_goes_before_its_first_byte_or_later_leaves_another_text() -> None:
    endpoint, _ = opened(small())
    assert printed(outputs(endpoint, i.Ended(0))) == "Not a migration stream"
    ours = small()
    endpoint, _ = opened(ours, stream.header(ours) + stream.ram_start(RAM_SECTION, ours, False))
    out = outputs(endpoint, i.Broken(0, "Connection reset by peer"))
    assert printed(out).splitlines() == [
        f"error while loading state section id {RAM_SECTION}(ram)",
        "load of migration failed: Input/output error",
    ]


def test_settings_that_qmp_refuses_end_before_anything_listens() -> None:
    endpoint = Destination(small("postcopy-ram", "x-ignore-shared"))
    text = "Postcopy is not compatible with ignore-shared"
    assert endpoint.handle(i.Start()) == [i.Finished(Status.REJECTED, text, Reason.SPECIFIC, listening=True)]
    assert not endpoint.accepting


# --- connections ----------------------------------------------------------------------------------------------------
def test_main_is_read_when_all_of_multifd_s_channels_are_there() -> None:
    ours = small("multifd")
    endpoint, out = opened(ours, stream.header(ours))
    assert statuses(out) == [Status.SETUP] and out[-1] == i.Pause(0) and not endpoint.loading
    for number, conn in ((1, 1), (0, 2)):
        out = outputs(endpoint, i.Opened(conn), i.Received(conn, stream.multifd_initial(SMALL, number)))
    assert statuses(out) == [Status.ACTIVE] and i.Resume(0) in out and endpoint.loading
    assert i.Heard(0, f"CONFIGURATION {SMALL.type}") in out
    assert endpoint.bound_channels() == (("main", 0), ("multifd[1]", 1), ("multifd[0]", 2))


def test_a_multifd_channel_that_does_not_name_itself_holds_up_everything_else() -> None:
    endpoint, _ = opened(small("multifd", version="7.2"), stream.header(small("multifd")))
    packet = stream.multifd_initial(SMALL, 0)
    assert endpoint.accepting and endpoint.blocked is None
    outputs(endpoint, i.Opened(1), i.Received(1, packet[:-1]))
    assert endpoint.blocked == 1 and not endpoint.accepting
    outputs(endpoint, i.Received(1, packet[-1:]))
    assert endpoint.blocked is None and endpoint.accepting


@pytest.mark.parametrize(
    ("version", "blocked"), [("7.2", None), ("10.0", None), ("10.1", 0), ("11.1", 0), ("11.2", None)]
)
def test_a_silent_connection_holds_up_those_versions_that_peek_at_it_in_the_main_loop(
    version: str, blocked: int | None
) -> None:
    endpoint, _ = opened(small(version=version))
    assert endpoint.blocked == blocked
    outputs(endpoint, i.Received(0, stream.MAGIC))
    assert endpoint.blocked is None and endpoint.main == 0


def test_a_connection_too_many_is_closed_with_a_word_to_stderr_alone() -> None:
    endpoint, _ = opened(small(), stream.header(small()))
    assert outputs(endpoint, i.Opened(1)) == [i.Printed(EXTRA), i.Drop(1)]
    assert outputs(endpoint, i.Received(1, b"more")) == [] and endpoint.finished is None


def test_a_close_over_bytes_that_were_not_read_is_a_reset() -> None:
    """A QEMUFile reads 32 KiB ahead."""
    for size, unread in ((32768, False), (32769, True)):
        _, out = opened(small(), stream.header(small()) + b"\xff" + bytes(size))
        assert i.Drop(0, unread=unread) in out


def test_tls_comes_before_everything_else_and_its_failure_ends_the_connection_alone() -> None:
    ours = small(tls=True)
    endpoint, out = opened(ours)
    assert out[-1] == i.StartTls(0) and endpoint.blocked == 0 and not endpoint.accepting
    out = outputs(endpoint, i.TlsFailed(0, "no certificate"))
    assert out == [i.Printed("TLS handshake failed: no certificate"), i.Drop(0)]
    assert endpoint.accepting and endpoint.status == Status.SETUP
    outputs(endpoint, i.Opened(1), i.Secured(1))
    assert endpoint.main == 1 and endpoint.blocked is None


@pytest.mark.parametrize(
    ("magic", "text"),
    [
        (stream.MULTIFD_MAGIC, "Assertion `migrate_multifd()' failed."),
        (bytes.fromhex("00000102"), "unknown channel magic: 258"),
    ],
)
def test_a_first_connection_with_another_magic_ends_a_destination_that_peeks(magic: bytes, text: str) -> None:
    endpoint, _ = opened(small(version="10.1"), magic)
    assert endpoint.finished is not None and (endpoint.finished.text, endpoint.finished.exited) == (text, True)


@pytest.mark.parametrize(("version", "taken"), [("7.2", False), ("10.1", True)])
def test_by_position_an_old_destination_with_multifd_has_no_place_for_the_preempt_channel(
    version: str, taken: bool
) -> None:
    """In TLS nobody can peek."""
    ours = small("multifd", "postcopy-ram", "postcopy-preempt", version=version, channels=1, tls=True)
    endpoint = Destination(ours)
    outputs(endpoint, i.Start(), i.Opened(0), i.Secured(0), i.Opened(1), i.Secured(1))
    outputs(endpoint, i.Received(1, stream.multifd_initial(SMALL, 0)), i.Opened(2))
    out = outputs(endpoint, i.Secured(2))
    assert (("preempt", 2) in endpoint.bound_channels()) == taken and (i.Printed(EXTRA) in out) == (not taken)


# --- multifd's meeting points ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("machine_type", ["pc-q35-8.0", "pc-q35-8.1"])
@pytest.mark.parametrize("main_first", [False, True])
def test_main_and_multifd_wait_for_each_other_at_each_sync(machine_type: str, main_first: bool) -> None:
    ours = small("multifd", channels=1)
    ours = replace(ours, machine=replace(SMALL, type=machine_type))
    endpoint, _ = opened(ours, stream.header(ours))
    outputs(endpoint, i.Opened(1), i.Received(1, stream.multifd_initial(SMALL, 0)))
    start = stream.ram_start(RAM_SECTION, ours, flush=machine_type == "pc-q35-8.1")
    pages = stream.multifd_packet(2, "none", 4096), 4096
    if main_first:
        outputs(endpoint, i.Received(0, start))
        assert endpoint.blocked == 0 and endpoint.syncs == 0
        receive(endpoint, 1, [sync(1), pages])
    else:
        out = receive(endpoint, 1, [sync(1), pages])
        assert out[0] == i.Pause(1) and endpoint.blocked is None and endpoint.ram_bytes == 0
        assert i.Resume(1) in outputs(endpoint, i.Received(0, start))
    assert (endpoint.blocked, endpoint.syncs, endpoint.ram_bytes) == (None, 1, 4096)


def test_a_sync_resumes_multifd_s_channels_alone() -> None:
    ours = small("multifd", channels=1)
    endpoint, _ = opened(ours, stream.header(ours))
    outputs(endpoint, i.Opened(1), i.Received(1, stream.multifd_initial(SMALL, 0)))
    receive(endpoint, 1, [sync(1)])
    out = outputs(endpoint, i.Received(0, stream.ram_start(RAM_SECTION, ours, flush=True)))
    assert [o for o in out if isinstance(o, i.Resume)] == [i.Resume(1)]


# --- postcopy -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("block", "page_bits", "text"),
    [
        (RamBlock("pc.ram", 1 << 20), 12, ""),
        (RamBlock("pc.ram", 1 << 20, 2 << 20), 12, "Postcopy needs matching RAM page sizes (s=200000 d=1000)"),
        (RamBlock("pc.ram", 1 << 20), 13, "Postcopy needs matching RAM page sizes (s=1000 d=1000)"),
    ],
)
def test_postcopy_needs_the_same_page_sizes(block: RamBlock, page_bits: int, text: str) -> None:
    ours = small("postcopy-ram")
    advice = stream.postcopy_advise(replace(SMALL, ram_blocks=(block,), page_bits=page_bits))
    _, out = opened(ours, stream.header(ours) + advice)
    assert printed(out) == text


def test_postcopy_s_advice_needs_the_capability_unless_it_is_empty() -> None:
    _, out = opened(small(), stream.header(small()) + stream.postcopy_advise(SMALL))
    assert printed(out) == "RAM postcopy is disabled but have 16 byte advise"
    _, out = opened(small(), stream.header(small()) + stream.command(stream.POSTCOPY_ADVISE))
    assert printed(out) == ""


@pytest.mark.parametrize(("version", "first"), [("10.1", Status.POSTCOPY_ACTIVE), ("10.2", Status.POSTCOPY_DEVICE)])
def test_a_postcopy_that_loses_its_source_waits_paused(version: str, first: Status) -> None:
    ours = replace(
        small("postcopy-ram", version=version), machine=replace(SMALL, devices=(Device("timer", size_bytes=7),))
    )
    listen = stream.command(stream.POSTCOPY_LISTEN)
    endpoint, out = opened(ours, stream.header(ours) + listen)
    assert statuses(out)[-1] == first
    out = receive(endpoint, 0, [*stream.device_state(FIRST_DEVICE_SECTION, ours.machine)])
    out += outputs(endpoint, i.Received(0, stream.command(stream.POSTCOPY_RUN)))
    assert endpoint.status == Status.POSTCOPY_ACTIVE and out[-1] == i.Load(7)
    out = outputs(endpoint, i.Ended(0), i.Broken(0, "reset"))
    assert statuses(out) == [Status.POSTCOPY_PAUSED] and endpoint.finished is None


def test_a_package_waits_for_the_preempt_channel() -> None:
    ours = small("postcopy-ram", "postcopy-preempt")
    package = stream.command(stream.PACKAGED, bytes(4)) + stream.command(stream.POSTCOPY_LISTEN)
    endpoint, _ = opened(ours, stream.header(ours) + package)
    assert (endpoint.waiting_for_preempt, endpoint.status) == (True, Status.ACTIVE)
    out = outputs(endpoint, i.Opened(1))
    assert endpoint.status == Status.POSTCOPY_ACTIVE and i.Pause(1) in out and out[-1] == i.Resume(1)
    head = struct.pack(">Q", 8192 | stream.RAM_PAGE) + b"\x06pc.ram"
    receive(endpoint, 1, [(head, 8192)])
    assert endpoint.ram_bytes == 8192 and expanded(sent(out, 1)) == b""


@pytest.mark.parametrize("memory_first", [False, True])
def test_a_postcopy_ends_when_its_memory_is_there_and_its_guest_runs_in_either_order(memory_first: bool) -> None:
    ours = small("postcopy-ram")
    listen, run_command = stream.command(stream.POSTCOPY_LISTEN), stream.command(stream.POSTCOPY_RUN)
    endpoint, _ = opened(ours, stream.header(ours) + RETURN_PATH + listen + run_command)
    memory, guest = (i.Received(0, stream.end_of_stream(b"")),), (i.Loaded(), i.GuestRunning())
    first, second = (memory, guest) if memory_first else (guest, memory)
    assert sent(outputs(endpoint, *first)) == [] and endpoint.finished is None
    assert sent(outputs(endpoint, *second)) == [(SHUT, 0)]
    assert endpoint.finished == i.Finished(Status.COMPLETED)
