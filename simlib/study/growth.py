"""Version skew: pairs of QEMU versions under both protocols, and peers from a future that has not been written.

A later peer is the real endpoint with one thing changed: what a later handshake might send. Each is searched in every
order of events, and played once to its end, which gives the reason that the source receives.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas

from ..case.files import find
from ..case.registry import BOTH
from ..explore import search
from ..explore.models import v2
from ..explore.peers import Future, NewerDestination, NewerSource
from ..explore.story import replay, to_the_end
from ..handshake import interface as i
from ..handshake.endpoint import reducible
from ..handshake.machine import Settings
from ..handshake.v2 import body, frames
from ..handshake.v2.config import SessionConfig
from ..handshake.v2.destination import Destination
from ..handshake.v2.messages import SHAPES, Accept, Hello, Message, Offer, Reject
from ..handshake.v2.source import Source
from ..record.compare import Runner


def _speaks(preface: bytes, lowest: int, highest: int) -> bytes:
    """A preface with another range of versions."""
    return preface[:10] + struct.pack(">HH", lowest, highest) + preface[14:]


@reducible
class LaterSource(Source):
    """Speaks the next version too, and announces it."""

    def _greeting(self, conn: int) -> bytes:
        return _speaks(super()._greeting(conn), frames.LOWEST, frames.HIGHEST + 1)


@reducible
class LaterDestination(Destination):
    """The same, at the other side."""

    def _greeting(self, conn: int) -> bytes:
        return _speaks(super()._greeting(conn), frames.LOWEST, frames.HIGHEST + 1)


@reducible
class OnlyLaterSource(Source):
    """Does not speak this version any more."""

    def _greeting(self, conn: int) -> bytes:
        return _speaks(super()._greeting(conn), frames.HIGHEST + 1, frames.HIGHEST + 2)


@reducible
class Observer(Source):
    """Has a role that today's peers do not know."""

    def _content(self, message: Message) -> dict[str, object]:
        return super()._content(message) | ({"role": "observer"} if isinstance(message, Hello) else {})


@reducible
class Demanding(Source):
    """Requires a feature that today's peers do not know."""

    def _content(self, message: Message) -> dict[str, object]:
        content = super()._content(message)
        if isinstance(message, Offer):
            features = content["features"]
            assert isinstance(features, list)
            features.append({"name": "warm-cache", "need": "require"})
        return content


@reducible
class CriticalFrame(Source):
    """Sends a frame that today's peers do not know, marked so that it may not be skipped."""

    def _say(self, conn: int, message: Message, before: bytes = b"", note: str = "") -> bytes:
        if isinstance(message, Offer):
            before += frames.frame(0x70, b"later")
        return super()._say(conn, message, before, note)


PEERS = (
    ("source: a marked key, an unknown feature preferred, an ignorable frame", NewerSource),
    ("destination: the same", NewerDestination),
    ("source: speaks the next version too", LaterSource),
    ("destination: speaks the next version too", LaterDestination),
    ("source: has forgotten this version", OnlyLaterSource),
    ("source: a role that is unknown here", Observer),
    ("source: requires a feature that is unknown here", Demanding),
    ("source: a frame that may not be skipped", CriticalFrame),
    ("source: a key that may not be skipped", Future),
)


def first_answer(flight: bytes, settings: Settings) -> dict[str, object]:
    """What a destination answers to a first flight.

    Args:
        flight: preface, HELLO and OFFER of a source, as in data/vectors/offers.
        settings: of the destination.

    Returns:
        `verdict`: yes, maybe or no; `codes`: those of what it has found, each once, sorted.
    """
    destination = Destination(settings, SessionConfig(grease=False))
    inputs = (i.Start(), i.Opened(0), i.Received(0, flight))
    outputs = [output for input in inputs for output in destination.handle(input)]
    reader = frames.Reader(frames.RESPONDER, frames.Limits())
    reader = reader.add(b"".join(output.data for output in outputs if isinstance(output, i.Send)))
    item: object = ...
    while item is not None:
        reader, item = reader.next()
        if isinstance(item, frames.Frame) and item.type in (Accept.TYPE, Reject.TYPE):
            content = body.load(item.payload, SHAPES[item.type], frames.name(item.type))
            errors = content["warnings" if item.type == Accept.TYPE else "errors"]
            return {"verdict": content.get("verdict", "no"), "codes": sorted({error["code"] for error in errors})}
    raise ValueError("neither ACCEPT nor REJECT answers it: these bytes are no first flight")


def peers() -> pandas.DataFrame:
    """A row for each peer from the future: every order of events, how it ends, and the reason at its source."""
    rows = []
    for name, kind in PEERS:
        fits = kind in (NewerSource, NewerDestination, LaterSource, LaterDestination)
        model = replace(v2("v2", 1).playing(kind), compatible=fits)
        result = search(model)
        trace, ended = replay(model, to_the_end(model, ()))
        end = next((s.text for s in reversed(trace.steps) if s.kind == "end" and s.side == "source"), "")
        ways = ", ".join(sorted({e.source for e in result.endings}))
        rows.append(
            (
                name,
                result.states,
                ", ".join(result.violations) or "nothing",
                ways,
                ended.guest_at,
                end.partition(": ")[2],
            )
        )
    columns = ["the other side is newer", "states", "breaks", "ends, in every order", "guest at", "the source is told"]
    return pandas.DataFrame(rows, columns=columns).set_index(columns[0])


def skew(run: Runner, versions: Sequence[str], situations: Iterable[str] = ("matched",)) -> pandas.DataFrame:
    """A row for each pair of versions, situation and protocol: the outcome, and what was skipped or why it failed.

    Args:
        versions: QEMU versions, each paired with each.
        situations: names of scenarios of the library.
    """
    rows = []
    for name in situations:
        for ours in versions:
            for theirs in versions:
                for protocol in BOTH:
                    result = run(find(name), protocol=protocol, version=ours if ours == theirs else f"{ours}>{theirs}")
                    rows.append((name, ours, theirs, protocol, result.row.outcome, result.row.source_text))
    return pandas.DataFrame(rows, columns=["situation", "source", "destination", "protocol", "outcome", "told"])


def sides(run: Runner, version: str = "10.0>7.2") -> pandas.DataFrame:
    """How each setting of source and destination by the manager ends: no side guesses, eight bytes decide."""
    rows = []
    for protocol in BOTH:
        for accept, new in (("v1", False), ("v1", True), ("v2", True), ("v2-or-v1", True)):
            if (protocol, accept) == BOTH:
                continue  # no scenario can express that: its manager sets both sides to v1
            at = find("matched").vary(destination__accept=accept, destination__knows_v2=new)
            row = run(at, protocol=protocol, version=version).row
            there = f"takes {accept}" if new else "from before v2"
            rows.append((f"source told {protocol}", there, row.outcome, row.guest_bytes_sent, row.source_text))
    columns = ["source", "destination", "outcome", "guest_bytes", "told"]
    return pandas.DataFrame(rows, columns=columns).set_index(columns[:2])


def matrix(table: pandas.DataFrame, protocol: str) -> pandas.DataFrame:
    """How each pair ended under one protocol: the source's version down, the destination's across."""
    runs = table[table.protocol == protocol]
    order = list(dict.fromkeys(runs.destination))
    wide = runs.pivot(index=["situation", "source"], columns="destination", values="outcome")
    rows = list(dict.fromkeys(zip(runs.situation, runs.source, strict=True)))
    return wide.loc[rows, order].rename_axis(columns=f"{protocol}, to")
