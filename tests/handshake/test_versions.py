"""What v1's endpoints do from which QEMU on: each at its release, between 5.2 and the one after 11.1.

Read in QEMU's history (git log -S in migration/, from v5.2.0 to v10.2.0), measured on 5.2, 7.2, 10.0 and 11.1.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.case.files import find
from simlib.handshake import interface as i
from simlib.handshake import stream
from simlib.handshake.capabilities import known_capabilities, refusal
from simlib.handshake.machine import Device, Machine, RamBlock, Settings
from simlib.handshake.v1.destination import Destination
from simlib.handshake.v1.source import Source
from simlib.handshake.versions import (
    BEHAVIOURS,
    behaviour,
    flushes_by_command,
    is_modelled,
    not_modelled,
    opens_preempt_early,
    version_number,
)
from simlib.world.run import play
from simlib.world.world import World
from tests.handshake.builders import QUICK, outputs, statuses

RELEASES = (
    "5.2",
    "6.0",
    "6.1",
    "6.2",
    "7.0",
    "7.1",
    "7.2",
    "8.0",
    "8.1",
    "8.2",
    "9.0",
    "9.1",
    "9.2",
    "10.0",
    "10.1",
    "10.2",
    "11.0",
    "11.1",
    "11.2",
)
MACHINE = Machine(type="pc-q35-8.1", ram_blocks=(RamBlock("pc.ram", 1 << 20),), devices=(Device("timer"),))
MAIN = stream.header(Settings(machine=MACHINE))


def settings(version: str, *capabilities: str, tls: bool = False) -> Settings:
    parameters = (("multifd-channels", 2), *((("tls-creds", "psk"),) if tls else ()))
    return Settings(version, MACHINE, capabilities, parameters)


def begun(endpoint: Source | Destination, *inputs: i.Input) -> list[i.Output]:
    return outputs(endpoint, i.Start(), *inputs)


def sent(out: list[i.Output]) -> bytes:
    return b"".join(o.data for o in out if isinstance(o, i.Send))


def main_and_multifd(version: str, *packets: bytes) -> Destination:
    endpoint = Destination(settings(version, "multifd"))
    inputs: list[i.Input] = [i.Opened(0), i.Received(0, MAIN)]
    for conn, packet in enumerate(packets, 1):
        inputs += [i.Opened(conn), i.Received(conn, packet)]
    begun(endpoint, *inputs)
    return endpoint


def packet(number: int) -> bytes:
    return stream.multifd_initial(MACHINE, number)


def stays_open(version: str) -> bool:
    return not main_and_multifd(version, packet(0), packet(1)).closed


def outlives_tls(version: str) -> bool:
    endpoint = Destination(settings(version, "multifd", tls=True))
    begun(endpoint, i.Opened(0), i.TlsFailed(0, "An unexpected TLS packet was received."))
    return endpoint.finished is None


def looks_at_multifd(version: str) -> bool:
    endpoint = Destination(settings(version, "multifd"))
    begun(endpoint, i.Opened(0), i.Received(0, packet(0)), i.Opened(1), i.Received(1, MAIN))
    return endpoint.main == 1


def looks_at_all(version: str) -> bool:
    endpoint = Destination(settings(version))
    begun(endpoint, i.Opened(0))
    return endpoint.main is None


def waits_to_connect_preempt(version: str) -> bool:
    out = begun(Source(settings(version, "postcopy-ram", "postcopy-preempt")), i.Opened(0))
    return len([o for o in out if isinstance(o, i.Open)]) == 1


def tells_its_manager(version: str) -> bool:
    endpoint = Source(settings(version, "return-path"))
    begun(endpoint, i.Opened(0), i.RamCollected(0, True), i.GuestStopped(), i.Ended(0), i.RamCollected(0, True))
    assert endpoint.finished is not None and endpoint.finished.status == "failed"
    return bool(endpoint.finished.text)


def connects_before_it_writes(version: str) -> bool:
    return not sent(begun(Source(settings(version, "multifd", "return-path")), i.Opened(0)))


def has_no_block_migration(version: str) -> bool:
    return b"\x01\x00\x00\x00\x01\x03ram" in sent(begun(Source(settings(version)), i.Opened(0)))


def says_that_it_failed(version: str) -> bool:
    endpoint = Destination(settings(version))
    command = stream.command(stream.OPEN_RETURN_PATH)
    return sent(begun(endpoint, i.Opened(0), i.Received(0, MAIN + command + b"\xff"))) == b"\0\1\0\4\0\0\0\1"


def ends_for_a_wrong_channel(version: str) -> bool:
    return main_and_multifd(version, packet(0), packet(0)).finished is not None


def is_device_at_the_end(version: str) -> bool:
    out = begun(Source(settings(version)), i.Opened(0), i.RamCollected(0, True), i.GuestStopped())
    return "device" in statuses(out)


def gives_a_postcopy_guest_back(version: str) -> bool:
    row = play(World(find("postcopy_device_at_source"), "v1", version, "naive", 1)).row
    assert (row.outcome, row.guest_at) in (("hung", "paused"), ("failed", "source"))
    return row.outcome == "failed"


def refuses_to_cancel_postcopy(version: str) -> bool:
    endpoint = Source(settings(version, "postcopy-ram"))
    begun(endpoint, i.Opened(0), i.SwitchToPostcopy(), i.RamCollected(8192, False), i.GuestStopped(), i.Cancel())
    assert endpoint.finished is None or endpoint.finished.status == "cancelled"
    return endpoint.finished is None


def fails_in_two_steps(version: str) -> bool:
    out = begun(Source(settings(version)), i.Opened(0), i.Broken(0, "reset"), i.RamCollected(8192, False))
    return statuses(out)[-2:] == ["failing", "failed"]


def counts_channels_from_zero(version: str) -> bool:
    out = main_and_multifd(version, packet(2)).finished
    return out is not None and "exceeds channel count 2" in out.text


def refuses_compress(version: str) -> bool:
    return bool(refusal(settings(version, "multifd", "compress"), at_source=True))


def refuses_postcopy(version: str) -> bool:
    return bool(refusal(settings(version, "multifd", "postcopy-ram"), at_source=True))


@pytest.mark.parametrize(
    ("behaviour", "since", "until"),
    [
        (stays_open, "6.1", ""),
        (outlives_tls, "6.1", ""),
        (refuses_compress, "7.2", ""),
        (refuses_postcopy, "8.1", "10.1"),
        (looks_at_multifd, "8.0", ""),
        (waits_to_connect_preempt, "8.0", ""),
        (tells_its_manager, "8.2", ""),
        (connects_before_it_writes, "9.0", ""),
        (has_no_block_migration, "9.1", ""),
        (says_that_it_failed, "9.1", ""),
        (ends_for_a_wrong_channel, "10.0", ""),
        (is_device_at_the_end, "10.0", ""),
        (looks_at_all, "10.1", ""),
        (refuses_to_cancel_postcopy, "10.0", ""),
        (gives_a_postcopy_guest_back, "10.2", ""),
        (fails_in_two_steps, "11.0", ""),
        (counts_channels_from_zero, "11.1", ""),
    ],
)
def test_each_of_v1_s_ways_begins_at_its_release(behaviour: Callable[[str], bool], since: str, until: str) -> None:
    there = [r for r in RELEASES if "preempt" not in behaviour.__name__ or "postcopy-preempt" in known_capabilities(r)]
    end = there.index(until) if until else len(there)
    assert [r for r in there if behaviour(r)] == there[there.index(since) : end]


# --- versions themselves --------------------------------------------------------------------------------------------
NUMBERS = st.integers(0, 30)


@QUICK
@given(NUMBERS, NUMBERS, NUMBERS)
def test_the_numbers_of_a_version_are_read_whatever_a_packager_wrote_behind_them(
    major: int, minor: int, micro: int
) -> None:
    for behind in ("", "-1.fc40", "+ds", ".1", " (Debian 1:7.2+dfsg)"):
        assert version_number(f"{major}.{minor}.{micro}{behind}") == (major, minor, micro)


@QUICK
@given(NUMBERS, NUMBERS, NUMBERS)
def test_a_release_is_the_newest_of_its_series_and_older_than_the_next(major: int, minor: int, micro: int) -> None:
    release = version_number(f"{major}.{minor}")
    assert version_number(f"{major}.{minor}.{micro}") < release < version_number(f"{major}.{minor + 1}.0")
    assert (version_number(f"{major}") == release) == (minor == 0)


@pytest.mark.parametrize("text", ["", "ten", "v10.0", "10.", ".1", "10.x", "10.0>7.2", " 10.0"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no version of QEMU"):
        version_number(text)


@QUICK
@given(st.sampled_from(RELEASES), NUMBERS)
def test_a_point_release_behaves_as_its_series_and_is_modelled_with_it(release: str, micro: int) -> None:
    assert behaviour(f"{release}.{micro}") is behaviour(release)
    assert is_modelled(release) and is_modelled(f"{release}.{micro}")


@pytest.mark.parametrize("version", ["5.1", "4.2.1", "0.9"])
def test_anything_older_behaves_as_the_oldest_and_is_not_modelled(version: str) -> None:
    assert behaviour(version) is behaviour("5.2") and not is_modelled(version)
    assert not_modelled(version) == f"QEMU {version} is not modelled; known are the releases from 5.2 to 11.2"


@pytest.mark.parametrize("version", ["11.3", "12.0", "6.3", "10.3"])
def test_anything_newer_behaves_as_the_newest_before_it_and_is_not_modelled(version: str) -> None:
    assert behaviour(version) is behaviour({"6.3": "6.2", "10.3": "10.2"}.get(version, "11.2"))
    assert not is_modelled(version)


def test_each_group_of_versions_begins_at_a_release_and_is_used() -> None:
    sinces = [f"{b.since[0]}.{b.since[1]}" for b in BEHAVIOURS]
    assert [r for r in RELEASES if behaviour(r) is not behaviour(RELEASES[max(0, RELEASES.index(r) - 1)])] == sinces[1:]
    assert all(behaviour(since) is b for since, b in zip(sinces, BEHAVIOURS, strict=True))


@QUICK
@given(st.integers(0, 12), st.integers(0, 3))
def test_a_machine_type_decides_how_channels_synchronise_and_when_preempt_s_is_made(major: int, minor: int) -> None:
    number = major * 10 + minor
    assert flushes_by_command((major, minor)) == (number >= 81)
    assert opens_preempt_early((major, minor)) == (number <= 72)
