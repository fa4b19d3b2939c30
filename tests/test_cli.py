"""The command line says one clear sentence for each mistake, with the right exit code, and loses nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def simlib(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "simlib", *args], capture_output=True, text=True, cwd=cwd, timeout=120)


def bytes_of(*args: str, **environment: str) -> tuple[bytes, bytes]:
    """What it prints on stdout and stderr, in another environment."""
    got = subprocess.run(
        [sys.executable, "-m", "simlib", *args], capture_output=True, env={**os.environ, **environment}
    )
    return got.stdout, got.stderr


UTF8 = {"PYTHONUTF8": "1"}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
GOOD = 'title = "x"\n'
BAD_FILES = {
    "": "is empty",
    "title = ": "is not TOML",
    "tilte = 'x'": "unknown key 'tilte'; did you mean 'title'?",
    GOOD + "[source]\ncapabilites = []": "'source.capabilites'; did you mean 'capabilities'?",
    GOOD + "[source]\ncapabilities = 'multifd'": "'source.capabilities' must be a list",
    GOOD + "[link]\ndelay-ms = 'fast'": "'link.delay-ms' must be a number; it is a text (fast)",
    GOOD + "[link]\ndelay-ms = inf": "must be a number from 0 to 1e+09; it is inf",
    GOOD + "[link]\ntransport = 'pigeon'": "known are 'tcp'",
    GOOD + "[[faults]]\nat-s = 1.0": "lacks the key 'faults[0].kind'",
    GOOD + "source = 3": "'source' must be a table",
    GOOD + "versions = ['seven']": "'versions[0]' is 'seven'; write \"7.2\" or",
    GOOD + "protocols = ['v22']": "'protocols[0]' is 'v22'",
    GOOD + "[source]\nmachine = 'pc-banana'": "no machine configuration 'pc-banana'",
    GOOD + "versions = []": "'versions' names none",
    GOOD + "name = '../../out'": "'name' is '../../out'; write up to 100 characters",
    GOOD + "[link]\nrate-mib-s = 0": "'link.rate-mib-s' must be a number from 0.001",
    GOOD + "[management]\nretries = 100000000000": "'management.retries' must be a number from 0 to 1,000",
    GOOD + "[source]\nuuid = 'mine'": "write 32 hexadecimal digits",
    GOOD + "[source.parameters]\nmultifd-channels = 'many'": "must be a whole number from 1 to 255",
    GOOD + "[source.parameters]\nmultifd-compression = 'zip'": "Known are 'none', 'zlib'",
    GOOD + "[[faults]]\nkind = 'order'\norder = ['main', 'side']": "'faults[0].order[1]' is 'side'; write a channel",
    GOOD + "[source]\nedit = [{ device = 'cpu', version = 'two' }]": "edit",
    GOOD + "[source]\nedit = [{ version = 2 }]": "edit",
    "about = 'no title'": "lacks the key 'title'",
    "a = " + "[" * 5000: "is not TOML",
}


@pytest.mark.parametrize("text", BAD_FILES, ids=[str(n) for n in range(len(BAD_FILES))])
def test_a_mistake_in_a_scenario_file_names_file_key_and_what_would_be_right(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    got = simlib("run", str(path))
    assert got.returncode == 2 and got.stdout == ""
    assert BAD_FILES[text] in got.stderr and re.match(r"simlib: (\S*/bad\.toml|bad): ", got.stderr)
    assert got.stderr.count("\n") == 1 and "Traceback" not in got.stderr


def test_unreadable_and_huge_and_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "huge.toml").write_bytes(b"#" * (9 << 20))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.toml").mkdir()
    for name in ("huge.toml", "binary.toml", "folder.toml", "absent.toml"):
        got = simlib("run", str(tmp_path / name))
        assert got.returncode == 2 and name in got.stderr and "Traceback" not in got.stderr, name


@pytest.mark.parametrize(
    "args",
    [
        ["run", "matched", "--protocol", "v9"],
        ["run", "matchd"],
        ["run", "matched", "--qemu", "new"],
        ["run", "matched", "--manager", "ovirt"],
        ["compare", "nonsense"],
        ["fly"],
        ["run"],
        ["run", "matched", "--seed", "x"],
        ["explore", "matchd"],
        ["explore", "matched", "--protocol", "v9"],
        ["explore", "matched", "--order", "dance"],
        ["explore", "matched", "--intruder", "rude"],
        ["explore", "matched", "--cuts", "some"],
        ["explore", "matched", "--send-buffer-messages", "-1"],
        ["explore", "matched", "--limit", "0"],
        ["qemu", "check", "--repeats", "0"],
        ["qemu", "check", "--jobs", "0"],
        ["qemu", "migrate", "--source-qmp", "x", "--to", "y", "--postcopy-after", "nan"],
        ["inspect", "x", "--offset", "-1"],
        ["sweep", "x", "--out", "y", "--workers", "-1"],
        ["connect", "tcp:127.0.0.1:1", "--ram-mib", "nan"],
        ["connect", "tcp:127.0.0.1:1", "--channels", "-5"],
        ["serve", "tcp:127.0.0.1:0", "--qemu", "7,2"],
        ["run", "/dev/zero"],
    ],
)
def test_wrong_usage_is_exit_2_and_no_traceback(args: list[str]) -> None:
    got = simlib(*args)
    assert got.returncode == 2 and got.stderr and "Traceback" not in got.stderr


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("{} list > /dev/full", 1),
        ("{} list --json > /dev/full", 1),
        ("{} run matched --json > /dev/full", 1),
        ("{} list >&-", 0),
        ("{} list --json >&-", 0),
        ("{} list 2>&-", 0),
        ("(sleep 0.5; {} list --json) | true", 1),
    ],
)
def test_an_output_that_is_full_closed_or_gone_is_no_traceback(words: str, status: int) -> None:
    command = words.format(f"{sys.executable} -m simlib") + "; exit ${PIPESTATUS[0]}"
    got = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert got.returncode == status and got.stderr == (
        "simlib: output: No space left on device\n" if "full" in words else ""
    )


@pytest.mark.parametrize(
    "words",
    ["list", "list --json", "claims D3", "claims D3 --json", "run FILE", "run FILE --json", "run größe", "fly größe"],
)
def test_what_a_locale_can_not_show_is_escaped_and_nothing_is_lost(words: str, tmp_path: Path) -> None:
    path = tmp_path / "title.toml"
    path.write_text('title = "größer als 1 × 1 😀"\nprotocols = ["v1"]\n', encoding="utf-8")
    args = words.replace("FILE", str(path)).split()
    wanted = "".join(
        json.dumps(c)[1:-1] if ord(c) > 127 else c for text in bytes_of(*args, **UTF8) for c in text.decode()
    )
    got = b"".join(bytes_of(*args, **ASCII)).decode("ascii")
    if "größe" not in words:  # arguments are bytes there, and each is escaped
        assert got == wanted
    assert len(got) > 50 and "codec" not in got and "Traceback" not in got
    assert "--json" not in words or json.loads(got)


COMMANDS = 'title = "t\\u001b[31m\\u009b\\u202e\\nfake: migrated"\nname = "n\\u009bx"\nprotocols = ["v1"]\n'


@pytest.mark.parametrize("words", ["run", "compare", "explore --limit 1000", "run --json", "explore --limit 9 --json"])
@pytest.mark.parametrize(
    "more",
    [
        "",
        '[source]\nsession = "\\u001b]0;s"\ncapabilities = ["multi\\u001bfd"]\n',
        '"key\\u001b[31m" = 1\n',
        '[source]\nmachine = "\\u001b[2J"\n',
    ],
)
def test_no_text_of_a_scenario_commands_the_terminal(words: str, more: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(COMMANDS + more)
    verb, *rest = words.split()
    out = [] if verb == "explore" else ["--out", str(tmp_path / "out")]
    output = b"".join(bytes_of(verb, str(path), *rest, *out, **UTF8)).decode()
    assert output and not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", output) and "Traceback" not in output
    assert not re.search("^fake: migrated", output, re.MULTILINE)


def test_what_is_piped_in_is_read_like_a_file() -> None:
    command = f"{sys.executable} -m simlib run <(echo 'title = \"piped\"')"
    got = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert got.returncode == 0 and "piped: migrated" in got.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("compare matched", ""),
        ("run matched", "again: simlib run matched"),
        ("explore matched_multifd --cuts 1 --limit 3000", "states, "),
    ],
)
def test_an_output_folder_that_cannot_be_written_is_exit_1_and_takes_no_report(
    words: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    got = simlib(*words.split(), "--out", str(tmp_path / "file" / "out"))
    assert got.returncode == 1 and "file" in got.stderr and "Traceback" not in got.stderr and expected in got.stdout


def test_run_prints_a_trace_and_writes_chart_and_capture(tmp_path: Path) -> None:
    got = simlib("run", "device_only_at_source", "--protocol", "v2", "--out", str(tmp_path))
    assert got.returncode == 0 and "REJECT" in got.stdout and "refused" in got.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"trace.txt", "chart.svg", "capture.pcapng", "row.json"}
    assert json.loads((tmp_path / "row.json").read_text())["error_codes"] == "device-unknown"


def test_the_printed_command_runs_it_again_with_the_same_trace() -> None:
    one = simlib("run", "lossy_path", "--seed", "5")
    two = simlib("run", "lossy_path", "--protocol", "v1", "--qemu", "7.2", "--manager", "naive", "--seed", "5")
    assert one.stdout == two.stdout


def test_json_is_json() -> None:
    assert json.loads(simlib("list", "--json").stdout)
    assert json.loads(simlib("run", "matched", "--json").stdout)["row"]["outcome"] == "migrated"


def test_compare_writes_table_pictures_and_traces_and_gives_json(tmp_path: Path) -> None:
    got = simlib("compare", "matched", "device_only_at_source", "--out", str(tmp_path), "--json")
    rows = json.loads(got.stdout)["rows"]
    assert {r["scenario"] for r in rows} == {"matched", "device_only_at_source"}
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == rows
    assert (tmp_path / "table.csv").read_text().count("\n") == len(rows) + 1
    assert (tmp_path / "outcomes.svg").exists() and (tmp_path / "index.html").exists()
    assert len(list((tmp_path / "traces").iterdir())) == len(rows)


def test_ctrl_c_keeps_what_was_computed(tmp_path: Path) -> None:
    for attempt in range(5):  # on a busy machine it may have finished before it is interrupted
        folder = tmp_path / str(attempt)
        command = [sys.executable, "-m", "simlib", "compare", "--out", str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        table = folder / "table.csv"
        while process.poll() is None and not (table.exists() and table.read_text().count("\n") > 22):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        if process.returncode:
            break
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    assert len(json.loads((folder / "table.json").read_text())["rows"]) >= 20 and "scenario" in out


def test_explore_saves_a_story_that_run_plays_to_the_same_end(tmp_path: Path) -> None:
    got = simlib("explore", "matched_multifd", "--protocol", "v1", "--qemu", "7.2", "--out", str(tmp_path), "--json")
    violation = next(v for v in json.loads(got.stdout)["violations"] if v["property"] == "S4 no loss")
    path = tmp_path / "matched_multifd-S4.toml"
    assert {p.suffix for p in tmp_path.glob("matched_multifd-S4.*")} == {".txt", ".svg", ".toml"}
    row = json.loads(simlib("run", str(path), "--json").stdout)["row"]
    assert (row["source_status"], row["outcome"]) == (violation["source"], "lost")


def test_explore_that_is_interrupted_tells_what_it_covered() -> None:
    command = [sys.executable, "-m", "simlib", "explore", "matched_multifd", "--protocol", "v2", "--plain"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "not every state: stopped after" in out and "Traceback" not in err


@pytest.mark.parametrize("verb", ["run", "explore"])
def test_what_is_not_modelled_is_said(verb: str) -> None:
    result = simlib(verb, "matched_multifd", "--protocol", "a")
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert "detection by (a) is played with main alone, and the source has multifd on" in result.stderr
