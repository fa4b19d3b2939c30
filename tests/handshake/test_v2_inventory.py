"""The verdict: the edges of each comparison, the order of findings, and what each of them tells a person."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake.errors import Error, Retry
from simlib.handshake.machine import Device, Machine, RamBlock, Subsection
from simlib.handshake.v2.inventory import compare, verdict
from tests.handshake.builders import MACHINES, QUICK

DISK = Device("disk", version=3, minimum_version=2)
BASE = Machine(ram_blocks=(RamBlock("pc.ram", 1 << 20),), devices=(DISK,))


def machine(**changes: Any) -> Machine:
    return replace(BASE, **changes)


def device(**changes: Any) -> Machine:
    return machine(devices=(replace(DISK, **changes),))


def found(source: Machine, destination: Machine, *args: Any, **kwargs: Any) -> list[tuple[str, str, str, str, str]]:
    errors = compare(source, destination, *args, **kwargs)
    return [(e.code, e.item, e.source, e.destination, e.severity) for e in errors]


@QUICK
@given(MACHINES, st.booleans(), st.booleans())
def test_a_machine_takes_its_own_guest_also_where_it_is_another_value(m: Machine, uuid: bool, postcopy: bool) -> None:
    devices = tuple({(d.id, d.instance): d for d in m.devices}.values())
    m = replace(m, devices=devices)
    copy = replace(m, devices=tuple(replace(d) for d in devices))
    assert compare(m, copy, m.ram_bytes, uuid, postcopy) == ()
    assert verdict(()) == "yes"


@QUICK
@given(MACHINES, MACHINES)
def test_errors_come_before_warnings_and_the_worst_decides(source: Machine, destination: Machine) -> None:
    findings = compare(source, destination, 1)
    severities = [e.severity for e in findings]
    assert severities == sorted(severities) and verdict(findings) == "no"
    warnings = tuple(e for e in findings if e.severity == "warning")
    assert verdict(warnings) == ("maybe" if warnings else "yes")
    assert all(e.text.endswith(".") and e.item and e.code for e in findings)


def test_findings_come_in_the_order_of_the_specification() -> None:
    source = machine(type="a", arch="b", page_bits=13, vcpus=2, cpu="c", cpu_features=("z", "y"), uuid="d" * 32)
    source = replace(source, ram_blocks=(RamBlock("new", 1), RamBlock("pc.ram", 2), RamBlock("rom", 1, 2)))
    destination = machine(ram_blocks=(*BASE.ram_blocks, RamBlock("rom", 1)), devices=(Device("more"),))
    assert [(e.code, e.item) for e in compare(source, destination, 1, uuid_checked=True, postcopy=True)] == [
        ("machine-type", "machine.type"),
        ("arch", "machine.arch"),
        ("page-bits", "machine.page-bits"),
        ("vcpus", "machine.vcpus"),
        ("cpu-feature", "cpu-feature[y]"),
        ("cpu-feature", "cpu-feature[z]"),
        ("uuid", "machine.uuid"),
        ("ram-block", "ram-block[new]"),
        ("ram-size", "ram-block[pc.ram]"),
        ("ram-page-size", "ram-block[rom]"),
        ("memory", "ram"),
        ("device-unknown", "device[disk]"),
        ("cpu-model", "machine.cpu"),
        ("device-extra", "device[more]"),
    ]


# --- machine and memory ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("here", "there", "severity"), [(2, 1, "error"), (1, 2, "warning"), (2, 2, None)])
def test_too_few_cpus_are_an_error_and_too_many_a_doubt(here: int, there: int, severity: str | None) -> None:
    expected = [("vcpus", "machine.vcpus", str(here), str(there), severity)] if severity else []
    assert found(machine(vcpus=here), machine(vcpus=there)) == expected


@pytest.mark.parametrize(
    ("name", "needed", "severity"),
    [("ACPI/cpuhp", "always", "error"), ("ACPI/cpuhp", "maybe", "warning"), ("ACPI/other", "always", "warning")],
)
def test_more_cpus_are_an_error_where_their_hotplug_state_is_always_sent(name: str, needed: str, severity: str) -> None:
    source = replace(device(subsections=(Subsection(name, 1, needed),)), vcpus=1)
    errors = compare(source, replace(source, vcpus=2))
    assert [(e.code, e.severity) for e in errors] == [("vcpus", severity)]
    assert ("hotplug" in errors[0].text) == (severity == "error")


def test_an_alias_of_the_destination_is_its_machine_type() -> None:
    assert found(machine(type="q35"), machine(type="pc-q35-8.1", aliases=("pc", "q35"))) == []
    assert found(machine(type="pc-q35-8.1", aliases=("q35",)), machine(type="q35"))[0][0] == "machine-type"


@pytest.mark.parametrize(("one", "other"), [("a" * 32, ""), ("", "b" * 32), ("a" * 32, "b" * 32)])
def test_uuids_are_compared_where_the_stream_names_one(one: str, other: str) -> None:
    source, destination = machine(uuid=one), machine(uuid=other)
    assert found(source, destination) == []
    expected = ("uuid", "machine.uuid", one or "none", other or "none", "error")
    assert found(source, destination, uuid_checked=True) == [expected]


def test_a_memory_block_is_compared_by_size_then_in_postcopy_by_page_size() -> None:
    def there(**changes: Any) -> Machine:
        return machine(ram_blocks=(RamBlock(**{"name": "pc.ram", "size_bytes": 1 << 20} | changes), RamBlock("rom", 1)))

    pages = ("ram-page-size", "ram-block[pc.ram]", "4096", "2097152", "error")
    size = ("ram-size", "ram-block[pc.ram]", "1048576", "7", "error")
    assert found(BASE, there(page_bytes=2 << 20)) == []
    assert found(BASE, there(page_bytes=2 << 20), postcopy=True) == [pages]
    assert found(BASE, there(size_bytes=7, page_bytes=2 << 20), postcopy=True) == [size]
    assert found(BASE, there(size_bytes=7, resizable=True)) == []
    assert found(BASE, there(size_bytes=7, page_bytes=2 << 20, resizable=True), postcopy=True) == [pages]


@pytest.mark.parametrize(("limit", "refused"), [(0, False), ((1 << 20) - 1, True), (1 << 20, False), (1, True)])
def test_the_guest_s_memory_may_be_as_large_as_the_limit(limit: int, refused: bool) -> None:
    assert found(BASE, BASE, limit) == ([("memory", "ram", "1048576", str(limit), "error")] if refused else [])


# --- devices --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("version", "fine"), [(1, False), (2, True), (3, True), (4, False)])
def test_a_device_s_version_must_be_one_that_the_destination_loads(version: int, fine: bool) -> None:
    expected = [] if fine else [("device-version", "device[disk]", str(version), "2..3", "error")]
    assert found(device(version=version), BASE) == expected


@pytest.mark.parametrize(("version", "fine"), [(1, False), (2, True), (4, True), (5, False)])
def test_a_nested_version_likewise_if_both_have_it(version: int, fine: bool) -> None:
    source = device(nested=(("core", version, 1), ("new", 9, 9)))
    expected = [] if fine else [("device-nested-version", "device[disk].core", str(version), "2..4", "error")]
    assert found(source, device(nested=(("core", 4, 2),))) == expected


@pytest.mark.parametrize(("needed", "severity"), [("always", "error"), ("maybe", "warning"), ("never", None)])
def test_a_subsection_must_be_known_in_its_version(needed: str, severity: str | None) -> None:
    source = device(subsections=(Subsection("lacking", 1, needed), Subsection("newer", 2, needed)))
    item = "device[disk]"
    for described, worst in ((True, severity), (False, severity and "warning")):
        there = device(subsections=(Subsection("newer", 1),), described=described)
        newer = ("device-subsection", f"{item}.newer", "version 2", "version 1", severity)
        lacking = ("device-subsection", f"{item}.lacking", needed, "unknown", worst)
        assert found(replace(source, devices=(replace(source.devices[0], described=described),)), there) == (
            [newer, lacking] if severity else []
        )
    assert found(source, device(subsections=(Subsection("newer", 3), Subsection("lacking", 1)))) == []


@pytest.mark.parametrize(
    ("source", "destination", "code", "values"),
    [
        ([replace(DISK, migratable=False)], [], "device-unmigratable", ("not migratable", "takes only what is")),
        (
            [replace(DISK, migratable=False, version=9)],
            [DISK],
            "device-unmigratable",
            ("not migratable", "takes only what is"),
        ),
        ([DISK], [replace(DISK, instance=1)], "device-instance", ("instance 0", "absent")),
        ([DISK], [Device("other")], "device-unknown", ("version 3", "absent")),
    ],
)
def test_a_device_that_is_not_there_is_told_by_the_first_reason_alone(
    source: list[Device], destination: list[Device], code: str, values: tuple[str, str]
) -> None:
    findings = found(machine(devices=tuple(source)), machine(devices=tuple(destination)))
    assert findings[0] == (code, "device[disk]", *values, "error")
    assert [code for code, *_ in findings[1:]] == ["device-extra"] * (code in ("device-instance", "device-unknown"))


def test_an_instance_beyond_the_first_is_named_and_one_too_many_is_a_doubt() -> None:
    second = replace(DISK, instance=2, version=1)
    several = machine(devices=(DISK, second))
    assert found(BASE, several) == [("device-extra", "device[disk/2]", "absent", "version 1", "warning")]
    assert found(several, BASE) == [("device-instance", "device[disk/2]", "instance 2", "absent", "error")]


def test_features_that_are_missing_are_listed_in_order_unless_the_destination_lists_none() -> None:
    source = device(features=("z", "b", "a"))
    expected = ("device-features", "device[disk]", "a z", "absent", "error")
    assert found(source, device(features=("b", "x"))) == [expected]
    assert found(source, device()) == found(device(), source) == []


@pytest.mark.parametrize(
    ("here", "there", "warned"),
    [
        ({"schema": "a"}, {"schema": "b"}, True),
        ({"schema": "a"}, {"schema": "a"}, False),
        ({"schema": "a"}, {"schema": ""}, False),
        ({"schema": ""}, {"schema": "b"}, False),
        ({"schema": "a"}, {"schema": "b", "version": 4}, False),
        ({"schema": "a", "described": False}, {"schema": "b"}, False),
        ({"schema": "a", "described": False}, {"schema": "b", "described": False}, True),
    ],
)
def test_other_fields_at_the_same_version_are_a_doubt(
    here: dict[str, Any], there: dict[str, Any], warned: bool
) -> None:
    expected = [("device-schema", "device[disk]", "a", "b", "warning")] if warned else []
    assert found(device(**here), device(**there)) == expected


def test_the_same_value_of_a_device_is_not_compared_and_a_finding_of_each_kind_is_told() -> None:
    source = device(version=4, nested=(("core", 9, 1),), features=("f",), subsections=(Subsection("s", 1, "always"),))
    there = device(nested=(("core", 1, 1),), features=("g",))
    codes = [code for code, *_ in found(source, there)]
    assert codes == ["device-version", "device-nested-version", "device-subsection", "device-features"]
    assert found(source, machine(devices=source.devices)) == []


@pytest.mark.parametrize(
    ("source", "destination", "retry", "hint"),
    [
        (machine(type="a"), BASE, Retry.AFTER_CHANGE, "-machine a"),
        (machine(arch="a"), BASE, Retry.NEVER, ""),
        (machine(vcpus=3), BASE, Retry.AFTER_CHANGE, "-smp 3"),
        (machine(cpu="a"), BASE, Retry.AFTER_CHANGE, "-cpu a"),
        (device(version=9), BASE, Retry.WITH_VERSION, "QEMU version"),
        (device(nested=(("n", 2, 1),)), device(nested=(("n", 1, 1),)), Retry.WITH_VERSION, "QEMU version"),
        (device(subsections=(Subsection("s", 1, "always"),)), BASE, Retry.WITH_VERSION, "machine type"),
        (device(subsections=(Subsection("s", 2),)), device(subsections=(Subsection("s", 1),)), Retry.WITH_VERSION, ""),
        (machine(ram_blocks=(RamBlock("pc.ram", 1),)), BASE, Retry.AFTER_CHANGE, "-m"),
    ],
)
def test_a_finding_says_when_another_attempt_makes_sense_and_what_to_do(
    source: Machine, destination: Machine, retry: str, hint: str
) -> None:
    (error,) = compare(source, destination)
    assert error.retry == retry and hint in error.hint


def test_lacking_memory_may_be_there_later() -> None:
    assert [e.retry for e in compare(BASE, BASE, 1)] == [Retry.LATER]


def test_the_worst_finding_decides_wherever_it_stands() -> None:
    doubt, error = Error("x", severity="warning"), Error("y")
    assert [verdict(f) for f in ((doubt,), (error,), (doubt, error), (error, doubt))] == ["maybe", "no", "no", "no"]
