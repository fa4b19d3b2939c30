"""What is at the other end when nobody is: a file, or the command of `exec:`.

`file:` and `exec:cat > FILE` keep the bytes, and a destination loads them afterwards; `exec:tee` echoes them too;
`exec:true` is gone at once.
"""

from __future__ import annotations

from ..handshake.interface import Ended, Finished, Opened, Received, Start
from ..handshake.names import Reason, Status
from ..handshake.v2 import manifest
from .net import PIPE, Connection, End
from .world import World


class File:
    """Takes the source's one connection (or, with mapped-ram, several) as its listener and keeps what comes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kind = world.scenario.link.transport
        self.chunks: list[tuple[bytes, int]] = []
        world.net.listening = True
        world.net.backlog = 256
        world.source.other = self  # type: ignore[assignment]
        world.net.on_established = self.accept

    def accept(self) -> None:
        while self.world.net.accept_queue:
            connection = self.world.net.accept_queue.popleft()
            connection.accepted = True
            self._take(connection)

    def _take(self, connection: Connection) -> None:
        if self.kind == "exec-true":
            connection.client.dead = True
            self.world.source.broken(connection.client, PIPE)
        else:
            self.world.net.read(connection.server)

    def arrived(self, end: End, data: bytes, fill: int) -> None:
        if end.connection.name in ("main", "control"):
            self.chunks.append((data, fill))
        if self.kind == "exec-tee":
            self.world.net.send(end, data, fill)
            end.reading = not end.queue  # it reads on when its echo has been taken

    def ended(self, end: End) -> None:
        """The source has closed the file."""

    def broken(self, end: End, why: str) -> None:
        """The source has died."""

    def drained(self, end: End) -> None:
        """The echo has been taken."""
        end.reading = True
        self.world.net.read(end)

    def _manifest_refuses(self) -> bool:
        """The manifest stands before the stream: what is wrong is known before a page is read, and reported by name."""
        world = self.world
        data = manifest.write(world.source.endpoint.settings)
        errors = manifest.check(data, world.destination.endpoint.settings)
        for e in errors:
            world.trace.note(world.env.now, "destination", "print", "manifest", f"{e.code}: {e.text}")
        wrong = tuple(e for e in errors if e.severity == "error")
        if wrong:
            world.management.refused = Finished(Status.REJECTED, str(wrong[0]), Reason.SPECIFIC, wrong, listening=True)
        return bool(wrong)

    def load(self) -> None:
        """A destination reads the file, from its beginning to its end."""
        destination, link = self.world.destination, self.world.scenario.link
        nothing = not self.chunks or self.kind in ("exec-null", "exec-true") or link.load_transport == "exec-none"
        ended = self.world.source.endpoint.finished
        failed = ended is not None and ended.status != "completed" and not self.world.scenario.management.loads_anyway
        if failed or nothing or (self.world.setup.definition.negotiates and not self.world.setup.saved):
            return
        if self.world.setup.saved and self._manifest_refuses():
            return
        destination.feed(Start())
        if destination.endpoint.finished is not None:
            return
        connection = Connection(len(self.world.net.connections), "main", self.world.source, destination)
        connection.accepted = connection.established = True
        destination.ends[0] = connection.server
        connection.server.number = 0
        destination.feed(Opened(0))
        for data, fill in self.chunks:
            destination.feed(Received(0, data, fill))
        destination.feed(Ended(0))
