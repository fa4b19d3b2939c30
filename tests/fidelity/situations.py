"""Reads a row of data/ground-truth.jsonl as a scenario, and a simulated run as one of its outcome classes.

Only the words of the measurement are translated here (QEMU's command line, the proxy's tricks, the guest's names);
nothing is decided by a row's result.
"""

from __future__ import annotations

import re
from typing import Any

from simlib.case.scenario import Fault, GuestFacts, Link, Management, Scenario, Side
from simlib.record.outcome import Facts

DEVICES = {
    "virtio-rng-pci,addr=0x5": ("+virtio-rng", None),
    "virtio-rng-pci,addr=0x6": ("+virtio-rng", {"id": "0000:00:06.0/virtio-rng"}),
    "virtio-rng-pci,addr=0x5,vectors=3": ("+virtio-rng", {"size_bytes": 1200}),
    "virtio-rng-pci,addr=0x5,vectors=0": ("+virtio-rng", {"size_bytes": 800}),
    "virtio-rng-pci,addr=0x5,event_idx=on": ("+virtio-rng", None),
    "virtio-rng-pci,addr=0x5,event_idx=off": ("+virtio-rng", None),
    "e1000,addr=0x5": ("+e1000", None),
    "virtio-net-pci,addr=0x5": ("+virtio-net", None),
    "isa-serial": ("+isa-serial", None),
}
RNG = "0000:00:05.0/virtio-rng"


class NotExpressible(Exception):
    """What the simulator does not model, in a few words."""


def _side(machine: str, args: list[str], capabilities: dict[str, bool], parameters: dict[str, Any], mem: str) -> Side:
    options = dict(zip(args[::2], args[1::2], strict=False)) if args != ["-S"] else {}
    configuration, edit = "pc-q35-7.2" if "q35" in machine else "pc-i440fx-7.2", ()
    if "-device" in options:
        suffix, change = DEVICES[options["-device"]]
        configuration += suffix
        edit = ({"device": RNG, **change},) if change else ()
    if options.get("-smp") == "2":
        configuration += "+smp2"
    relevant = {k: v for k, v in parameters.items() if k.startswith("multifd") or k == "tls-creds"}
    if "tls-creds" in relevant:
        relevant["tls-creds"] = "psk2" if "dir=psk2" in str(args) else "psk"
    return Side(
        machine=configuration,
        machine_type=machine,
        edit=edit,
        cpu=options.get("-cpu", "qemu64"),
        uuid=options.get("-uuid", "").replace("-", ""),
        memory_mib=int(mem.rstrip("M")) if mem else 0,
        capabilities=tuple(k for k, v in capabilities.items() if v),
        parameters=relevant,
    )


def _guest(name: str) -> GuestFacts:
    if name.startswith("tick"):
        return GuestFacts(ram_mib=1.1)
    if name.startswith(("busy", "verify")):
        size = float(re.sub(r"\D", "", name) or 64)
        return GuestFacts(ram_mib=size, dirty_mib_s=4000 if size > 8 else 10, working_set_mib=size)
    return GuestFacts(ram_mib=64)


def scenario(row: dict[str, Any]) -> Scenario:
    """The row's situation. Raises NotExpressible."""
    st, text, name = row["settings"], row["scenario"], row["id"]
    if "garbage connection, then a second attempt" in text:
        raise NotExpressible("a second attempt at the same process")
    if "does not exist in dst" in text:
        raise NotExpressible("a destination that does not start")
    both = st.get("caps both", {})
    source_caps, destination_caps = {**both, **st.get("src_caps", {})}, {**both, **st.get("dst_caps", {})}
    if text.startswith("multifd 2 over unix"):
        source_caps, destination_caps = {"multifd": True}, {"multifd": True}
    if st.get("return-path") is True:
        source_caps["return-path"] = True
    channels = {"multifd-channels": st["multifd-channels"]} if "multifd-channels" in st else {}
    numbers = re.search(r"channel count (\d) vs (\d)", text)
    one, two = (
        (dict(channels), dict(channels))
        if not numbers
        else ({"multifd-channels": int(numbers[1])}, {"multifd-channels": int(numbers[2])})
    )
    if st.get("tls"):
        one["tls-creds"] = two["tls-creds"] = "psk"
    machine = st.get("machine", "pc-i440fx-7.2")
    source = _side(machine, st.get("src_args", []), source_caps, {**one, **st.get("src_params", {})}, st.get("mem", ""))
    destination = _side(
        st.get("dst_machine", machine),
        st.get("dst_args", []),
        destination_caps,
        {**two, **st.get("dst_params", {})},
        st.get("dst_mem", st.get("mem", "")),
    )
    off = st.get("exit_on_error") is False or st.get("exit-on-error") is False
    switched = st.get("during") == "to_postcopy" or ("switched to postcopy" in text and "never" not in text)
    switched = switched or "postcopy switched early" in text or name.startswith(("I-postcopy-x", "I-preempt-x"))
    if name.startswith("B-b4") and "never switched" not in text:
        switched = True
    guest = _guest(st.get("guest", "busy64" if switched else "fill64"))
    if "1 MiB of state" in text or "1 MiB VM" in text:
        guest = GuestFacts(ram_mib=1.1)
    observe = 1300.0 if "1300 s" in text else 300.0 if "300 s" in text else 60.0 if "60 s" in text else 30.0
    situation = Scenario(
        name=name,
        title=text,
        source=source,
        destination=Side(**{**vars(destination), "exit_on_error": not off}),
        guest=guest,
        link=Link(rate_mib_s=20.0 if switched else 1200.0),
        management=Management(observe_s=observe, postcopy_at_s=1.0 if switched else -1.0),
        faults=_faults(row, source_caps),
    )
    return _transport(situation, st)


def _faults(row: dict[str, Any], caps: dict[str, bool]) -> tuple[Fault, ...]:
    st, text, name = row["settings"], row["scenario"], row["id"]
    number = int(st.get("multifd-channels", 2))
    multifd = [f"multifd[{n}]" for n in range(number)] if caps.get("multifd") else []
    words = {
        "control: in order": ["main", *multifd],
        "all multifd first": [*multifd, "main"],
        "main-last": [*multifd, "main"],
        "main last": [*multifd, "main"],
        "fully reversed": [*multifd[::-1], "main"],
        "one multifd, then main": [*multifd[:1], "main", *multifd[1:]],
        "main first, multifd channels in reversed": ["main", *multifd[::-1]],
        "control: main then preempt": ["main", "preempt"],
        "reaches dst before main": ["preempt", "main"],
        "just before main": ["preempt", "main"],
    }
    if "order" in st:
        # the proxy counts connections as they were opened; preempt comes before multifd
        all_of_them = ["main", *(["preempt"] if caps.get("postcopy-preempt") else []), *multifd]
        return (Fault("order", order=tuple(all_of_them[i] for i in st["order"])),)
    if name.startswith("J"):
        late = (
            []
            if "control" in text
            else [Fault("delay-accept", connection="main", for_s=0.05 if "50 ms" in text else 0.6)]
        )
        return tuple(late)
    mib = re.search(r"after (\d+) MB", text)
    after = float(mib[1]) if mib else 0.0
    if "held for ever" in text or "silent" in text:
        return _held(text, multifd)
    if "held 3 s" in text:
        return (Fault("delay-data", connection="main", for_s=3.0),)
    if "preempt connection never" in text:
        return (Fault("delay-accept", connection="preempt"),)
    if (
        "nothing dst->src" in text
        or "dst->src swallowed" in text
        or "swallows everything dst->src" in text
        or ("d2s-swallowed" in text)
    ):
        return (Fault("blackhole", direction="to-source", after_mib=0.0),)
    if "aborted" in text:
        return (Fault("cut", after_mib=after if mib else 1e-6),)
    if "discard" in text:
        return (Fault("blackhole", after_mib=after),)
    if "stops reading" in text:
        return (Fault("stall", after_mib=after if mib else 0.01),)
    if "packets lost" in text:
        return (Fault("packet-loss", after_mib=after, tcp_retries=int(st.get("tcp_retries2", 15))),)
    if "SIGSTOP" in text or "frozen" in text:
        return (Fault("freeze", before_start="before" in text, after_mib=after),)
    if "SIGKILL" in text:
        return (Fault("kill", after_mib=after),)
    sequence = next((order for word, order in words.items() if word in text), None)
    gap = 0.06 if "60 ms" in text else 0.3
    return (Fault("order", order=tuple(sequence), accept_gap_s=gap),) if sequence else ()


def _held(text: str, multifd: list[str]) -> tuple[Fault, ...]:
    silent = "main" if "main's bytes" in text or "main connected first" in text else "multifd"
    order = ["main", *multifd] if silent == "main" or "connected in order" in text else [*multifd, "main"]
    names = ["main"] if silent == "main" else multifd
    return (Fault("order", order=tuple(order)), *(Fault("delay-data", connection=n) for n in names))


def _transport(situation: Scenario, st: dict[str, Any]) -> Scenario:
    if st.get("transport") == "unix":
        return situation.vary(link__transport="unix")
    if "save" not in st and "mapped-ram file" not in situation.title:
        return situation
    save, load = st.get("save", "file:FILE"), st.get("load", "exec:cat FILE")
    kinds = {
        "exec:cat > FILE": "exec-cat",
        "exec:cat > /dev/null": "exec-null",
        "exec:true": "exec-true",
        "file:FILE": "file",
    }
    loads = {"exec:cat FILE": "exec-cat", "exec:cat /nonexistent": "exec-none", "file:FILE": "file"}
    return situation.vary(link__transport=kinds[save], link__load_transport=loads[load], management__loads_anyway=True)


def outcome_class(facts: Facts, destination_status: str) -> str:
    """The measurement's word for how a run ended."""
    source = facts.source
    there = (
        "running"
        if facts.destination_runs
        else "dies"
        if facts.destination_dead
        else ("failed" if destination_status == "failed" else "waits")
    )
    if source is None:
        return {"running": "src_hangs+dst_running", "dies": "src_hangs+dst_dies"}.get(there, "both_hang")
    if source.status == "completed":
        if there == "running":
            return "ok" if facts.memory_complete else "silent_corruption"
        if facts.destination is not None and facts.destination.status == "rejected":
            return "src_completed+dst_rejects_incoming"
        return "src_completed+dst_dies" if there in ("dies", "failed") else "src_completed+dst_not_running"
    if source.status == "rejected":
        return "rejected_up_front"
    reason = {"none": "no_desc"}.get(source.reason, source.reason)
    return f"src_failed({reason})+dst_{there}"
