"""Item 5: the search of the real engine against deepcopy snapshots, reduced against unreduced, and against Spin."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from simlib.explore import Search, SearchResult, search
from simlib.explore.models import side, v1, v2
from simlib.explore.system import System
from simlib.handshake.endpoint import State

from .measure import Line, Missing, cpu_s, middle, one, over

BUILD = Path(__file__).resolve().parents[2] / "build" / "bench" / "spin"
UNREDUCED_STATES = 1_000_000  # of the largest unreduced search: more than a minute and 800 MB, and not its end
COPIED_STATES = 800  # of a deepcopy search: its rate, where it would take hours to end
CONNECTIONS, FRAGMENTS = 5, 2  # of the model that Spin has too
SPIN = """
#define N %(connections)d
#define F %(fragments)d
byte stage[N], sent[N], received[N];
chan backlog = [N] of { byte };
active proctype link() {
  byte c;
end: do
%(options)s
  :: d_step { nempty(backlog) -> backlog?c; stage[c] = 2; c = 0 }
  od
}
"""
OPTIONS = """\
  :: d_step {{ stage[{0}] == 0 -> stage[{0}] = 1; backlog!{0} }}
  :: d_step {{ stage[{0}] == 2 -> stage[{0}] = 3 }}
  :: d_step {{ stage[{0}] == 3 && sent[{0}] < F -> sent[{0}]++ }}
  :: d_step {{ received[{0}] < sent[{0}] -> received[{0}]++ }}"""


CONFIGURATION = ("settings", "own_settings", "identity", "rules", "stances")  # set once


class Copying(System):
    """Each step on a deep copy of the engine (but for what never changes), and none remembered."""

    def run(self, side: int, before: int, input: int, conn: int) -> Any:
        self.steps.clear()
        return super().run(side, before, input, conn)


def _deep(endpoint: State) -> State:
    memo = {id(v): v for k, v in vars(endpoint).items() if k in CONFIGURATION}
    machine = endpoint.settings.machine  # type: ignore[attr-defined]
    memo |= {id(v): v for v in (machine, *machine.devices)}
    return copy.deepcopy(endpoint, memo)


@contextmanager
def deep_copies() -> Iterator[None]:
    fork, State.fork = State.fork, _deep  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        State.fork = fork  # type: ignore[method-assign]


def copying(model: Any, limit: int = 5_000_000) -> SearchResult:
    looking = Search(model, plain=True)
    looking.system = Copying(model)
    with deep_copies():
        return looking.run(limit)


def against_copies(times: int) -> Iterator[Line]:
    for name, model in (("v1 10.0, 2 multifd", v1("v1", "10.0", side(2))),):
        plain, copied = search(model, plain=True), copying(model)
        assert (plain.states, plain.transitions) == (copied.states, copied.transitions)
        calls = {"memo": partial(search, model, plain=True), "copies": partial(copying, model)}
        samples = [{k: one(call, 1) for k, call in calls.items()} for _ in range(times)]
        rate = plain.states / middle(samples, "memo")
        note = f"{plain.states:,} states, {plain.transitions:,} transitions; {rate:,.0f} states/s"
        yield Line(
            5,
            f"{name}, unreduced, states a second: steps remembered",
            "a deep copy for each step",
            over(samples, "copies", "memo"),
            5,
            8,
            more_is_better=True,
            note=note,
        )


def reductions(times: int) -> Iterator[Line]:
    model = v1("v1", "10.0", side(1))
    plain, reduced = search(model, plain=True), search(model)
    assert set(plain.violations) == set(reduced.violations) and set(plain.endings) == set(reduced.endings)
    calls = {
        "copies": partial(copying, model),
        "plain": partial(search, model, plain=True),
        "reduced": partial(search, model),
    }
    samples = [{k: one(call, 1) for k, call in calls.items()} for _ in range(times)]
    note = f"{plain.states:,} states against {reduced.states:,}, the same verdict and endings"
    yield Line(
        5,
        "v1 10.0, 1 multifd, time to the verdict: reduced",
        "unreduced, deep copies",
        over(samples, "copies", "reduced"),
        more_is_better=True,
        note=note,
    )
    model = v1("v1", "10.0", side(4))
    reduced = search(model)
    plain = search(model, plain=True, limit=UNREDUCED_STATES)  # how many there are, at our own rate
    calls = {"copies": partial(copying, model, COPIED_STATES), "reduced": partial(search, model)}
    samples = [{k: one(call, 1) for k, call in calls.items()} for _ in range(times)]
    share = plain.states / COPIED_STATES
    ratios = tuple(r["copies"] * share / r["reduced"] for r in samples)
    more = "" if plain.complete else "more than "
    yield Line(
        5,
        "v1 10.0, 4 multifd, time to the verdict: reduced",
        f"unreduced, deep copies, at the rate of its first {COPIED_STATES:,} states",
        ratios,
        100,
        500,
        more_is_better=True,
        note=f"{more}{plain.states:,} states against {reduced.states:,}",
    )
    eight = v2("v2", 8)
    samples = [{"s": one(partial(search, eight), 1)} for _ in range(times)]
    yield Line(
        5,
        "v2, main and 8 multifd, exhaustive, reduced: CPU",
        "one second",
        tuple(r["s"] for r in samples),
        1.0,
        0.1,
        note=f"{search(eight).states:,} states",
    )


# --- Spin -----------------------------------------------------------------------------------------------------------
BITS = 4
DIGIT = (1 << BITS) - 1
Action = tuple[str, int]  # and what it adds to a packed state
Local = tuple[int, int, int]  # stage, sent, received


def moves(local: Local) -> tuple[tuple[str, Local], ...]:
    """All that may happen to one connection; it is accepted when it comes first in the backlog."""
    stage, sent, received = local
    steps: list[tuple[str, Local]] = []
    if stage == 0:
        steps.append(("arrive", (1, 0, 0)))
    elif stage == 1:
        steps.append(("accept", (2, 0, 0)))
    elif stage == 2:
        steps.append(("connect", (3, 0, 0)))
    elif stage == 3 and sent < FRAGMENTS:
        steps.append(("send", (3, sent + 1, received)))
    if received < sent:
        steps.append(("receive", (stage, sent, received + 1)))
    return tuple(steps)


class AcceptSystem:
    """Connections that arrive in any order at one backlog, are taken in its order, then carry fragments: the same model
    as in SPIN, for our own explorer. As there, each local step is worked out once, and a state is packed: a digit for
    each connection's local state, and above them one for each that waits, the first of them lowest."""

    def __init__(self) -> None:
        known: list[Local] = [(0, 0, 0)]  # numbered
        for local in known:  # grows meanwhile
            known += [new for _, new in moves(local) if new not in known]
        self.accepted = known.index((2, 0, 0)) - known.index((1, 0, 0))
        self.moves = [
            [[self._moves(known, local, n, waiting) for local in known] for n in range(CONNECTIONS)]
            for waiting in range(CONNECTIONS + 1)
        ]  # where so many wait, of each connection, in each local state

    def _moves(self, known: list[Local], local: Local, n: int, waiting: int) -> list[Action]:
        queued = {"arrive": n + 1 << BITS * (CONNECTIONS + waiting)}
        return [
            (kind, (known.index(new) - known.index(local) << BITS * n) + queued.get(kind, 0))
            for kind, new in moves(local)
            if kind != "accept"
        ]

    def key(self, state: int) -> int:
        return state

    def initial(self) -> int:
        return 0

    def actions(self, state: int) -> list[Action]:
        queue = state >> BITS * CONNECTIONS
        left, actions = state, []
        for can in self.moves[-(-queue.bit_length() // BITS)]:
            actions += can[left & DIGIT]
            left >>= BITS
        if queue:
            first = (queue & DIGIT) - 1
            gone = queue - (queue >> BITS) << BITS * CONNECTIONS
            actions.append(("accept", (self.accepted << BITS * first) - gone))
        return actions

    def step(self, state: int, action: Action) -> int:
        return state + action[1]


class AcceptSearch(Search):
    """Our explorer on a model that has no properties, and looks for no cycles: nor does Spin with -DSAFETY."""

    def _check(self, *_: Any) -> None:
        pass

    def _check_cycles(self) -> None:
        pass


def accepts() -> SearchResult:
    looking = AcceptSearch(v2("v2", 0), plain=True)
    looking.system = AcceptSystem()  # type: ignore[assignment]
    return looking.run()


def built() -> Path:
    """Spin's verifier of the model, compiled as Spin's manual says for a plain safety search."""
    BUILD.mkdir(parents=True, exist_ok=True)
    values = {
        "connections": CONNECTIONS,
        "fragments": FRAGMENTS,
        "options": "\n".join(OPTIONS.format(n) for n in range(CONNECTIONS)),
    }
    (BUILD / "accept.pml").write_text(SPIN % values)
    for command in (["spin", "-a", "accept.pml"], ["cc", "-O2", "-DSAFETY", "-DNOREDUCE", "-o", "pan", "pan.c"]):
        subprocess.run(command, cwd=BUILD, check=True, capture_output=True)
    return BUILD / "pan"


def against_spin(times: int) -> Iterator[Line | Missing]:
    what = "our explorer, unreduced, states a second"
    if shutil.which("spin") is None or shutil.which("cc") is None:
        yield Missing(5, f"{what} / Spin's", "Spin or a C compiler is not installed (Debian: spin, gcc)")
        return
    pan = [str(built()), "-m100000", "-w20", "-n"]
    said = subprocess.run(pan, cwd=BUILD, check=True, capture_output=True, text=True).stdout
    theirs = int(float(re.search(r"(\S+) states, stored", said)[1]))  # type: ignore[index]
    ours = accepts()
    assert ours.states == theirs, f"ours has {ours.states} states, Spin's {theirs}"
    calls = {"spin": lambda: subprocess.run(pan, cwd=BUILD, check=True, capture_output=True), "ours": accepts}
    samples = [{k: one(call, 1, cpu_s) for k, call in calls.items()} for _ in range(times)]
    yield Line(
        5,
        what,
        "Spin, depth first, -O2 -DSAFETY -DNOREDUCE",
        over(samples, "spin", "ours"),
        0.15,
        0.25,
        more_is_better=True,
        note=f"the same {theirs:,} states in both; {theirs / middle(samples, 'ours'):,.0f} states/s",
    )


def lines(times: int) -> Iterator[Line | Missing]:
    yield from against_copies(times)
    yield from reductions(times)
    yield from against_spin(times)
