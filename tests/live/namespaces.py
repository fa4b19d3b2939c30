"""Two network namespaces: between them a relay that holds each packet back, or a cable with a token bucket, so that the
kernel's own TCP has real latency or a real rate. Needs root, ip(8), tc(8) and /dev/net/tun."""

from __future__ import annotations

import fcntl
import heapq
import itertools
import multiprocessing
import os
import select
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

TUN = Path("/dev/net/tun")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
SOURCE, DESTINATION = "10.99.0.1", "10.99.0.2"
MTU = 1500
WIRE_BYTES, PAYLOAD_BYTES = 1514, 1448  # of a full frame: Ethernet, IP, TCP with timestamps; what TCP carries in it


def missing() -> str:
    """What stands against it here; empty if nothing."""
    if os.geteuid() != 0 or not TUN.exists() or shutil.which("ip") is None or shutil.which("tc") is None:
        return "NO ROOT, NO TUN DEVICES, OR NO ip(8) AND tc(8)"
    result = subprocess.run(["ip", "netns", "add", "simlib-try"], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", "simlib-try"], capture_output=True, check=False)
    return f"NO NAMESPACES: {result.stderr.strip()}" if result.returncode else ""


@contextmanager
def namespaces(delay_ms: float) -> Iterator[tuple[list[str], list[str]]]:
    """What to write before a command so that it runs at SOURCE, and at DESTINATION; `delay_ms` is one way."""
    with ExitStack() as stack:
        ends = [_end(stack, f"sl{os.getpid()}{side}", own) for side, own in (("s", SOURCE), ("d", DESTINATION))]
        relay = multiprocessing.Process(target=_relay, args=(ends[0][1], ends[1][1], delay_ms / 1e3), daemon=True)
        relay.start()
        stack.callback(relay.join)
        stack.callback(relay.terminate)
        yield (["ip", "netns", "exec", ends[0][0]], ["ip", "netns", "exec", ends[1][0]])


@contextmanager
def rate_limited(payload_mib_s: float) -> Iterator[tuple[list[str], list[str]]]:
    """The same with a cable whose source end sends at this rate of TCP payload, with all its connections together."""
    bits_s = round(payload_mib_s * (1 << 20) * 8 * WIRE_BYTES / PAYLOAD_BYTES)
    names = [f"sl{os.getpid()}{side}" for side in "sd"]
    with ExitStack() as stack:
        for name in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "delete", name)
        cable = ["link", "add", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1]]
        _ip("-n", names[0], *cable)
        for name, own in zip(names, (SOURCE, DESTINATION), strict=True):
            _ip("-n", name, "address", "add", f"{own}/24", "dev", name)
            _ip("-n", name, "link", "set", name, "up", "mtu", str(MTU))
        bucket = ["tbf", "rate", f"{bits_s}bit", "burst", "128kb", "latency", "50ms"]
        subprocess.run(["tc", "-n", names[0], "qdisc", "add", "dev", names[0], "root", *bucket], check=True)
        yield (["ip", "netns", "exec", names[0]], ["ip", "netns", "exec", names[1]])


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _end(stack: ExitStack, name: str, own: str) -> tuple[str, int]:
    """One namespace with its one device, of the same name; and the device's other side."""

    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "delete", name)
    device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    stack.callback(os.close, device)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    _ip("link", "set", name, "netns", name)
    _ip("-n", name, "address", "add", f"{own}/24", "dev", name)
    _ip("-n", name, "link", "set", name, "up", "mtu", str(MTU))
    return name, device


def _relay(one: int, two: int, delay_s: float) -> None:
    flying: list[tuple[float, int, int, bytes]] = []
    for number in itertools.count():
        wait_s = max(flying[0][0] - time.monotonic(), 0) if flying else None
        for device in select.select([one, two], [], [], wait_s)[0]:
            with suppress(BlockingIOError):
                packet = os.read(device, MTU)
                heapq.heappush(flying, (time.monotonic() + delay_s, number, two if device == one else one, packet))
        while flying and flying[0][0] <= time.monotonic():
            _, _, device, packet = heapq.heappop(flying)
            with suppress(OSError):  # no room there: lost, as on any link
                os.write(device, packet)
