"""A guest saved with a manifest: loaded where it can be, refused before the first page where it can't."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simlib.case.profiles import ProfileError
from simlib.handshake.v2 import manifest
from simlib.real_qemu.preflight import answers, party
from simlib.real_qemu.profile import Monitor
from simlib.real_qemu.save import ROOM_BYTES, load_uri, save
from simlib.real_qemu.saved import read

from .test_profile import ARGUMENTS, simlib, started

PAIRS = [("7.2", "10.0"), ("10.0", "7.2"), ("10.0", "10.0")]


def until(monitor: Monitor, good: Callable[[dict[str, Any]], bool]) -> None:
    end = time.monotonic() + 30
    while not good(monitor.ask("query-status")):
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_a_saved_guest_is_refused_where_a_device_is_missing_and_loads_where_none_is(
    qemus: dict[str, str], here: str, there: str, tmp_path: Path
) -> None:
    for name in ("source", "destination"):
        (tmp_path / name).mkdir()
    path, device = tmp_path / "it's saved", ("-device", "virtio-rng-pci")
    with started(qemus[here], tmp_path / "source", *device) as (_, monitor):
        save(monitor, path)
        with Monitor.at(monitor) as qmp:
            assert qmp.ask("query-status") | {"running": False, "status": "postmigrate"} == qmp.ask("query-status")
    assert len(manifest.read(path.read_bytes())[0].devices) == len(read(path).devices) > 25

    hosts = []
    for n, more in enumerate(((), device, (*device, "-m", "128M"))):
        hosts.append(str(tmp_path / f"{n}.json"))
        assert simlib("profile", qemus[there], "--out", hosts[-1], "--", *ARGUMENTS, *more).returncode == 0
    lacks, fits, bigger = answers(party(str(path)), [party(h) for h in hosts])
    assert [e.code for e in lacks.findings if e.severity == "error"] == ["device-unknown"]
    assert fits.verdict != "no" and "ram-size" in [e.code for e in bigger.findings if e.severity == "error"]
    # what was foreseen happens
    loading = ("-S", "-incoming", load_uri(path, there))
    with started(qemus[there], tmp_path / "destination", *device, *loading) as (_, monitor), Monitor.at(monitor) as qmp:
        until(qmp, lambda reply: reply["status"] != "inmigrate")
        assert qmp.ask("query-migrate")["status"] == "completed"


@pytest.mark.slow
def test_the_page_says_how_to_load_it_and_the_live_verdict_is_the_same(qemus: dict[str, str], tmp_path: Path) -> None:
    host, guest, path = str(tmp_path / "host"), str(tmp_path / "guest"), tmp_path / "vm.saved"
    with started(qemus["7.2"], tmp_path, "-device", "virtio-rng-pci") as (_, monitor):
        assert simlib("profile", "--qmp", monitor, "--out", guest).returncode == 0
        result = simlib("save", str(path), "--qmp", monitor, "--resume", "--json")
        assert json.loads(result.stdout)["resumed"]
        with Monitor.at(monitor) as qmp:
            assert qmp.ask("query-status")["running"]
    assert simlib("profile", qemus["10.0"], "--out", host, "--", *ARGUMENTS).returncode == 0
    live, saved = (answers(party(p), [party(host)])[0] for p in (guest, str(path)))
    assert live.findings[0] == saved.findings[0] and live.verdict == saved.verdict == "no"
    loads = simlib("preflight", str(path), guest)
    assert loads.returncode == 0 and f"-incoming 'exec:tail -c +{ROOM_BYTES + 1} {path}'" in loads.stdout


def test_capabilities_that_wait_for_an_answer_are_off_for_the_save_and_on_again(
    qemus: dict[str, str], tmp_path: Path
) -> None:
    on = ["return-path", "postcopy-ram", "multifd", "postcopy-preempt"]
    with started(qemus["7.2"], tmp_path) as (_, monitor):
        with Monitor.at(monitor) as qmp:
            qmp.ask("migrate-set-capabilities", capabilities=[{"capability": c, "state": True} for c in on])
        save(monitor, tmp_path / "saved", resume=True)
        with Monitor.at(monitor) as qmp:
            still = {c["capability"] for c in qmp.ask("query-migrate-capabilities") if c["state"]}
    assert still == set(on) and read(tmp_path / "saved").commands == []


def test_mapped_ram_is_saved_behind_a_manifest_too(qemus: dict[str, str], tmp_path: Path) -> None:
    with started(qemus["10.0"], tmp_path) as (_, monitor):
        with Monitor.at(monitor) as qmp:
            qmp.ask("migrate-set-capabilities", capabilities=[{"capability": "mapped-ram", "state": True}])
        save(monitor, tmp_path / "saved")
    saved = read(tmp_path / "saved")
    assert saved.capabilities == saved.manifest_capabilities == ("mapped-ram",)
    assert saved.devices and not saved.notes


def test_a_save_that_fails_leaves_no_file_and_the_guest_running(qemus: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    disk = ("-blockdev", "null-co,node-name=d", "-device", "nvme,serial=1,drive=d")
    with started(qemus["10.0"], tmp_path, *disk) as (_, monitor):
        with pytest.raises(ProfileError, match="is there already"):
            save(monitor, tmp_path / "there")
        with pytest.raises(FileNotFoundError):
            save(monitor, tmp_path / "no" / "folder")
        with pytest.raises(ProfileError, match="non-migratable device"):
            save(monitor, tmp_path / "new")
        with Monitor.at(monitor) as qmp:
            assert qmp.ask("query-status")["running"]
    assert (tmp_path / "there").read_text() == "mine" and not (tmp_path / "new").exists()
    assert simlib("save", str(tmp_path / "new"), "--qmp", monitor).returncode == 1
