"""Situations that nobody wrote down: random settings on both sides and something that goes wrong, on real QEMU and in
the simulated world. What they found is modelled now and held by tests of its own.

`make qemu-random FIRST=1 COUNT=50` plays so many on all QEMUs that are here, and says which do not end alike; a number
is a situation, the same one for ever. What a clock decides is left out: real QEMUs and simulated ones take other times.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable

from simlib import world
from simlib.case.checks import pair
from simlib.case.scenario import Fault, GuestFacts, Link, Management, Scenario, Side
from simlib.handshake.capabilities import CAPABILITIES, known_capabilities
from simlib.real_qemu.check import Cell, Checker, check, summary, table
from simlib.real_qemu.process import needed

Work = tuple[Scenario, str, str]
DEVICES = ("", "+virtio-rng", "+e1000", "+smp2", "+isa-serial", "+virtio-net")
BASES = (
    "plain",
    "return-path",
    "multifd",
    "multifd",
    "multifd return-path",
    "postcopy-ram",
    "postcopy-ram",
    "postcopy-ram postcopy-preempt",
    "xbzrle",
    "return-path switchover-ack",
    "tls",
    "tls return-path",
    "tls multifd",
    "exec-cat",
    "file",
    "file mapped-ram",
)
ODD = (
    "capability",
    "capability",
    "capability",
    "channels",
    "compression",
    "tls",
    "machine",
    "uuid",
    "memory",
    "cpu",
    "order",
    "intruder",
    "cut",
    "freeze",
    "delay-data",
)
BUSY = GuestFacts(ram_mib=64, dirty_mib_s=2000, working_set_mib=32)


class _Made:
    """One side while it is made up."""

    def __init__(self, words: set[str], channels: int) -> None:
        self.capabilities = words & CAPABILITIES.keys()
        self.parameters: dict[str, int | str] = {"multifd-channels": channels} if "multifd" in words else {}
        if "tls" in words:
            self.parameters["tls-creds"] = "psk"
        self.more: dict[str, object] = {}

    def side(self) -> Side:
        return Side(capabilities=tuple(sorted(self.capabilities)), parameters=self.parameters, **self.more)  # type: ignore[arg-type]


def situation(number: int, versions: list[str]) -> Work:
    """The scenario of a number, a pair of versions for it, and v1."""
    chance = random.Random(f"situation {number}")
    version = chance.choice(versions)
    words = set(chance.choice(BASES).split())
    channels = chance.choice((1, 2, 4))
    sides = [_Made(words, channels), _Made(words - {"return-path"} if chance.random() < 0.3 else words, channels)]
    postcopy = "postcopy-ram" in words and chance.random() < 0.7
    guest = BUSY if postcopy else GuestFacts(ram_mib=chance.choice((1, 16, 64)))
    link = Link(transport=next((w for w in words if w in ("exec-cat", "file")), "tcp"))
    faults: list[Fault] = []
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2))):
        odd = chance.choice(ODD)
        if odd in ("order", "intruder", "cut", "freeze", "delay-data"):
            if link.transport == "tcp" and not faults:
                faults += _fault(chance, odd, channels if "multifd" in words else 0)
        else:
            _change(chance, odd, chance.choice(sides), version)
    management = Management(postcopy_at_s=0.4 if postcopy else -1.0)
    return (
        Scenario(
            name=f"situation_{number}",
            title=f"Situation {number}",
            versions=(version,),
            source=sides[0].side(),
            destination=sides[1].side(),
            link=link,
            guest=guest,
            management=management,
            faults=tuple(faults),
        ),
        version,
        "v1",
    )


def _fault(chance: random.Random, odd: str, channels: int) -> Iterable[Fault]:
    if odd == "intruder":
        yield Fault("intruder", at_s=0.0, payload=chance.choice(("silent", "garbage", "scan", "half-magic", "multifd")))
    elif odd == "cut":
        yield Fault("cut", after_mib=chance.choice((0.0001, 0.01)))
    elif odd == "freeze":
        yield Fault("freeze", before_start=True)
    elif channels:
        names = ["main", *(f"multifd[{n}]" for n in range(channels))]
        chance.shuffle(names)
        hold = Fault("delay-data", connection=names[0], for_s=1.5)
        yield hold if odd == "delay-data" else Fault("order", order=tuple(names))


def _change(chance: random.Random, odd: str, side: _Made, version: str) -> None:
    if odd == "capability":
        side.capabilities ^= {chance.choice(sorted({c for v in pair(version) for c in known_capabilities(v)}))}
    elif odd == "channels":
        side.parameters["multifd-channels"] = chance.choice((1, 2, 3, 4))
    elif odd == "compression":
        side.parameters["multifd-compression"] = chance.choice(("zlib", "zstd"))
    elif odd == "tls":
        side.parameters["tls-creds"] = chance.choice(("psk", "psk2"))
    elif odd == "machine" and "5.2" not in version:
        side.more["machine"] = "pc-i440fx-7.2" + chance.choice(DEVICES)
    elif odd == "uuid":
        side.more["uuid"] = chance.choice(("1" * 32, "2" * 32))
    elif odd == "memory":
        side.more["memory_mib"] = 256
    elif odd == "cpu":
        side.more["cpu"] = chance.choice(("Nehalem", "max"))


def pairs(versions: Iterable[str]) -> list[str]:
    """Each version with itself and with each other."""
    return [one if one == other else f"{one}>{other}" for one in sorted(versions) for other in sorted(versions)]


def main(first: int, count: int) -> int:
    here = needed()
    work = [situation(number, pairs(here)) for number in range(first, first + count)]
    cells: list[Cell] = []
    for cell in check(Checker(world.run, here, repeats=1), work, jobs=2):
        print("." if cell.agrees or cell.left_out else "N", end="", file=sys.stderr, flush=True)
        cells.append(cell)
    print("", *table(cells), "", summary(cells), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
