"""The models that the lab searches, each with what it is expected to break: the claim, and a test holds it.

`real` marks what a real QEMU of that version can be made to show (the real-QEMU check takes these).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..case.endpoints import Case
from ..case.registry import PROTOCOLS
from ..case.scenario import GuestFacts, Link, Scenario, Side
from .peers import NewerDestination, NewerSource
from .state import SIDES, SILENCES, Faults, Model

ALL_AT_ONCE = Faults(cuts=1, intruders=("garbage", "replay"))
RETURN_PATH = ("return-path",)
WITH_RNG = "pc-i440fx-7.2+virtio-rng"


@dataclass(frozen=True)
class SearchCase:
    """A model by name, and the properties that some order of events breaks: all of them, and no others."""

    name: str
    model: Model
    breaks: tuple[str, ...] = ()
    real: bool = False


def side(channels: int = 0, *capabilities: str, **more: object) -> Side:
    """One side with so many multifd channels."""
    multifd = ("multifd",) if channels else ()
    parameters: dict[str, int | str] = {"multifd-channels": channels} if channels else {}
    return Side(capabilities=(*multifd, *capabilities), parameters=parameters, **more)  # type: ignore[arg-type]


def scenario(
    name: str, source: Side, destination: Side | None = None, transport: str = "tcp", **more: object
) -> Scenario:
    ours = source if destination is None else destination
    return Scenario(name, name, "", (), ("10.0",), source=source, destination=ours, link=Link(transport), **more)  # type: ignore[arg-type]


def v1(
    name: str,
    version: str,
    source: Side,
    destination: Side | None = None,
    faults: Faults = Faults(),
    transport: str = "tcp",
    compatible: bool = True,
) -> Model:
    setup = Case(scenario(name, source, destination, transport), "v1", version)
    return Model(setup, faults, compatible=compatible)


def v2(name: str, channels: int, faults: Faults = Faults(), **more: object) -> Model:
    """A matched pair with so many multifd channels besides main."""
    return Model(Case(scenario(name, side(channels)), "v2", "10.0"), faults, **more)  # type: ignore[arg-type]


def without_final_ack(channels: int, faults: Faults) -> Model:
    """A pair whose managers watch both sides and forbid final-ack: one round trip less of downtime."""
    ours = replace(side(channels, *(("postcopy-ram",) if "postcopy" in faults.orders else ())), forbid=("final-ack",))
    return Model(Case(scenario("v2", ours), "v2", "10.0"), faults)


def postcopy(faults: Faults, *capabilities: str, **more: object) -> Model:
    """A pair whose manager may order postcopy, at any moment."""
    setup = Case(scenario("v2", side(0, "postcopy-ram", *capabilities)), "v2", "10.0")
    return Model(setup, faults._replace(orders=(*faults.orders, "postcopy")), **more)  # type: ignore[arg-type]


def v1_cases() -> list[SearchCase]:
    """Matched sides: versions, channels, return path, preempt, and an intruder who knows multifd's first packet."""
    lost = ("S4 no loss", "S6 same channels", "L2 eventually migrates")
    mixed = ("S4 no loss", "S6 same channels")
    intruder = Faults(intruders=("multifd",))
    preempt = side(0, "postcopy-ram", "postcopy-preempt")
    listed = []
    for version in ("5.2", "7.2", "8.2", "10.0", "11.1"):
        old = version in ("5.2", "7.2")
        hurt = mixed if version == "8.2" else (*mixed, "S7 listens again")  # it only prints what it finds wrong
        listed += [
            SearchCase(f"v1 {version}, {n} multifd", v1("v1", version, side(n)), lost if old else (), old)
            for n in (1, 2, 4, 8)
        ]
        listed += [
            SearchCase(
                f"v1 {version}, 2 multifd, return path",
                v1("v1", version, side(2, *RETURN_PATH)),
                ("S6 same channels", "L2 eventually migrates") if old else (),
                old,
            ),
            SearchCase(
                f"v1 {version}, 1 multifd, intruder",
                v1("v1", version, side(1), faults=intruder),
                (*hurt, "L2 eventually migrates") if old else hurt,
                True,
            ),
        ]
        if version != "5.2":  # an old machine type connects preempt at once; 11.1 blocks on its silence
            breaks = ("S6 same channels", "L1 no deadlock") if version != "11.1" else ("L1 no deadlock",)
            listed.append(SearchCase(f"v1 {version}, preempt", v1("v1", version, preempt), breaks, True))
    return [
        *listed,
        SearchCase("v1 10.0, TLS, 1 multifd", v1("v1", "10.0", tls(1))),
        SearchCase("v1 10.0, TLS, 1 multifd, intruder", v1("v1", "10.0", tls(1), faults=intruder)),
    ]


def tls(channels: int) -> Side:
    plain = side(channels)
    return Side(capabilities=plain.capabilities, parameters={**plain.parameters, "tls-creds": "tls0"})


def v1_mismatches() -> list[SearchCase]:
    """Sides that were not configured alike: section 3.2 of the design's prior art."""
    odd = side(0, machine=WITH_RNG)
    odd_answered = side(0, *RETURN_PATH, machine=WITH_RNG)
    return [
        SearchCase(
            "v1 7.2, device only at source",
            v1("d", "7.2", odd, side(), compatible=False),
            ("S3 truth", "S4 no loss"),
            True,
        ),
        SearchCase(
            "v1 7.2, device only at source, return path",
            v1("d", "7.2", odd_answered, side(0, *RETURN_PATH), compatible=False),
            ("S3 truth", "S7 listens again"),
            True,
        ),
        SearchCase(
            "v1 7.2, multifd only at destination",
            v1("d", "7.2", side(), side(2), compatible=False),
            ("S4 no loss",),
            True,
        ),
        SearchCase(
            "v1 7.2, multifd only at destination, return path",
            v1("d", "7.2", side(0, *RETURN_PATH), side(2, *RETURN_PATH), compatible=False),
            ("L1 no deadlock",),
            True,
        ),
        SearchCase(
            "v1 7.2, 2 and 4 channels",
            v1("d", "7.2", side(2), side(4), compatible=False),
            ("S4 no loss", "S6 same channels"),
            True,
        ),
        SearchCase(
            "v1 7.2, exec:cat, return path",
            v1("d", "7.2", side(0, *RETURN_PATH), transport="exec-cat"),
            ("L1 no deadlock",),
            True,
        ),
        SearchCase(
            "v1 10.0, cancel", v1("d", "10.0", side(0), faults=Faults(orders=("cancel",))), ("S7 listens again",)
        ),
    ]


def probe(
    variant: str,
    source_new: bool,
    destination_new: bool,
    timer: bool,
    *capabilities: str,
    transport: str = "tcp",
    compatible: bool = True,
    machine: str = Side.machine,
) -> Model:
    """A detection variant between new and old peers."""
    source = side(0, *capabilities, knows_v2=source_new, machine=machine)
    destination = side(0, *capabilities, knows_v2=destination_new)
    if PROTOCOLS.get(variant).needs_tls:
        source, destination = (replace(s, parameters={"tls-creds": "tls0"}) for s in (source, destination))
    probed = scenario("probe", source, destination, transport, detect_timeout_s=1.0 if timer else 0.0)
    alarms = ("detect",) if timer else ()
    return Model(Case(probed, variant, "7.2"), alarms=alarms, compatible=compatible and transport == "tcp")


def variant_cases() -> list[SearchCase]:
    """New and old peers, with and without a timer, on paths that return, do not return, or echo."""
    s1, s2, s3, s4, s7, s10 = (
        "S1 agreement",
        "S2 protocols apart",
        "S3 truth",
        "S4 no loss",
        "S7 listens again",
        "S10 no downgrade",
    )
    listed = [
        ("(a) new and new, timer", probe("a", True, True, True), (s1, s2, s3, s4, s7, s10)),
        ("(a) new and new", probe("a", True, True, False), (s1, s2, s3, s4, s7, s10, "L2 eventually migrates")),
        ("(a) old source", probe("a", False, True, True), (s3, s4)),
        ("(a) old destination", probe("a", True, False, True), ()),
        (
            "(b) old destination",
            probe("b", True, False, False, *RETURN_PATH),
            (s3, s7, "S8 probe is harmless", "L2 eventually migrates"),
        ),
        ("(b) new and new", probe("b", True, True, False), ()),
        ("(b) new and new, timer", probe("b", True, True, True), (s1, s2, s4, s10)),
        ("(b) exec:cat", probe("b", True, True, False, transport="exec-cat"), ("L1 no deadlock",)),
        ("(b) exec:cat, timer", probe("b", True, True, True, transport="exec-cat"), (s2,)),
        ("(c) new and new, timer", probe("c", True, True, True), (s3, s4, s10)),
        ("(c) old destination", probe("c", True, False, False), ("L1 no deadlock",)),
        ("(c) old source", probe("c", False, True, False), (s3, s4, "L2 eventually migrates")),
        ("(a) old source, return path", probe("a", False, True, True, *RETURN_PATH), (s3, s7, "S5 one guest")),
        (
            "(c) old source, return path",
            probe("c", False, True, False, *RETURN_PATH),
            (s3, s7, "S5 one guest", "L2 eventually migrates"),
        ),
        ("(d) old destination", probe("d", True, False, False), ()),
        ("(d) new and new", probe("d", True, True, False), (s10,)),
        (
            "(d) machine types differ",
            probe("d", True, False, False, compatible=False, machine=WITH_RNG),
            (s3, s7, "S8 probe is harmless"),
        ),
        ("(d) exec:cat", probe("d", True, True, False, transport="exec-cat"), ("L1 no deadlock",)),
        ("(d) new and new, timer", probe("d", True, True, True), (s3, s4, s10)),
        ("(d') old destination", probe("d'", True, False, False), ()),
        ("(d') new and new", probe("d'", True, True, False), ()),
        ("(d') old source", probe("d'", False, True, False), ()),
        ("(d') new and new, timer", probe("d'", True, True, True), (s3, s4, s10)),
        ("(d') exec:cat", probe("d'", True, True, False, transport="exec-cat"), ("L1 no deadlock",)),
        ("(f) new and new", probe("f", True, True, False), ()),
        ("(f) old destination", probe("f", True, False, False), ()),
        ("(f) old source", probe("f", False, True, False), ()),
    ]
    return [SearchCase(name, model, breaks) for name, model, breaks in listed]


def v2_cases() -> list[SearchCase]:
    """v2 breaks nothing under any of these faults; the last ones are those whose configuration is wrong."""
    twice = Case(scenario("v2", side(1, machine=WITH_RNG), side(1)), "v2", "10.0")
    loads_badly = Case(scenario("v2", side(1), guest=GuestFacts(post_load_error="bad feature bits")), "v2", "10.0")
    will_not_apply = Case(scenario("v2", side(1), side(1, apply_error="no memory for it")), "v2", "10.0")
    adaptive = Case(scenario("v2", side(1), side(1, accept="v2-or-v1")), "v2", "10.0")
    told_v1 = Case(scenario("v2", side(), side(0, accept="v1")), "v2", "10.0")
    old_source = Case(scenario("v1", side(), side(0, accept="v2-or-v1")), "v1", "10.0")
    one_way = Case(scenario("v2", side(), transport="exec-cat"), "v2", "10.0")
    listed = [SearchCase(f"v2, {n} multifd", v2("v2", n)) for n in (0, 1, 2, 4, 8)]
    listed += [SearchCase(f"v2, {n} multifd, intruder, duplicate and cut", v2("v2", n, ALL_AT_ONCE)) for n in (1, 2, 4)]
    listed += [
        SearchCase(f"v2, 1 multifd, intruder sends {payload}", v2("v2", 1, Faults(intruders=(payload,))))
        for payload in ("silent", "scan", "garbage", "multifd", "v2-hello", "bad-channel", "forge", "flood")
    ]
    listed += [
        SearchCase(
            "v2, no final-ack, 1 multifd, cancel and cut", without_final_ack(1, Faults(cuts=1, orders=("cancel",)))
        ),
        SearchCase("v2, no final-ack, postcopy", without_final_ack(0, Faults(cuts=1, orders=("postcopy",)))),
        SearchCase("v2, 1 multifd, a connection lost", v2("v2", 1, Faults(losses=1))),
        SearchCase("v2, 1 multifd, cancel", v2("v2", 1, Faults(orders=("cancel",)))),
        SearchCase("v2, 1 multifd, deadline and cut", v2("v2", 1, Faults(cuts=1, orders=("deadline",)))),
        SearchCase("v2, postcopy", postcopy(Faults(cuts=1))),
        SearchCase("v2, postcopy, a connection lost", postcopy(Faults(losses=1), "postcopy-preempt")),
        *(SearchCase(f"v2, postcopy, silence {way}", postcopy(Faults(silences=(way,)))) for way in SILENCES),
        *(SearchCase(f"v2, postcopy, a frozen {one}", postcopy(Faults(freezes=(one,)))) for one in SIDES[:2]),
        *(SearchCase(f"v2, 1 multifd, silence {way}", v2("v2", 1, Faults(silences=(way,)))) for way in SILENCES),
        *(SearchCase(f"v2, 1 multifd, a frozen {one}", v2("v2", 1, Faults(freezes=(one,)))) for one in SIDES[:2]),
        SearchCase("v2, 1 multifd, guards", v2("v2", 1, alarms=("guard",))),
        SearchCase("v2, a rival source", v2("v2", 0, rival=True, compatible=False)),
        SearchCase("v2, 2 multifd, buffers of one message", v2("v2", 2, Faults(cuts=1), send_buffer_messages=1)),
        SearchCase(
            "v2, inline", Model(Case(scenario("v2", side(), transport="exec-socat"), "v2", "10.0"), Faults(cuts=1))
        ),
        SearchCase("v2, TLS, 1 multifd", Model(Case(scenario("v2", tls(1)), "v2", "10.0"), Faults(cuts=1))),
        SearchCase("v2, device only at source", Model(twice, Faults(cuts=1), compatible=False)),
        SearchCase("v2, post_load fails", Model(loads_badly, Faults(cuts=1), compatible=False)),
        SearchCase("v2, can't be applied", Model(will_not_apply, Faults(cuts=1), compatible=False)),
        SearchCase("v2, adaptive destination", Model(adaptive)),
        SearchCase(  # of two protocols a destination has the weaknesses of both
            "v2, adaptive destination, intruder",
            Model(adaptive, Faults(intruders=("qevm",))),
            ("S6 same channels", "S7 listens again"),
        ),
        SearchCase("v1, adaptive destination", Model(old_source)),
        SearchCase("v2, a newer source", v2("v2", 1).playing(NewerSource)),
        SearchCase("v2, a newer destination", v2("v2", 1).playing(NewerDestination)),
        SearchCase(
            "v2, echo", Model(Case(scenario("v2", side(), transport="exec-tee"), "v2", "10.0"), compatible=False)
        ),
        SearchCase(
            "v2, destination told v1",
            Model(told_v1, compatible=False),
            ("S3 truth", "S6 same channels", "S7 listens again", "S8 probe is harmless"),
        ),
        SearchCase("v2, one-way pipe that was called two-way", Model(one_way, compatible=False), ("L1 no deadlock",)),
    ]
    return listed


def v2_named(name: str) -> Model:
    """The model of a case of v2."""
    return next(c.model for c in v2_cases() if c.name == name)


def cases() -> list[SearchCase]:
    """All of them."""
    return [*v1_cases(), *v1_mismatches(), *variant_cases(), *v2_cases()]
