"""The guest's data at v2's source: stage after stage, as fast as the transport takes it, and what is replied."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake import interface as i
from simlib.handshake import return_path, stream
from simlib.handshake.machine import Settings
from simlib.handshake.return_path import Reply
from simlib.handshake.v2 import frames, messages
from simlib.handshake.v2.frames import Limits
from simlib.handshake.v2.source import Source
from tests.handshake.builders import (
    ACK,
    FEW,
    HERE,
    PONG,
    RAM_SECTION,
    SHUT,
    SIZES,
    SMALL,
    THERE,
    Talk,
    cut,
    errors_in,
    expanded,
    finished,
    main_stream,
    of_type,
    outputs,
    sent,
    small,
    spoken,
    statuses,
)

POSTCOPY = small("postcopy-ram")
STEPS = (i.CollectRam, i.StopGuest, i.Send)
REQUEST = return_path.page_request("pc.ram", 0, 4096)


def begun(
    settings: Settings | None = None, forbid: tuple[str, ...] = (), **limits: int
) -> tuple[Source, list[i.Output]]:
    """A source after READY, and what it has sent and asked since; main is connection 1, inline 0."""
    here = replace(HERE, forbid=forbid, limits=replace(Limits(), **limits))  # type: ignore[arg-type]
    talk = Talk(settings, here=here, there=replace(THERE, forbid=forbid)).until(source="ready")
    out = talk.heard[talk.source]
    out = out[out.index(i.Entered(talk.source.status)) :]
    conns = {o.conn for o in out if isinstance(o, i.Send)}
    return talk.source, [*out, *outputs(talk.source, *map(i.Drained, conns))]


def stopping(settings: Settings | None = None, **kwargs: object) -> tuple[Source, list[i.Output]]:
    """One whole pass has been sent, and the guest is to stop."""
    source, _ = begun(settings, **kwargs)  # type: ignore[arg-type]
    return source, outputs(source, i.RamCollected(4096, True))


def in_package(settings: Settings = POSTCOPY) -> tuple[Source, list[i.Output]]:
    """A postcopy's package has been sent."""
    source, _ = begun(settings)
    return source, outputs(source, i.SwitchToPostcopy(), i.RamCollected(4096, False), i.GuestStopped())


def in_postcopy(settings: Settings = POSTCOPY) -> tuple[Source, list[i.Output]]:
    """The guest runs there, and the rest of its memory is being collected."""
    source, _ = in_package(settings)
    return source, outputs(source, *(i.Received(0, spoken(m)) for m in (messages.Loaded(0), messages.Running())))


# --- precopy --------------------------------------------------------------------------------------------------------
@FEW
@given(st.lists(st.integers(0, 9).map(lambda pages: pages * 4096), min_size=1, max_size=3))
def test_the_stream_is_that_of_v1_pass_by_pass(passes: list[int]) -> None:
    source, out = begun()
    for n, size_bytes in enumerate(passes, 1):
        out += outputs(source, i.RamCollected(size_bytes, converged=n == len(passes)))
    out += outputs(source, i.GuestStopped(), i.RamCollected(0, True))
    assert expanded(sent(out, 1)) == expanded(main_stream(small(), passes))
    assert of_type(out, i.CollectRam, i.StopGuest) == [
        i.CollectRam(first=True),
        *[i.CollectRam()] * (len(passes) - 1),
        i.StopGuest(),
        i.CollectRam(last=True),
    ]
    assert statuses(out) == ["active", "device"] and source.stage == "sent" and source.state == "ready"


def test_the_last_pass_carries_what_the_guest_has_written() -> None:
    source, _ = stopping()
    out = outputs(source, i.GuestStopped(), i.RamCollected(8192, True))
    end = expanded(stream.ram_pass(RAM_SECTION, small(), 8192, False, stream.END))
    assert expanded(sent(out, 1)).startswith(end) and bytes([stream.EOF]) in expanded(sent(out, 1))[len(end) :]


def test_nothing_is_asked_before_the_transport_has_taken_all() -> None:
    source, _ = begun(small("multifd"))
    out = source.handle(i.RamCollected(8192, False))
    assert {o.conn for o in out if isinstance(o, i.Send)} == {1, 2, 3} and not of_type(out, i.CollectRam)
    for conn in (1, 3):
        assert source.handle(i.Drained(conn)) == []
    assert source.handle(i.Drained(2)) == [i.CollectRam()]


def test_a_pass_that_nobody_asked_for_is_not_sent() -> None:
    source, _ = stopping()
    assert outputs(source, i.RamCollected(4096, True)) == []
    outputs(source, i.Broken(1, "reset"))
    assert outputs(source, i.GuestStopped(), i.RamCollected(4096, True), i.Drained(1)) == []


@pytest.mark.parametrize(("compression", "flag"), [("none", 0), ("zlib", 2)])
def test_with_multifd_the_pages_are_on_its_channels_numbered_over_all_passes(compression: str, flag: int) -> None:
    settings = small("multifd")
    settings = replace(settings, parameters=(*settings.parameters, ("multifd-compression", compression)))
    source, _ = begun(settings)
    out = outputs(source, i.RamCollected(8192, False), i.RamCollected(0, True))
    packets = [(o.conn, o.data, o.fill) for o in out if isinstance(o, i.Send) and o.conn > 1]
    assert [(conn, fill) for conn, _, fill in packets] == [(2, 4096), (3, 4096), (2, 0), (3, 0), (2, 0), (3, 0)]
    assert [int.from_bytes(data[24:32], "big") for _, data, _ in packets] == [1, 2, 3, 4, 5, 6]
    assert {int.from_bytes(data[8:12], "big") & ~stream.MULTIFD_SYNC for _, data, _ in packets} == {flag}
    flushes = [*stream.ram_pass(RAM_SECTION, settings, 0, True)] * 2
    assert expanded(sent(out, 1)) == expanded(flushes)


def test_what_was_skipped_is_not_in_the_stream() -> None:
    settings = small("x-ignore-shared")
    talk = Talk(settings, there=replace(THERE, forbid=("x-ignore-shared",))).until(source="ready")
    last = [o for o in talk.heard[talk.source] if isinstance(o, i.Send)][-1]
    assert last.data == stream.header(small()) + stream.ram_start(RAM_SECTION, small(), False)


@pytest.mark.parametrize("limit", [40, 5000])
def test_inline_the_stream_is_in_data_frames_on_control_within_their_limit(limit: int) -> None:
    settings = replace(small(), transport="exec")
    source, out = begun(settings, data_bytes=limit)
    out += outputs(source, i.RamCollected(8192, True), i.GuestStopped(), i.RamCollected(0, True))
    reader, payload = frames.Reader(b"", Limits(data_bytes=limit), got_preface=True), b""
    for o in of_type(out, i.Send):
        assert isinstance(o, i.Send) and o.conn == 0 and o.data[4] == frames.DATA
        assert int.from_bytes(o.data[:4], "big") == len(o.data) - 12 + o.fill
        reader = reader.add(o.data, o.fill)
        while True:
            reader, item = reader.next()
            if item is None:
                break
            assert isinstance(item, frames.Frame)
            payload += item.payload + bytes(item.fill)
    assert payload == expanded(main_stream(small(), [8192]))


@pytest.mark.parametrize(("capability", "state"), [((), "loaded"), (("postcopy-ram",), "package-loaded")])
def test_without_a_final_ack_the_guest_is_given_up_with_what_it_needs(capability: tuple[str, ...], state: str) -> None:
    source, _ = begun(small(*capability), forbid=("final-ack",))
    assert source.state == "ready"
    if capability:
        outputs(source, i.SwitchToPostcopy())
    outputs(source, i.RamCollected(0, True), i.GuestStopped())
    if not capability:
        assert source.state == "ready"
        outputs(source, i.RamCollected(0, True))
    assert source.state == state
    end = finished(outputs(source, i.Broken(0, "reset")))
    assert end is not None and end.status == "uncertain"


# --- the return path ------------------------------------------------------------------------------------------------
@FEW
@given(SIZES)
def test_the_guest_is_stopped_after_switchover_ack_and_not_before_however_it_is_cut(sizes: list[int]) -> None:
    source, out = stopping(small("switchover-ack"))
    assert of_type(out, i.StopGuest) == [] and source.status == "active"
    data = PONG + ACK
    out = outputs(source, *(i.Received(1, part) for part, _ in cut([(data, 0)], sizes)))
    assert of_type(out, i.StopGuest) == [i.StopGuest()]
    assert of_type(out, i.Heard) == [i.Heard(1, "PONG"), i.Heard(1, "ACK")]


def test_an_early_switchover_ack_counts_and_one_that_was_not_agreed_is_not_awaited() -> None:
    source, _ = begun(small("switchover-ack"))
    assert outputs(source, i.Received(1, ACK)) == [i.Heard(1, "ACK")]
    assert of_type(outputs(source, i.RamCollected(0, True)), i.StopGuest) == [i.StopGuest()]
    assert of_type(stopping()[1], i.StopGuest) == [i.StopGuest()]


def test_messages_without_effect_are_understood() -> None:
    source, _ = begun()
    bitmap, resume = return_path.message(Reply.RECV_BITMAP, bytes(512)), return_path.message(Reply.RESUME_ACK, bytes(4))
    out = outputs(source, i.Received(1, SHUT + PONG + bitmap + resume))
    assert out == [i.Heard(1, text) for text in ("SHUT", "PONG", "RECV_BITMAP", "RESUME_ACK")]


@pytest.mark.parametrize("head", ["00080000", "00000000", "00010003", "00070001", "00030201", "0004000b", "00060005"])
def test_another_type_or_length_is_an_encoding_error_at_its_head(head: str) -> None:
    source, _ = begun()
    assert outputs(source, i.Received(1, bytes.fromhex(head)[:3])) == []
    error = errors_in(outputs(source, i.Received(1, bytes.fromhex(head)[3:])))[0]
    assert (error.code, error.item, source.state) == ("encoding", "channel[main]", "ready") and source.finished


def test_pages_may_be_asked_for_in_a_postcopy_alone() -> None:
    source, _ = stopping(POSTCOPY)
    error = errors_in(outputs(source, i.Received(1, REQUEST)))[0]
    assert (error.code, error.item, error.text) == ("bad-state", "channel[main]", "REQ_PAGES while ready")


# --- postcopy -------------------------------------------------------------------------------------------------------
def test_the_package_is_listen_devices_and_run_after_the_guest_has_stopped() -> None:
    source, _ = begun(POSTCOPY)
    out = outputs(source, i.SwitchToPostcopy(), i.RamCollected(4096, False))
    assert out[-1] == i.StopGuest(), "although it has not converged"
    out = outputs(source, i.GuestStopped())
    listen, run = (stream.command(n) for n in (stream.POSTCOPY_LISTEN, stream.POSTCOPY_RUN))
    assert expanded(sent(out, 1)) == expanded([(listen, 0), *stream.device_state(3, SMALL), (run, 0)])
    assert source.state == "package-sent" and not of_type(out, i.CollectRam)


def test_the_rest_of_the_memory_follows_running_and_ends_the_stream() -> None:
    source, out = in_postcopy()
    assert out[-1] == i.CollectRam(last=True) and statuses(out) == ["postcopy-active"]
    out = outputs(source, i.RamCollected(8192, True))
    rest = [*stream.ram_pass(RAM_SECTION, POSTCOPY, 8192, False, stream.END), (stream.end_of_stream(b""), 0)]
    assert expanded(sent(out, 1)) == expanded(rest) and source.stage == "sent"
    assert outputs(source, i.Received(1, REQUEST))[1:] == [], "it is on its way"


def test_in_postcopy_multifd_s_channels_carry_nothing_more() -> None:
    source, _ = in_postcopy(small("postcopy-ram", "multifd", version="10.1"))
    assert {o.conn for o in of_type(outputs(source, i.RamCollected(8192, True)), i.Send)} == {1}  # type: ignore[union-attr]


@pytest.mark.parametrize("preempt", [False, True])
@pytest.mark.parametrize("running", [False, True])
def test_each_page_that_is_asked_for_goes_ahead_on_preempt_or_main(preempt: bool, running: bool) -> None:
    settings = small("postcopy-ram", *(["postcopy-preempt"] if preempt else []))
    source, _ = (in_postcopy if running else in_package)(settings)
    repeated = return_path.message(Reply.REQ_PAGES, bytes(12))
    out = outputs(source, i.Received(1, REQUEST + repeated))
    page = [stream.urgent_page(SMALL)] if preempt else stream.ram_pass(RAM_SECTION, settings, 4096, False)
    assert expanded(sent(out, 2 if preempt else 1)) == expanded([*page, *page])
    assert sent(out, 1 if preempt else 2) == [] and source.requested == 0
    assert of_type(out, i.Said) == [i.Said(2 if preempt else 1, "a page that was asked for")] * 2
