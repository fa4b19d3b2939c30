"""Can this guest go there? Every kind of obstacle is found, with both values, and what migrates is never forbidden."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from simlib import world
from simlib.case.profiles import DATA, ProfileError, machine
from simlib.case.scenario import Scenario, Side
from simlib.cli.machines import page
from simlib.handshake.machine import Settings
from simlib.handshake.v2 import manifest
from simlib.handshake.v2.inventory import verdict
from simlib.real_qemu.preflight import Answer, answers, as_json, party

Json = dict[str, Any]
BOTH = ("7.2", "10.0")


@cache
def profile_of(version: str) -> Json:
    profile: Json = json.loads((DATA / f"profiles/qemu-{version}.json").read_text())
    return profile


SHARED = sorted(
    {m["name"] for m in profile_of("7.2")["machines"]} & {m["name"] for m in profile_of("10.0")["machines"]}
)


def committed(version: str, name: str) -> str:
    return f"{DATA}/profiles/qemu-{version}.json#{name}"


def one(version: str, name: str = "pc-q35-7.2+virtio-set") -> Json:
    """A profile of one machine, whose CPU is known too."""
    profile = copy.deepcopy(profile_of(version))
    profile["machines"] = [m for m in profile["machines"] if m["name"] == name]
    profile["machines"][0] |= {"cpu": "qemu64", "cpu-features": ["sse3", "x2apic"]}
    return profile


def written(profile: Json, path: Path) -> str:
    path.write_text(json.dumps(profile))
    return str(path)


def asked(guest: Json, host: Json, folder: Path, *wanted: str) -> Answer:
    places = written(guest, folder / "guest.json"), written(host, folder / "host.json")
    return answers(party(places[0]), [party(places[1])], wanted)[0]


def simlib(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "simlib", "qemu", *args], capture_output=True, text=True, timeout=60)


# --- what is in the way ---------------------------------------------------------------------------------------------
def device(profile: Json, end: str) -> Json:
    entry: Json = next(d for d in profile["machines"][0]["devices"] if d["id"].endswith(end))
    return entry


def lose_a_device(host: Json) -> None:
    host["machines"][0]["devices"].remove(device(host, "virtio-rng"))


def older_version(host: Json) -> None:
    device(host, "ICH9LPC")["version"] = 0


def other_type(host: Json) -> None:
    host["machines"][0]["machine-type"] = "pc-i440fx-7.2"


def less_memory(host: Json) -> None:
    host["machines"][0]["ram-blocks"][0]["size"] //= 2


def no_such_capability(host: Json) -> None:
    host["capabilities"] = [c for c in host["capabilities"] if c["name"] != "multifd"]


def weaker_cpu(host: Json) -> None:
    host["machines"][0]["cpu-features"] = ["sse3"]


OBSTACLES: dict[str, tuple[Callable[[Json], None], str, str, str]] = {
    "a missing device": (lose_a_device, "device-unknown", "virtio-rng", "version 1|absent"),
    "an older VMState version": (older_version, "device-version", "ICH9LPC", "1|1..0"),
    "another machine type": (other_type, "machine-type", "machine.type", "pc-q35-7.2|pc-i440fx-7.2"),
    "another size of memory": (less_memory, "ram-size", "pc.ram", "134217728|67108864"),
    "an unsupported capability": (no_such_capability, "feature-required", "multifd", "require|forbid"),
    "a missing CPU feature": (weaker_cpu, "cpu-feature", "x2apic", "on|absent"),
}


@pytest.mark.parametrize("what", OBSTACLES)
@pytest.mark.parametrize(("here", "there"), [BOTH, BOTH[::-1], ("10.0", "10.0")])
def test_each_obstacle_is_found_with_code_item_both_values_and_a_way_out(
    what: str, here: str, there: str, tmp_path: Path
) -> None:
    change, code, item, values = OBSTACLES[what]
    host = one(there)
    change(host)
    answer = asked(one(here), host, tmp_path, "multifd")
    errors = [e for e in answer.findings if e.severity == "error"]
    assert answer.verdict == "no" and [e.code for e in errors] == [code]
    assert item in errors[0].item and f"{errors[0].source}|{errors[0].destination}" == values
    assert errors[0].text and answer.remedies == (errors[0].hint,)


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize(("here", "there"), [BOTH, BOTH[::-1], ("7.2", "7.2"), ("10.0", "10.0")])
def test_no_pair_that_migrates_is_forbidden(name: str, here: str, there: str) -> None:
    answer = answers(party(committed(here, name)), [party(committed(there, name))], ("multifd",))[0]
    assert answer.verdict == ("yes" if here == there else answer.verdict) and answer.verdict != "no"


def test_a_whole_matrix_of_machines_goes_only_where_the_same_machine_is(tmp_path: Path) -> None:
    for name in SHARED:
        hosts = [party(committed("10.0", other)) for other in SHARED]
        goes = {
            h.name
            for h, a in zip(hosts, answers(party(committed("7.2", name)), hosts), strict=True)
            if a.verdict != "no"
        }
        assert committed("10.0", name) in goes
        ours = machine("7.2", name)
        for other in SHARED:
            there = {(d.id, d.instance) for d in machine("10.0", other).devices}
            if any((d.id, d.instance) not in there for d in ours.devices):
                assert committed("10.0", other) not in goes


def test_the_verdict_is_that_of_the_live_handshake() -> None:
    """The same two machines shake hands in the simulated world; what the source is told is what preflight says."""
    for ours, other in (
        ("pc-q35-7.2+virtio-gpu", "pc-q35-7.2"),
        ("pc-q35-7.2", "pc-i440fx-7.2"),
        ("pc-i440fx-7.2+e1000", "pc-i440fx-7.2+virtio-net"),
    ):
        live = Scenario(
            name="x", title="x", versions=("7.2>10.0",), source=Side(machine=ours), destination=Side(machine=other)
        )
        row = world.run(live, protocol="v2", version="7.2>10.0").row
        answer = answers(party(committed("7.2", ours)), [party(committed("10.0", other))])[0]
        assert (row.outcome, answer.verdict) == ("refused", "no")
        assert answer.findings[0].text in row.source_text


def test_a_machine_type_that_the_host_lacks_is_not_answered_with_start_it_so(tmp_path: Path) -> None:
    guest, host = committed("10.0", "pc-q35-10.0"), committed("7.2", "pc-q35-7.2")
    answer = answers(party(guest), [party(host)])[0]
    assert answer.remedies[0] == "QEMU 7.2 there has no pc-q35-10.0: choose a host with a QEMU that lists it."


def test_a_capability_of_neither_side_and_two_that_exclude_each_other_are_named(tmp_path: Path) -> None:
    for wanted, text in (
        (("warp-drive",), "own QEMU has no capability warp-drive"),
        (("multifd", "xbzrle"), "Multifd is not compatible with xbzrle"),
    ):
        answer = asked(one("10.0"), one("10.0"), tmp_path, *wanted)
        assert answer.verdict == "no" and any(text in e.text for e in answer.findings)


def test_what_one_side_does_not_say_is_no_difference_and_is_said(tmp_path: Path) -> None:
    guest = one("7.2")
    guest["machines"][0]["cpu"] = "EPYC"
    answer = answers(party(written(guest, tmp_path / "g")), [party(committed("7.2", "pc-q35-7.2+virtio-set"))])[0]
    assert answer.verdict == "yes" and any("CPU features: not compared" in n for n in answer.notes)


def test_an_undescribed_device_may_take_a_subsection_that_nobody_lists(tmp_path: Path) -> None:
    guest = one("10.0")
    cpu = device(guest, "cpu")
    cpu["subsections"].append({"name": "cpu/msr_smi_count", "version": 1})
    cpu["sent-subsections"].append("cpu/msr_smi_count")
    answer = asked(guest, one("10.0"), tmp_path)
    assert (answer.verdict, [e.code for e in answer.findings]) == ("maybe", ["device-subsection"])


# --- a saved guest --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "what", ["a missing device", "an older VMState version", "another size of memory", "another machine type"]
)
def test_a_manifest_gets_the_verdict_that_the_guest_would_have_got(what: str, tmp_path: Path) -> None:
    host = one("10.0")
    OBSTACLES[what][0](host)
    place = party(written(host, tmp_path / "host.json"))
    guest = party(written(one("7.2"), tmp_path / "guest.json"))
    (tmp_path / "saved").write_bytes(manifest.write(guest.settings, 1 << 20) + b"QEVM")
    live, saved = answers(guest, [place])[0], answers(party(str(tmp_path / "saved")), [place])[0]
    assert saved.findings == live.findings and saved.verdict == verdict(live.findings) == "no"


def test_a_file_with_mapped_ram_is_refused_where_the_binary_has_none(tmp_path: Path) -> None:
    guest = Settings("10.0", machine("10.0", "pc-q35-7.2"), ("mapped-ram",), transport="file")
    (tmp_path / "saved").write_bytes(manifest.write(guest))
    old, new = answers(party(str(tmp_path / "saved")), [party(committed(v, "pc-q35-7.2")) for v in BOTH])
    assert (old.verdict, old.findings[0].code, new.verdict) == ("no", "feature-required", "yes")


def test_a_padded_manifest_says_the_same_as_a_short_one() -> None:
    guest = Settings("10.0", machine("10.0", "pc-q35-7.2"))
    short, padded = manifest.write(guest), manifest.write(guest, 1 << 20)
    assert manifest.read(short)[0] == manifest.read(padded)[0] and manifest.read(padded)[2] == len(padded) == 1 << 20


def test_a_bare_stream_is_judged_by_what_it_shows(tmp_path: Path) -> None:
    from .test_saved import unpacked

    place = party(str(unpacked("10.0-file-virtio-rng", tmp_path)))
    host = one("10.0", "pc-q35-7.2")
    host["machines"][0]["ram-blocks"][0]["size"] = 16 << 20
    host["machines"][0]["ram-blocks"] += [{"name": "pc.bios", "size": 65536}]
    answer = answers(place, [party(written(host, tmp_path / "host.json"))])[0]
    assert answer.verdict == "no" and [e.item for e in answer.findings if e.code == "device-unknown"] == [
        "device[0000:00:01.0/virtio-rng]"
    ]


# --- the command ----------------------------------------------------------------------------------------------------
def test_one_page_says_where_it_can_go_and_why_not_elsewhere() -> None:
    hosts = [committed("10.0", n) for n in ("pc-q35-7.2", "pc-q35-7.2+virtio-set", "pc-i440fx-7.2")]
    result = simlib("preflight", committed("7.2", "pc-q35-7.2+virtio-set"), *hosts)
    lines = result.stdout.splitlines()
    assert result.returncode == 0 and result.stderr == "" and max(map(len, lines)) < 400
    assert [line.split()[0] for line in lines[1:4]] == ["no", "maybe", "no"]
    assert "virtio-rng" in result.stdout and "what would mend it" in result.stdout


@pytest.mark.slow
def test_no_host_is_exit_1_doubts_can_be_forbidden_and_json_has_it_all() -> None:
    guest, doubtful = committed("7.2", "pc-q35-7.2"), committed("10.0", "pc-q35-7.2")
    assert simlib("preflight", guest, doubtful).returncode == 0
    assert simlib("preflight", guest, doubtful, "--on-maybe", "reject").returncode == 1
    result = simlib("preflight", guest, committed("10.0", "pc-i440fx-7.2"), "--json")
    report = json.loads(result.stdout)
    assert result.returncode == 1 and report["takers"] == [] and report["hosts"][0]["mends"]
    first = report["hosts"][0]["findings"][0]
    assert {"code", "item", "source", "destination", "text", "hint", "severity"} <= set(first)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"machines": 3}',
        '{"machines": [{"name": "a"}]}',
        "{" * 99999,
        '{"machines": [{"name": "a", "machine-type": 1, "devices": [3], "ram-blocks": []}]}',
        "QEVM",
        "\x89QMF",
    ],
)
def test_what_is_no_profile_gets_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text(text)
    with pytest.raises(ProfileError, match="bad"):
        party(str(tmp_path / "bad"))


NONSENSE = (
    None,
    True,
    0,
    -1,
    1 << 63,
    10**30,
    1.5,
    "",
    "x",
    "\x1b[31m",
    "7.2",
    [],
    {},
    [None],
    [1, 2],
    [["x", 1]],
    {"name": "x", "version": 1},
)


def with_nonsense(value: Any, rng: random.Random) -> Any:
    """The same with one place, at any depth, absent or something else."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return rng.choice(NONSENSE)
    key = rng.choice(sorted(value)) if isinstance(value, dict) else rng.randrange(len(value))
    changed = copy.copy(value)
    if rng.random() < 0.05:
        del changed[key]
    else:
        changed[key] = with_nonsense(value[key], rng)
    return changed


def test_a_profile_with_nonsense_anywhere_is_judged_or_refused_in_one_sentence(tmp_path: Path) -> None:
    good, host, refused = one("7.2", "pc-i440fx-7.2"), party(committed("10.0", "pc-i440fx-7.2")), 0
    for seed in range(400):
        bad = written(with_nonsense(good, random.Random(seed)), tmp_path / "bad.json")
        try:
            guest = party(bad)
        except ProfileError as error:
            refused += 1
            assert "bad.json: is no" in str(error) and str(error).isprintable(), seed
            continue
        for one_way in ((guest, host), (host, guest)):
            results = answers(one_way[0], [one_way[1]])
            json.dumps(as_json(one_way[0], results), allow_nan=False)
            assert all(line.replace("\n", "").isprintable() for line in page(one_way[0], results)), seed
    assert 100 < refused < 400


@pytest.mark.slow
def test_mistakes_of_the_command_line_are_one_line_each(tmp_path: Path) -> None:
    good = committed("7.2", "pc-q35-7.2")
    for args, code in (
        ((good,), 2),
        ((good, str(tmp_path / "missing")), 1),
        ((good, f"{DATA}/README.md"), 1),
        ((good, committed("7.2", "pc-banana")), 1),
        ((good, committed("7.2", "")), 1),
    ):
        result = simlib("preflight", *args)
        assert result.returncode == code and "Traceback" not in result.stderr
        assert code == 2 or result.stderr.count("\n") == 1
