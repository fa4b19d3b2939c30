"""Which capabilities a QEMU has, and what QMP refuses: what holds for all of them, and each refusal's releases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.capabilities import CAPABILITIES, PLAIN_MULTIFD, known_capabilities, refusal
from simlib.handshake.machine import Machine, Settings
from simlib.handshake.versions import RELEASES
from tests.handshake.builders import QUICK

SETS = st.lists(st.sampled_from(sorted(CAPABILITIES)), unique=True, max_size=5)
VERSIONS = st.sampled_from(RELEASES)


def refused(version: str, capabilities: list[str], transport: str = "tcp", at_source: bool = True) -> str:
    return refusal(Settings(version, Machine(), tuple(capabilities), (), transport), at_source)


def with_parameters(at_source: bool, transport: str, *capabilities: str, **parameters: str) -> str:
    named = tuple((name.replace("_", "-"), value) for name, value in parameters.items())
    return refusal(Settings("11.1", Machine(), capabilities, named, transport), at_source)


@QUICK
@given(VERSIONS, SETS)
def test_of_two_capabilities_that_a_version_lacks_the_first_that_was_asked_for_is_named(
    version: str, capabilities: list[str]
) -> None:
    unknown = [name for name in capabilities if name not in known_capabilities(version)]
    text = refused(version, capabilities)
    assert text.startswith("Invalid parameter") == bool(unknown)
    if unknown:
        assert text == f"Invalid parameter '{unknown[0]}'"


@QUICK
@given(VERSIONS, st.data(), st.booleans(), st.sampled_from(("tcp", "unix", "exec", "file", "fd")))
def test_known_capabilities_are_refused_in_the_same_words_in_whatever_order_they_stand(
    version: str, data: st.DataObject, at_source: bool, transport: str
) -> None:
    capabilities = data.draw(st.lists(st.sampled_from(known_capabilities(version)), unique=True, max_size=5))
    other = data.draw(st.permutations(capabilities))
    assert refused(version, other, transport, at_source) == refused(version, capabilities, transport, at_source)


@QUICK
@given(st.sampled_from(range(1, len(RELEASES))))
def test_a_release_has_the_capabilities_of_the_one_before_it_but_for_the_three_that_went(at: int) -> None:
    before, after = (set(known_capabilities(RELEASES[place])) for place in (at - 1, at))
    assert before - after <= {"block", "compress", "zero-blocks"}


@pytest.mark.parametrize(
    ("capability", "first", "gone"),
    [
        ("background-snapshot", "6.0", ""),
        ("zero-copy-send", "7.1", ""),
        ("postcopy-preempt", "7.1", ""),
        ("switchover-ack", "8.1", ""),
        ("dirty-limit", "8.1", ""),
        ("mapped-ram", "9.0", ""),
        ("compress", "5.2", "9.1"),
        ("block", "5.2", "9.1"),
        ("zero-blocks", "5.2", "11.0"),
        ("multifd", "5.2", ""),
        ("x-ignore-shared", "5.2", ""),
    ],
)
def test_a_capability_is_known_from_its_first_release_to_the_one_before_it_went(
    capability: str, first: str, gone: str
) -> None:
    end = RELEASES.index(gone) if gone else len(RELEASES)
    assert [r for r in RELEASES if capability in known_capabilities(r)] == [*RELEASES[RELEASES.index(first) : end]]


def test_capabilities_are_listed_in_alphabetical_order() -> None:
    for version in RELEASES:
        assert list(known_capabilities(version)) == sorted(known_capabilities(version))


@pytest.mark.parametrize(
    ("capabilities", "text", "first", "gone"),
    [
        ("postcopy-ram x-ignore-shared", "Postcopy is not compatible with ignore-shared", "5.2", ""),
        ("postcopy-ram multifd", "Postcopy is not yet compatible with multifd", "8.1", "10.1"),
        ("x-colo", "Capability 'x-colo' requires capability 'return-path'", "11.0", ""),
        ("zero-copy-send", PLAIN_MULTIFD, "7.1", ""),
        ("zero-copy-send multifd xbzrle", PLAIN_MULTIFD, "7.1", ""),
        ("zero-copy-send multifd compress", PLAIN_MULTIFD, "7.1", "9.1"),
        ("postcopy-preempt", "Postcopy preempt requires postcopy-ram", "7.1", ""),
        ("postcopy-preempt postcopy-ram compress", "Postcopy preempt not compatible with compress", "7.1", "9.1"),
        ("multifd compress", "Multifd is not compatible with compress", "7.2", "9.1"),
        ("switchover-ack", "Capability 'switchover-ack' requires capability 'return-path'", "8.1", ""),
        (
            "dirty-limit auto-converge",
            "dirty-limit conflicts with auto-converge either of then available currently",
            "8.1",
            "",
        ),
        ("dirty-limit", "dirty-limit requires KVM with accelerator property 'dirty-ring-size' set", "8.1", ""),
        ("multifd xbzrle", "Multifd is not compatible with xbzrle", "8.2", ""),
        ("compress xbzrle", "Compression is not compatible with xbzrle", "8.2", "9.1"),
        ("mapped-ram xbzrle", "Mapped-ram migration is incompatible with xbzrle", "9.0", ""),
        ("mapped-ram compress", "Mapped-ram migration is incompatible with compression", "9.0", "9.1"),
        ("mapped-ram postcopy-ram", "Mapped-ram migration is incompatible with postcopy", "9.0", ""),
    ],
)
def test_capabilities_that_exclude_each_other_are_refused_from_the_release_that_looks(
    capabilities: str, text: str, first: str, gone: str
) -> None:
    end = RELEASES.index(gone) if gone else len(RELEASES)
    looking = [r for r in RELEASES if refused(r, capabilities.split()) == text]
    assert looking == [*RELEASES[RELEASES.index(first) : end]]


@pytest.mark.parametrize(
    "capabilities", ["x-colo return-path", "switchover-ack return-path", "postcopy-preempt postcopy-ram", "multifd"]
)
def test_what_a_capability_requires_makes_it_acceptable(capabilities: str) -> None:
    assert refused("11.1", capabilities.split()) == ""


def test_a_background_snapshot_goes_with_few_capabilities() -> None:
    """Those that it does not look for; some have conditions of their own."""
    others = {"events", "mapped-ram", "switchover-ack", "x-ignore-shared", "zero-blocks", "block", "dirty-limit"}
    others |= {"background-snapshot", "postcopy-preempt"}
    for version in ("7.2", "10.0"):
        names = known_capabilities(version)
        texts = {name: refused(version, ["background-snapshot", name]) for name in names}
        clashes = {name: text for name, text in texts.items() if text.startswith("Background")}
        assert clashes == {n: f"Background-snapshot is not compatible with {n}" for n in names if n not in others}


@pytest.mark.parametrize("version", RELEASES)
def test_settings_without_capabilities_are_accepted(version: str) -> None:
    for transport in ("tcp", "unix", "exec", "fd"):
        assert refused(version, [], transport) == refused(version, [], transport, at_source=False) == ""


@pytest.mark.parametrize("at_source", [True, False])
def test_a_file_is_a_transport_from_8_2_on(at_source: bool) -> None:
    text = "Parameter 'uri' expects a valid migration protocol"
    assert [r for r in RELEASES if refused(r, [], "file", at_source) == text] == [*RELEASES[: RELEASES.index("8.2")]]


@pytest.mark.parametrize("transport", ["tcp", "unix", "exec", "fd"])
def test_mapped_ram_needs_a_file(transport: str) -> None:
    assert refused("10.0", ["mapped-ram"], transport) == "Migration requires seekable transport (e.g. file)"
    assert refused("10.0", ["mapped-ram"], "file") == ""


@pytest.mark.parametrize("transport", ["exec", "file", "fd"])
@pytest.mark.parametrize("capabilities", [["multifd"], ["postcopy-preempt", "postcopy-ram"]])
def test_several_channels_need_sockets_and_only_the_source_looks(capabilities: list[str], transport: str) -> None:
    text = "Migration requires multi-channel URIs (e.g. tcp)"
    assert refused("8.2", capabilities, transport) == text
    assert refused("7.2", capabilities, transport) != text
    assert refused("8.2", capabilities, transport, at_source=False) == refused("8.2", capabilities, "unix") == ""


def test_mapped_ram_goes_with_neither_tls_nor_compression_at_the_source() -> None:
    tls, both = {"tls_creds": "psk"}, {"tls_creds": "psk", "multifd_compression": "zlib"}
    assert with_parameters(True, "file", "mapped-ram", **tls) == "Cannot use TLS with mapped-ram"
    assert with_parameters(True, "file", "mapped-ram", **both) == "Cannot use compression with mapped-ram"
    assert with_parameters(False, "file", "mapped-ram", **both) == ""
    assert with_parameters(True, "tcp", **both) == ""


@pytest.mark.parametrize("parameters", [{"tls_creds": "psk"}, {"multifd_compression": "zstd"}])
@pytest.mark.parametrize("at_source", [True, False])
def test_zero_copy_goes_with_neither_tls_nor_compression(parameters: dict[str, str], at_source: bool) -> None:
    assert with_parameters(at_source, "tcp", "multifd", "zero-copy-send", **parameters) == PLAIN_MULTIFD
    assert with_parameters(at_source, "tcp", "multifd", **parameters) == ""
    assert with_parameters(at_source, "tcp", "multifd", "zero-copy-send") == ""
