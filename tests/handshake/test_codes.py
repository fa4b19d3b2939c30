"""Every error code of the catalogue reaches the source, with the item and both values where there are any."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from simlib.handshake import interface as i
from simlib.handshake.errors import Code, Error
from simlib.handshake.machine import Device, Machine, RamBlock, Settings, Subsection
from simlib.handshake.v2 import frames, manifest, messages
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.source import Source

RNG = Device("0000:00:05.0/virtio-rng", version=1, schema="a")
BASE = Machine(devices=(Device("timer"), RNG), cpu_features=("sse2",))
TCP = Settings(machine=BASE)
Edit = Callable[[bool, int, bytes], bytes]


class Pair:
    """Two endpoints and a link without a clock. `edit` may change what is under way."""

    def __init__(
        self,
        ours: Settings = TCP,
        theirs: Settings = TCP,
        here: SessionConfig | None = None,
        there: SessionConfig | None = None,
        edit: Edit = lambda s, c, d: d,
    ) -> None:
        self.source = Source(ours, here or SessionConfig(entropy=b"s" * 32))
        self.destination = Destination(theirs, there or SessionConfig(entropy=b"d" * 32))
        self.edit = edit
        self.answers: dict[type, i.Input] = {
            i.StopGuest: i.GuestStopped(),
            i.Apply: i.Applied(),
            i.Load: i.Loaded(),
            i.RunGuest: i.GuestRunning(),
        }
        self.before: Callable[[Pair, bool, i.Input], bool] = lambda *_: True  # False: the input is lost

    def run(self) -> tuple[Error, ...]:
        """To the end; what the source was told."""
        todo: deque[tuple[bool, i.Input]] = deque([(False, i.Start()), (True, i.Start())])
        while todo:
            at_source, input = todo.popleft()
            if not self.before(self, at_source, input):
                continue
            for out in (self.source if at_source else self.destination).handle(input):
                todo += self._follow(at_source, out)
        assert self.source.finished is not None
        return self.source.finished.errors

    def _follow(self, at_source: bool, out: i.Output) -> list[tuple[bool, i.Input]]:
        if isinstance(out, i.Open):
            return [(True, i.Opened(out.conn)), (False, i.Opened(out.conn))]
        if isinstance(out, i.Send):
            data = self.edit(at_source, out.conn, out.data)
            return [(not at_source, i.Received(out.conn, data, out.fill)), (at_source, i.Drained(out.conn))]
        if isinstance(out, (i.Drop, i.End)):
            return [(not at_source, i.Ended(out.conn))]
        if isinstance(out, i.CollectRam):
            return [(True, i.RamCollected(8192 if out.first else 0, not out.first))]
        return [(at_source, self.answers[type(out)])] if type(out) in self.answers else []


def on_the_way_back(change: Callable[[bytes], bytes], conn: int = 0) -> Edit:
    return lambda from_source, c, data: data if from_source or c != conn else change(data)


def in_accept(change: Callable[[dict[str, Any]], None]) -> Edit:
    """Rewrite ACCEPT's body."""

    def edit(data: bytes) -> bytes:
        at = data.find(b'{"agreement"')
        at = at if at >= 0 else data.find(b'{"?grease', data.find(b'"role":"destination"'))
        if at < 12 or b'"session-id"' not in data:
            return data
        size = int.from_bytes(data[at - 12 : at - 8], "big")
        accept = json.loads(data[at : at + size])
        change(accept)
        new = json.dumps(accept).encode()
        return data[: at - 12] + len(new).to_bytes(4, "big") + data[at - 8 : at] + new + data[at + size :]

    return on_the_way_back(edit)


def machine(**changes: Any) -> Settings:
    return replace(TCP, machine=replace(BASE, **changes))


def device(**changes: Any) -> Settings:
    return machine(devices=(Device("timer"), replace(RNG, **changes)))


def two_devices() -> Settings:
    return machine(devices=(*BASE.devices, replace(RNG, instance=1)))


NO_GREASE = SessionConfig(entropy=b"d" * 32, grease=False)
PREFACE = frames.preface(frames.RESPONDER, bytes(16))


def answer(*said: bytes) -> Edit:
    """The destination says this instead of whatever it says."""
    return on_the_way_back(lambda _: b"".join(said))


def message(type: int, text: str) -> bytes:
    return frames.frame(type, text.encode())


HELLO = message(messages.Hello.TYPE, '{"role":"destination"}')
MF = replace(TCP, capabilities=("multifd",))
CASES: dict[str, Callable[[], Pair]] = {
    "not-a-handshake": lambda: Pair(edit=answer(b"HTTP/1.1 400 Bad Request")),
    "peer-v1": lambda: Pair(edit=answer(b"QEVM\0\0\0\3")),
    "reflected": lambda: Pair(edit=answer(frames.preface(frames.INITIATOR, bytes(16)))),
    "no-common-version": lambda: Pair(edit=answer(frames.preface(frames.RESPONDER, bytes(16), 0, 7, 9))),
    "encoding": lambda: Pair(edit=answer(PREFACE, message(messages.Hello.TYPE, '{"version":1.5}'))),
    "frame-too-big": lambda: Pair(edit=answer(PREFACE, b"\x7f\xff\xff\xff\x01\x01" + bytes(6))),
    "too-much": lambda: Pair(edit=answer(PREFACE, *[frames.frame(0x99, b"", flags=0)] * 300)),
    "bad-state": lambda: Pair(edit=answer(PREFACE, message(messages.Running.TYPE, "{}"))),
    "unknown-critical": lambda: Pair(edit=answer(PREFACE, frames.frame(0x66, b""))),
    "unknown-key": lambda: Pair(edit=answer(PREFACE, message(messages.Hello.TYPE, '{"new-thing":1}'))),
    "unknown-value": lambda: Pair(edit=answer(PREFACE, HELLO)),
    "transport-one-way": lambda: Pair(replace(TCP, transport="file")),
    "feature-required": lambda: Pair(
        MF, here=SessionConfig(require=("multifd",)), there=SessionConfig(forbid=("multifd",))
    ),
    "feature-dependency": lambda: Pair(
        replace(TCP, capabilities=("postcopy-ram", "postcopy-preempt")),
        here=SessionConfig(require=("postcopy-preempt",)),
        there=SessionConfig(forbid=("postcopy-ram",)),
    ),
    "feature-conflict": lambda: Pair(here=SessionConfig(require=("multifd", "xbzrle"))),
    "parameter": lambda: Pair(
        replace(MF, parameters=(("multifd-compression", "qatzip"),)),
        replace(TCP, version="7.2"),
        here=SessionConfig(require=("multifd",)),
    ),
    "maybe-refused": lambda: Pair(theirs=two_devices(), here=SessionConfig(on_maybe="reject")),
    "agreement-mismatch": lambda: Pair(edit=in_accept(lambda a: a["agreement"].update(channels=["main", "other"]))),
    "machine-type": lambda: Pair(theirs=machine(type="pc-q35-7.2")),
    "arch": lambda: Pair(theirs=machine(arch="aarch64")),
    "page-bits": lambda: Pair(theirs=machine(page_bits=16)),
    "uuid": lambda: Pair(replace(machine(uuid="a" * 32), capabilities=("validate-uuid",)), machine(uuid="b" * 32)),
    "vcpus": lambda: Pair(machine(vcpus=4)),
    "cpu-feature": lambda: Pair(machine(cpu_features=("avx2", "sse2"))),
    "cpu-model": lambda: Pair(machine(cpu="Nehalem"), here=SessionConfig(on_maybe="reject")),
    "ram-block": lambda: Pair(machine(ram_blocks=(*BASE.ram_blocks, RamBlock("vga.vram", 1 << 24)))),
    "ram-size": lambda: Pair(machine(ram_blocks=(RamBlock("pc.ram", 1 << 28),))),
    "ram-page-size": lambda: Pair(
        replace(TCP, capabilities=("postcopy-ram",)),
        machine(ram_blocks=(replace(BASE.ram_blocks[0], page_bytes=2 << 20),)),
    ),
    "device-unknown": lambda: Pair(theirs=machine(devices=(Device("timer"),))),
    "device-extra": lambda: Pair(
        theirs=machine(devices=(*BASE.devices, Device("new"))), here=SessionConfig(on_maybe="reject")
    ),
    "device-instance": lambda: Pair(two_devices()),
    "device-version": lambda: Pair(device(version=9)),
    "device-nested-version": lambda: Pair(device(nested=(("core", 3, 1),)), device(nested=(("core", 2, 1),))),
    "device-subsection": lambda: Pair(device(subsections=(Subsection("virtio-rng/new", 1, "always"),))),
    "device-schema": lambda: Pair(device(schema="b"), here=SessionConfig(on_maybe="reject")),
    "device-features": lambda: Pair(device(features=("packed",)), device(features=("event_idx",))),
    "device-unmigratable": lambda: Pair(device(migratable=False)),
    "memory": lambda: Pair(there=SessionConfig(memory_limit_bytes=1 << 20)),
    "wrong-session": lambda: Pair(here=SessionConfig(session="vm-1"), there=SessionConfig(session="vm-2")),
    "connect": lambda: losing(i.Opened, lambda p: p.source.handle(i.Broken(0, "Connection refused"))),
    "peer-closed": lambda: losing(i.Received, lambda p: p.source.handle(i.Ended(0))),
    "cancelled": lambda: losing(i.Received, lambda p: p.source.handle(i.Cancel())),
    "deadline": lambda: losing(i.Received, lambda p: p.source.handle(i.Cancel("deadline"))),
    "manifest": lambda: Pair(),  # see test_a_broken_manifest_is_named
}
WITHOUT_VALUES = {
    "not-a-handshake",
    "peer-v1",
    "reflected",
    "encoding",
    "frame-too-big",
    "too-much",
    "bad-state",
    "unknown-critical",
    "unknown-key",
    "unknown-value",
    "transport-one-way",
    "connect",
    "peer-closed",
    "cancelled",
    "deadline",
}


def losing(kind: type, act: Callable[[Pair], Any]) -> Pair:
    """At the source's first input of this kind, something else happens."""
    pair = Pair()

    def before(p: Pair, at_source: bool, input: i.Input) -> bool:
        if at_source and isinstance(input, kind) and p.source.finished is None:
            act(p)
            return False
        return True

    pair.before = before
    return pair


@pytest.mark.parametrize("code", [c for c in CASES if c != "manifest"])
def test_the_source_ends_with_the_code(code: str) -> None:
    pair = CASES[code]()
    errors = pair.run()
    error = next((e for e in errors if e.code == code), None)
    assert error is not None, errors
    assert error.text and pair.source.finished and pair.source.finished.status != "completed"
    if code not in WITHOUT_VALUES:
        assert error.item and error.source and error.destination, error


def applying(error: str, code: str) -> Pair:
    pair = Pair()
    pair.answers[i.Apply] = i.Applied(error, code)
    return pair


@pytest.mark.parametrize("code", ["apply-failed", "port"])
def test_what_the_destination_cannot_set_is_named(code: str) -> None:
    error = applying("no such thing", code).run()[0]
    assert (error.code, error.destination) == (code, "no such thing") and error.item and error.source


def test_a_failure_to_load_reaches_the_source_with_its_sentence() -> None:
    pair = Pair()
    pair.answers[i.Load] = i.Loaded("virtio-net: post_load failed")
    error = pair.run()[0]
    assert error.code == "needs-restart" and "post_load failed" in error.text and error.destination


def test_a_second_source_is_told_that_the_destination_is_busy() -> None:
    pair = Pair()
    second = Source(TCP, SessionConfig(entropy=b"t" * 32))
    second.handle(i.Start())
    said = b"".join(o.data for o in second.handle(i.Opened(0)) if isinstance(o, i.Send))
    heard = b""

    def before(p: Pair, at_source: bool, input: i.Input) -> bool:
        nonlocal heard, said
        if said and not at_source and p.destination.state == "accepted":
            conn = 99
            outs = [*p.destination.handle(i.Opened(conn)), *p.destination.handle(i.Received(conn, said))]
            said, heard = b"", b"".join(o.data for o in outs if isinstance(o, i.Send))
        return True

    pair.before = before
    pair.run()
    second.handle(i.Received(0, heard))
    assert second.finished and second.finished.errors[0].code == "busy" and second.finished.errors[0].destination


def channel_codes() -> dict[str, tuple[Callable[[Destination], None], str]]:
    def no_session(d: Destination) -> None:
        d.session_id = ""

    def wrong_session(d: Destination) -> None:
        d.session_id = "f" * 16

    def bad_key(d: Destination) -> None:
        d.key_bytes = b"x" * 32

    def other_plan(d: Destination) -> None:
        d.plan = ("elsewhere",)

    def bound(d: Destination) -> None:
        d.bound = (("main", 99, "00"),)

    return {
        "no-session": (no_session, "session"),
        "wrong-session": (wrong_session, "session"),
        "channel-auth": (bad_key, "channel[main]"),
        "channel-unplanned": (other_plan, "channel[main]"),
        "channel-duplicate": (bound, "channel[main]"),
    }


@pytest.mark.parametrize("code", channel_codes())
def test_a_refused_channel_tells_the_source_why(code: str) -> None:
    """The destination's state is bent after ACCEPT, as a source's mistake or an intruder's would look to it."""
    bend, item = channel_codes()[code]
    pair = Pair()

    def before(p: Pair, at_source: bool, input: i.Input) -> bool:
        if not at_source and isinstance(input, i.Received) and input.conn == 1:
            bend(p.destination)
        return True

    pair.before = before
    error = pair.run()[0]
    assert (error.code, error.item) == (code, item) and error.source


def test_a_changed_conversation_is_a_transcript_error() -> None:
    def one_ignored_flag_changed(from_source: bool, conn: int, data: bytes) -> bytes:
        starts = from_source and conn == 0 and data[:8] == frames.INITIATOR
        return data[:14] + bytes([data[14] ^ 1]) + data[15:] if starts else data

    assert Pair(edit=one_ignored_flag_changed).run()[0].code == "transcript"


def test_a_channel_lost_before_ready_and_control_lost_later_are_named() -> None:
    pair = Pair()

    def before(p: Pair, at_source: bool, input: i.Input) -> bool:
        if at_source and isinstance(input, i.Received) and input.conn == 1:
            input = i.Broken(1, "Connection reset by peer")
            p.source.handle(input)
            p.source.handle(i.Ended(0))
            return False
        return True

    pair.before = before
    error = pair.run()[0]
    assert (error.code, error.item, error.source) == ("channel-lost", "channel[main]", "closed")
    later = losing(i.RamCollected, lambda p: p.source.handle(i.Broken(0, "Connection reset by peer")))
    assert later.run()[0].code == "connection-lost"


def test_a_guest_that_could_not_be_started_after_go_is_given_back() -> None:
    pair = Pair()
    pair.answers[i.RunGuest] = i.GuestRunning("the QEMU there is gone")
    error = pair.run()[0]
    assert (error.code, error.destination) == ("needs-restart", "the QEMU there is gone")
    assert pair.source.finished is not None and pair.source.finished.status == "failed"
    assert pair.destination.finished is not None and not pair.destination.running


def test_channels_that_are_not_bound_by_the_deadline_are_named() -> None:
    pair = Pair()

    def before(p: Pair, at_source: bool, input: i.Input) -> bool:
        lost = isinstance(input, i.Received) and input.conn == 1
        if lost and p.source.finished is None:
            p.source.handle(i.Cancel("deadline"))
        return not lost

    pair.before = before
    codes = [e.code for e in pair.run()]
    assert codes == ["deadline", "channel-missing"]


def test_a_broken_manifest_is_named() -> None:
    good = manifest.write(TCP)
    assert manifest.check(good, TCP) == ()
    for bad in (b"QEVM", good[:20], good[:-1] + b"x"):
        assert manifest.check(bad, TCP)[0].code == "manifest"
    assert manifest.check(good, machine(type="pc-q35-7.2"))[0].code == "machine-type"


def test_no_code_of_the_catalogue_is_left_out() -> None:
    elsewhere = {
        "apply-failed",
        "port",
        "needs-restart",
        "busy",
        "transcript",
        "channel-lost",
        "connection-lost",
        "channel-missing",
        "handshake-timeout",
        "peer-silent",
    } | set(channel_codes())
    assert set(Code) == set(CASES) | elsewhere
