"""Both roles' doors and every parser of the wire, under whatever bytes a fuzzer thinks of: `make fuzz` goes on looking,
and every input that it found worth keeping (`corpus`) is tried again here.

A door is fuzzed from between two honest sides: the input is a program for somebody who may pass on, change, insert,
repeat, hold back or cut what goes to one of them. So the fuzzer gets past MACs that it could never guess.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from simlib.case.endpoints import Case
from simlib.case.registry import INTRUDERS
from simlib.case.scenario import Scenario, Side
from simlib.handshake import interface as i
from simlib.handshake.buffer import Buffer
from simlib.handshake.errors import PeerError
from simlib.handshake.loader import Loader, MultifdReader, StreamError
from simlib.handshake.v2 import body, frames, manifest, messages, wire
from simlib.handshake.v2.frames import Frame, Limits, Reader

CORPUS = Path(__file__).parent / "corpus"
SIDE = Side(capabilities=("multifd", "return-path"), parameters={"multifd-channels": 2}, exit_on_error=False)
SCENARIO = Scenario(name="fuzz", title="fuzz", source=SIDE, destination=SIDE).vary(guest__ram_mib=0.125)
LIMITS = Limits()
HELD_BYTES = 2 * LIMITS.handshake_bytes + (LIMITS.unauthenticated + 2 * LIMITS.channels) * LIMITS.data_bytes
ANSWER_BYTES = 1 << 20  # more is never said at once, guest memory aside
SOURCE, DESTINATION = True, False


def kept(target: str) -> list[str]:
    """Its corpus, an input a line in hex digits."""
    path = CORPUS / f"{target}.txt"
    return path.read_text().split() if path.exists() else []


class Program:
    """The fuzzer's bytes, read as it goes; behind their end there are zeros."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def more(self) -> bool:
        return self.at < len(self.data)

    def number(self, below: int = 256) -> int:
        byte = self.data[self.at] if self.more() else 0
        self.at += 1
        return byte % below

    def bytes(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        self.at += size
        return piece


class Between:
    """Two honest sides, one of them the `target`: what the link tells it waits in `arriving` for the program."""

    def __init__(self, protocol: str, target: bool, accept: str = "v2") -> None:
        setup = Case(SCENARIO.vary(destination__accept=accept), protocol, "10.0")
        self.ends: dict[bool, Any] = {SOURCE: setup.source(), DESTINATION: setup.destination()}
        self.guests = {side: setup.guest(side) for side in (SOURCE, DESTINATION)}
        self.target = target
        self.at_destination: dict[int, int] = {}  # the source's number -> the destination's
        self.accepted = self.answers = 0
        self.open: list[int] = []  # the target's connections, as long as it may hear of them
        self.arriving: deque[i.Input] = deque()
        self.queue: deque[tuple[bool, i.Input]] = deque()
        self.alarms: list[str] = []
        self.tell(DESTINATION, i.Start())
        self.tell(SOURCE, i.Start())

    def tell(self, side: bool, input: i.Input) -> None:
        """And all that follows of itself."""
        self.queue.append((side, input))
        steps = 0
        while self.queue:
            steps += 1
            assert steps < 20_000, "it never comes to rest"
            side, input = self.queue.popleft()
            if side == self.target and not self._may_hear(input):
                continue
            said = 0
            for output in self.ends[side].handle(input):
                said += len(output.data) if isinstance(output, i.Send) else 0
                self._do(side, output)
            assert said <= ANSWER_BYTES, (said, input)

    def _may_hear(self, input: i.Input) -> bool:
        """What no link would tell is not told: nothing of a connection that is closed, and nothing after its end."""
        conn = getattr(input, "conn", None)
        if isinstance(input, i.Opened):
            self.open.append(input.conn)
        elif conn is not None and conn not in self.open:
            return False
        if isinstance(input, (i.Ended, i.Broken)):
            self.open.remove(input.conn)
        return True

    def link(self, side: bool, input: i.Input) -> None:
        if side == self.target:
            self.arriving.append(input)
        else:
            self.queue.append((side, input))

    def _do(self, side: bool, o: i.Output) -> None:
        guest = self.guests[side]
        if isinstance(o, i.Open):
            self.at_destination[o.conn] = self.accepted
            self.accepted += 1
            self.queue += [(SOURCE, i.Opened(o.conn)), (DESTINATION, i.Opened(self.at_destination[o.conn]))]
        elif isinstance(o, (i.Send, i.End, i.Drop)):
            self._to_the_other(side, o)
        elif isinstance(o, i.SetAlarm) and side == self.target:
            self.alarms.append(o.name)
        elif isinstance(o, i.StopAlarm) and side == self.target:
            self.alarms = [name for name in self.alarms if name != o.name]
        elif isinstance(o, i.CollectRam):
            guest.passes = 0 if o.first else guest.passes
            self.answers += 1
            assert self.answers < 1000, "it collects for ever"
            self.queue.append((side, guest.collect(self.answers * 0.1, o.last)))
        elif type(o) in ANSWERS:
            self.queue.append((side, ANSWERS[type(o)]()))

    def _to_the_other(self, side: bool, o: i.Send | i.End | i.Drop) -> None:
        if side == SOURCE:
            conn = self.at_destination.get(o.conn)
        else:
            conn = next((c for c, n in self.at_destination.items() if n == o.conn), None)
        if isinstance(o, i.Send):
            self.queue.append((side, i.Drained(o.conn)))
        elif isinstance(o, i.Drop) and side == self.target and o.conn in self.open:
            self.open.remove(o.conn)
        if conn is not None:
            input = i.Received(conn, o.data, o.fill) if isinstance(o, i.Send) else i.Ended(conn)
            self.link(not side, input)

    # --- what the program may do ------------------------------------------------------------------------------------
    def act(self, program: Program) -> None:
        ACTS[program.number(len(ACTS))](self, program)

    def deliver(self, _: Program) -> None:
        if self.arriving:
            self.tell(self.target, self.arriving.popleft())

    def change(self, program: Program) -> None:
        if self.arriving and isinstance(received := self.arriving[0], i.Received) and received.data:
            at, data = (program.number() << 8 | program.number()) % len(received.data), bytearray(received.data)
            data[at] ^= program.number() or 1
            self.arriving[0] = i.Received(received.conn, bytes(data), received.fill)

    def cut_in_two(self, program: Program) -> None:
        if self.arriving and isinstance(received := self.arriving[0], i.Received) and received.data:
            at = (program.number() << 8 | program.number()) % len(received.data)
            self.arriving[0] = i.Received(received.conn, received.data[at:], received.fill)
            self.tell(self.target, i.Received(received.conn, received.data[:at]))

    def reword(self, program: Program) -> None:
        """Put other text for some of a message's, and set its length right."""
        if not (self.arriving and isinstance(received := self.arriving[0], i.Received)):
            return
        at = received.data.find(b"{")
        if at < frames.FRAME_BYTES:
            return
        head, text = received.data[: at - frames.FRAME_BYTES], received.data[at:]
        tokens = text.split(b'"')
        tokens[program.number(len(tokens))] = program.bytes(program.number())
        text = b'"'.join(tokens)
        front = struct.pack(">I", len(text)) + received.data[at - frames.FRAME_BYTES + 4 : at]
        self.arriving[0] = i.Received(received.conn, head + front + text, received.fill)

    def insert(self, program: Program) -> None:
        """A frame of its own making, before what comes next."""
        flags, type, size = program.number(4), program.number(), program.number()
        frame = frames.frame(type, program.bytes(size), flags, program.number(3))
        self.arriving.appendleft(i.Received(self._connection(program), frame))

    def blurt(self, program: Program) -> None:
        self.arriving.appendleft(i.Received(self._connection(program), program.bytes(program.number())))

    def flood(self, program: Program) -> None:
        burst = frames.frame(program.number(), b"{}", program.number(4)) * (8 * program.number())
        self.arriving.appendleft(i.Received(self._connection(program), burst))

    def repeat(self, _: Program) -> None:
        if self.arriving:
            self.arriving.insert(1, self.arriving[0])

    def swap(self, _: Program) -> None:
        if len(self.arriving) > 1:
            self.arriving[0], self.arriving[1] = self.arriving[1], self.arriving[0]

    def lose(self, _: Program) -> None:
        if self.arriving:
            self.arriving.popleft()

    def end(self, program: Program) -> None:
        self.tell(self.target, i.Ended(self._connection(program)))

    def tear(self, program: Program) -> None:
        self.tell(self.target, i.Broken(self._connection(program), "Connection reset by peer"))

    def ring(self, program: Program) -> None:
        if self.alarms:
            self.tell(self.target, i.AlarmRang(self.alarms.pop(program.number(len(self.alarms)))))

    def order(self, program: Program) -> None:
        if self.target == SOURCE:
            self.tell(SOURCE, (i.Cancel(), i.Cancel("deadline"), i.SwitchToPostcopy())[program.number(3)])

    def intruder(self, program: Program) -> None:
        if self.target == DESTINATION and self.ends[DESTINATION].accepting:
            number, self.accepted = self.accepted, self.accepted + 1
            self.tell(DESTINATION, i.Opened(number))
            words = (*(INTRUDERS.get(n).payload for n in INTRUDERS), program.bytes(program.number()))
            self.tell(DESTINATION, i.Received(number, words[program.number(len(words))]))

    def _connection(self, program: Program) -> int:
        return self.open[program.number(len(self.open))] if self.open else -1

    # --- what must hold ---------------------------------------------------------------------------------------------
    def check(self) -> None:
        links = getattr(self.ends[self.target], "links", None)
        if links is not None:
            assert len(links) <= LIMITS.unauthenticated + LIMITS.channels + 2, len(links)
            buffered = sum(len(link.heard) + len(link.reader.buffer) for link in links.values())
            assert buffered <= HELD_BYTES, buffered


ANSWERS: dict[type, Callable[[], i.Input]] = {
    i.StopGuest: i.GuestStopped,
    i.Apply: i.Applied,
    i.Load: i.Loaded,
    i.RunGuest: i.GuestRunning,
}
ACTS: tuple[Callable[[Between, Program], None], ...] = (
    Between.deliver,
    Between.deliver,
    Between.deliver,
    Between.deliver,
    Between.change,
    Between.cut_in_two,
    Between.reword,
    Between.insert,
    Between.blurt,
    Between.flood,
    Between.repeat,
    Between.swap,
    Between.lose,
    Between.end,
    Between.tear,
    Between.ring,
    Between.order,
    Between.intruder,
)


def door(protocol: str, target: bool, accept: str = "v2") -> Callable[[bytes], None]:
    """Whatever happens no exception leaves it, what it holds is bounded, and when all connections are gone it has
    ended or listens."""

    def fuzz(data: bytes) -> None:
        program, between = Program(data), Between(protocol, target, accept)
        while program.more():
            between.act(program)
            between.check()
        end = between.ends[target]
        for conn in list(between.open):
            between.tell(target, i.Broken(conn, "Connection reset by peer"))
        if protocol == "v2":
            assert end.finished is not None or (target == DESTINATION and end.accepting)

    return fuzz


# --- parsers ------------------------------------------------------------------------------------------------------
def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def fuzz_frames(data: bytes) -> None:
    """However they are cut, bytes are the same frames, up to the same mistake."""
    size, data = (data[0] % 40 + 1, data[1:]) if data else (1, b"")

    def read(pieces: Iterator[bytes]) -> tuple[list[Any], str]:
        reader, items = Reader(frames.INITIATOR, Limits(frame_bytes=512, data_bytes=2048, handshake_bytes=4096)), []
        try:
            for piece in pieces:
                reader = reader.add(piece)
                item: Any = True
                while item is not None:
                    reader, item = reader.next()
                    joined = isinstance(item, Frame) and item.type == frames.DATA and item.payload
                    if joined and items and isinstance(items[-1], bytes):
                        items[-1] += item.payload  # DATA comes in whatever pieces it likes
                    elif item is not None:
                        items.append(item.payload if joined else item)
                assert len(reader.buffer) <= max(2048, frames.PREFACE_LIMIT) + len(piece)
        except PeerError as error:
            return items, error.error.code
        return items, ""

    assert read(_pieces(frames.preface(frames.INITIATOR, bytes(16)) + data, size)) == read(
        iter([frames.preface(frames.INITIATOR, bytes(16)) + data])
    )
    read(iter([data]))


def fuzz_bodies(data: bytes) -> None:
    """A body that fits its shape is the same when it was written and read again."""
    shapes = sorted(messages.SHAPES)
    type, data = (shapes[data[0] % len(shapes)], data[1:]) if data else (shapes[0], b"")
    with suppress(PeerError):
        value = body.load(data, messages.SHAPES[type], "fuzz")
        assert body.load(body.dump(value), messages.SHAPES[type], "fuzz") == value
        message = messages.read(type, value)
        assert wire.to_body(messages.read(type, wire.to_body(message))) == wire.to_body(message)


def fuzz_manifest(data: bytes) -> None:
    whole = frames.MANIFEST + struct.pack(">I", len(data)) + data
    for content in (data, whole + hashlib.sha256(whole).digest()):
        manifest.check(content, SCENARIO.settings(False, "10.0"))


def fuzz_stream(data: bytes) -> None:
    """However it is cut, a stream is the same events, up to the same mistake."""
    size, data = (data[0] % 40 + 1, data[1:]) if data else (1, b"")

    def read(pieces: Iterator[bytes]) -> tuple[list[Any], str]:
        loader, events = Loader(SCENARIO.settings(False, "10.0")), []
        try:
            for piece in pieces:
                loader.feed(piece)
                while (event := loader.next_event()) is not None:
                    if event[0] == "ram" and events and events[-1][0] == "ram":
                        event = ("ram", events.pop()[1] + event[1])
                    events.append(event)
        except StreamError as error:
            return events, str(error)
        return events, ""

    assert read(_pieces(data, size)) == read(iter([data]))


def fuzz_lane(data: bytes) -> None:
    compression, data = (("none", "zlib", "zstd")[data[0] % 3], data[1:]) if data else ("none", b"")
    with suppress(StreamError):
        MultifdReader(Buffer().add(data)).read(compression, 0, 1 << 30)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "v2-source": door("v2", SOURCE),
    "v2-destination": door("v2", DESTINATION),
    "adaptive-destination": door("v2", DESTINATION, "v2-or-v1"),
    "v1-source": door("v1", SOURCE),
    "v1-destination": door("v1", DESTINATION, "v1"),
    "frames": fuzz_frames,
    "bodies": fuzz_bodies,
    "manifest": fuzz_manifest,
    "stream": fuzz_stream,
    "lane": fuzz_lane,
}


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_fuzzer_found_worth_keeping_still_breaks_nothing(target: str) -> None:
    lines = kept(target)
    assert lines
    for line in lines:
        TARGETS[target](bytes.fromhex(line))


@pytest.mark.parametrize("target", ["v2-source", "v2-destination", "adaptive-destination"])
def test_a_program_that_changes_nothing_lets_the_guest_move(target: str) -> None:
    between = Between("v2", target == "v2-source", "v2-or-v1" if target.startswith("adaptive") else "v2")
    for _ in range(200):
        between.act(Program(b"\0"))
        between.check()
    assert [end.finished and end.finished.status for end in between.ends.values()] == ["completed", "completed"]
