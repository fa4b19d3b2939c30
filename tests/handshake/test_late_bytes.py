"""What a peer, or a runner, does too late or twice: nothing escapes `handle`, and no second guest runs."""

from __future__ import annotations

from collections import deque

import pytest

from simlib.handshake import interface as i
from simlib.handshake import stream
from simlib.handshake.machine import Settings
from simlib.handshake.pump import pump
from simlib.handshake.v1.destination import Destination as V1Destination
from simlib.handshake.v1.source import Source as V1Source
from simlib.handshake.v2.config import SessionConfig
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.frames import frame
from simlib.handshake.v2.messages import Go, Loaded
from simlib.handshake.v2.source import Source

SETTINGS = Settings(capabilities=("postcopy-ram", "return-path"))
RUN = stream.command(stream.POSTCOPY_RUN)


def ready() -> tuple[Source, Destination, int]:
    """A pair in READY, and the destination's number of main."""
    source = Source(SETTINGS, SessionConfig(b"a" * 32))
    destination = Destination(SETTINGS, SessionConfig(b"b" * 32))
    pump(source, destination, until="active")
    assert destination.state == "ready"
    return source, destination, dict(destination.bound_channels())["main"]


def relayed() -> Source:
    """A source beside a QEMU, in postcopy: all has arrived there, which its own QEMU has yet to report."""
    sides = {
        "source": Source(SETTINGS, SessionConfig(b"a" * 32, relays=True)),
        "destination": Destination(SETTINGS, SessionConfig(b"b" * 32, relays=True)),
    }
    waiting: deque[tuple[str, i.Input]] = deque([("destination", i.Start()), ("source", i.Start())])
    later: deque[tuple[str, i.Input]] = deque(
        [
            ("source", i.GuestMoved(postcopy=True)),
            ("destination", i.Loaded(postcopy=True)),
            ("destination", i.Loaded()),
        ]
    )
    while waiting or later:
        side, input = (waiting or later).popleft()
        for output in sides[side].handle(input):
            other = "source" if side == "destination" else "destination"
            if isinstance(output, i.Open):
                waiting += [("source", i.Opened(output.conn)), ("destination", i.Opened(output.conn))]
            elif isinstance(output, i.Send):
                waiting.append((other, i.Received(output.conn, output.data, output.fill)))
            elif isinstance(output, i.Apply):
                waiting.append(("destination", i.Applied()))
            elif isinstance(output, i.RunGuest):
                waiting.append(("destination", i.GuestRunning()))
    source = sides["source"]
    assert isinstance(source, Source) and source.state == "completed" and source.finished is None
    return source


def test_a_second_package_is_refused() -> None:
    _, destination, main = ready()
    destination.handle(i.Received(main, stream.header(SETTINGS) + RUN))
    outputs = destination.handle(i.Received(main, RUN))
    assert "needs-restart" in " ".join(o.text for o in outputs if isinstance(o, i.Said))
    assert destination.finished and destination.finished.status == "failed"


@pytest.mark.parametrize("after", [b"\0", RUN])
def test_what_comes_behind_the_end_of_a_postcopy_is_not_read(after: bytes) -> None:
    _, destination, main = ready()
    destination.handle(i.Received(main, stream.header(SETTINGS) + RUN))
    destination.handle(i.Loaded())
    destination.handle(i.Received(next(iter(destination.links)), frame(Go.TYPE, b"{}")))
    destination.handle(i.GuestRunning())
    destination.handle(i.Received(main, b"\0" + after))
    assert destination.finished and destination.finished.status == "completed"


@pytest.mark.parametrize(
    "late",
    [i.Received(0, frame(Loaded.TYPE, b'{"bytes":0}')), i.Received(0, frame(Go.TYPE, b"{}")), i.Cancel()],
    ids=("LOADED", "GO", "cancel"),
)
def test_a_source_whose_guest_has_arrived_never_resumes_its_own(late: i.Input) -> None:
    source = relayed()
    outputs = [*source.handle(late), *source.handle(i.GuestMoved())]
    assert not any(isinstance(o, i.ResumeGuest) for o in outputs)
    assert source.finished and source.finished.status == "completed"


def test_a_destination_that_does_not_accept_ends_the_pump() -> None:
    assert pump(Source(SETTINGS), Destination(Settings(transport="file")))
    refused = Settings(capabilities=("x-ignore-shared", "postcopy-ram"))
    assert pump(V1Source(Settings()), V1Destination(refused))
