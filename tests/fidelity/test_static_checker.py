"""The verdict against the rules of QEMU's scripts/vmstate-static-checker.py, on what real 7.2 and 10.0 dump
(`-dump-vmstate`), both ways, and on dumps with one thing changed.

The checker sees every field; the inventory carries versions, nested versions, subsections and a digest of the fields.
So what the checker complains of must be `no` or `maybe` here, and a `no` here must be a complaint there.
"""

from __future__ import annotations

import copy
import hashlib
import json
import lzma
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from simlib.case.profiles import DATA
from simlib.handshake.machine import Device, Machine, Subsection
from simlib.handshake.v2.inventory import compare

Dump = dict[str, Any]
DIRECTIONS = [("7.2", "10.0"), ("10.0", "7.2")]


@cache
def dump(version: str) -> Dump:
    """The devices of one QEMU, by name."""
    devices = json.loads(lzma.decompress((DATA / f"profiles/vmstate-{version}-pc-q35-7.2.json.xz").read_bytes()))
    return {name: entry for name, entry in devices.items() if name != "vmschkmachine"}


# --- the checker's rules, in our words ------------------------------------------------------------------------------
def complaints(source: Dump, destination: Dump) -> set[str]:
    """The sections that the checker would call a bug."""
    return {n for n, e in source.items() if n not in destination or any(_entry(e, destination[n]))}


def _entry(source: Dump, destination: Dump) -> Iterator[str]:
    yield from _versions(source, destination)
    if "Description" in source and "Description" in destination:
        yield from _description(source["Description"], destination["Description"])


def _versions(source: Dump, destination: Dump) -> Iterator[str]:
    if source["version_id"] > destination["version_id"]:
        yield "version above the destination's"
    if source["version_id"] < destination["minimum_version_id"]:
        yield "version below the destination's minimum"


def _description(source: Dump, destination: Dump) -> Iterator[str]:
    yield from _versions(source, destination)
    ours, theirs = source.get("Fields", []), destination.get("Fields", [])
    if len(ours) != len(theirs):
        yield "another number of fields"
    for one, two in zip(ours, theirs, strict=False):
        if one.get("size") != two.get("size") and not ("Description" in one and "Description" in two):
            yield f"field {one['field']} has another size"
        elif one["field"] != two["field"]:
            yield f"field {one['field']} is {two['field']} there"
        if "Description" in one and "Description" in two:
            yield from _description(one["Description"], two["Description"])
    there = {s["name"]: s for s in destination.get("Subsections", [])}
    for subsection in source.get("Subsections", []):
        if subsection["name"] not in there:
            yield f"no subsection {subsection['name']}"
        else:
            yield from _description(subsection, there[subsection["name"]])


# --- the same dumps as inventories ----------------------------------------------------------------------------------
def inventory(devices: Dump) -> Machine:
    return Machine(devices=tuple(_device(name, entry) for name, entry in devices.items()))


def _device(name: str, entry: Dump) -> Device:
    description = entry.get("Description", {})
    shape = json.dumps(_shape(description), sort_keys=True).encode()
    return Device(
        name,
        0,
        entry["version_id"],
        entry["minimum_version_id"],
        1,
        tuple(Subsection(*s) for s in sorted(set(_subsections(description)))),
        tuple(sorted(set(_nested(description)))),
        hashlib.sha256(shape).hexdigest()[:16],
    )


def _shape(description: Dump) -> Any:
    fields = [
        [f["field"], f.get("size"), f.get("num"), f.get("version_id"), _shape(f.get("Description", {}))]
        for f in description.get("Fields", [])
    ]
    return [fields, [[s["name"], _shape(s)] for s in description.get("Subsections", [])]]


def _subsections(description: Dump) -> Iterator[tuple[str, int]]:
    for inner in description.get("Subsections", []):
        yield inner["name"], inner["version_id"]
        yield from _subsections(inner)
    for field in description.get("Fields", []):
        yield from _subsections(field.get("Description", {}))


def _nested(description: Dump) -> Iterator[tuple[str, int, int]]:
    for field in description.get("Fields", []):
        inner = field.get("Description")
        if inner:
            yield inner["name"], inner["version_id"], inner["minimum_version_id"]
            yield from _nested(inner)


def judged(source: Dump, destination: Dump) -> dict[str, str]:
    """Device -> no or maybe, where there is anything to say."""
    verdicts: dict[str, str] = {}
    for e in compare(inventory(source), inventory(destination)):
        if e.code != "device-extra":
            name = e.item.partition("[")[2].partition("]")[0]
            verdicts[name] = "no" if e.severity == "error" or verdicts.get(name) == "no" else "maybe"
    return verdicts


# Where we say no and the checker is silent, and why.
NO_WITHOUT_COMPLAINT: dict[tuple[str, str], str] = {}


@pytest.mark.parametrize(("source", "destination"), DIRECTIONS)
def test_whatever_the_checker_complains_of_is_no_or_maybe_here(source: str, destination: str) -> None:
    assert complaints(dump(source), dump(destination)) <= judged(dump(source), dump(destination)).keys()


@pytest.mark.parametrize(("source", "destination"), DIRECTIONS)
def test_a_no_is_always_a_complaint_of_the_checker(source: str, destination: str) -> None:
    no = {n for n, v in judged(dump(source), dump(destination)).items() if v == "no"}
    silent = no - complaints(dump(source), dump(destination))
    assert silent == {n for s, n in NO_WITHOUT_COMPLAINT if s == source}


@pytest.mark.parametrize("version", ["7.2", "10.0"])
def test_a_qemu_has_nothing_against_itself(version: str) -> None:
    assert complaints(dump(version), dump(version)) == set() and judged(dump(version), dump(version)) == {}


def first_with(devices: Dump, wanted: Callable[[Dump], Any]) -> str:
    return next(n for n, e in sorted(devices.items()) if wanted(e.get("Description", {})))


def raise_version(devices: Dump) -> str:
    name = first_with(devices, lambda d: d.get("Fields"))
    devices[name]["version_id"] += 5
    return name


def raise_minimum_there(devices: Dump) -> str:
    name = first_with(devices, lambda d: d.get("Fields"))
    devices[name]["minimum_version_id"] = devices[name]["version_id"] + 1
    return name


def lose_a_field(devices: Dump) -> str:
    name = first_with(devices, lambda d: len(d.get("Fields", [])) > 2)
    del devices[name]["Description"]["Fields"][0]
    return name


def grow_a_field(devices: Dump) -> str:
    name = first_with(devices, lambda d: any("Description" not in f and "size" in f for f in d.get("Fields", [])))
    next(f for f in devices[name]["Description"]["Fields"] if "Description" not in f and "size" in f)["size"] += 4
    return name


def lose_a_subsection(devices: Dump) -> str:
    name = first_with(devices, lambda d: d.get("Subsections"))
    del devices[name]["Description"]["Subsections"][0]
    return name


def raise_a_nested_minimum(devices: Dump) -> str:
    name = first_with(devices, lambda d: any("Description" in f for f in d.get("Fields", [])))
    inner = next(f for f in devices[name]["Description"]["Fields"] if "Description" in f)["Description"]
    inner["minimum_version_id"] = inner["version_id"] = inner["version_id"] + 3
    return name


def lose_the_device(devices: Dump) -> str:
    name = first_with(devices, lambda d: d.get("Fields"))
    del devices[name]
    return name


@pytest.mark.parametrize(
    ("change", "at_source", "verdict"),
    [
        (raise_version, True, "no"),
        (raise_minimum_there, False, "no"),
        (lose_a_field, False, "maybe"),
        (lose_a_field, True, "maybe"),
        (grow_a_field, True, "maybe"),
        (lose_a_subsection, False, "maybe"),
        (raise_a_nested_minimum, True, "no"),
        (raise_a_nested_minimum, False, "no"),
        (lose_the_device, False, "no"),
    ],
)
def test_one_changed_thing_is_found_by_both(change: Callable[[Dump], str], at_source: bool, verdict: str) -> None:
    source, destination = copy.deepcopy(dump("10.0")), copy.deepcopy(dump("10.0"))
    name = change(source if at_source else destination)
    assert name in complaints(source, destination)
    assert judged(source, destination)[name] == verdict
