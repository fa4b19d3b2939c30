"""v1's source by hand: one input after another, and what must not come out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.case.files import find
from simlib.handshake import interface as i
from simlib.handshake.machine import Device, Machine, RamBlock, Settings
from simlib.handshake.names import Reason, Status
from simlib.handshake.v1.destination import Destination
from simlib.handshake.v1.source import Source
from simlib.world.run import play
from simlib.world.world import World
from tests.handshake.builders import QUICK, SIZES, cut, outputs, statuses

MACHINE = Machine(ram_blocks=(RamBlock("pc.ram", 1 << 20),), devices=(Device("timer"),))
PREEMPT = ("postcopy-ram", "postcopy-preempt", "return-path")


def source(version: str, *capabilities: str, tls: bool = False) -> Source:
    parameters = (("multifd-channels", 1), *((("tls-creds", "psk"),) if tls else ()))
    return Source(Settings(version, MACHINE, capabilities, parameters))


def text(to: Source) -> tuple[str, str]:
    assert to.finished is not None
    return to.finished.text, to.finished.reason


def test_a_paused_source_says_nothing_more_and_never_takes_its_guest_back() -> None:
    """Its guest may run at the destination already."""
    endpoint = source("7.2", *PREEMPT)
    outputs(
        endpoint,
        i.Start(),
        i.Opened(0),
        i.Opened(1),
        i.RamCollected(8192, False),
        i.Broken(1, "Connection reset by peer"),
    )
    outputs(endpoint, i.SwitchToPostcopy(), i.RamCollected(8192, False), i.GuestStopped())
    assert endpoint.status == "postcopy-active"
    out = outputs(endpoint, i.RamCollected(8192, True))
    assert endpoint.status == "postcopy-paused" and {o.conn for o in out if isinstance(o, i.Drop)} == {0, 1}
    shut = bytes.fromhex("0001000400000001")
    out = outputs(
        endpoint,
        i.Drained(0),
        i.Received(0, shut),
        i.RamCollected(0, True),
        i.Ended(0),
        i.Broken(0, "reset"),
        i.SwitchToPostcopy(),
        i.Cancel(),
    )
    assert not [o for o in out if isinstance(o, i.Send | i.ResumeGuest | i.Finished)] and endpoint.finished is None


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_who_asks_for_postcopy_when_the_guest_is_on_its_way_is_too_late(protocol: str, version: str) -> None:
    """At every moment of the move either a package goes, or the devices at its end: never neither."""
    scenario = find("matched_postcopy").vary(
        guest__dirty_mib_s=50.0, guest__working_set_mib=8.0, link__rate_mib_s=50.0, guest__jitter_ms=30.0
    )
    seen = set()
    for step in range(40):
        world = World(scenario.vary(management__postcopy_at_s=1.25 + step / 100), protocol, version, "naive", 1)
        assert play(world).row.outcome == "migrated"
        said = b"".join(p.data for p in world.trace.packets if p.from_source)
        assert b"cpu_common" in said or "devices" in " ".join(s.text for s in world.trace.steps if s.side == "source")
        seen.add("postcopy-active" in {s.text for s in world.trace.steps if s.side == "source"})
    assert seen == {True, False}


@pytest.mark.parametrize("failed", [i.Broken(1, "Connection reset by peer"), i.TlsFailed(1, "no certificate")])
def test_a_preempt_connection_that_fails_in_tls_is_missed_only_by_postcopy(failed: i.Input) -> None:
    endpoint = source("7.2", *PREEMPT, tls=True)
    outputs(endpoint, i.Start(), i.Opened(0), i.Secured(0), i.Opened(1), failed)
    assert endpoint.finished is None and endpoint.status == "active"
    outputs(endpoint, i.RamCollected(8192, False), i.SwitchToPostcopy(), i.RamCollected(8192, False))
    assert text(endpoint)[0].startswith("TLS handshake failed: ")


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_a_refused_connection_is_no_failure_of_tls(version: str) -> None:
    endpoint = source(version, "multifd", tls=True)
    outputs(endpoint, i.Start(), i.Opened(0), i.Secured(0), i.Broken(1, "Connection refused"))
    assert text(endpoint) == ("Failed to connect: Connection refused", "generic")


@pytest.mark.parametrize(
    ("broken", "expected"), [(0, ("", "none")), (1, ("Unable to write to socket: reset", "generic"))]
)
def test_a_7_2_source_with_a_stopped_guest_tells_of_multifd_and_not_of_main(
    broken: int, expected: tuple[str, str]
) -> None:
    endpoint = source("7.2", "multifd")
    outputs(endpoint, i.Start(), i.Opened(0), i.Opened(1), i.RamCollected(8192, True), i.GuestStopped())
    outputs(endpoint, i.Broken(broken, "reset"), i.RamCollected(8192, True))
    assert text(endpoint) == expected


@pytest.mark.parametrize(
    ("version", "tls", "expected"),
    [
        ("7.2", False, ("", "none")),
        ("7.2", True, ("", "none")),
        ("10.0", False, ("Channel error: Input/output error", "generic")),
        ("10.0", True, ("Cannot read from TLS channel: The TLS connection was non-properly terminated.", "specific")),
    ],
)
def test_an_end_without_shut_has_another_text_in_tls(version: str, tls: bool, expected: tuple[str, str]) -> None:
    endpoint = source(version, "return-path", tls=tls)
    outputs(
        endpoint,
        i.Start(),
        i.Opened(0),
        *((i.Secured(0),) if tls else ()),
        i.RamCollected(8192, True),
        i.GuestStopped(),
    )
    outputs(endpoint, i.Ended(0), i.RamCollected(8192, True))
    assert text(endpoint) == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("10.0", ("Unable to write to socket: reset", "generic")),
        ("11.1", ("Cannot uncork TLS output: Error in the push function.", "specific")),
    ],
)
def test_a_write_that_fails_in_tls_has_lost_its_errno_in_11_1(version: str, expected: tuple[str, str]) -> None:
    endpoint = source(version, tls=True)
    outputs(endpoint, i.Start(), i.Opened(0), i.Secured(0), i.Broken(0, "reset"), i.RamCollected(8192, True))
    assert text(endpoint) == expected
    plain = source(version)
    outputs(plain, i.Start(), i.Opened(0), i.Broken(0, "reset"), i.RamCollected(8192, True))
    assert text(plain) == ("Unable to write to socket: reset", "generic")


@pytest.mark.parametrize("version", ["5.2", "7.2", "10.0", "11.1"])
def test_pause_before_switchover_holds_a_stopped_guest_until_it_is_told_to_continue(version: str) -> None:
    endpoint = source(version, "pause-before-switchover")
    out = outputs(endpoint, i.Continue(), i.Start(), i.Opened(0), i.RamCollected(8192, True), i.GuestStopped())
    assert statuses(out)[-1] == endpoint.status == "pre-switchover"
    assert not [o for o in outputs(endpoint, i.Drained(0), i.SwitchToPostcopy()) if not isinstance(o, i.Entered)]
    out = outputs(endpoint, i.Continue(), i.Continue(), i.RamCollected(8192, True))
    assert statuses(out) == ["device", "completed"]


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_pause_before_switchover_holds_the_switch_to_postcopy_too(version: str) -> None:
    endpoint = source(version, "pause-before-switchover", "postcopy-ram")
    out = outputs(endpoint, i.Start(), i.Opened(0), i.SwitchToPostcopy(), i.RamCollected(8192, False), i.GuestStopped())
    assert statuses(out)[-1] == "pre-switchover"
    assert statuses(outputs(endpoint, i.Continue())) == [*(["device"] if version == "10.0" else []), "postcopy-active"]


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_a_source_that_pauses_before_its_switchover_can_be_cancelled(version: str) -> None:
    endpoint = source(version, "pause-before-switchover")
    outputs(endpoint, i.Start(), i.Opened(0), i.RamCollected(8192, True), i.GuestStopped())
    out = outputs(endpoint, i.Cancel())
    assert endpoint.status == "cancelling" and endpoint.finished == i.Finished("cancelled", "", "none")
    assert i.ResumeGuest() in out


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_a_background_snapshot_leaves_its_guest_running_here(version: str) -> None:
    """It stands still while its devices are saved, and is back before the first page goes."""
    endpoint = source(version, "background-snapshot")
    out = outputs(endpoint, i.Start(), i.Opened(0), i.GuestStopped())
    assert [type(o) for o in out if isinstance(o, i.StopGuest | i.ResumeGuest | i.CollectRam)] == [
        i.StopGuest,
        i.ResumeGuest,
        i.CollectRam,
    ]
    out = outputs(endpoint, i.RamCollected(8192, True))
    assert endpoint.finished == i.Finished("completed") and i.StopGuest() not in out


# --- the return path ------------------------------------------------------------------------------------------------
REPLIES = {
    b"\0\2\0\4\0\0\0\7": "PONG 7",
    b"\0\7\0\0": "ACK",
    b"\0\5\0\2ab": "RECV_BITMAP 0",
    b"\0\1\0\4\0\0\0\0": "SHUT",
}


@QUICK
@given(st.lists(st.sampled_from(sorted(REPLIES)), max_size=6), SIZES)
def test_replies_are_read_in_order_however_they_are_cut(replies: list[bytes], sizes: list[int]) -> None:
    endpoint = source("10.0", "return-path")
    outputs(endpoint, i.Start(), i.Opened(0))
    out = []
    for data, _ in cut([(b"".join(replies), 0)], sizes):
        out += outputs(endpoint, i.Received(0, data))
    names = [REPLIES[reply].replace("SHUT", "SHUT 0") for reply in replies]
    assert [o.text for o in out if isinstance(o, i.Heard)] == names
    flags = endpoint.ponged, endpoint.acked, endpoint.shut
    assert flags == ("PONG 7" in names, "ACK" in names, "SHUT 0" in names)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\0\1\0\4\0\0\0\5", "Sibling indicated error 5"),
        (b"\0\x63\0\4", "Received invalid message 0x0063 length 0x0004"),
        (b"\0\2\0\5", "Received 'PONG' message (0x0002) withincorrect length 5 expecting 4"),
    ],
)
def test_what_is_wrong_with_a_reply_is_the_reason_of_the_failure_at_the_end(data: bytes, expected: str) -> None:
    endpoint = source("10.0", "return-path")
    out = outputs(endpoint, i.Start(), i.Opened(0), i.Received(0, data))
    assert (i.Pause(0) in out) == (not expected.startswith("Sibling")) and endpoint.finished is None
    late = i.Received(0, b"\0\1\0\4\0\0\0\0")  # nobody reads it
    out = outputs(endpoint, late, i.RamCollected(0, True), i.GuestStopped(), i.RamCollected(0, True))
    assert not [o for o in out if isinstance(o, i.Heard)]
    assert text(endpoint) == (expected, "specific") and i.ResumeGuest() in out


def test_a_source_without_return_path_reads_nothing() -> None:
    endpoint = source("10.0")
    assert i.Pause(0) in outputs(endpoint, i.Start(), i.Opened(0))
    assert outputs(endpoint, i.Received(0, b"\0\x63\0\4"), i.Ended(0)) == []
    outputs(endpoint, i.RamCollected(0, True), i.GuestStopped(), i.RamCollected(0, True))
    assert endpoint.status == Status.COMPLETED


def test_an_end_after_shut_is_as_it_should_be() -> None:
    endpoint = source("10.0", "return-path")
    shut = i.Received(0, b"\0\1\0\4\0\0\0\0")
    outputs(endpoint, i.Start(), i.Opened(0), shut, i.Ended(0), i.RamCollected(0, True), i.GuestStopped())
    outputs(endpoint, i.RamCollected(0, True))
    assert endpoint.status == Status.COMPLETED


def test_a_file_has_no_return_path() -> None:
    endpoint = Source(Settings("10.0", MACHINE, ("return-path",), (), "file"))
    outputs(endpoint, i.Start(), i.Opened(0), i.RamCollected(0, True), i.GuestStopped(), i.RamCollected(0, True))
    assert text(endpoint) == ("Unable to read from file: Bad file descriptor", "generic")


# --- connections, and cancel ----------------------------------------------------------------------------------------
def test_settings_that_qmp_refuses_end_before_anything_is_connected() -> None:
    endpoint = source("10.0", "postcopy-ram", "x-ignore-shared")
    refused = i.Finished(
        Status.REJECTED, "Postcopy is not compatible with ignore-shared", Reason.SPECIFIC, listening=True
    )
    assert endpoint.handle(i.Start()) == [refused] and endpoint.status == Status.NONE


def test_the_monitor_is_silent_while_tls_is_set_up_on_main() -> None:
    endpoint = source("10.0", "multifd", tls=True)
    assert i.StartTls(0) in outputs(endpoint, i.Start(), i.Opened(0)) and endpoint.blocked
    assert i.Open(1, "multifd[0]") in outputs(endpoint, i.Secured(0)) and not endpoint.blocked
    assert outputs(endpoint, i.Opened(1)) == [i.StartTls(1)] and not endpoint.blocked


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_a_cancel_during_connect_takes_effect_when_the_connection_is_there(version: str) -> None:
    for ended in (i.Opened(0), i.Broken(0, "Connection refused")):
        endpoint = source(version)
        out = outputs(endpoint, i.Start(), i.Cancel())
        assert statuses(out) == ["setup", "cancelling"] and endpoint.finished is None
        out = outputs(endpoint, ended)
        assert out == [i.Drop(0), i.ResumeGuest(), i.Finished(Status.CANCELLED)]


@pytest.mark.parametrize(("version", "waits"), [("8.2", False), ("9.0", True)])
def test_a_cancel_does_not_wake_who_waits_for_multifd_s_channels(version: str, waits: bool) -> None:
    endpoint = source(version, "multifd")
    outputs(endpoint, i.Start(), i.Opened(0), i.Cancel())
    assert (endpoint.finished is None) == waits
    outputs(endpoint, i.Opened(1))
    assert endpoint.finished == i.Finished(Status.CANCELLED)


@pytest.mark.parametrize(("transport", "waits"), [("tcp", False), ("exec", True)])
def test_a_cancel_during_the_wait_for_shut_does_not_wake_a_pipe_s_reader(transport: str, waits: bool) -> None:
    endpoint = Source(Settings("10.0", MACHINE, ("return-path",), (), transport))
    outputs(endpoint, i.Start(), i.Opened(0), i.RamCollected(0, True), i.GuestStopped(), i.RamCollected(0, True))
    out = outputs(endpoint, i.Cancel())
    assert (endpoint.finished is None) == waits and (i.ResumeGuest() in out) == (not waits)
    outputs(endpoint, i.Ended(0))
    assert endpoint.finished == i.Finished(Status.CANCELLED)


@pytest.mark.parametrize(("version", "ends"), [("9.2", True), ("10.0", False)])
def test_a_postcopy_that_is_cancelled_ends_without_a_guest_or_goes_on(version: str, ends: bool) -> None:
    endpoint = source(version, "postcopy-ram")
    outputs(endpoint, i.Start(), i.Opened(0), i.SwitchToPostcopy(), i.RamCollected(0, False), i.GuestStopped())
    out = outputs(endpoint, i.Cancel())
    assert i.ResumeGuest() not in out and statuses(out) == (["cancelling"] if ends else [])
    assert endpoint.finished == (i.Finished(Status.CANCELLED) if ends else None)


def test_a_request_for_postcopy_without_the_capability_has_no_effect() -> None:
    endpoint = source("10.0")
    out = outputs(endpoint, i.Start(), i.Opened(0), i.SwitchToPostcopy(), i.RamCollected(0, False))
    assert out[-1] == i.CollectRam() and not endpoint.postcopy


# --- in the world, against destinations of other versions -----------------------------------------------------------
@pytest.mark.parametrize(
    ("source", "return_path", "tls"),
    [
        ("7.2", ("", "none"), ("TLS handshake failed: Error in the pull function.", "specific")),
        (
            "10.0",
            ("Sibling indicated error 1", "specific"),
            (
                "TLS handshake failed: Error in the pull function.: "
                "Unable to read from socket: Connection reset by peer",
                "generic",
            ),
        ),
    ],
)
def test_the_source_s_version_says_what_its_manager_reads_of_11_1_s_refusal(
    source: str, return_path: tuple[str, str], tls: tuple[str, str]
) -> None:
    for name, expected in (("device_only_at_source_return_path", return_path), ("tls_only_at_source", tls)):
        world = World(find(name), "v1", f"{source}>11.1", "naive", 1)
        play(world)
        ended = world.source.endpoint.finished
        assert ended is not None and (ended.text, ended.reason) == expected


def test_a_preempt_connection_that_was_refused_fails_postcopy_and_one_that_was_reset_pauses_it() -> None:
    """5.2 closes its listener when main is in: the preempt connection comes too late, or still stands in the queue."""
    scenario = find("preempt_only_at_source")
    scenario = scenario.vary(link__delay_law="exponential", link__jitter_ms=0.02, guest__jitter_ms=0.3)
    rows = [play(World(scenario, "v1", "7.2>5.2", "naive", seed)).row for seed in range(1, 20)]
    assert {(r.outcome, r.guest_at, r.source_text) for r in rows} == {
        ("hung", "destination", ""),  # it runs there alone, without the pages that are still here
        ("failed", "source", "Failed to connect: Connection refused"),
        ("failed", "source", "Failed to connect: Connection reset by peer"),
    }


def test_what_fails_once_the_guest_is_stopped_has_no_text_at_an_old_source() -> None:
    """A destination that goes away while devices are on the way: a race that either may win."""
    scenario = find("device_only_at_source").vary(link__delay_law="exponential", link__jitter_ms=3, guest__jitter_ms=20)
    for version, reason in (("7.2", "none"), ("10.0", "generic")):
        rows = [play(World(scenario, "v1", version, "naive", seed)).row for seed in range(1, 9)]
        assert {(r.outcome, r.reason_at_source) for r in rows} == {("lost", "none"), ("failed", reason)}


@pytest.mark.parametrize(
    ("versions", "outcome"),
    [("10.0", "misconfigured"), ("7.2>11.1", "misconfigured"), ("11.1", "lost"), ("11.1>7.2", "lost")],
)
def test_a_second_cpu_at_the_destination_loses_the_guest_of_a_source_that_sends_hotplug_state(
    versions: str, outcome: str
) -> None:
    for name in ("vcpus_1_and_2", "vcpus_2_and_1"):
        result = play(World(find(name), "v1", versions, "naive", 1))
        assert result.row.outcome == (outcome if name == "vcpus_1_and_2" else "lost")
    lost = outcome == "lost"
    assert play(World(find("matched").vary(destination__vcpus=2), "v1", versions, "naive", 1)).row.outcome == outcome
    assert play(World(find("vcpus_1_and_2"), "v2", versions, "naive", 1)).row.error_codes == ("vcpus" if lost else "")


def test_a_failed_load_is_told_from_8_2_on_and_told_as_a_refusal_from_9_1_on() -> None:
    rows = {
        v: play(World(find("device_only_at_source_return_path"), "v1", v, "naive", 1)).row
        for v in ("7.2", "8.1", "8.2", "9.0", "9.1", "11.1")
    }
    assert {v: r.reason_at_source for v, r in rows.items()} == {
        "7.2": "none",
        "8.1": "none",
        "8.2": "generic",
        "9.0": "generic",
        "9.1": "specific",
        "11.1": "specific",
    }


@pytest.mark.parametrize(
    ("protocol", "manager", "outcome", "guest_at"),
    [
        ("v1", "naive", "hung", "paused"),
        ("v1", "libvirt", "migrated", "destination"),
        ("v2", "naive", "migrated", "destination"),
    ],
)
def test_who_pauses_before_the_switchover_needs_a_manager_that_continues(
    protocol: str, manager: str, outcome: str, guest_at: str
) -> None:
    scenario = find("matched").vary(source__capabilities=("pause-before-switchover",))
    row = play(World(scenario, protocol, "10.0", manager, 1)).row
    assert (row.outcome, row.guest_at) == (outcome, guest_at)


def test_a_background_snapshot_into_a_waiting_qemu_ends_with_two_guests_and_v2_refuses_it() -> None:
    scenario = find("matched").vary(source__capabilities=("background-snapshot",))
    assert play(World(scenario, "v1", "10.0", "naive", 1)).row.outcome == "split_brain"
    row = play(World(scenario, "v2", "10.0", "naive", 1)).row
    assert (row.outcome, row.source_text) == ("refused", "Background-snapshot is not compatible with return-path")


def test_nothing_goes_wrong_in_a_run_that_qmp_has_refused() -> None:
    """There is no migration that a fault of its time could meet."""
    killed = find("destination_killed").vary(source__capabilities=("background-snapshot", "release-ram"))
    row = play(World(killed, "v1", "10.0", "naive", 1)).row
    assert (row.outcome, row.source_text) == ("refused", "Background-snapshot is not compatible with release-ram")


@pytest.mark.parametrize(("says", "outcome"), [("silent", "hung"), ("half-magic", "hung"), ("garbage", "migrated")])
@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
def test_a_stranger_holds_up_tls_with_fewer_bytes_than_a_record_s_header(says: str, outcome: str, version: str) -> None:
    scenario = find("stranger_garbage").vary(
        source__parameters={"tls-creds": "psk"}, destination__parameters={"tls-creds": "psk"}
    )
    scenario = replace(scenario, faults=(replace(scenario.faults[0], payload=says, at_s=0.0),))
    assert play(World(scenario, "v1", version, "naive", 1)).row.outcome == outcome


@pytest.mark.parametrize(("version", "dead"), [("5.2", True), ("7.2", False)])
def test_whoever_fails_in_tls_kills_a_5_2_destination_that_has_multifd(version: str, dead: bool) -> None:
    settings = Settings(version, MACHINE, ("multifd",), (("tls-creds", "psk"),))
    for capabilities in ((), ("multifd",)):
        endpoint = Destination(replace(settings, capabilities=capabilities))
        for one in (i.Start(), i.Opened(0), i.TlsFailed(0, "An unexpected TLS packet was received.")):
            endpoint.handle(one)
        assert (endpoint.finished is not None and endpoint.finished.exited) == (dead and bool(capabilities))


@pytest.mark.parametrize(("capabilities", "outcome"), [(("mapped-ram",), "migrated"), ((), "lost")])
def test_mapped_ram_does_not_look_at_the_size_of_memory(capabilities: tuple[str, ...], outcome: str) -> None:
    """parse_ramblock returns before it comes to qemu_ram_resize (ram.c; measured with 16 MiB in use)."""
    scenario = find("matched").vary(link__transport="file", source__memory_mib=256, guest__ram_mib=16)
    scenario = scenario.vary(source__capabilities=capabilities, destination__capabilities=capabilities)
    assert play(World(scenario, "v1", "10.0", "naive", 1)).row.outcome == outcome


@pytest.mark.parametrize(
    ("parameters", "word"), [({"tls-creds": "psk"}, "TLS"), ({"multifd-compression": "zlib"}, "compression")]
)
def test_mapped_ram_goes_with_neither_tls_nor_compression(parameters: dict[str, int | str], word: str) -> None:
    scenario = find("matched").vary(
        link__transport="file", source__capabilities=("mapped-ram",), source__parameters=parameters
    )
    row = play(World(scenario, "v1", "10.0", "naive", 1)).row
    assert (row.outcome, row.source_text) == ("refused", f"Cannot use {word} with mapped-ram")
