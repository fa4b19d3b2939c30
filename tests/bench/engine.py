"""Item 4: the engine's own cost, beside a TLS 1.3 handshake in memory and beside json.loads."""

from __future__ import annotations

import json
import ssl
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trustme

from simlib.handshake import stream
from simlib.handshake.loader import Loader, Position
from simlib.handshake.v2 import body, features, frames, inventory, messages, wire
from simlib.handshake.v2.config import SessionConfig

from .bare import pair, pump, scenario
from .handshake import devices
from .measure import Line, middle, over, rounds

CHUNK_BYTES = 64 << 10


def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server with a P-256 certificate, and a client that checks it and the name."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    authority.issue_cert("host", key_type=trustme.KeyType.ECDSA).configure_cert(server)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ca.pem"
        authority.cert_pem.write_to_path(str(file))
        client.load_verify_locations(file)
    return server, client


def tls_handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Both sides, in memory, to the end."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(back, there, server_hostname="host"), server.wrap_bio(there, back, server_side=True)]
    waiting = list(sides)
    while waiting:
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert sides[0].version() == "TLSv1.3"


def against_tls(times: int) -> Iterator[Line]:
    contexts = tls_contexts()
    make, small = pair("v2", 0), pair("v2", 0, devices(0))
    samples = rounds(
        {
            "ours": lambda: pump(*make(), until="active"),
            "small": lambda: pump(*small(), until="active"),
            "tls": partial(tls_handshake, *contexts),
        },
        times,
    )
    yield Line(
        4,
        "v2 from the first byte to READY, 47 devices, both sides",
        "TLS 1.3 in memory (P-256), both sides",
        over(samples, "ours", "tls"),
        1.0,
        0.5,
        note=f"{middle(samples, 'ours') * 1e6:.0f} us; {ssl.OPENSSL_VERSION}",
    )
    yield Line(
        4,
        "v2 from the first byte to READY, no devices, both sides",
        "TLS 1.3 in memory (P-256), both sides",
        over(samples, "small", "tls"),
        note=f"{middle(samples, 'small') * 1e6:.0f} us",
    )


OFFER = messages.Offer.TYPE


def offered(count: int) -> tuple[bytes, Any]:
    """An OFFER of so many devices as bytes, and its sender's settings."""
    settings = replace(scenario(0).settings(True, "10.0"), machine=devices(count))
    offer = messages.offer(settings, SessionConfig(), features.stances(settings, True, (), ()))
    return body.dump(wire.to_body(offer)), settings


def parse(payload: bytes, limits: frames.Limits) -> Any:
    """Frames of at most their limit, put together again; the body checked against its shape."""
    parts = [payload[n : n + limits.frame_bytes] for n in range(0, len(payload), limits.frame_bytes)]
    more = frames.CRITICAL | frames.MORE
    data = b"".join(frames.frame(OFFER, p, more) for p in parts[:-1]) + frames.frame(OFFER, parts[-1])
    reader = frames.Reader(frames.INITIATOR, limits, got_preface=True)
    for at in range(0, len(data), CHUNK_BYTES):
        reader, item = reader.add(data[at : at + CHUNK_BYTES]).next()
        if isinstance(item, frames.Frame):
            content = body.load(item.payload, messages.SHAPES[OFFER], "OFFER")
            return messages.whole_machine(messages.read(OFFER, content))
    raise AssertionError("no OFFER")


def loaded(data: bytes, make: Callable[[], Loader]) -> None:
    loader = make()
    for at in range(0, len(data), CHUNK_BYTES):
        loader.feed(data[at : at + CHUNK_BYTES])
        while loader.next_event() is not None:
            pass
    assert loader.state == Position.AFTER_EOF, loader.state


def parsers(times: int) -> Iterator[Line]:
    payload, settings = offered(4096)
    parsed = parse(payload, frames.Limits())
    small, _ = offered(47)
    samples = rounds(
        {
            "offer": partial(parse, payload, frames.Limits()),
            "json": partial(json.loads, payload),
            "small": partial(parse, small, frames.Limits()),
            "small json": partial(json.loads, small),
            "verdict": partial(inventory.compare, parsed, settings.machine),
        },
        times,
    )
    rate = f"{len(payload) / 1e6 / middle(samples, 'offer'):.1f} MB/s, {len(payload):,} bytes"
    yield Line(
        4, "an OFFER of 4,096 devices, read and checked", "json.loads of it", over(samples, "offer", "json"), note=rate
    )
    rate = f"{len(small) / 1e6 / middle(samples, 'small'):.1f} MB/s, {len(small):,} bytes"
    yield Line(
        4,
        "an OFFER of 47 devices, read and checked",
        "json.loads of it",
        over(samples, "small", "small json"),
        note=rate,
    )
    yield Line(
        4,
        "the verdict on 4,096 devices against 4,096",
        "json.loads of them",
        over(samples, "verdict", "json"),
        note=f"{middle(samples, 'verdict') * 1e3:.1f} ms; {len(inventory.compare(parsed, settings.machine))} findings",
    )
    state = (
        stream.header(settings)
        + b"".join(d + bytes(fill) for d, fill in stream.device_state(3, settings.machine))
        + stream.end_of_stream(b"")
    )
    samples = rounds(
        {"loader": partial(loaded, state, lambda: Loader(settings)), "json": partial(json.loads, payload)}, times
    )
    yield Line(
        4,
        "v1's loader on 4,096 devices' state",
        "json.loads of their OFFER",
        over(samples, "loader", "json"),
        note=f"{len(state) / 1e6 / middle(samples, 'loader'):.1f} MB/s, {len(state):,} bytes",
    )


def lines(times: int) -> Iterator[Line]:
    yield from against_tls(times)
    yield from parsers(times)
