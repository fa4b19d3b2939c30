"""The mismatch matrix and the odd-connections table, measured on 7.2, 10.0 and 11.1, held against v1's endpoints."""

from __future__ import annotations

from typing import Any

import pytest

from simlib.case.scenario import Scenario, Side
from simlib.handshake import stream
from simlib.handshake.interface import Drop, Ended, Opened, Output, Received, Start
from simlib.handshake.machine import Machine, Settings
from simlib.handshake.v1.destination import Destination
from simlib.world.run import play
from simlib.world.world import World

MF2, MF4 = ({"capabilities": ("multifd",), "parameters": {"multifd-channels": n}} for n in (2, 4))
ZLIB = {"capabilities": ("multifd",), "parameters": {"multifd-compression": "zlib"}}
RNG, TLS = {"machine": "pc-i440fx-7.2+virtio-rng"}, {"parameters": {"tls-creds": "psk"}}
UUIDS = {"uuid": "0" * 31 + "1"}, {"uuid": "0" * 31 + "2"}
OK, FAILED, LOST, HUNG, WAITS = "completed/completed", "failed/failed", "completed/waits", "hangs/waits", "failed/waits"
REJECTED = "rejected/waits"

# mismatch: (source, destination, MiB of guest, expected in columns 11.1, 11.1 with return path, 10.0, 7.2);
# a set where the measurement saw more than one, or where a small guest decides the race.
MATRIX: dict[str, tuple[dict[str, Any], dict[str, Any], float, tuple[Any, Any, Any, Any]]] = {
    "none": ({}, {}, 16, (OK, OK, OK, OK)),
    "multifd at the source": (MF2, {}, 64, (FAILED, FAILED, {FAILED, WAITS}, {"failed/gone", WAITS})),
    "multifd at the destination": ({}, MF2, 1, (LOST, HUNG, LOST, LOST)),
    "channels 4 and 2": (MF4, MF2, 64, (HUNG, {HUNG, FAILED}, HUNG, {WAITS, "failed/gone"})),
    "channels 2 and 4": (MF2, MF4, 1, (LOST, HUNG, LOST, LOST)),
    "zlib and none": (ZLIB, MF2, 64, (FAILED, FAILED, FAILED, {WAITS, "failed/gone"})),
    "none and zlib": (MF2, ZLIB, 64, ({LOST, FAILED}, FAILED, FAILED, {WAITS, "failed/gone"})),
    "postcopy-ram at the source": (
        {"capabilities": ("postcopy-ram",)},
        {},
        64,
        (FAILED, FAILED, FAILED, "failed/gone"),
    ),
    "postcopy-ram at the destination": ({}, {"capabilities": ("postcopy-ram",)}, 16, (OK, OK, OK, OK)),
    "xbzrle at the source": ({"capabilities": ("xbzrle",)}, {}, 16, (OK, OK, OK, OK)),
    "ignore-shared at the source": (
        {"capabilities": ("x-ignore-shared",)},
        {},
        64,
        (FAILED, FAILED, FAILED, "failed/gone"),
    ),
    "ignore-shared at the destination": (
        {},
        {"capabilities": ("x-ignore-shared",)},
        64,
        (FAILED, FAILED, FAILED, "failed/gone"),
    ),
    "TLS at the source": (TLS, {}, 64, (FAILED, FAILED, FAILED, "failed/gone")),
    "TLS at the destination": ({}, TLS, 64, (WAITS, WAITS, WAITS, WAITS)),
    "machine type": ({}, {"machine_type": "pc-i440fx-7.1"}, 64, (FAILED, FAILED, FAILED, "failed/gone")),
    "RAM size": ({"memory_mib": 256}, {"memory_mib": 128}, 64, (FAILED, FAILED, FAILED, "failed/gone")),
    "device at the source": (
        RNG,
        {},
        16,
        ({"completed/failed", FAILED}, FAILED, {"completed/failed", FAILED}, "completed/gone"),
    ),
    "device at the destination": ({}, RNG, 16, (OK, OK, OK, OK)),
    "mapped-ram over tcp": ({"capabilities": ("mapped-ram",)}, {}, 16, (REJECTED, REJECTED, REJECTED, None)),
    "UUID, plain": (*UUIDS, 16, (OK, OK, OK, OK)),
    "UUID, multifd": ({**MF2, **UUIDS[0]}, {**MF2, **UUIDS[1]}, 64, (FAILED, FAILED, FAILED, WAITS)),
}
COLUMNS = (("11.1", False), ("11.1", True), ("10.0", False), ("7.2", False))


def ending(world: World) -> str:
    """Both sides in the matrix's words."""
    facts = world.facts()
    source = facts.source.status if facts.source else "hangs"
    status = world.destination.endpoint.status
    there = "gone" if facts.destination_dead else status if status in ("completed", "failed") else "waits"
    return f"{source}/{there}"


@pytest.mark.parametrize(("version", "return_path"), COLUMNS)
@pytest.mark.parametrize("mismatch", MATRIX)
def test_v1_ends_as_the_matrix_says(mismatch: str, version: str, return_path: bool) -> None:
    source, destination, mib, expected = MATRIX[mismatch]
    wanted = expected[COLUMNS.index((version, return_path))]
    if wanted is None:
        pytest.skip(f"QEMU {version} has no such capability")
    extra = ("return-path",) if return_path else ()
    source = {**source, "capabilities": (*source.get("capabilities", ()), *extra)}
    scenario = Scenario(
        name="matrix", title=mismatch, source=Side(**source), destination=Side(**destination, exit_on_error=False)
    )
    scenario = scenario.vary(guest__ram_mib=mib, management__observe_s=20.0)  # as long as the measurement
    world = World(scenario, "v1", version, "naive", 1)
    play(world)
    assert ending(world) in ({wanted} if isinstance(wanted, str) else wanted)


# --- a real destination and a scripted peer -------------------------------------------------------------------------
class Peer:
    """Talks to a v1 destination by hand."""

    def __init__(self, version: str, *capabilities: str, channels: int = 2) -> None:
        settings = Settings(version, Machine(), capabilities, (("multifd-channels", channels),))
        self.destination = Destination(settings)
        self.out: list[Output] = self.destination.handle(Start())
        self.count = 0

    def connect(self, data: bytes = b"") -> Peer:
        assert self.destination.accepting, "its main loop does not accept"
        self.out += self.destination.handle(Opened(self.count))
        self.count += 1
        return self.say(self.count - 1, data) if data else self

    def say(self, conn: int, data: bytes) -> Peer:
        self.out += self.destination.handle(Received(conn, data))
        return self

    @property
    def monitor_hangs(self) -> bool:
        return self.destination.blocked is not None

    @property
    def closed(self) -> list[int]:
        return [o.conn for o in self.out if isinstance(o, Drop)]

    @property
    def end(self) -> str:
        return self.destination.finished.text if self.destination.finished else ""


MAIN = stream.header(Settings())
ALL = ("7.2", "10.0", "11.1")


def multifd(index: int, uuid: str = "", version: int = 1) -> bytes:
    packet = bytearray(stream.multifd_initial(Machine(uuid=uuid), index))
    packet[7] = version
    return bytes(packet)


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("said", [b"", b"QE"])
def test_a_silent_peer_hangs_the_monitor_of_new_versions_only(version: str, said: bytes) -> None:
    assert Peer(version).connect(said).monitor_hangs == (version == "11.1")


def test_after_an_idle_connection_the_real_main_is_turned_away_or_never_accepted() -> None:
    for version in ("7.2", "10.0"):
        assert Peer(version).connect().connect(MAIN).closed == [1]
    assert not Peer("11.1").connect().destination.accepting


@pytest.mark.parametrize("version", ALL)
def test_missing_channels_are_waited_for_without_an_end(version: str) -> None:
    for peer in (Peer(version, "multifd").connect(MAIN), Peer(version, "multifd").connect(MAIN).connect(multifd(0))):
        assert (peer.destination.status, peer.end, peer.monitor_hangs) == ("setup", "", False)


def test_multifd_before_main_is_mistaken_by_old_versions_only() -> None:
    old = Peer("7.2", "multifd").connect(multifd(0)).connect(multifd(1)).connect(MAIN[:40])
    assert old.monitor_hangs  # it reads 64 bytes of the main stream
    for version in ("10.0", "11.1"):
        new = Peer(version, "multifd").connect(multifd(1)).connect(multifd(0)).connect(MAIN)
        assert new.destination.status == "active" and not new.monitor_hangs


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("packet", [multifd(0), multifd(1, version=2), multifd(1, uuid="1" * 32), multifd(3)])
def test_a_wrong_initial_packet_fails_new_versions_and_only_prints_on_old_ones(version: str, packet: bytes) -> None:
    peer = Peer(version, "multifd").connect(MAIN).connect(multifd(0)).connect(packet)
    assert bool(peer.end) == (version != "7.2")
    assert "multifd" in " ".join(str(o) for o in peer.out)


@pytest.mark.parametrize("version", ALL)
def test_four_of_64_bytes_hang_the_monitor(version: str) -> None:
    assert Peer(version, "multifd").connect(MAIN).connect(multifd(0)[:4]).monitor_hangs


@pytest.mark.parametrize("version", ALL)
def test_surplus_channels_are_closed(version: str) -> None:
    peer = Peer(version, "multifd").connect(MAIN).connect(multifd(0)).connect(multifd(1)).connect(multifd(2))
    assert peer.closed == [3]


def test_5_2_closes_its_listener_once_all_are_in() -> None:
    assert not Peer("5.2", "multifd").connect(MAIN).connect(multifd(0)).connect(multifd(1)).destination.accepting


@pytest.mark.parametrize("version", ALL)
def test_without_multifd_a_multifd_connection_after_main_is_closed(version: str) -> None:
    assert Peer(version).connect(MAIN).connect(multifd(0)).closed == [1]


def test_without_multifd_a_multifd_connection_first_is_fatal_and_an_abort_on_11_1() -> None:
    for version in ("7.2", "10.0"):
        assert Peer(version).connect(multifd(0)).end == "Not a migration stream"
    assert "Assertion" in Peer("11.1").connect(multifd(0)).end


@pytest.mark.parametrize("version", ALL)
def test_a_silent_preempt_connection_first_is_taken_for_main(version: str) -> None:
    peer = Peer(version, "postcopy-ram", "postcopy-preempt").connect()
    assert peer.monitor_hangs if version == "11.1" else peer.destination.main == 0


@pytest.mark.parametrize("version", ALL)
def test_preempt_after_main_is_recognised(version: str) -> None:
    peer = Peer(version, "postcopy-ram", "postcopy-preempt").connect(MAIN).connect()
    assert [c.kind for c in peer.destination.connections] == ["main", "preempt"] and not peer.monitor_hangs


def test_an_end_of_file_before_any_byte_reads_as_not_a_migration_stream() -> None:
    peer = Peer("10.0").connect()
    peer.out += peer.destination.handle(Ended(0))
    assert peer.end == "Not a migration stream"
