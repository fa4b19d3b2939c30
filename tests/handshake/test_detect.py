"""The adaptive destination: eight bytes decide, one connection at a time, and then it is the endpoint that it chose."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simlib.handshake import interface as i
from simlib.handshake import stream
from simlib.handshake.detect import Adaptive
from simlib.handshake.machine import Settings
from simlib.handshake.names import Status
from simlib.handshake.v1.destination import Destination as V1Destination
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.frames import ALPN, INITIATOR, Limits
from tests.handshake.builders import QUICK, SIZES, SMALL, cut, main_stream, printed, small

OURS, TLS = small("return-path"), small("return-path", tls=True)
MAGICS = (stream.MAGIC, stream.MULTIFD_MAGIC)
GUARD_S = 7.5
CONFIG = SessionConfig(limits=Limits(unauthenticated=3, guard_s=GUARD_S))


def adaptive(ours: Settings = OURS, config: SessionConfig = CONFIG) -> Adaptive:
    endpoint = Adaptive(ours, config)
    endpoint.handle(i.Start())
    return endpoint


def undecided(data: bytes) -> bool:
    """Whether these bytes may still become either protocol's."""
    return len(data) < 4 or INITIATOR.startswith(data)


def without_guards(outputs: list[i.Output]) -> list[i.Output]:
    return [o for o in outputs if not isinstance(o, (i.SetAlarm, i.StopAlarm))]


# --- the decision ---------------------------------------------------------------------------------------------------
@QUICK
@given(SIZES, st.integers(0, 3))
def test_a_v1_stream_in_whatever_pieces_leads_to_what_v1_s_destination_does_with_them(
    sizes: list[int], strangers: int
) -> None:
    """Strangers that came before are not connections of v1's."""
    endpoint, plain = adaptive(), V1Destination(OURS)
    for conn in range(strangers):
        endpoint.handle(i.Opened(conn))
        endpoint.handle(i.Ended(conn))
    actual, expected = [], [*plain.handle(i.Start()), *plain.handle(i.Opened(0))]
    actual += endpoint.handle(i.Opened(strangers))
    for data, fill in cut(main_stream(OURS), sizes):
        actual += endpoint.handle(i.Received(strangers, data, fill))
        expected += plain.handle(i.Received(0, data, fill))
    renumbered = [replace(o, conn=strangers) if hasattr(o, "conn") else o for o in expected]  # type: ignore[arg-type]
    assert without_guards(actual) == renumbered
    assert (endpoint.speaks, endpoint.status, endpoint.ram_bytes) == ("v1", plain.status, 8192)


@QUICK
@given(SIZES)
def test_the_preface_in_whatever_pieces_leads_to_the_handshake(sizes: list[int]) -> None:
    endpoint = adaptive()
    endpoint.handle(i.Opened(0))
    came = b""
    for data, _ in cut([(INITIATOR, 0)], sizes):
        assert endpoint.speaks == ""
        endpoint.handle(i.Received(0, data))
        came += data
    assert came == INITIATOR and endpoint.speaks == "v2" and endpoint.accepting


@pytest.mark.parametrize("magic", MAGICS)
@QUICK
@given(rest=st.binary(max_size=4))
def test_either_magic_of_v1_decides_for_it(magic: bytes, rest: bytes) -> None:
    endpoint = adaptive()
    endpoint.handle(i.Opened(0))
    endpoint.handle(i.Received(0, magic[:3]))
    assert endpoint.speaks == ""
    endpoint.handle(i.Received(0, magic[3:] + rest))
    assert endpoint.speaks == "v1"


@QUICK
@given(st.binary(min_size=1, max_size=12) | st.integers(1, 7).map(lambda n: INITIATOR[:n] + b"?"))
def test_what_is_neither_protocol_s_is_dropped_without_a_word_and_the_next_connection_decides(data: bytes) -> None:
    endpoint = adaptive()
    endpoint.handle(i.Opened(0))
    out = endpoint.handle(i.Received(0, data))
    if data[:8] == INITIATOR or data[:4] in MAGICS:
        return
    if undecided(data[:8]):
        assert out == []
    else:
        shown = f"connection 0: neither v1 nor v2: {data[:8].hex(' ')}"
        assert out == [i.Printed(shown), i.StopAlarm("guard-0"), i.Drop(0, unread=True)]
    endpoint.handle(i.Opened(1))
    endpoint.handle(i.Received(1, stream.MAGIC))
    assert endpoint.speaks == "v1"


def test_bytes_of_two_connections_are_not_put_together() -> None:
    endpoint = adaptive()
    for conn, data in ((0, stream.MAGIC[:2]), (1, stream.MAGIC[2:])):
        endpoint.handle(i.Opened(conn))
        endpoint.handle(i.Received(conn, data))
    assert endpoint.speaks == ""
    endpoint.handle(i.Received(0, stream.MAGIC[2:]))
    assert endpoint.speaks == "v1"


def test_what_other_connections_have_sent_before_the_decision_is_handed_over_in_order() -> None:
    """multifd's channel overtook main."""
    ours = small("multifd", channels=1)
    endpoint = adaptive(ours)
    packet = stream.multifd_initial(SMALL, 0)
    endpoint.handle(i.Opened(4))
    endpoint.handle(i.Opened(5))
    endpoint.handle(i.Received(4, packet[:3]))
    out = endpoint.handle(i.Received(5, stream.header(ours)))
    out += endpoint.handle(i.Received(4, packet[3:]))
    assert endpoint.chosen is not None
    assert dict(endpoint.chosen.bound_channels()) == {"multifd[0]": 0, "main": 1}
    assert {o.conn for o in out if isinstance(o, (i.Heard, i.Pause, i.Resume))} == {4, 5}
    assert endpoint.status == Status.ACTIVE


# --- who does not decide --------------------------------------------------------------------------------------------
def test_a_connection_that_is_silent_for_as_long_as_its_guard_lasts_is_dropped() -> None:
    endpoint = adaptive()
    assert endpoint.handle(i.Opened(12)) == [i.SetAlarm("guard-12", GUARD_S)]
    endpoint.handle(i.Opened(3))
    out = endpoint.handle(i.AlarmRang("guard-12"))
    assert out == [i.Printed("connection 12: said nothing in time"), i.StopAlarm("guard-12"), i.Drop(12, unread=True)]
    assert endpoint.handle(i.AlarmRang("guard-12")) == []
    assert endpoint.handle(i.Received(12, stream.MAGIC)) == [] and endpoint.speaks == ""
    endpoint.handle(i.Received(3, stream.MAGIC))
    assert endpoint.speaks == "v1"


def test_without_a_guard_no_alarm_is_set() -> None:
    endpoint = adaptive(config=SessionConfig(limits=Limits(guard_s=0)))
    assert endpoint.handle(i.Opened(0)) == []


def test_guards_are_stopped_once_the_protocol_is_known() -> None:
    endpoint = adaptive()
    for conn in (0, 1):
        endpoint.handle(i.Opened(conn))
    out = endpoint.handle(i.Received(1, stream.MAGIC))
    assert [o for o in out if isinstance(o, (i.SetAlarm, i.StopAlarm))] == [
        i.StopAlarm("guard-0"),
        i.StopAlarm("guard-1"),
    ]


@QUICK
@given(st.integers(1, 6), st.integers(1, 4))
def test_of_too_many_silent_connections_the_oldest_goes(number: int, limit: int) -> None:
    endpoint = adaptive(config=SessionConfig(limits=Limits(unauthenticated=limit)))
    out = [o for conn in range(number) for o in endpoint.handle(i.Opened(conn))]
    assert [o.conn for o in out if isinstance(o, i.Drop)] == [*range(max(0, number - limit))]
    assert printed(out).count("said nothing while others came") == max(0, number - limit)


@pytest.mark.parametrize("left", [i.Ended(0), i.Broken(0, "reset"), i.TlsFailed(0, "no certificate")])
def test_who_leaves_before_the_decision_leaves_nothing_behind(left: i.Input) -> None:
    endpoint = adaptive()
    before = endpoint.key()
    endpoint.handle(i.Opened(0))
    endpoint.handle(i.Received(0, b"QE"))
    out = endpoint.handle(left)
    text = "TLS handshake failed: no certificate" if isinstance(left, i.TlsFailed) else "left without a word"
    assert out == [i.Printed(f"connection 0: {text}"), i.StopAlarm("guard-0"), i.Drop(0, unread=True)]
    assert endpoint.key() == before and endpoint.handle(left) == []


def test_v1_hears_nothing_of_connections_that_were_dropped_before_it_was_chosen() -> None:
    endpoint = adaptive()
    for input in (i.Opened(0), i.Opened(1), i.Received(1, stream.MAGIC)):
        endpoint.handle(input)
    gone = adaptive()
    for late in (i.Opened(7), i.Ended(7), i.Opened(0), i.Opened(1), i.Received(1, stream.MAGIC)):
        gone.handle(late)
    assert gone.handle(i.Received(7, b"late")) == [] and gone.chosen is not None and endpoint.chosen is not None
    assert gone.chosen.key() == endpoint.chosen.key()


# --- TLS, and what it shows -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("first", [stream.MAGIC, INITIATOR])
def test_tls_is_asked_for_once_with_v2_s_name_whichever_protocol_follows(first: bytes) -> None:
    endpoint = adaptive(TLS)
    out = endpoint.handle(i.Opened(0))
    assert [o for o in out if isinstance(o, i.StartTls)] == [i.StartTls(0, ALPN)]
    out = [*endpoint.handle(i.Secured(0)), *endpoint.handle(i.Received(0, first))]
    assert endpoint.speaks == ("v1" if first == stream.MAGIC else "v2")
    assert not [o for o in out if isinstance(o, i.StartTls)]


def test_it_shows_what_a_listening_qemu_shows_until_it_has_chosen() -> None:
    endpoint = Adaptive(OURS, CONFIG)
    assert (endpoint.status, endpoint.accepting) == (Status.NONE, False)
    assert endpoint.handle(i.Start()) == [i.Entered(Status.SETUP)]
    seen = endpoint.speaks, endpoint.status, endpoint.accepting, endpoint.blocked, endpoint.ram_bytes, endpoint.finished
    assert seen == ("", Status.SETUP, True, None, 0, None)


def test_once_it_has_chosen_it_shows_what_the_chosen_endpoint_shows() -> None:
    endpoint = adaptive(TLS)
    for input in (i.Opened(0), i.Secured(0), i.Received(0, stream.MAGIC), i.Opened(1)):
        endpoint.handle(input)
    chosen = endpoint.chosen
    assert chosen is not None and endpoint.blocked == chosen.blocked == 1
    assert chosen.handle(i.Received(0, b"garbage"))
    assert endpoint.finished is not None and endpoint.finished == chosen.finished
    assert (endpoint.status, endpoint.accepting) == (Status.FAILED, False)
