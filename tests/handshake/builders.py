"""What several test files of the engine build: settings, the pieces of v1's main stream, an endpoint by hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import Self

from hypothesis import settings
from hypothesis import strategies as st

from simlib.handshake import interface as i
from simlib.handshake import stream
from simlib.handshake.endpoint import Endpoint
from simlib.handshake.errors import Error
from simlib.handshake.machine import Device, Machine, RamBlock, Settings, Subsection
from simlib.handshake.pump import ANSWERS
from simlib.handshake.v2 import body, frames, messages, wire
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.source import Source

QUICK = settings(derandomize=True, deadline=None, max_examples=40)
FEW = settings(QUICK, max_examples=12)  # where an example is a whole stream
SMALL = Machine(type="pc-q35-8.1", ram_blocks=(RamBlock("pc.ram", 1 << 20),), devices=(Device("timer"),))
SHUT, PONG, ACK = (bytes.fromhex(text) for text in ("0001000400000000", "0002000400000001", "00070000"))  # to a source
RAM_SECTION = 1
FIRST_DEVICE_SECTION = 3


def small(*capabilities: str, version: str = "10.0", channels: int = 2, tls: bool = False) -> Settings:
    """The settings of one side that has the small machine."""
    parameters = (("multifd-channels", channels), *((("tls-creds", "psk"),) if tls else ()))
    return Settings(version, SMALL, capabilities, parameters)


# --- an endpoint by hand --------------------------------------------------------------------------------------------


def outputs(endpoint: Endpoint, *inputs: i.Input) -> list[i.Output]:
    """All inputs in turn; whatever is sent is taken at once."""
    out: list[i.Output] = []
    for one in inputs:
        outputs = endpoint.handle(one)
        while outputs:
            out += outputs
            drained = {o.conn for o in outputs if isinstance(o, i.Send)}
            outputs = [o for conn in sorted(drained) for o in endpoint.handle(i.Drained(conn))]
    return out


def statuses(out: Iterable[i.Output]) -> list[str]:
    """The statuses that these outputs report."""
    return [o.status for o in out if isinstance(o, i.Entered)]


def sent(out: Iterable[i.Output], conn: int = 0) -> list[stream.Piece]:
    """What these outputs send on one connection."""
    return [(o.data, o.fill) for o in out if isinstance(o, i.Send) and o.conn == conn]


def printed(out: Iterable[i.Output]) -> str:
    """What these outputs print, line by line."""
    return "\n".join(o.text for o in out if isinstance(o, i.Printed))


# --- two endpoints of v2 --------------------------------------------------------------------------------------------
HERE, THERE = SessionConfig(b"a" * 32, grease=False), SessionConfig(b"b" * 32, grease=False)


class Talk:
    """A source and a destination that hear each other in order, as far as a test wants; connections have the same
    numbers on both sides. What is on its way when it stops stays there."""

    def __init__(
        self,
        ours: Settings | None = None,
        theirs: Settings | None = None,
        here: SessionConfig = HERE,
        there: SessionConfig = THERE,
        answers: Mapping[type[i.Output], i.Input] | None = None,
    ) -> None:
        ours = ours or small()
        self.source, self.destination = Source(ours, here), Destination(theirs or ours, there)
        self.answers = {**ANSWERS, **(answers or {})}
        self.waiting: deque[tuple[Source | Destination, i.Input]] = deque(
            [(self.destination, i.Start()), (self.source, i.Start())]
        )
        self.heard: dict[Source | Destination, list[i.Output]] = {self.source: [], self.destination: []}

    def until(self, source: str = "", destination: str = "") -> Self:
        """Go on until a side has that state, or nothing is on its way."""
        while self.waiting and self.source.state != source and self.destination.state != destination:
            side, input = self.waiting.popleft()
            self.follow(side, side.handle(input))
        return self

    def follow(self, side: Source | Destination, out: Iterable[i.Output]) -> None:
        """Put what these outputs of one side lead to on its way."""
        for output in out:
            self.heard[side].append(output)
            other = self.destination if side is self.source else self.source
            if isinstance(output, i.Open):
                self.waiting += [(side, i.Opened(output.conn)), (other, i.Opened(output.conn))]
            elif isinstance(output, i.Send):
                received = i.Received(output.conn, output.data, output.fill)
                self.waiting += [(other, received), (side, i.Drained(output.conn))]
            elif isinstance(output, (i.Drop, i.End)):
                self.waiting.append((other, i.Ended(output.conn)))
            elif isinstance(output, i.CollectRam):
                self.waiting.append((side, i.RamCollected(8192 if output.first else 0, not output.first)))
            elif type(output) in self.answers:
                self.waiting.append((side, self.answers[type(output)]))

    def to_source(self, *said: messages.Message | bytes, conn: int = 0) -> list[i.Output]:
        """The source's outputs when it hears this, and what is on its way is not delivered."""
        return outputs(self.source, *(i.Received(conn, spoken(one)) for one in said))

    def to_destination(self, *said: messages.Message | bytes, conn: int = 0) -> list[i.Output]:
        """The destination's, likewise."""
        return outputs(self.destination, *(i.Received(conn, spoken(one)) for one in said))

    @property
    def key(self) -> bytes:
        """The session's, which the source knows from ACCEPT on."""
        key = self.source.negotiated()["key"]
        assert isinstance(key, bytes)
        return key


def spoken(said: messages.Message | bytes) -> bytes:
    """A message as one frame; bytes as they are."""
    return said if isinstance(said, bytes) else frames.frame(said.TYPE, body.dump(wire.to_body(said)))


def spoken_in(out: Iterable[i.Output], conn: int = 0) -> list[frames.Preface | messages.Message | frames.Frame]:
    """What these outputs say on one connection: prefaces, messages, and frames that are none."""
    data = expanded(sent(out, conn))
    magic = data[:8] if data[:1] == b"\x89" else b""
    reader, items = frames.Reader(magic, frames.Limits(), got_preface=not magic).add(data), []
    while True:
        reader, item = reader.next()
        if item is None:
            return items
        if isinstance(item, frames.Frame) and item.type in messages.MESSAGES:
            shape = messages.SHAPES[item.type]
            items.append(messages.read(item.type, body.load(item.payload, shape, frames.name(item.type))))
        else:
            items.append(item)


def errors_in(out: Iterable[i.Output], conn: int = 0) -> tuple[Error, ...]:
    """The errors of the last message on one connection: a REJECT, an ABORT or an ERROR."""
    last = spoken_in(out, conn)[-1]
    assert isinstance(last, (messages.Reject, messages.Abort, messages.Failure))
    return last.errors


def finished(out: Iterable[i.Output]) -> i.Finished | None:
    """How a side has ended in these outputs."""
    return next((o for o in out if isinstance(o, i.Finished)), None)


def of_type(out: Iterable[i.Output], *kinds: type[i.Output]) -> list[i.Output]:
    """The outputs of these kinds, in order."""
    return [o for o in out if isinstance(o, kinds)]


# --- bytes ----------------------------------------------------------------------------------------------------------
SIZES = st.lists(st.integers(1, 40), max_size=5).map(lambda sizes: [*sizes, 200])  # of pieces that arrive, in turn


def expanded(pieces: Iterable[stream.Piece]) -> bytes:
    """The bytes that these pieces stand for."""
    return b"".join(data + bytes(fill) for data, fill in pieces)


def cut(pieces: Iterable[stream.Piece], sizes: Sequence[int]) -> list[stream.Piece]:
    """The same bytes in other pieces: real bytes of these sizes in turn, stand-in bytes of 512 times as many."""
    turn, smaller = cycle(sizes), []
    for data, fill in pieces:
        while data or fill:
            size = next(turn)
            part = min(fill, 512 * size) if len(data) <= size else 0
            smaller.append((data[:size], part))
            data, fill = data[size:], fill - part
    return smaller


def main_stream(ours: Settings, passes: Sequence[int] = (8192,), description: bytes = b"{}") -> list[stream.Piece]:
    """The main stream of a precopy: a section of RAM for each pass, one for the end, the devices."""
    pieces = [(stream.header(ours) + stream.ram_start(RAM_SECTION, ours, False), 0)]
    for size_bytes in passes:
        pieces += stream.ram_pass(RAM_SECTION, ours, size_bytes, False)
    pieces += stream.ram_pass(RAM_SECTION, ours, 0, False, stream.END)
    pieces += stream.device_state(FIRST_DEVICE_SECTION, ours.machine)
    return [*pieces, (stream.end_of_stream(description), 0)]


# --- machines and settings ------------------------------------------------------------------------------------------
NAMES = st.text("abcdefgh0123456789:./-", min_size=1, max_size=20)
SUBSECTIONS = st.builds(
    Subsection, NAMES | st.just("ACPI/cpuhp"), st.integers(1, 9), st.sampled_from(("always", "maybe", "never"))
)
DEVICES = st.builds(
    Device,
    id=NAMES,
    instance=st.integers(0, 3),
    version=st.integers(1, 9),
    size_bytes=st.integers(0, 300),
    subsections=st.lists(SUBSECTIONS, max_size=2, unique_by=lambda s: s.name).map(tuple),
)
BLOCKS = st.builds(
    RamBlock, NAMES, st.integers(1, 64).map(lambda pages: pages << 12), st.sampled_from((4096, 2 << 20)), st.booleans()
)
MACHINES = st.builds(
    Machine,
    type=st.sampled_from(("pc-i440fx-7.2", "pc-q35-8.1", "virt")),
    page_bits=st.sampled_from((12, 14, 16)),
    vcpus=st.integers(1, 5),
    uuid=st.just("") | st.binary(min_size=16, max_size=16).map(bytes.hex),
    ram_blocks=st.lists(BLOCKS, min_size=1, max_size=3, unique_by=lambda b: b.name).map(tuple),
    devices=st.lists(DEVICES, max_size=3, unique_by=lambda d: d.id).map(tuple),
)
IN_THE_STREAM = ("postcopy-ram", "x-ignore-shared", "validate-uuid", "mapped-ram", "compress", "return-path")
SETTINGS = st.builds(
    Settings, st.just("10.0"), MACHINES, st.lists(st.sampled_from(IN_THE_STREAM), unique=True).map(tuple)
)
