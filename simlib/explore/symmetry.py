"""Symmetry reduction: when two states are the same but for names, so that one of them is enough.

Two renamings lead from a state to one that behaves alike (the two are bisimilar): like channels may be exchanged with
their connections, and random values may be replaced by others, as long as equal ones stay equal. `Canonical.key` is
equal for such states alone. It contains every field of every endpoint and every connection. What a class declares in
RANDOM is renumbered by its first occurrence, and what it declares in NON_STATE is left out (`handshake.endpoint`).

An endpoint must meet two requirements, which tests check on every committed model that the plain search can finish: it
treats channels of one kind alike, and it only ever compares random values. A class that does declares so
(`endpoint.reducible`); any other, such as a user's subclass, is searched without reductions. A field that is not
declared is part of the key as it is.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, Protocol, cast

from ..handshake import interface as i
from ..handshake.buffer import Buffer
from ..handshake.endpoint import Endpoint, declared, is_reducible, state_fields
from ..handshake.errors import PeerError
from ..handshake.stream import MULTIFD_MAGIC, MULTIFD_PACKET_BYTES
from ..handshake.v2 import frames
from ..handshake.v2.frames import Limits, Preface, Reader
from .state import ConnectionState, State

# Of message bodies: random values, what a MAC covers, and what follows from a channel's name.
RANDOM_KEYS = ("nonce", "mac", "secret", "session-id", "agreement")
COVERED_BY_MAC = ("channels",)  # of READY: names and nonces in the order of the plan
OF_NAME = ("role", "index")
CHANNEL = re.compile(r"(multifd\[\d+\])")
Structure = Any  # nested tuples of plain values, with placeholders for atoms
GREASE_BIT = 0x80  # of a frame's type: random, and skipped by everybody (SPEC section 2.6)


class Atoms(list[Any]):
    """The names of channels and the random values of a value, in their order; only their equality counts."""

    def random(self, value: object) -> Structure:
        """Whether there is one: the length of a transcript is random too, by its GREASE."""
        if value:
            self.append(value)
        return "random" if value else value

    def text(self, text: str) -> Structure:
        """A text without the channels that it names."""
        if "multifd[" not in text:
            return text
        parts = CHANNEL.split(text)
        self.extend(parts[1::2])
        return tuple(parts[::2])

    def value(self, value: object) -> Structure:
        """Any value that an endpoint holds."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Buffer):
            return (shape_of(value.head, self), value.rest)
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return tuple(map(self.value, value))
        names = getattr(value, "_fields", ()) or ([f.name for f in fields(value)] if is_dataclass(value) else ())
        return (type(value).__name__, *self.fields(value, names)) if names else value

    def fields(self, value: object, names: Iterable[str]) -> Iterator[Structure]:
        """Each field that is part of the state."""
        cls = cast(Hashable, type(value))
        random, left_out = declared(cls, "RANDOM"), declared(cls, "NON_STATE")
        for name in names:
            if name not in left_out:
                content = getattr(value, name)
                yield name, self.random(content) if name in random else self.value(content)


class Part(NamedTuple):
    """A number for a structure, and its atoms as numbers."""

    structure: int
    atoms: tuple[int, ...] = ()


class Decomposed(NamedTuple):
    """An endpoint: what it knows of each connection (None: it is not taken apart), and the rest."""

    shared: Part
    per_connection: dict[int, Part] | None


class Numbered(Protocol):
    """What is asked of an `interning.Interner`."""

    table: list[Any]
    shapes: list[tuple[Structure, Atoms]]

    def key(self, state: State) -> Hashable:
        """Equal for equal states."""


class Canonical:
    """The keys of one system's states."""

    def __init__(self, system: Numbered) -> None:
        self.system = system
        self.structures: dict[Structure, int] = {}
        self.atoms: dict[Any, int] = {}
        self.parts_of: dict[int, Decomposed] = {}  # of each endpoint
        self.items: dict[Any, Part] = {}
        self.locals: dict[Any, Part] = {}

    def _part(self, structure: Structure, atoms: Iterable[object]) -> Part:
        number = self.structures.setdefault(structure, len(self.structures))
        return Part(number, tuple(self.atoms.setdefault(a, len(self.atoms)) for a in atoms))

    # --- endpoints --------------------------------------------------------------------------------------------------
    def parts(self, number: int) -> Decomposed:
        """An endpoint, taken apart when somebody first asks."""
        parts = self.parts_of.get(number)
        if parts is None:
            parts = self.parts_of[number] = self._parts(self.system.table[number])
        return parts

    def _parts(self, endpoint: Endpoint) -> Decomposed:
        apart = endpoint.decomposition() if is_reducible(type(endpoint)) else None
        if apart is None:
            return Decomposed(self._part(endpoint.key(), ()), None)
        per_connection = {conn: self._local(value) for conn, value in apart.per_connection.items()}
        return Decomposed(self._rest(endpoint, apart.fields, apart.shared), per_connection)

    def _rest(self, endpoint: Endpoint, apart: tuple[str, ...], shared: Structure) -> Part:
        atoms, cls = Atoms(), cast(Hashable, type(endpoint))
        random = declared(cls, "RANDOM")
        values: list[Structure] = [type(endpoint).__name__, shared]
        for name in state_fields(cls, tuple(vars(endpoint))):
            content = getattr(endpoint, name)
            if name in apart:
                continue
            if name in random:
                values.append((name, atoms.random(content)))
            elif name in ("finished", "ended_as", "lost", "warnings"):  # their texts name channels
                values.append((name, atoms.value(content)))
            else:
                values.append((name, content.key() if hasattr(content, "key") else content))
        return self._part(tuple(values), atoms)

    def _local(self, value: object) -> Part:
        part = self.locals.get(value)
        if part is None:
            atoms = Atoms()
            part = self.locals[value] = self._part(atoms.value(value), atoms)
        return part

    # --- states -----------------------------------------------------------------------------------------------------
    def key(self, state: State) -> Hashable:
        """Equal for states that are the same but for names; where an endpoint is not taken apart, for equal ones."""
        taken = [self.parts(n) for n in state.ends]
        if any(part.per_connection is None for part in taken):
            return self.system.key(state)
        guards = {int(name[6:]) for _, name in state.alarms if name.startswith("guard-")}
        items = []
        for w in state.connections:
            ours = taken[w.owner].per_connection.get(w.number) if w.owner < len(taken) else None  # type: ignore[union-attr]
            theirs = taken[1].per_connection.get(w.accepted) if w.accepted >= 0 else None  # type: ignore[union-attr]
            known = w, ours, theirs, w.accepted in guards
            item = self.items.get(known)
            if item is None:
                item = self.items[known] = self._item(*known)
            items.append(item)
        items += self._of_no_wire(state, taken)
        count = Counter(a for item in items for a in item.atoms)
        rests = [a for part in taken for a in part.shared.atoms]
        count.update(rests)
        # like connections are distinguished by how often others refer to them
        items.sort(key=lambda item: (item.structure, [count[a] for a in item.atoms]))
        first: dict[int, int] = {}
        order = [first.setdefault(a, len(first)) for item in items for a in item.atoms]
        order += [first.setdefault(a, len(first)) for a in rests]
        alarms = tuple(a for a in state.alarms if not a[1].startswith("guard-"))
        return (
            *(part.shared.structure for part in taken),
            tuple([item.structure for item in items]),
            tuple(order),
            state.pending_replies,
            alarms,
            state.guest_running,
            state.ram_passes,
            state.faults,
            state.pipe_output,
            state.silent,
            state.frozen,
        )

    def _of_no_wire(self, state: State, taken: list[Decomposed]) -> Iterator[Part]:
        """What an endpoint knows of a connection that is not there: nothing, but for one with a fault."""
        connections = [{w.number for w in state.connections if w.owner == side} for side in range(len(taken))]
        connections[1] = {w.accepted for w in state.connections}
        for side, (part, known) in enumerate(zip(taken, connections, strict=True)):
            for conn, per_connection in (part.per_connection or {}).items():
                if conn not in known:
                    yield Part(
                        self._part(("no wire", side, conn, per_connection.structure), ()).structure,
                        per_connection.atoms,
                    )

    def _item(self, connection: ConnectionState, *known: Any) -> Part:
        """A connection, what is under way on it, and what both ends know of it."""
        atoms: list[Any] = [connection.name] if CHANNEL.fullmatch(connection.name) else []
        queues = []
        for queue in (connection.there, connection.back):
            shapes = [self.system.shapes[m] for m in queue]
            queues.append(tuple(shape for shape, _ in shapes))
            atoms += [a for _, more in shapes for a in more]
        name = "multifd" if atoms and atoms[0] == connection.name else connection.name
        structure = (
            name,
            connection.owner,
            connection.connected,
            connection.accepted >= 0,
            *queues,
            connection[7:],
            known[-1],
        )
        ends = [part or Part(-1) for part in known[:-1]]
        part = self._part((structure, *(end.structure for end in ends)), atoms)
        return Part(part.structure, (*part.atoms, *(a for end in ends for a in end.atoms)))


# --- what is under way ----------------------------------------------------------------------------------------------
def shape(value: i.Input) -> tuple[Structure, Atoms]:
    """An input without the names of like channels and what is random in it, and these."""
    atoms = Atoms()
    if isinstance(value, i.Received):
        return (shape_of(value.data, atoms), value.fill), atoms
    if isinstance(value, i.Secured):
        return ("Secured", atoms.random(value.exporter), value.alpn), atoms
    return (str(value),), atoms


def shape_of(data: bytes, atoms: Atoms) -> Structure:
    if data[:4] == MULTIFD_MAGIC and len(data) == 64:
        atoms.append(f"multifd[{data[24]}]")
        return "multifd", data[:24], data[25:]
    if data[:4] == MULTIFD_MAGIC and len(data) >= MULTIFD_PACKET_BYTES:
        return data[:24], atoms.random(data[24:32]), data[32:]  # the packet's number, which no destination reads
    for magic in (frames.INITIATOR, frames.RESPONDER):
        if data.startswith(magic):
            return _messages(Reader(magic, Limits(), got_preface=False), data, atoms)
    if data[:2] == b"\0\0":
        return _messages(Reader(frames.INITIATOR, Limits(), got_preface=True), data, atoms)
    return (data,)


def _messages(reader: Reader, data: bytes, atoms: Atoms) -> Structure:
    """Prefaces and frames, one after the other; the bytes as they are if these are none."""
    reader, structure, here = reader.add(data), [], Atoms()
    try:
        while True:
            reader, item = reader.next()
            if item is None:
                break
            if isinstance(item, Preface):
                structure += [(item.magic, item.lowest, item.highest), here.random(item.nonce)]
            elif item.type & GREASE_BIT and not item.flags & frames.CRITICAL:
                structure.append("GREASE")
            else:
                head = frames.name(item.type), item.flags, item.channel, item.request, item.fill
                structure += [*head[:1], head[1:], _body(item.payload, here)]
    except PeerError:
        return (data,)
    if len(reader.buffer):
        return (data,)
    atoms.extend(here)
    return tuple(structure)


def _body(payload: bytes, atoms: Atoms) -> Structure:
    try:
        body = json.loads(payload)
    except ValueError:
        return payload
    if not isinstance(body, dict):
        return payload
    structure: list[Structure] = []
    for key, value in sorted(body.items()):
        if key.startswith("?grease-"):
            structure.append("?grease")
        elif key in RANDOM_KEYS and isinstance(value, str):
            structure.append((key, atoms.random(value)))
        elif (key in COVERED_BY_MAC and "mac" in body) or (key in OF_NAME and "name" in body):
            continue
        else:
            structure.append((key, atoms.text(json.dumps(value, sort_keys=True))))
    return tuple(structure)


def forged(opening: bytes) -> bytes:
    """The same CHANNEL_OPEN with a MAC of somebody who does not know the key."""
    return re.sub(rb'"mac":"[0-9a-f]{64}"', b'"mac":"' + b"0" * 64 + b'"', opening)


def opens_channel(value: i.Input) -> bool:
    """Whether it is a CHANNEL_OPEN."""
    return (
        isinstance(value, i.Received)
        and re.search(rb'"name":"[^"]+"', value.data) is not None
        and b'"mac"' in value.data
    )
