"""The same mistake gets the same sentence wherever it is made: Python, files, sweeps, the command line, the widget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import simlib as lab
from simlib.__main__ import main
from simlib.case.files import load
from simlib.study.design import load as load_sweep
from simlib.study.widget import Explorer
from simlib.world import run as in_world

Entry = Callable[[], object]


def scenario_file(folder: Path, text: str) -> Entry:
    path = folder / "wrong.toml"
    path.write_text(f'title = "wrong"\n{text}\n')
    return lambda: load(path)


def sweep_file(folder: Path, text: str) -> Entry:
    path = folder / "sweep.toml"
    path.write_text(f'scenario = "matched"\n{text}\n')
    return lambda: load_sweep(path)


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ('[[faults]]\nkind = "swallow"', "swallow", "blackhole"),
        ('[[faults]]\nkind = "intruder"\nsays = "silent"', "says", "payload"),
        ('[[faults]]\nkind = "kill"\nbefore = true', "before", "before-start"),
        ('[[faults]]\nkind = "order"\norder = ["main"]\ngap-s = 1', "gap-s", "accept-gap-s"),
    ],
)
def test_an_old_name_in_a_file_is_refused_with_the_new_one(text: str, old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{old}'.*; it is called '{new}' now"):
        scenario_file(tmp_path, text)()


@pytest.mark.parametrize(("old", "new"), [("--room", "--send-buffer-messages"), ("--stranger", "--intruder")])
def test_an_old_option_is_refused_with_the_new_one(old: str, new: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=f"{old}: is called {new} now"):
        command(capsys, "explore", "matched", old, "1")()


def command(capsys: pytest.CaptureFixture[str], *words: str) -> Entry:
    """The command line as a call that raises what it prints."""

    def call() -> object:
        try:
            status = main(list(words))
        except SystemExit as error:  # argparse's own
            status = int(error.code or 0)
        said = capsys.readouterr().err.strip()
        assert status == 2 and "Traceback" not in said, said
        raise ValueError(said.splitlines()[-1].removeprefix("simlib: "))

    return call


def entries(mistake: str, folder: Path, capsys: Any) -> Iterator[Entry]:
    matched = lab.scenario("matched")
    cli = lambda *words: command(capsys, *words)  # noqa: E731
    if mistake == "protocol":
        yield from (lambda f=f: f("matched", "nonsense") for f in (lab.run, lab.search))
        yield lambda: lab.run("matched", "nonsense", on="sockets")
        yield lambda: lab.compare("matched", protocols=["nonsense"])
        yield lambda: lab.sweep("matched", protocols=["nonsense"])
        yield lambda: matched.vary(protocols=("nonsense",))
        yield lambda: Explorer(in_world, "matched", "nonsense")
        yield scenario_file(folder, 'protocols = ["nonsense"]')
        yield sweep_file(folder, 'protocols = ["nonsense"]')
        yield from (cli(verb, "matched", "--protocol", "nonsense") for verb in ("run", "explore"))
        yield from (cli(verb, "tcp:127.0.0.1:1", "--protocol", "nonsense") for verb in ("serve", "connect"))
        yield cli("qemu", "check", "matched", "--protocol", "nonsense")
    elif mistake == "manager":
        yield lambda: lab.run("matched", manager="bogus")
        yield lambda: lab.compare("matched", managers=["bogus"])
        yield lambda: lab.sweep("matched", managers=["bogus"])
        yield lambda: matched.vary(managers=("bogus",))
        yield scenario_file(folder, 'managers = ["bogus"]')
        yield sweep_file(folder, 'managers = ["bogus"]')
        yield cli("run", "matched", "--manager", "bogus")
    elif mistake == "fault":
        yield lambda: lab.Fault("teleport")
        yield scenario_file(folder, '[[faults]]\nkind = "teleport"')
        yield cli("explore", "matched", "--fault", "teleport")
    elif mistake == "transport":
        yield lambda: matched.vary(link__transport="tpc")
        yield lambda: lab.sweep("matched", {"link.transport": ["tpc"]})
        yield scenario_file(folder, '[link]\ntransport = "tpc"')
        yield sweep_file(folder, '[grid]\n"link.transport" = ["tpc"]')
    elif mistake == "version":
        yield from (lambda f=f: f("matched", version="99.0") for f in (lab.run, lab.compare, lab.search))
        yield lambda: lab.sweep("matched", versions=["99.0"])
        yield lambda: matched.vary(versions=("99.0",))
        yield scenario_file(folder, 'versions = ["99.0"]')
        yield sweep_file(folder, 'versions = ["99.0"]')
        yield from (cli(verb, "matched", "--qemu", "99.0") for verb in ("run", "explore"))
    elif mistake == "part":
        yield lambda: matched.vary(lnk__delay_ms=5)
        yield lambda: lab.sweep("matched", {"lnk.delay-ms": [5]})
        yield scenario_file(folder, "[lnk]\ndelay-ms = 5")
        yield sweep_file(folder, '[set]\n"lnk.delay-ms" = 5')
    elif mistake == "key":
        yield lambda: matched.vary(link__delay=5)
        yield lambda: lab.sweep("matched", {"link.delay": [5]})
        yield scenario_file(folder, "[link]\ndelay = 5")
        yield sweep_file(folder, '[set]\n"link.delay" = 5')
    elif mistake == "distribution":
        yield lambda: matched.vary(link__delay_law="parreto")
        yield lambda: lab.sweep("matched", {"link.delay-law": ["parreto"]})
        yield scenario_file(folder, '[link]\ndelay-law = "parreto"')
        yield sweep_file(folder, '[set]\n"link.delay-law" = "parreto"')
    elif mistake == "type":
        yield lambda: matched.vary(guest__ram_mib="256")
        yield lambda: lab.sweep("matched", {"guest.ram-mib": ["256"]})
        yield scenario_file(folder, '[guest]\nram-mib = "256"')
        yield sweep_file(folder, '[set]\n"guest.ram-mib" = "256"')
    elif mistake == "without effect":
        yield lambda: lab.run(matched.vary(link__jitter_ms=5))
        yield lambda: lab.sweep("matched", {"link.jitter-ms": [5]})
        yield scenario_file(folder, "[link]\njitter-ms = 5")
        yield sweep_file(folder, '[set]\n"link.jitter-ms" = 5')
    elif mistake == "feature":
        yield lambda: matched.vary(source__require=("mutlifd",))
        yield lambda: matched.vary(source__capabilities=("mutlifd",))
        yield scenario_file(folder, '[source]\nforbid = ["mutlifd"]')
        yield cli("connect", "tcp:127.0.0.1:1", "--require", "mutlifd")
    elif mistake == "runner":
        yield from (lambda f=f: f("matched", on="scokets") for f in (lab.run, lab.compare, lab.sweep))
    elif mistake == "number":
        yield lambda: lab.run("matched", seed="x")  # type: ignore[arg-type]
        yield lambda: lab.search("matched", "v2", cuts=-1)
        yield lambda: lab.search("matched", "v2", limit=0)
        yield lambda: lab.sweep("matched", workers=-1)
        yield lambda: lab.sweep("matched", runs=0)
        yield sweep_file(folder, "repetitions = 0")


SENTENCES = {
    "protocol": "'nonsense'.* known are 'v1', 'v2'",
    "manager": "'bogus'.* known are 'naive', 'libvirt'",
    "fault": "'teleport'.* known are 'cut', 'blackhole'",
    "transport": "did you mean 'tcp'",
    "version": "from 5.2 to 11.2",
    "part": "did you mean 'link'",
    "key": "did you mean 'delay_ms'",
    "distribution": "did you mean 'pareto'",
    "type": "must be a number; it is a text",
    "without effect": "has no effect: the delay-law 'constant' does not use it",
    "runner": "did you mean 'sockets'",
    "number": "must be a whole number of at least [01]; it is",
    "feature": "did you mean 'multifd'",
}


@pytest.mark.parametrize("mistake", SENTENCES)
def test_a_mistake_is_one_sentence_from_wherever_it_was_made(mistake: str, tmp_path: Path, capsys: Any) -> None:
    tried = 0
    for entry in entries(mistake, tmp_path, capsys):
        with pytest.raises(ValueError, match=SENTENCES[mistake]) as caught:
            entry()
        assert "\n" not in str(caught.value)
        tried += 1
    assert tried >= 3
