"""`simlib serve` and `simlib connect`: one side each, between any two hosts; `simlib certificates` for their TLS."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
import textwrap
from argparse import Namespace
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path

from ..case.endpoints import Case
from ..case.registry import ScenarioError
from ..case.scenario import GuestFacts, Link, Scenario, Side
from ..handshake.errors import Error
from ..handshake.interface import Cancel, Finished, Start
from ..live.address import (
    Address,
    bound,
    inline_socket,
    parse,
)
from ..live.host import Host
from ..live.tls import Credentials, make_credentials
from ..record.capture import Capture, Segment
from ..record.trace import Packet, Trace

KEPT_STEPS = 100_000  # of a listener that runs for days: the last ones


class StreamingTrace(Trace):
    """A trace that is printed while it grows, and whose packets go to a file at once: any number of intruders does not
    make it grow without limit. `on_output_closed` is called when the output can't be written any more."""

    def __init__(self, shown: bool, pcap: Path | None = None, tls: bool = False) -> None:
        """With `tls` the capture holds the secrets too. Raises OSError."""
        super().__init__()
        self.shown, self.pcap = shown, pcap
        self.lost = False
        self.on_output_closed: Callable[[], object] = lambda: None
        self.capture = Capture(pcap, "simlib, real sockets", private=tls) if pcap else None
        self.unwritten: list[Segment] = []  # until the secrets that open them are there
        self.known: set[int] = set()  # connections

    def note(self, time_s: float, side: str, kind: str, connection: str, text: str) -> None:
        super().note(time_s, side, kind, connection, text)
        if self.shown:
            try:
                print(self.line(self.steps.pop()), flush=True)
            except OSError as error:
                self.shown, self.lost = False, True
                _report_error(f"output: {error.strerror}: nothing more is told")
                self.on_output_closed()
        elif len(self.steps) >= 2 * KEPT_STEPS:
            del self.steps[:KEPT_STEPS]

    def keep(self, packet: Packet) -> None:
        def written(capture: Capture) -> None:
            self._write_out(capture)
            self.unwritten = [*self._segments(packet)]

        self._captured(written)

    def keep_secret(self, line: bytes) -> None:
        self._captured(lambda capture: capture.add_secrets(line))

    def close(self) -> None:
        """Write what is still held, and close the capture."""

        def ended(capture: Capture) -> None:
            self._write_out(capture)
            capture.close()

        self._captured(ended)

    def _write_out(self, capture: Capture) -> None:
        for segment in self.unwritten:
            capture.add(segment)

    def _segments(self, packet: Packet) -> Iterator[Segment]:
        time_ns, connection = round(packet.time_s * 1e9), packet.connection
        if connection not in self.known:  # its opening is the kernel's own, of which nothing was recorded
            self.known.add(connection)
            for from_source, kind in ((True, "syn"), (False, "syn-ack"), (True, "ack")):
                yield Segment(time_ns, connection, from_source, kind)
        yield Segment(time_ns, connection, *packet[2:])

    def _captured(self, act: Callable[[Capture], object]) -> None:
        """If there is a capture. It ends where it can't go on; the run does not."""
        if self.capture is None:
            return
        try:
            act(self.capture)
        except (OSError, ValueError) as error:  # a full disk; more connections than ports
            _report_error(f"{self.pcap}: {getattr(error, 'strerror', error)}: the capture ends there")
            capture, self.capture = self.capture, None
            with suppress(OSError):  # it was reported
                capture.close()


def _report_error(text: str) -> None:
    """Report an error in the middle of a run, which goes on even if stderr is gone too."""
    with suppress(OSError):
        print(f"simlib: {text}", file=sys.stderr, flush=True)


def _setup(options: Namespace, at_source: bool) -> Case:
    """Raises ValueError."""
    address = parse(options.address)
    transport = "exec-socat" if address.kind == "exec" else address.kind
    channels = getattr(options, "channels", 0)
    capabilities = tuple(options.capability) + (("multifd",) if channels else ())
    if address.kind == "fd":
        inline_socket(address)[0].detach()  # report an error now
    if address.inline and channels:
        raise ValueError(f"{address} is one pair of pipes: --channels needs tcp: or unix:")
    side = Side(
        machine=options.profile,
        capabilities=capabilities,
        exit_on_error=False,
        parameters=({"multifd-channels": channels} if channels else {})
        | ({"tls-creds": str(options.tls)} if options.tls else {}),
        accept=getattr(options, "accept", "v2"),
        psk=_secret(options.psk_file),
        session=options.session,
        require=tuple(options.require),
        forbid=tuple(options.forbid),
        on_maybe=getattr(options, "on_maybe", "warn"),
    )
    scenario = Scenario(
        name="live",
        title="live",
        versions=(options.qemu,),
        source=side,
        destination=side,
        link=Link(transport),
        guest=GuestFacts(ram_mib=getattr(options, "ram_mib", 0.0)),
    )
    setup = Case(scenario, options.protocol, options.qemu, seed=secrets.randbits(128))
    try:
        setup.settings(at_source)
    except ScenarioError as error:
        raise ValueError(str(error).removeprefix("live: ")) from None
    if refused := setup.refused():
        raise ValueError(refused[1].text)
    return setup


def _secret(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: can't be read as a secret: {error}") from None
    if len(text) < 16:
        raise ValueError(f"{path}: a secret of {len(text)} characters is too short; 16 are the least")
    return text


def _host(options: Namespace, setup: Case, at_source: bool, trace: Trace) -> Host:
    address = parse(options.address)
    credentials = None
    if options.tls:
        hostname = getattr(options, "tls_hostname", "") or (address.host if address.kind == "tcp" else "localhost")
        credentials = Credentials(options.tls, hostname)
        credentials.context(server=not at_source)  # report an error now, not in the middle
    host = Host(
        "source" if at_source else "destination",
        setup.source() if at_source else setup.destination(),
        trace,
        setup.guest(at_source),
        peer=address,
        credentials=credentials,
        record="both" if options.pcap else "",
    )
    host.guest.running = at_source
    return host


def serve(options: Namespace) -> int:
    """Listen until a guest has come, or until a signal. Raises ValueError, OSError."""
    setup = _setup(options, at_source=False)

    async def work(stop: asyncio.Event, trace: StreamingTrace) -> int:
        host = _host(options, setup, False, trace)
        try:
            address = parse(options.address)
            if not address.inline:
                await _listen(host, address)
            host.feed(Start())
            if address.inline:
                await _listen(host, address)
            elif host.listener is not None:
                print(
                    f"listening on {bound(host.listener)} ({options.profile}, QEMU {options.qemu}); Ctrl-C ends it",
                    file=sys.stderr,
                    flush=True,
                )
            await _ended(host, stop)
            if host.over and host.endpoint.finished is None:
                print(f"simlib: {address}: its other end is gone, and no guest has come", file=sys.stderr)
            return _report(options, host, trace, stop.is_set())
        finally:
            await _close(host)

    return _run(options, work)


async def _listen(host: Host, address: Address) -> None:
    try:
        await host.listen(address)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(address)) from None


def connect(options: Namespace) -> int:
    """One migration of a made-up guest. Ctrl-C cancels it. Raises ValueError, OSError."""
    setup = _setup(options, at_source=True)

    async def work(stop: asyncio.Event, trace: StreamingTrace) -> int:
        host = _host(options, setup, True, trace)
        try:
            host.feed(Start())
            await _ended(host, stop)
            if stop.is_set() and host.endpoint.finished is None:
                host.feed(Cancel())
                with suppress(TimeoutError):
                    await asyncio.wait_for(_ended(host, asyncio.Event()), 2.0)
            return _report(options, host, trace, stop.is_set())
        finally:
            await _close(host)

    return _run(options, work)


def certificates(options: Namespace) -> int:
    """A CA, a server and a client, in the layout of QEMU's tls-creds-x509."""
    if (options.folder / "ca-cert.pem").exists():
        raise ValueError(f"{options.folder}: holds certificates already; name another folder")
    make_credentials(options.folder, *options.hostname)
    names = ", ".join(options.hostname) or "localhost"
    print(
        f"{options.folder}: a CA, a server ({names}) and a client; copy it to the other host, give it to --tls on both"
    )
    return 0


def _run(options: Namespace, work: Callable[[asyncio.Event, StreamingTrace], Coroutine[object, object, int]]) -> int:
    async def whole() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        with closing(StreamingTrace(not options.json, options.pcap, bool(options.tls))) as trace:
            trace.on_output_closed = stop.set
            status = await work(stop, trace)
            return 1 if trace.lost else status

    return asyncio.run(whole())


async def _ended(host: Host, stop: asyncio.Event) -> None:
    """Wait until it has ended, no peer can come any more, or `stop` is set."""
    stopped = asyncio.ensure_future(stop.wait())
    while host.endpoint.finished is None and not host.over and not stop.is_set():
        host.changed.clear()
        changed = asyncio.ensure_future(host.changed.wait())
        await asyncio.wait({changed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
    stopped.cancel()


async def _close(host: Host) -> None:
    await asyncio.sleep(0.05)  # the last messages go out
    host.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def _report(options: Namespace, host: Host, trace: Trace, stopped: bool) -> int:
    end = host.endpoint.finished
    good = end is not None and end.status == "completed"
    if options.json:
        errors = [asdict(e) for e in (end.errors if end else ())]
        contents = {
            "status": end.status if end else "none",
            "text": end.text if end else "",
            "errors": errors,
            "guest_bytes": host.guest_bytes or host.endpoint.ram_bytes if good else host.guest_bytes,
            "time_s": host.finished_s,
            "steps": trace.rows(),
        }
        json.dump(contents, sys.stdout, indent=1)
        print()
    elif end is not None:
        print_end(end)
    return 0 if good else 130 if stopped else 1


def print_end(end: Finished) -> None:
    print(f"\n{end.status}" + (f": {end.text}" if end.text else ""))
    for line in table(end.errors):
        print(line)


def table(errors: tuple[Error, ...]) -> list[str]:
    """Errors as lines for people: item, both values, the sentence, what to do."""
    if not errors:
        return []
    rows = [("item", "source", "destination"), *((e.item or e.code, e.source, e.destination) for e in errors)]
    wide = [min(max(len(r[n]) for r in rows), 36) for n in range(3)]
    lines = []
    for row, error in zip(rows, (None, *errors), strict=True):
        lines.append(
            "  "
            + "  ".join(
                textwrap.shorten(c or "-", w or 1, placeholder="…").ljust(w) for c, w in zip(row, wide, strict=True)
            ).rstrip()
        )
        if error is not None:
            lines += [f"      {line}" for line in textwrap.wrap(f"{error.code}: {error.text} {error.hint}", 100)]
    return lines
