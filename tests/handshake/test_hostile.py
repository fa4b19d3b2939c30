"""Whatever a peer sends, no exception leaves the door, nothing hangs, and no guest is lost."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simlib.case.files import find
from simlib.handshake import interface as i
from simlib.handshake.detect import Adaptive
from simlib.handshake.errors import PeerError
from simlib.handshake.machine import Machine, Settings
from simlib.handshake.v1.destination import Destination as V1Destination
from simlib.handshake.v1.source import Source as V1Source
from simlib.handshake.v2 import body, frames, messages, states
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.source import Source
from simlib.world.run import play
from simlib.world.world import World

TCP = Settings(machine=Machine())
MULTIFD = Settings(machine=Machine(), capabilities=("multifd", "return-path"))
ENDPOINTS: dict[str, Any] = {
    "v2 source": lambda: Source(TCP, SessionConfig()),
    "v2 destination": lambda: Destination(TCP, SessionConfig()),
    "adaptive destination": lambda: Adaptive(TCP, SessionConfig()),
    "v1 source": lambda: V1Source(MULTIFD),
    "v1 destination, 7.2": lambda: V1Destination(Settings("7.2", Machine(), ("multifd",))),
    "v1 destination, 10.0": lambda: V1Destination(MULTIFD),
}
BEGINNINGS = (
    b"",
    frames.preface(frames.INITIATOR, bytes(16)),
    frames.preface(frames.RESPONDER, bytes(16)),
    b"QEVM\0\0\0\3",
)
QUICK = settings(derandomize=True, deadline=None, max_examples=60)


def conversation(name: str, protocol: str) -> list[tuple[bool, bytes]]:
    """The bytes of a good run on its first connection: (from the source, bytes)."""
    world = World(find(name), protocol, "10.0", "naive", 1)
    play(world)
    return [(p.from_source, p.data) for p in world.trace.packets if p.connection == 0 and p.data]


GOOD = {p: conversation("matched", p) for p in ("v1", "v2")}


def outputs(endpoint: Any, data: bytes, cut: int) -> list[i.Output]:
    out = endpoint.handle(i.Start()) + endpoint.handle(i.Opened(0))
    for at in range(0, len(data), cut):
        out += endpoint.handle(i.Received(0, data[at : at + cut]))
    return [*out, *endpoint.handle(i.Ended(0))]


@pytest.mark.parametrize("name", ENDPOINTS)
@QUICK
@given(start=st.sampled_from(BEGINNINGS), data=st.binary(max_size=600), cut=st.integers(1, 50))
def test_garbage_never_raises_and_starts_no_guest(name: str, start: bytes, data: bytes, cut: int) -> None:
    out = outputs(ENDPOINTS[name](), start + data, cut)
    assert not any(isinstance(o, (i.RunGuest, i.StopGuest)) for o in out)
    assert not any(isinstance(o, i.Finished) and o.status == "completed" for o in out)


@pytest.mark.parametrize(
    ("name", "protocol", "from_source"),
    [
        ("v2 destination", "v2", True),
        ("v2 source", "v2", False),
        ("v1 destination, 10.0", "v1", True),
        ("adaptive destination", "v2", True),
    ],
)
@QUICK
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.integers(1, 5000), drop=st.booleans())
def test_a_good_conversation_with_one_byte_wrong_never_raises(
    name: str, protocol: str, from_source: bool, at: int, bit: int, cut: int, drop: bool
) -> None:
    data = bytearray(b"".join(d for s, d in GOOD[protocol] if s == from_source))
    at %= len(data)
    if drop:
        del data[at]
    else:
        data[at] ^= 1 << bit
    outputs(ENDPOINTS[name](), bytes(data), cut)


def test_bytes_cut_anywhere_mean_the_same() -> None:
    data = b"".join(d for s, d in GOOD["v2"] if s)
    whole = [o for o in outputs(Destination(TCP, SessionConfig()), data, len(data)) if not isinstance(o, i.Received)]
    for cut in (1, 2, 3, 31, 32, 33, 1000):
        assert outputs(Destination(TCP, SessionConfig()), data, cut) == whole


def test_a_peer_that_never_completes_anything_is_not_stored_without_end() -> None:
    limit = SessionConfig().limits.frame_bytes
    for name in ("v2 source", "v2 destination"):
        endpoint = ENDPOINTS[name]()
        magic = frames.RESPONDER if name == "v2 source" else frames.INITIATOR
        endpoint.handle(i.Start())
        endpoint.handle(i.Opened(0))
        endpoint.handle(i.Received(0, frames.preface(magic, bytes(16))))
        for _ in range(200):
            endpoint.handle(i.Received(0, b"\0\0\xff\xff\x01\x01" + bytes(limit // 4)))
        buffered = sum(len(link.reader.buffer) + len(link.heard) for link in endpoint.links.values())
        assert buffered + len(getattr(endpoint, "heard", b"")) <= 2 * SessionConfig().limits.handshake_bytes
        assert endpoint.finished if name == "v2 source" else endpoint.links[0].kind == "draining"


@pytest.mark.parametrize("role", [states.SOURCE, states.DESTINATION])
@pytest.mark.parametrize("type", sorted(messages.SHAPES))
def test_every_message_is_legal_or_refused_in_every_state(role: str, type: int) -> None:
    for state in states.SourceState if role == states.SOURCE else states.DestinationState:
        endpoint: Any = ENDPOINTS[f"v2 {role}"]()
        endpoint.handle(i.Start())
        endpoint.handle(i.Opened(0))
        magic = frames.RESPONDER if role == states.SOURCE else frames.INITIATOR
        endpoint.handle(i.Received(0, frames.preface(magic, bytes(16))))
        endpoint.state = state
        if state == states.SourceState.PACKAGE_LOADED:
            endpoint.stage = states.Stage.PACKAGE
        if role == states.DESTINATION:
            endpoint.control = 0
            endpoint.links[0] = endpoint.links[0]._replace(kind="control")
        out = endpoint.handle(i.Received(0, frames.frame(type, b"{}")))
        if endpoint.next_state(state, messages.MESSAGES[type]) is None:
            said = " ".join(o.text for o in out if isinstance(o, i.Said))
            if role == states.SOURCE:
                assert endpoint.finished, state
            elif state == states.DestinationState.GOING:  # the guest may run: it is printed, and nothing is ended
                assert [o.__class__ for o in out] == [i.Printed], out
            else:
                assert said.startswith(("REJECT", "ERROR")), (state, out)
        assert not any(isinstance(o, i.RunGuest) for o in out) or (state, type) == ("loaded", messages.Go.TYPE)


@pytest.mark.parametrize("name", [n for n in ENDPOINTS if "adaptive" not in n])
def test_a_fork_goes_its_own_way_and_equal_histories_have_equal_keys(name: str) -> None:
    one, two = ENDPOINTS[name](), ENDPOINTS[name]()
    for endpoint in (one, two):
        endpoint.handle(i.Start())
        endpoint.handle(i.Opened(0))
    assert hash(one.key()) == hash(two.key()) and one.key() == two.key()
    fork = one.fork()
    fork.handle(i.Received(0, b"QEVM\0\0\0\3\x07\0"))
    fork.handle(i.Broken(0, "Connection reset by peer"))
    assert one.key() == two.key() != fork.key()


def test_cut_anywhere_never_loses_the_guest_nor_runs_two() -> None:
    scenario = find("matched_multifd").vary(guest__ram_mib=1)
    quiet = World(scenario, "v2", "10.0", "naive", 1)
    play(quiet)
    for step in {round(s.time_s + shift, 6) for s in quiet.trace.steps for shift in (0, 2e-5)}:
        world = World(scenario, "v2", "10.0", "naive", 1)
        world.env.call(step, world.net.cut)
        row = play(world).row
        assert row.outcome in ("migrated", "refused", "failed", "uncertain"), (step, row)
        assert row.guest_at != "nowhere", (step, row)


def test_cancel_anywhere_never_loses_the_guest_nor_runs_two() -> None:
    scenario = find("matched_multifd").vary(guest__ram_mib=1)
    quiet = World(scenario, "v2", "10.0", "naive", 1)
    play(quiet)
    for step in {round(s.time_s + shift, 6) for s in quiet.trace.steps for shift in (0, 2e-5)}:
        row = play(World(scenario.vary(management__cancel_at_s=step), "v2", "10.0", "naive", 1)).row
        assert row.outcome in ("migrated", "refused", "failed"), (step, row)


# --- bodies ---------------------------------------------------------------------------------------------------------
ODD = st.sampled_from(
    (
        "x",
        "\u00e9",
        "\ud800",
        'a "quoted" word',
        "s" * 4096,
        "s" * 4097,
        0,
        True,
        None,
        1.5,
        (1 << 64) - 1,
        1 << 64,
        -(1 << 63),
        -(1 << 63) - 1,
        [],
        {},
        [[[[1]]]],
        {"?a": {"b": ["c"]}},
        [0] * 8193,
        *(json.loads("[" * n + "]" * n) for n in range(12, 18)),
    )
).map(deepcopy)
LEAF: dict[Any, Any] = {dict: {"any": 7}, str: "name", int: 7, bool: False, None: [1, "two", {"three": None}]}


def fitting(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {key.rstrip("?"): fitting(inner) for key, inner in shape.items()}
    return [fitting(shape[0])] * 2 if isinstance(shape, list) else LEAF[shape]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [path, *(p for key, inner in inside for p in places(inner, (*path, key)))]


def read(payload: bytes, type: int) -> Any:
    try:
        return body.load(payload, messages.SHAPES[type], "body")
    except PeerError as error:
        return error.error


@settings(QUICK, max_examples=400)
@given(st.data())
def test_what_is_passed_at_a_glance_is_what_a_close_look_would_pass(data: st.DataObject) -> None:
    type = data.draw(st.sampled_from(sorted(messages.SHAPES)))
    content = json.loads(json.dumps(fitting(messages.SHAPES[type])))
    for _ in range(data.draw(st.integers(0, 2))):
        *path, last = data.draw(st.sampled_from(places(content)[1:] or [("?more",)]))
        at = content
        for key in path:
            at = at[key]
        change = data.draw(st.sampled_from(("value", "mark", "gone", "more")))
        if change == "value" or isinstance(at, list):
            at[last] = data.draw(ODD)
        elif change == "more":
            at[data.draw(st.sampled_from(("more", "?more")))] = data.draw(ODD)
        elif value := at.pop(last, None):
            at.update({f"?{last}": value} if change == "mark" else {})
    payload = json.dumps(content, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    payload = payload.replace(b": 7", data.draw(st.sampled_from((b": 7", b': 7, "a": 7', b": -0", b": 7}"))), 1)
    expected = read(payload, type)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body, "_takes_fast_path", lambda payload: False)
        assert read(payload, type) == expected


def test_memory_blocks_without_bytes_do_not_go_on_for_ever() -> None:
    from simlib.handshake.loader import Loader, StreamError
    from simlib.handshake.machine import RamBlock
    from simlib.handshake.stream import BLOCKS_LIMIT, header

    machine = Machine(ram_blocks=(RamBlock("rom", 4096, resizable=True),))
    start = header(Settings(machine=machine)) + b"\x01\0\0\0\2\3ram\0\0\0\0\0\0\0\4" + b"\0\0\1" + bytes(5)
    loader = Loader(Settings(machine=machine))
    loader.feed(start)
    assert loader.next_event() == ("machine", machine.type) and loader.next_event() is None
    with pytest.raises(StreamError, match="memory blocks"):
        for _ in range(BLOCKS_LIMIT + 1):
            for byte in b"\3rom" + bytes(8):
                loader.feed(bytes([byte]))
                loader.next_event()
