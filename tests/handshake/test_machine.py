"""What follows from a machine's facts and from migration settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.machine import Device, Machine, RamBlock, Settings, Subsection
from tests.handshake.builders import BLOCKS, FEW, MACHINES, QUICK

CAPABILITIES = st.lists(
    st.sampled_from(("multifd", "mapped-ram", "return-path", "postcopy-ram", "xbzrle")), unique=True
).map(tuple)
NEWEST = (99, 0)


def with_parameters(capabilities: tuple[str, ...], **parameters: int | str) -> Settings:
    named = tuple((name.replace("_", "-"), value) for name, value in parameters.items())
    return Settings(capabilities=capabilities, parameters=named)


@QUICK
@given(st.lists(BLOCKS, max_size=4))
def test_a_machine_s_memory_is_that_of_all_its_blocks(blocks: list[RamBlock]) -> None:
    expected = 0
    for block in blocks:
        expected += block.size_bytes
    assert Machine(ram_blocks=tuple(blocks)).ram_bytes == expected


@QUICK
@given(st.sampled_from(("pc-i440fx", "pc-q35", "virt", "pseries")), st.integers(0, 30), st.integers(0, 30))
def test_a_versioned_machine_type_ends_in_its_version(family: str, major: int, minor: int) -> None:
    assert Machine(type=f"{family}-{major}.{minor}").machine_version == (major, minor)


@pytest.mark.parametrize("name", ["virt", "none", "pc-q35", "pc-i440fx-rhel7.6.0", "pc-7.x", "pc-x.7", "microvm-7", ""])
def test_a_machine_type_without_a_version_behaves_as_the_newest(name: str) -> None:
    assert Machine(type=name).machine_version == NEWEST


@FEW
@given(MACHINES, MACHINES)
def test_machines_that_differ_in_their_devices_alone_are_unequal_and_share_a_hash(one: Machine, other: Machine) -> None:
    both = [Machine(one.type, vcpus=one.vcpus, uuid=one.uuid, devices=m.devices) for m in (one, other)]
    assert hash(both[0]) == hash(both[1])
    assert (both[0] == both[1]) == (one.devices == other.devices)


@QUICK
@given(st.integers(1, 300), st.sampled_from(("cpuhp", "ACPI/cpuhp", "virtio/cpuhp2", "rss", "a/cpuhp")))
def test_only_the_state_of_cpu_hotplug_grows_with_the_cpus(vcpus: int, name: str) -> None:
    """A selector of 4 bytes and a command of 1, then 10 bytes for each CPU (hw/acpi/cpu.c)."""
    expected = 4 + 1 + 10 * vcpus if name in ("ACPI/cpuhp", "a/cpuhp") else 0
    assert Subsection(name).uncounted_bytes(vcpus) == expected


@QUICK
@given(CAPABILITIES, st.integers(1, 16))
def test_multifd_s_channels_are_as_many_as_were_asked_for_or_two(capabilities: tuple[str, ...], number: int) -> None:
    on = "multifd" in capabilities and "mapped-ram" not in capabilities
    assert with_parameters(capabilities, multifd_channels=number).channels == (number if on else 0)
    assert Settings(capabilities=capabilities).channels == (2 if on else 0)


@QUICK
@given(CAPABILITIES)
def test_postcopy_implies_a_return_path(capabilities: tuple[str, ...]) -> None:
    expected = not {"return-path", "postcopy-ram"}.isdisjoint(capabilities)
    assert Settings(capabilities=capabilities).return_path == expected


@QUICK
@given(CAPABILITIES, st.sampled_from(("multifd", "mapped-ram", "return-path", "xbzrle", "multi", "")))
def test_a_capability_is_on_when_it_is_listed_by_its_whole_name(capabilities: tuple[str, ...], name: str) -> None:
    ours = Settings(capabilities=capabilities)
    assert ours.has(name) == (capabilities.count(name) > 0)
    assert ours.file_pages == (capabilities.count("mapped-ram") > 0)


def test_tls_is_on_when_credentials_are_named() -> None:
    assert with_parameters((), tls_creds="psk").tls
    assert not with_parameters((), tls_creds="").tls and not with_parameters((), tls_hostname="h").tls


def test_a_parameter_that_was_not_set_has_its_default() -> None:
    ours = with_parameters((), multifd_compression="zstd", max_bandwidth=7)
    assert (ours.parameter("max-bandwidth", 1), ours.parameter("multifd-channels", 5)) == (7, 5)
    assert (ours.compression, Settings().compression) == ("zstd", "none")


def test_a_device_s_facts_are_part_of_what_it_is() -> None:
    """A verdict compares devices as values."""
    assert Device("a", 1) == Device("a", 1) != Device("a", 2)
    assert Machine(devices=(Device("a", 1),)) != Machine(devices=(Device("a", 2),))
