"""What several test files of the engine build: settings, the pieces of v1's main stream, an endpoint by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle

from hypothesis import settings
from hypothesis import strategies as st

from simlib.handshake import interface as i
from simlib.handshake import stream
from simlib.handshake.endpoint import Endpoint
from simlib.handshake.machine import Device, Machine, RamBlock, Settings, Subsection

QUICK = settings(derandomize=True, deadline=None, max_examples=40)
FEW = settings(QUICK, max_examples=12)  # where an example is a whole stream
SMALL = Machine(type="pc-q35-8.1", ram_blocks=(RamBlock("pc.ram", 1 << 20),), devices=(Device("timer"),))
SHUT, PONG, ACK = (bytes.fromhex(text) for text in ("0001000400000000", "0002000400000001", "00070000"))  # to a source
RAM_SECTION = 1
FIRST_DEVICE_SECTION = 3


def small(*capabilities: str, version: str = "10.0", channels: int = 2, tls: bool = False) -> Settings:
    """The settings of one side that has the small machine."""
    parameters = (("multifd-channels", channels), *((("tls-creds", "psk"),) if tls else ()))
    return Settings(version, SMALL, capabilities, parameters)


# --- an endpoint by hand --------------------------------------------------------------------------------------------


def outputs(endpoint: Endpoint, *inputs: i.Input) -> list[i.Output]:
    """All inputs in turn; whatever is sent is taken at once."""
    out: list[i.Output] = []
    for one in inputs:
        outputs = endpoint.handle(one)
        while outputs:
            out += outputs
            drained = {o.conn for o in outputs if isinstance(o, i.Send)}
            outputs = [o for conn in sorted(drained) for o in endpoint.handle(i.Drained(conn))]
    return out


def statuses(out: Iterable[i.Output]) -> list[str]:
    """The statuses that these outputs report."""
    return [o.status for o in out if isinstance(o, i.Entered)]


def sent(out: Iterable[i.Output], conn: int = 0) -> list[stream.Piece]:
    """What these outputs send on one connection."""
    return [(o.data, o.fill) for o in out if isinstance(o, i.Send) and o.conn == conn]


def printed(out: Iterable[i.Output]) -> str:
    """What these outputs print, line by line."""
    return "\n".join(o.text for o in out if isinstance(o, i.Printed))


# --- bytes ----------------------------------------------------------------------------------------------------------
SIZES = st.lists(st.integers(1, 40), max_size=5).map(lambda sizes: [*sizes, 200])  # of pieces that arrive, in turn


def expanded(pieces: Iterable[stream.Piece]) -> bytes:
    """The bytes that these pieces stand for."""
    return b"".join(data + bytes(fill) for data, fill in pieces)


def cut(pieces: Iterable[stream.Piece], sizes: Sequence[int]) -> list[stream.Piece]:
    """The same bytes in other pieces: real bytes of these sizes in turn, stand-in bytes of 512 times as many."""
    turn, smaller = cycle(sizes), []
    for data, fill in pieces:
        while data or fill:
            size = next(turn)
            part = min(fill, 512 * size) if len(data) <= size else 0
            smaller.append((data[:size], part))
            data, fill = data[size:], fill - part
    return smaller


def main_stream(ours: Settings, passes: Sequence[int] = (8192,), description: bytes = b"{}") -> list[stream.Piece]:
    """The main stream of a precopy: a section of RAM for each pass, one for the end, the devices."""
    pieces = [(stream.header(ours) + stream.ram_start(RAM_SECTION, ours, False), 0)]
    for size_bytes in passes:
        pieces += stream.ram_pass(RAM_SECTION, ours, size_bytes, False)
    pieces += stream.ram_pass(RAM_SECTION, ours, 0, False, stream.END)
    pieces += stream.device_state(FIRST_DEVICE_SECTION, ours.machine)
    return [*pieces, (stream.end_of_stream(description), 0)]


# --- machines and settings ------------------------------------------------------------------------------------------
NAMES = st.text("abcdefgh0123456789:./-", min_size=1, max_size=20)
SUBSECTIONS = st.builds(
    Subsection, NAMES | st.just("ACPI/cpuhp"), st.integers(1, 9), st.sampled_from(("always", "maybe", "never"))
)
DEVICES = st.builds(
    Device,
    id=NAMES,
    instance=st.integers(0, 3),
    version=st.integers(1, 9),
    size_bytes=st.integers(0, 300),
    subsections=st.lists(SUBSECTIONS, max_size=2, unique_by=lambda s: s.name).map(tuple),
)
BLOCKS = st.builds(
    RamBlock, NAMES, st.integers(1, 64).map(lambda pages: pages << 12), st.sampled_from((4096, 2 << 20)), st.booleans()
)
MACHINES = st.builds(
    Machine,
    type=st.sampled_from(("pc-i440fx-7.2", "pc-q35-8.1", "virt")),
    page_bits=st.sampled_from((12, 14, 16)),
    vcpus=st.integers(1, 5),
    uuid=st.just("") | st.binary(min_size=16, max_size=16).map(bytes.hex),
    ram_blocks=st.lists(BLOCKS, min_size=1, max_size=3, unique_by=lambda b: b.name).map(tuple),
    devices=st.lists(DEVICES, max_size=3, unique_by=lambda d: d.id).map(tuple),
)
IN_THE_STREAM = ("postcopy-ram", "x-ignore-shared", "validate-uuid", "mapped-ram", "compress", "return-path")
SETTINGS = st.builds(
    Settings, st.just("10.0"), MACHINES, st.lists(st.sampled_from(IN_THE_STREAM), unique=True).map(tuple)
)
