"""The guest's data at v2's destination: what is loaded when, what is answered, and what a wrong byte costs."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake import interface as i
from simlib.handshake import return_path, stream
from simlib.handshake.errors import Error
from simlib.handshake.machine import Settings
from simlib.handshake.v2 import frames, messages
from simlib.handshake.v2.destination import Destination
from tests.handshake.builders import (
    FEW,
    FIRST_DEVICE_SECTION,
    HERE,
    RAM_SECTION,
    SIZES,
    SMALL,
    THERE,
    Talk,
    cut,
    errors_in,
    finished,
    main_stream,
    of_type,
    outputs,
    sent,
    small,
    spoken,
    spoken_in,
    statuses,
)

POSTCOPY = small("postcopy-ram")
LOAD = i.Load(SMALL.devices[0].size_bytes)
SYNC = stream.multifd_packet(1, "none", 0, sync=True)


def ready(settings: Settings | None = None, forbid: tuple[str, ...] = ()) -> Destination:
    """A destination after READY; main is connection 1."""
    talk = Talk(settings, here=replace(HERE, forbid=forbid), there=replace(THERE, forbid=forbid))
    return talk.until(destination="ready").destination


def receive(destination: Destination, pieces: list[stream.Piece], conn: int = 1) -> list[i.Output]:
    return outputs(destination, *(i.Received(conn, data, fill) for data, fill in pieces))


def package(settings: Settings = POSTCOPY) -> list[stream.Piece]:
    """A postcopy's main up to POSTCOPY_RUN."""
    start = stream.header(settings) + stream.ram_start(RAM_SECTION, settings, False)
    listen, run = (stream.command(n) for n in (stream.POSTCOPY_LISTEN, stream.POSTCOPY_RUN))
    return [(start + listen, 0), *stream.device_state(FIRST_DEVICE_SECTION, SMALL), (run, 0)]


def rest(size_bytes: int = 8192) -> list[stream.Piece]:
    """The memory behind it, and the end of the stream."""
    return [*stream.ram_pass(RAM_SECTION, POSTCOPY, size_bytes, False, stream.END), (stream.end_of_stream(b""), 0)]


def going(settings: Settings = POSTCOPY) -> Destination:
    """After GO of a postcopy."""
    destination = ready(settings)
    receive(destination, package(settings))
    outputs(destination, i.Loaded(), i.Received(0, spoken(messages.Go())))
    assert destination.state == "going"
    return destination


def said(out: list[i.Output], conn: int = 0) -> list[str]:
    return [o.text for o in out if isinstance(o, i.Said) and o.conn == conn]


# --- precopy --------------------------------------------------------------------------------------------------------
@FEW
@given(st.lists(st.integers(0, 9).map(lambda pages: pages * 4096), max_size=3), SIZES)
def test_the_devices_are_loaded_at_the_end_of_the_stream_and_loaded_counts_the_memory(
    passes: list[int], sizes: list[int]
) -> None:
    destination = ready()
    out = receive(destination, cut(main_stream(small(), passes), sizes))
    assert of_type(out, i.Load, i.Send, i.RunGuest) == [LOAD] and destination.state == "loading"
    out = outputs(destination, i.Loaded())
    assert spoken_in(out) == [messages.Loaded(sum(passes))] and destination.ram_bytes == sum(passes)
    assert not of_type(out, i.RunGuest) and destination.state == "loaded"


def test_the_guest_runs_on_go_alone_and_then_running_is_said_and_everything_closed() -> None:
    destination = ready()
    receive(destination, main_stream(small()))
    assert outputs(destination, i.Loaded())[-1] != i.RunGuest()
    out = outputs(destination, i.Received(0, spoken(messages.Go())))
    assert out == [i.Heard(0, "GO"), i.RunGuest()]
    out = outputs(destination, i.GuestRunning())
    assert spoken_in(out) == [messages.Running()] and statuses(out) == ["completed"]
    assert {o.conn for o in out if isinstance(o, i.Drop)} == {0, 1}
    assert finished(out) == i.Finished("completed") and destination.state == "completed"  # type: ignore[arg-type]


def test_without_a_final_ack_the_loaded_guest_runs_at_once() -> None:
    destination = ready(forbid=("final-ack",))
    receive(destination, main_stream(small()))
    assert outputs(destination, i.Loaded()) == [i.RunGuest()] and destination.state == "going"


def test_the_stream_s_landmarks_are_reported_on_main() -> None:
    out = receive(ready(), main_stream(small()))
    expected = [f"CONFIGURATION {SMALL.type}", "START ram", "EOF"]
    assert of_type(out, i.Heard) == [i.Heard(1, text) for text in expected]


@pytest.mark.parametrize("machine_type", ["pc-q35-8.0", "pc-q35-8.1"])
def test_the_devices_wait_for_every_lane_s_syncs_and_a_lane_for_nobody(machine_type: str) -> None:
    settings = replace(small("multifd"), machine=replace(SMALL, type=machine_type))
    destination = ready(settings)
    pages = (stream.multifd_packet(1, "none", 4096), 4096)
    start = stream.header(settings) + stream.ram_start(RAM_SECTION, settings, False)
    end = stream.ram_pass(RAM_SECTION, settings, 0, True, stream.END)
    tail = [*end, *stream.device_state(FIRST_DEVICE_SECTION, SMALL), (stream.end_of_stream(b"{}"), 0)]
    assert not of_type(receive(destination, [pages, (SYNC, 0), pages], 2), i.Load)
    assert not of_type(receive(destination, [(start, 0), *tail]), i.Load)
    assert of_type(receive(destination, [(SYNC[:100], 0), (SYNC[100:], 0)], 3), i.Load) == [LOAD]
    assert destination.ram_bytes == 8192


@pytest.mark.parametrize(
    ("conn", "data", "text"),
    [
        (1, b"QEVX", "Not a migration stream"),
        (1, b"QEVM\0\0\0\4", "Unsupported migration stream version"),
        (2, b"\0" * stream.MULTIFD_PACKET_BYTES, "multifd: received packet magic 00000000 expected 11223344"),
        (3, stream.multifd_packet(1, "zlib", 4096), "multifd 3: flags received 2 flags expected 0"),
    ],
)
def test_a_wrong_byte_is_told_as_a_failure_to_load(conn: int, data: bytes, text: str) -> None:
    destination = ready(small("multifd"))
    error = errors_in(receive(destination, [(data, 0)], conn))[0]
    assert (error.code, error.item, error.source, error.destination) == ("needs-restart", "guest", "", text)
    assert error.text == f"The destination could not load the guest: {text}."
    assert error.retry == "after-change" and "Restart the destination" in error.hint


def test_agreed_compression_is_what_a_lane_expects() -> None:
    settings = small("multifd")
    settings = replace(settings, parameters=(*settings.parameters, ("multifd-compression", "zlib")))
    destination = ready(settings)
    assert receive(destination, [(stream.multifd_packet(1, "zlib", 4096), 4096)], 2) == []
    assert receive(destination, [(stream.multifd_packet(2, "none", 4096), 4096)], 2) != []


def test_devices_that_fail_to_load_leave_it_failed_and_a_report_that_nobody_awaits_is_none() -> None:
    destination = ready()
    assert outputs(destination, i.Loaded(), i.Loaded("early")) == []
    receive(destination, main_stream(small()))
    out = outputs(destination, i.Loaded("post_load failed"))
    assert said(out) == ["ERROR needs-restart"] and statuses(out) == ["failed"] and i.Drop(1) in out
    assert errors_in(out)[0].destination == "post_load failed" and destination.state == "failed"


@pytest.mark.parametrize("settings", [small(), POSTCOPY])
def test_a_guest_that_can_not_be_started_after_go_is_given_back(settings: Settings) -> None:
    destination = ready(settings)
    receive(destination, main_stream(small()) if settings is not POSTCOPY else package())
    outputs(destination, i.Loaded(), i.Received(0, spoken(messages.Go())))
    out = outputs(destination, i.GuestRunning("no KVM"))
    assert errors_in(out)[0].text == "The destination could not run the guest: no KVM."
    assert said(out) == ["ERROR needs-restart"] and statuses(out) == ["failed"] and not destination.running


# --- the return path ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("inline", [False, True])
def test_switchover_ack_is_said_once_when_the_devices_are_known_if_it_was_agreed(inline: bool) -> None:
    settings = replace(small("switchover-ack"), transport="exec" if inline else "tcp")
    destination, conn = ready(settings), 0 if inline else 1
    data = stream.header(settings) + stream.ram_start(RAM_SECTION, settings, False)
    out = receive(destination, [(frames.frame(frames.DATA, data) if inline else data, 0)], conn)
    ack = bytes.fromhex("00070000")
    assert sent(out, conn) == [(frames.frame(frames.DATA, ack) if inline else ack, 0)]
    assert said(out, conn) == ["SWITCHOVER_ACK"]
    data = stream.header(small()) + stream.ram_start(RAM_SECTION, small(), False)
    assert not of_type(receive(ready(), [(data, 0)]), i.Send)


def test_a_page_is_asked_for_on_main_while_the_guest_waits_for_memory() -> None:
    destination, fault = going(), i.PageFault("pc.ram", 0x2000, 4096)
    out = outputs(destination, fault)
    request = struct.pack(">HHQIB", 3, 19, 0x2000, 4096, 6) + b"pc.ram"
    assert sent(out, 1) == [(request, 0)] == [(return_path.page_request("pc.ram", 0x2000, 4096), 0)]
    assert said(out, 1) == ["REQ_PAGES pc.ram+0x2000"]
    receive(destination, rest())
    assert outputs(destination, fault) == [], "all memory is there"
    lost = going()
    outputs(lost, i.Ended(1))
    assert outputs(lost, fault) == outputs(ready(), fault) == []


# --- postcopy -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("memory_first", [False, True])
def test_a_postcopy_is_over_when_its_guest_runs_and_its_memory_is_there_in_either_order(memory_first: bool) -> None:
    destination = ready(POSTCOPY)
    assert of_type(receive(destination, package()), i.Load) == [LOAD]
    out = outputs(destination, i.Loaded(), i.Received(0, spoken(messages.Go())))
    assert spoken_in(out) == [messages.Loaded(0)] and out[-1] == i.RunGuest()
    if memory_first:
        assert not of_type(receive(destination, rest()), i.Send)
        out = outputs(destination, i.GuestRunning())
        assert not of_type(out, i.WatchFaults)
    else:
        out = outputs(destination, i.GuestRunning())
        assert out[-1] == i.WatchFaults()
        out += receive(destination, rest())
    assert spoken_in(out) == [messages.Running(), messages.Loaded(8192)]
    assert statuses(out) == ["postcopy-active", "completed"] and {o.conn for o in of_type(out, i.Drop)} == {0, 1}  # type: ignore[union-attr]


def test_postcopy_run_a_second_time_can_not_be_loaded() -> None:
    destination = ready(POSTCOPY)
    out = receive(destination, [*package(), (stream.command(stream.POSTCOPY_RUN), 0)])
    assert errors_in(out)[0].destination == "POSTCOPY_RUN a second time" and statuses(out) == ["failed"]


def test_pages_on_the_preempt_channel_are_taken_as_they_come() -> None:
    settings = small("postcopy-ram", "postcopy-preempt")
    destination = going(settings)
    assert receive(destination, [stream.urgent_page(SMALL)], 2) == [] and destination.bound_channels()[1][0] == (
        "postcopy-preempt"
    )


CAUSES: dict[str, tuple[i.Input, str, str]] = {
    "main": (i.Ended(1), "channel-lost", "channel[main]"),
    "preempt": (i.Broken(2, "reset"), "channel-lost", "channel[postcopy-preempt]"),
    "control": (i.Broken(0, "reset"), "connection-lost", "control"),
    "ERROR": (
        i.Received(0, spoken(messages.Failure((Error("channel-lost", item="channel[x]"),)))),
        "channel-lost",
        "channel[x]",
    ),
    "a wrong byte": (i.Received(1, b"\x33"), "needs-restart", "guest"),
    "a wrong message": (i.Received(0, spoken(messages.Go())), "bad-state", "GO"),
}


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("cause", CAUSES)
def test_a_postcopy_whose_session_is_lost_is_paused_once_its_guest_runs(cause: str, running: bool) -> None:
    destination = going(small("postcopy-ram", "postcopy-preempt"))
    input, code, item = CAUSES[cause]
    if running:
        outputs(destination, i.GuestRunning())
        out = outputs(destination, input)
    else:
        out = outputs(destination, input)
        assert finished(out) is None and not of_type(out, i.Send, i.Drop)
        out = outputs(destination, i.GuestRunning())
    assert statuses(out)[-1] == "postcopy-paused" and destination.state == "postcopy-paused"
    end = finished(out)
    assert end is not None and (end.status, end.errors[0].code, end.errors[0].item) == ("postcopy-paused", code, item)
    assert end.errors[0].retry == "never" and "started here" in end.text
    assert ("ERROR" in said(out)) == (cause != "control") and {o.conn for o in of_type(out, i.Drop)} == {0, 1, 2}  # type: ignore[union-attr]


def test_once_all_memory_is_there_a_lost_session_is_nothing() -> None:
    destination = going()
    receive(destination, rest())
    assert outputs(destination, i.Ended(1), i.Ended(0)) == []
    assert statuses(outputs(destination, i.GuestRunning()))[-1] == "completed"


# --- a QEMU that reads the stream itself ----------------------------------------------------------------------------
def relayed(*inputs: i.Input) -> tuple[Destination, list[i.Output]]:
    """After READY, where a QEMU reads the stream and reports what it has loaded."""
    config = replace(HERE, relays=True)
    destination = Talk(POSTCOPY, here=config, there=config).until(destination="ready").destination
    return destination, outputs(destination, *inputs)


GO = i.Received(0, spoken(messages.Go()))
PACKAGE = i.Loaded(postcopy=True)


def test_its_reports_lead_to_loaded_running_and_loaded_again() -> None:
    destination, out = relayed(PACKAGE, GO, i.GuestRunning())
    assert spoken_in(out) == [messages.Loaded(0), messages.Running()] and not of_type(out, i.Load, i.WatchFaults)
    assert outputs(destination, i.Ended(1)) == [], "the QEMU reports what that means"
    out = outputs(destination, i.Loaded())
    assert spoken_in(out) == [messages.Loaded(0)] and statuses(out) == ["completed"]


def test_memory_that_it_has_before_its_guest_runs_is_told_afterwards() -> None:
    _, out = relayed(PACKAGE, i.Loaded(), GO, i.GuestRunning())
    assert spoken_in(out) == [messages.Loaded(0), messages.Running(), messages.Loaded(0)]


@pytest.mark.parametrize(
    ("inputs", "code", "item", "status"),
    [
        ((i.Loaded("bad"),), "needs-restart", "guest", "failed"),
        ((PACKAGE, i.Loaded("bad")), "needs-restart", "guest", "failed"),
        ((PACKAGE, GO, i.GuestRunning(), i.Loaded("bad")), "connection-lost", "main", "postcopy-paused"),
        ((PACKAGE, GO, i.Loaded("bad"), i.GuestRunning()), "connection-lost", "main", "postcopy-paused"),
    ],
)
def test_what_it_can_not_load_is_told(inputs: tuple[i.Input, ...], code: str, item: str, status: str) -> None:
    _, out = relayed(*inputs)
    end = finished(out)
    assert end is not None and (end.status, end.errors[0].code, end.errors[0].item) == (status, code, item)
    assert said(out)[-1].startswith("ERROR") and errors_in(out)[0].code == code
