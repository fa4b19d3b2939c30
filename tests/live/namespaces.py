"""Two network namespaces, and between them a relay that holds each packet back: the kernel's own TCP over real latency.
Needs root, ip(8) and /dev/net/tun."""

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


def missing() -> str:
    """What stands against it here; empty if nothing."""
    if os.geteuid() != 0 or not TUN.exists() or shutil.which("ip") is None:
        return "NO ROOT, NO TUN DEVICES, OR NO ip(8)"
    found = subprocess.run(["ip", "netns", "add", "simlib-try"], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", "simlib-try"], capture_output=True, check=False)
    return f"NO NAMESPACES: {found.stderr.strip()}" if found.returncode else ""


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


def _end(stack: ExitStack, name: str, own: str) -> tuple[str, int]:
    """One namespace with its one device, of the same name; and the device's other side."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    ip("netns", "add", name)
    stack.callback(ip, "netns", "delete", name)
    device = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    stack.callback(os.close, device)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    ip("link", "set", name, "netns", name)
    ip("-n", name, "address", "add", f"{own}/24", "dev", name)
    ip("-n", name, "link", "set", name, "up", "mtu", str(MTU))
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
