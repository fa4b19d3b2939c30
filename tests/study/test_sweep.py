"""A sweep gives each row once and the same rows, whoever computes them and however often it is killed."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from simlib import world
from simlib.case.registry import ScenarioError
from simlib.record.outcome import Row
from simlib.study import sweep as engine
from simlib.study.design import Design, columns, derived_seeds, load
from simlib.study.store import MAGIC, Log, StoreError, metadata_of

parquet = pytest.importorskip("pyarrow.parquet")
SWEEP = """
scenario = "matched"
protocols = ["v1", "v2"]
versions = ["10.0"]
repetitions = {repetitions}
seed = 3

[set]
"guest.ram-mib" = 1
"link.delay-law" = "lognormal"

[grid]
"link.jitter-ms" = [0, 2.5]
"link.delay-ms" = [1, 10]
"""


def written(tmp_path: Path, repetitions: int = 3, more: str = "") -> Path:
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP.format(repetitions=repetitions) + more)
    return path


def command(sweep: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "simlib", "sweep", str(sweep), "--out", str(out), *more]


def rows(out: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = parquet.read_table(out).to_pylist()
    return records


def swept(design: Design, out: Path, place: engine.Pool, run: Any = world.run) -> list[dict[str, Any]]:
    identity = engine.identity(design)
    log = engine.opened(identity, out)
    engine.sweep(run, design, place, log)
    engine.finish(design, identity, log, out, "a test")
    return rows(out)


HERE = engine.Pool(engine.InlineExecutor(), 1)


def test_each_run_is_a_row_with_its_point_and_a_seed_that_runs_it_again(tmp_path: Path) -> None:
    design = load(written(tmp_path))
    records = swept(design, tmp_path / "out.parquet", HERE)
    assert len(records) == design.runs == 4 * 2 * 3
    assert [r["run"] for r in records] == list(range(design.runs)) and tuple(records[0]) == columns(design)
    last = records[-1]
    again = world.run(
        design.base.vary(link__jitter_ms=2.5, link__delay_ms=10.0), protocol="v2", version="10.0", seed=last["seed"]
    ).row.as_dict()
    assert {k: last[k] for k in again} == again and (last["link.jitter-ms"], last["link.delay-ms"]) == (2.5, 10)


def test_protocols_meet_the_same_luck_and_another_point_changes_no_other(tmp_path: Path) -> None:
    records = swept(load(written(tmp_path)), tmp_path / "out.parquet", HERE)
    seeds = {p: [r["seed"] for r in records if r["protocol"] == p] for p in ("v1", "v2")}
    assert seeds["v1"] == seeds["v2"] and len(set(seeds["v1"])) == 4 * 3
    assert [*derived_seeds(3, (("b", 1), ("a", 2)), range(2))] == [*derived_seeds(3, (("a", 2), ("b", 1)), range(2))]


def test_chunks_and_processes_change_no_row(tmp_path: Path) -> None:
    design = load(written(tmp_path, 8))
    alone = swept(design, tmp_path / "one.parquet", HERE)
    with engine.processes(2) as place:
        assert swept(design, tmp_path / "two.parquet", place) == alone


@pytest.mark.slow
def test_a_dask_cluster_of_separate_processes_changes_no_row(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    from tests.study.million import dask

    with dask(2) as address:
        sweep = written(tmp_path, 8)
        one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
        subprocess.run(command(sweep, one), check=True)
        subprocess.run(command(sweep, two, "--cluster", address), check=True, timeout=120)
        assert rows(one) == rows(two) and one.read_bytes() != b""


@pytest.mark.slow
def test_a_scheduler_that_is_silent_or_dies_is_told_and_takes_no_row(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    from tests.study.million import dask

    sweep, out = written(tmp_path, 5000), tmp_path / "out.parquet"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        got = subprocess.run(command(sweep, out, "--cluster", address), capture_output=True, text=True, timeout=60)
    assert got.returncode == 1 and got.stderr == f"simlib: no Dask scheduler answers at {address}: no answer in 5 s\n"
    log = engine.log_path(out)
    with (
        dask(2) as address,
        subprocess.Popen(command(sweep, out, "--cluster", address), stderr=subprocess.PIPE, text=True) as running,
    ):
        try:
            until_rows(log, running)
            scheduler = subprocess.run(
                ["pgrep", "-P", str(os.getpid()), "-f", "dask scheduler"], capture_output=True, text=True, check=True
            )
            for pid in scheduler.stdout.split():
                os.kill(int(pid), signal.SIGKILL)
            _, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 1 and err.count("\n") == 1 and "rows are kept, and the same command goes on" in err


def until_rows(log: Path, running: subprocess.Popen[Any]) -> None:
    while not (log.exists() and log.stat().st_size > 6000) and running.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.2, 0.4, 0.6, 0.8])  # the workers start, too, in that time
@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_of_a_terminal_at_any_moment_ends_it_with_one_sentence(
    after_s: float, times: int, tmp_path: Path
) -> None:
    asked = command(written(tmp_path, 5000), tmp_path / "out.parquet")
    with subprocess.Popen(asked, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        try:
            while not engine.log_path(tmp_path / "out.parquet").exists():
                time.sleep(0.01)
            time.sleep(after_s)
            for _ in range(times):
                os.killpg(running.pid, signal.SIGINT)
                time.sleep(0.1)
            _, err = running.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode in (130, -signal.SIGINT)  # the latter: another one while Python was ending
    assert err.startswith("simlib: interrupted") and err.count("\n") == 1


@pytest.mark.slow
def test_killed_five_times_it_has_each_row_once(tmp_path: Path) -> None:
    sweep, out = written(tmp_path, 60), tmp_path / "out.parquet"
    log = engine.log_path(out)
    for _ in range(5):
        before = log.stat().st_size if log.exists() else 2000
        with subprocess.Popen(command(sweep, out), stderr=subprocess.DEVNULL, start_new_session=True) as running:
            while not (log.exists() and log.stat().st_size > before) and running.poll() is None:
                time.sleep(0.01)
            running.send_signal(signal.SIGKILL)
        assert running.returncode == -signal.SIGKILL and not out.exists()
    result = subprocess.run(command(sweep, out), capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr.startswith("going on: ")
    records = rows(out)
    assert [r["run"] for r in records] == list(range(480)) and not log.exists()
    assert records == swept(load(sweep), tmp_path / "whole.parquet", HERE)


def test_a_torn_record_is_done_again_and_a_whole_one_is_not(tmp_path: Path) -> None:
    design, out = load(written(tmp_path)), tmp_path / "out.parquet"
    identity = engine.identity(design)
    log = engine.opened(identity, out)
    engine.sweep(world.run, design, HERE, log)
    log.close()
    engine.log_path(out).write_bytes(engine.log_path(out).read_bytes()[:-3])
    log = engine.opened(identity, out)
    left = sum(after - first for first, after in log.gaps(design.runs))
    assert 0 < left < design.runs and log.done == design.runs - left
    ran: list[int] = []

    def run(scenario: Any, **named: Any) -> Any:
        ran.append(named["seed"])
        return world.run(scenario, **named)

    engine.sweep(run, design, HERE, log)
    assert len(ran) == left
    engine.finish(design, identity, log, out, "a test")
    assert rows(out) == swept(design, tmp_path / "whole.parquet", HERE)


def test_a_damaged_bit_anywhere_costs_one_chunk_or_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path, {"sweep": {"title": "t"}})
    records_at = path.stat().st_size
    for n in range(0, 50, 5):
        log.add(n, n + 5, bytes(range(n, n + 40)))
    log.close()
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            log = Log(path, {"sweep": {"title": "t"}})
        except StoreError as error:
            assert at < records_at and ("not a sweep's" if at < len(MAGIC) else "head is damaged") in str(error)
            assert len(path.read_bytes()) == len(whole)  # nothing was cut
            continue
        (first, after), *more = log.gaps(50)
        log.close()
        assert records_at <= at and after == first + 5 and not more
        assert bool(log.damaged_bytes) == (after != 50)  # the last one is as if it were torn


def test_a_parameter_may_be_a_list_and_is_text_in_the_result(tmp_path: Path) -> None:
    more = '"both.capabilities" = [["multifd"], ["events", "multifd"], []]\n"source.cpu" = ["qemu64", "max"]\n'
    records = swept(load(written(tmp_path, 1, more)), tmp_path / "out.parquet", HERE)
    assert {r["both.capabilities"] for r in records} == {'["multifd"]', '["events", "multifd"]', "[]"}
    assert {r["source.cpu"] for r in records} == {"qemu64", "max"} and not any(r["error"] for r in records)


def test_what_is_missing_between_chunks_is_found_in_whatever_order_they_came(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", {})
    for first in (10, 0, 30):
        log.add(first, first + 5, b"rows")
    assert list(log.gaps(40)) == [(5, 10), (15, 30), (35, 40)] and log.done == 15
    log.close()


def test_one_bad_point_is_a_row_with_its_error(tmp_path: Path) -> None:
    more = '\n[[point]]\n"source.machine" = "pc-i440fx-7.2"\n[[point]]\n"source.machine" = "no-such-machine"\n'
    records = swept(load(written(tmp_path, 1, more)), tmp_path / "out.parquet", HERE)
    bad = [r for r in records if r["error"]]
    assert {r["source.machine"] for r in bad} == {"no-such-machine"} and len(bad) == len(records) // 2
    assert all("no-such-machine" in r["error"] and r["outcome"] is None for r in bad)
    assert all(r["outcome"] == "migrated" for r in records if not r["error"])


def test_the_same_file_runs_on_real_sockets(tmp_path: Path) -> None:
    pytest.importorskip("OpenSSL")
    from simlib import live

    path = tmp_path / "live.toml"
    path.write_text(
        'scenario = "matched"\nrunner = "live"\nprotocols = ["v2"]\nversions = ["10.0"]\n[grid]\n'
        '"guest.ram-mib" = [1]\n"link.loss" = [0, 0.1]'
    )
    design = load(path)
    runs, lossy = swept(design, tmp_path / "out.parquet", HERE, live.run)
    assert design.runner == "live" and runs["outcome"] == "migrated" and not runs["error"]
    assert "packets can't be lost on loopback" in lossy["error"]


def test_a_byte_that_was_changed_anywhere_in_a_finished_result_is_told(tmp_path: Path) -> None:
    design, out = load(written(tmp_path)), tmp_path / "out.parquet"
    swept(design, out, HERE)
    identity, whole = engine.identity(design), out.read_bytes()
    assert engine.complete(design, identity, out) and len(whole) > 5000
    for at in [*range(0, len(whole), 11), *range(len(whole) - 300, len(whole))]:
        out.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(StoreError, match="is damaged"):
            engine.complete(design, identity, out)
    out.write_bytes(whole[:-100])
    with pytest.raises(StoreError, match="is damaged"):
        engine.complete(design, identity, out)


def test_a_damaged_result_ends_the_command_with_one_sentence_and_other_readers_notice_too(tmp_path: Path) -> None:
    sweep, out = written(tmp_path), tmp_path / "out.parquet"
    subprocess.run(command(sweep, out), check=True, capture_output=True)
    whole = bytearray(out.read_bytes())
    column = parquet.read_metadata(out).row_group(0).column(0)
    at = column.dictionary_page_offset + column.total_compressed_size - 4
    whole[at : at + 4] = bytes(byte ^ 0x55 for byte in whole[at : at + 4])
    out.write_bytes(whole)
    again = subprocess.run(command(sweep, out), capture_output=True, text=True)
    assert again.returncode == 1 and again.stderr.count("\n") == 1 and not again.stdout
    assert f"{out}: is damaged" in again.stderr and "remove it" in again.stderr
    with pytest.raises(OSError, match=r"(?i)crc|checksum"):
        parquet.read_table(out, page_checksum_verification=True)


def test_versions_commit_seed_and_command_travel_in_the_file(tmp_path: Path) -> None:
    sweep, out = written(tmp_path, 1), tmp_path / "out.parquet"
    subprocess.run(command(sweep, out), check=True, capture_output=True)
    metadata = metadata_of(out)
    assert metadata["seed"] == 3 and metadata["command"] == f"simlib sweep {sweep} --out {out}"
    assert {"simlib", "python", "simpy", "pyarrow", "commit"} <= set(metadata)
    again = subprocess.run(command(sweep, out), capture_output=True, text=True)
    assert again.returncode == 0 and "there already" in again.stdout


def test_a_changed_sweep_is_refused_while_the_old_one_is_half_done(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    engine.opened(engine.identity(load(written(tmp_path, 3))), out).close()
    result = subprocess.run(command(written(tmp_path, 4), out), capture_output=True, text=True)
    assert result.returncode == 1 and "'repetitions' differs" in result.stderr and result.stderr.count("\n") == 1


def test_two_sweeps_do_not_write_to_one_file(tmp_path: Path) -> None:
    design, out = load(written(tmp_path)), tmp_path / "out.parquet"
    first = engine.opened(engine.identity(design), out)
    with pytest.raises(StoreError, match="another sweep writes"):
        engine.opened(engine.identity(design), out)
    first.close()


def test_ctrl_c_keeps_what_was_done_and_says_so_in_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    log = engine.log_path(out)
    with subprocess.Popen(
        command(written(tmp_path, 2000), out),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        while not (log.exists() and log.stat().st_size > 4000):
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        assert running.stderr is not None
        said = running.stderr.read()
    assert running.returncode == 130 and said.count("\n") == 1 and "rows are kept" in said


def test_a_full_disk_is_told_in_one_sentence_and_what_was_kept_is_good(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    limit = (9000, resource.RLIM_INFINITY)
    sweep = written(tmp_path, 50)
    full = subprocess.run(
        command(sweep, out),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert full.returncode == 1 and "rows are kept" in full.stderr and full.stderr.count("\n") == 1
    again = subprocess.run(command(sweep, out), capture_output=True, text=True)
    assert again.returncode == 0 and "going on" in again.stderr and len(rows(out)) == 400


def test_a_killed_sweep_leaves_no_worker_behind(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with subprocess.Popen(command(written(tmp_path, 2000), out), stderr=subprocess.DEVNULL) as running:
        while not (engine.log_path(out).exists() and engine.log_path(out).stat().st_size > 4000):
            time.sleep(0.01)
        children = descendants(running.pid)
        running.send_signal(signal.SIGKILL)
    assert children
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() for pid in children):
            return
        time.sleep(0.1)
    raise AssertionError("workers live on")


def descendants(pid: int) -> list[int]:
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(p) for p in pids]


def bad_sweeps() -> Iterator[tuple[str, str]]:
    yield "nonsense = 1", "unknown key 'nonsense'"
    yield 'scenario = "matchd"', "did you mean 'matched'"
    yield 'scenario = "matched"\nprotocols = ["v22"]', "'v22'; did you mean 'v2'? Known are 'v1', 'v2'"
    yield 'scenario = "matched"\nversions = ["7,2"]', "'7,2'; write \"7.2\""
    yield 'scenario = "matched"\nmanagers = []', "'managers' names none"
    yield 'scenario = "matched"\n[grid]\n"link.delay-ms" = [2020-01-01]', "no key of a scenario is a date"
    yield 'scenario = "matched"\n[grid]\n"guest.ram-mib" = [100000000000000000000]', "a number from 0 to"
    yield 'scenario = "matched"\nrepetitions = 1000000000000', "2,000,000,000,000 runs are more than"
    yield 'scenario = "matched"\n[sample]\nmethod = "sobol"\npoints = 1125899906842624', "points are more than"
    yield 'scenario = "matched"\n[sample]', "'points' must be a whole number"
    yield 'scenario = "matched"\n[grid]\n"link.delay" = [1]', "unknown key 'link.delay'; did you mean 'delay_ms'?"
    yield 'scenario = "matched"\n[grid]\n"link.delay-ms" = 1', "must be a list"
    yield 'scenario = "matched"\n[grid]\n"link.delay-ms" = ["far"]', "must be a number"
    yield 'scenario = "matched"\n[grid]\nlink.delay-ms = [1]', "write the whole key in quotes"
    yield 'scenario = "matched"\nrepetitions = 0', "'repetitions' must be a whole number of at least 1"
    yield 'scenario = "matched"\nrunner = "abacus"', "choose one of world, live"
    yield (
        'scenario = "matched"\n[sample]\nmethod = "sobol"\npoints = 100\n[sample.ranges]\n"link.loss" = {from=0,to=1}',
        ("powers of two"),
    )
    yield (
        'scenario = "matched"\n[sample]\nmethod = "sobol"\npoints = 4\n[sample.ranges]\n"link.loss" = {to=1}',
        "from and to",
    )
    yield "scenario = ", "is not TOML"


@pytest.mark.parametrize(("text", "said"), list(bad_sweeps()), ids=lambda v: str(v)[:30])
def test_a_bad_sweep_is_told_with_its_file_and_key(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load(path)
    assert said in str(caught.value)
    assert ("bad.toml" in str(caught.value)) == ("matchd" not in text)  # a scenario that is not there has no file


def test_a_bad_sweep_ends_with_status_2_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('scenario = "matched"\nrunner = "abacus"')
    result = subprocess.run(command(path, tmp_path / "o"), capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "choose one of world" in result.stderr


@pytest.mark.parametrize("method", ["sobol", "latin-hypercube"])
def test_sampled_points_fill_their_ranges_and_are_the_same_every_time(method: str, tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f'''scenario = "matched"\n[sample]\nmethod = "{method}"\npoints = 64\n[sample.ranges]
"link.delay-ms" = {{ from = 0.1, to = 100, log = true }}\n"link.loss" = {{ from = 0, to = 0.05 }}
"both.parameters.multifd-channels" = {{ from = 1, to = 8, whole = true }}''')
    points = [dict(p) for p in load(path).points]
    assert points == [dict(p) for p in load(path).points] and len(points) == 64
    delays = sorted(p["link.delay-ms"] for p in points)
    assert delays[0] >= 0.1 and delays[-1] <= 100 and 2 < delays[32] < 5  # half of them in half the decades
    assert {p["both.parameters.multifd-channels"] for p in points} == set(range(1, 9))


def test_what_is_under_way_is_bounded_by_the_workers(tmp_path: Path) -> None:
    design = load(written(tmp_path, 20))
    row = world.run(design.base).row
    most: list[int] = []

    class Counting(engine.InlineExecutor):
        def submit(self, call: Any, /, *arguments: Any, **named: Any) -> Any:
            most.append(sum(len(b.repetitions) for b in arguments[1].batches))
            return super().submit(call, *arguments, **named)

    class Run:
        def __init__(self, row: Row) -> None:
            self.row = row

    place = engine.Pool(Counting(), 2)
    log = Log(tmp_path / "log", {})
    engine.sweep(lambda *_, **__: Run(row), design, place, log)
    assert sum(most) == design.runs and most[:6] == [1] * 6 and most[6] > 1  # three a worker, until one has answered
    log.close()
