"""When two states are the same but for names: like channels exchanged, other nonces, other numbers of connections.

An endpoint's state is taken apart into what it knows of each connection, and the rest. Nonces, MACs, keys and
transcripts differ between runs that are alike, and are left out: nothing but equality is ever asked of them, and
whether both sides hold the same key is asked of the pair. `canonical` then sorts the connections of one kind. That this
changes no verdict is a test (tests/explore/test_reduction.py), not an assumption.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ..handshake import interface as i
from ..handshake.endpoint import changing
from ..handshake.errors import Error, PeerError
from ..handshake.stream import MULTIFD_MAGIC
from ..handshake.v1.destination import Destination as V1Destination
from ..handshake.v1.source import Source as V1Source
from ..handshake.v2 import frames
from ..handshake.v2.destination import Destination as V2Destination
from ..handshake.v2.frames import Limits, Preface, Reader
from ..handshake.v2.session import Link
from ..handshake.v2.source import Source as V2Source

if TYPE_CHECKING:
    from .state import State, Wire
    from .system import System

SECRET = ("nonce", "mac", "name", "role", "index", "channels", "secret", "session-id", "agreement")  # of message bodies


class Parts(NamedTuple):
    """An endpoint: the rest, and what it knows of each connection (None: not taken apart)."""

    rest: int
    local: dict[int, int] | None


class _Numbers:
    """A small number for each value, so that states stay small."""

    def __init__(self) -> None:
        self.known: dict[Any, int] = {}

    def __call__(self, value: Any) -> int:
        return self.known.setdefault(value, len(self.known))


_number = _Numbers()


def parts(endpoint: Any) -> Parts:
    """An endpoint, taken apart."""
    if isinstance(endpoint, (V2Source, V2Destination)):
        rest, local = _v2(endpoint)
    elif isinstance(endpoint, V1Source):
        rest, local = _v1_source(endpoint)
    elif isinstance(endpoint, V1Destination):
        rest, local = _v1_destination(endpoint)
    else:
        return Parts(_number(endpoint.key()), None)
    return Parts(_number((type(endpoint).__name__, rest)), {conn: _number(value) for conn, value in local.items()})


def _rest(endpoint: Any, *known: str) -> tuple[Any, ...]:
    """All fields that are not of connections, and are not random."""
    names = changing(tuple(vars(endpoint)))
    return tuple((k, _plain(v)) for k, v in zip(names, endpoint.key(), strict=True) if k not in known)


def _plain(value: Any) -> Any:
    """Errors by their codes: their texts name channels."""
    if isinstance(value, i.Finished):
        return value.status, value.reason, tuple(e.code for e in value.errors), value.exited, value.listening
    if isinstance(value, tuple) and value and isinstance(value[0], Error):
        return tuple(e.code for e in value)
    return value


def _v2(endpoint: V2Source | V2Destination) -> tuple[Any, dict[int, Any]]:
    channels = "channels", "agreed", "undrained", "bound", "lanes"
    rest = _rest(endpoint, "links", "control", "key_bytes", "heard", "sent", *channels)
    control: int | None
    if isinstance(endpoint, V2Source):
        control, named = 0, dict(enumerate(endpoint.channels))
        told: dict[int, Any] = {c: (n in endpoint.agreed, c in endpoint.undrained) for c, n in named.items()}
    else:
        control, bound = endpoint.control, {c: n for n, c, _ in endpoint.bound}
        told = {c: (lane.buffer, lane.left, lane.syncs) for c, lane in endpoint.lanes.items()}
        told = {c: (c in bound, told.get(c)) for c in endpoint.links}
    local = {c: (c == control, _link(link), told.get(c)) for c, link in endpoint.links.items()}
    more = bool(endpoint.key_bytes), getattr(endpoint, "ram_bytes", 0)  # a property looks at the bytes
    return (rest, more), local


def _link(link: Link) -> Any:
    kind = link.kind.partition("[")[0]
    read = link.reader
    new = len(link.heard) if kind == "new" else 0
    return kind, link.spoke, new, read.buffer, read.got_preface, read.partial, read.data_left, read.unlimited


def _v1_source(endpoint: V1Source) -> tuple[Any, dict[int, Any]]:
    rest = _rest(endpoint, "channels", "ready", "undrained", "broken")
    broken = dict(endpoint.broken)
    known = endpoint.ready, endpoint.undrained
    local = {c: (n.partition("[")[0], *(c in k for k in known), broken.get(c)) for c, n in enumerate(endpoint.channels)}
    return rest, local


def _v1_destination(endpoint: V1Destination) -> tuple[Any, dict[int, Any]]:
    rest = _rest(endpoint, "connections", "held_by")
    local = {
        c: (n.kind, c == endpoint.held_by, shape_of(n.buffer.head), n.buffer.rest, n.ended, n.lane, n.left)
        for c, n in enumerate(endpoint.connections)
    }
    return (rest, endpoint.held_by is not None), local


# --- what is under way ----------------------------------------------------------------------------------------------
def shape(told: i.Input) -> tuple[Any, ...]:
    """An input without what is random in it, or names one of like channels."""
    if isinstance(told, i.Received):
        return (*shape_of(told.data), told.fill)
    return (str(told),)


def shape_of(data: bytes) -> tuple[Any, ...]:
    if data[:4] == MULTIFD_MAGIC:
        return "multifd", len(data), data[8:24] if len(data) != 64 else b""
    for magic in (frames.INITIATOR, frames.RESPONDER):
        if data.startswith(magic):
            return _messages(Reader(magic, Limits(), got_preface=False), data)
    if data[:3] == b"\0\0\0" or data[:2] == b"\0\0":
        found = _messages(Reader(frames.INITIATOR, Limits(), got_preface=True), data)
        if found:
            return found
    return (data,)


def _messages(reader: Reader, data: bytes) -> tuple[Any, ...]:
    """Frames by name, with their bodies as far as they are not secret; empty if these are not frames."""
    reader, found = reader.add(data), []
    try:
        while True:
            reader, item = reader.next()
            if item is None:
                break
            if not isinstance(item, Preface) and item.type in frames.NAMES:
                found.append((frames.name(item.type), _body(item.payload)))
    except PeerError:
        return ()
    if len(reader.buffer):
        return ()
    return tuple(part for pair in found for part in pair)


def _body(payload: bytes) -> Any:
    try:
        told = json.loads(payload)
    except ValueError:
        return payload
    kept = {k: v for k, v in told.items() if k not in SECRET and not k.startswith("?")}
    for errors in ("errors", "warnings"):
        if errors in kept:
            kept[errors] = [e.get("code") for e in kept[errors]]
    return json.dumps({k: v for k, v in kept.items() if k not in ("text", "item")}, sort_keys=True)


def forged(opening: bytes) -> bytes:
    """The same CHANNEL_OPEN with a MAC of somebody who does not know the key."""
    return re.sub(rb'"mac":"[0-9a-f]{64}"', b'"mac":"' + b"0" * 64 + b'"', opening)


def channel_name(told: i.Input) -> str:
    """The channel that a CHANNEL_OPEN names; empty for anything else."""
    found = re.search(rb'"name":"([^"]+)"', told.data) if isinstance(told, i.Received) else None
    return found[1].decode() if found and b'"mac"' in told.data else ""  # type: ignore[union-attr]


# --- states ---------------------------------------------------------------------------------------------------------
def canonical(system: System, state: State) -> Any:
    """Equal for states that are the same but for names; for equal states alone where an endpoint is not taken apart."""
    taken = [system.parts(n) for n in state.ends]
    if any(part.local is None for part in taken):
        return system.key(state)
    guards = {int(name[6:]) for _, name in state.alarms if name.startswith("guard-")}
    items: list[int] = []
    named: dict[str, int] = {}
    for w in sorted(state.wires, key=lambda w: w.owner):  # strangers last: they may copy others
        mine = taken[w.owner].local.get(w.number) if w.owner < len(taken) else None  # type: ignore[union-attr]
        theirs = taken[1].local.get(w.accepted) if w.accepted >= 0 else None  # type: ignore[union-attr]
        known = w, mine, theirs, w.accepted in guards, _copied(system, state, w, named) if w.owner >= 2 else None
        item = system.items.get(known)
        if item is None:
            item = system.items[known] = _item(system, *known)
        named[w.name] = item
        items.append(item)
    alarms = tuple(a for a in state.alarms if not a[1].startswith("guard-"))
    keys = {getattr(system.table[n], "key_bytes", b"") for n in state.ends[:2]}
    return (
        *(part.rest for part in taken), len(keys), tuple(sorted(items)), state.answers, alarms, state.runs,
        state.passes, state.faults, state.sink,
    )  # fmt: skip


def _item(system: System, w: Wire, *known: Any) -> int:
    """A number for a connection without its name, its numbers, and what is random on it."""
    queues = tuple(system.shapes[m] for m in w.there), tuple(system.shapes[m] for m in w.back)
    return _number((w.name.partition("[")[0], w.owner, w.connected, w.accepted >= 0, *queues, w[7:], *known))


def _copied(system: System, state: State, wire: Wire, named: dict[str, int]) -> int | None:
    """The connection whose opening a stranger's says once more, or whose place it has."""
    names = [n for m in wire.there if (n := system.names[m])]
    names += [n for n, c, _ in getattr(system.table[state.ends[1]], "bound", ()) if c == wire.accepted]
    return named.get(names[0]) if names else None
