"""Each message's body: its shape on the wire, and how it is made from and read into our own values (SPEC section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import CATEGORY, RETRY, Error, PeerError, clean
from ..machine import Device, Machine, RamBlock, Settings, Subsection
from . import frames
from .features import NEEDS, Stance
from .frames import Limits

ERROR_SHAPE = {
    "code": str, "category": str, "severity": str, "item": str, "source": str, "destination": str, "text": str,
    "hint": str, "retry": str,
}  # fmt: skip
STANCE_SHAPE = {"name": str, "need": str, "parameters?": None}
DEVICE_SHAPE = {
    "id": str, "instance": int, "version": int, "minimum-version": int, "subsections": [[None]], "nested": [[None]],
    "schema": str, "described": bool, "migratable": bool, "features": [str],
}  # fmt: skip
MACHINE_SHAPE = {
    "type": str, "arch": str, "page-bits": int, "vcpus": int, "cpu": str, "cpu-features": [str], "uuid": str,
}  # fmt: skip
RAM_SHAPE = {"name": str, "size": int, "page-size": int}
SHAPES: dict[int, Any] = {
    frames.HELLO: {
        "version": int, "implementation": str, "qemu-version": str, "role": str, "session?": str, "limits": None,
        "main": str, "tls": bool, "authentication": [str],
    },
    frames.OFFER: {
        "features": [STANCE_SHAPE], "config": None, "machine": MACHINE_SHAPE, "ram-blocks": [RAM_SHAPE],
        "devices": [DEVICE_SHAPE], "on-maybe": str,
    },
    frames.ACCEPT: {
        "features": [STANCE_SHAPE], "agreement": None, "session-id": str, "secret": str, "channels": [str],
        "verdict": str, "warnings": [ERROR_SHAPE], "skipped": [[str]], "config": None,
    },
    frames.REJECT: {"errors": [ERROR_SHAPE], "more": bool, "code": str, "text": str, "version": int, "retry": str},
    frames.START: {"agreement": str, "mac": str},
    frames.READY: {"channels": [[str]], "mac": str},
    frames.CHANNEL_OPEN: {"session-id": str, "name": str, "role": str, "index": int, "nonce": str, "mac": str},
    frames.CHANNEL_OK: {"nonce": str, "mac": str},
    frames.ABORT: {"code": str, "text": str, "version": int, "phase": str, "errors": [ERROR_SHAPE], "retry": str},
    frames.INFO: {"text": str, "percent": int, "missing?": [str]},
    frames.LOADED: {"bytes": int}, frames.GO: {}, frames.RUNNING: {}, frames.ERROR: {"errors": [ERROR_SHAPE]},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Identity:
    """What an endpoint is given besides its settings: randomness is an input too."""

    entropy: bytes = bytes(32)
    session: str = ""  # the manager's name for this migration, compared when both have one
    psk: bytes = b""
    limits: Limits = Limits()
    grease: bool = True
    on_maybe: str = "warn"
    require: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    memory_limit_bytes: int = 0
    bidirectional: bool = True  # the manager's word for exec: and fd:
    relays: bool = False  # the channels carry the stream of somebody who has no handshake: a QEMU of today


@dataclass(frozen=True, slots=True)
class Hello:
    """What a HELLO says that the peer goes by."""

    qemu_version: str
    session: str
    main: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What an OFFER says: features, the machine, and what this side does with a verdict of maybe (warn or reject)."""

    stances: tuple[Stance, ...]
    machine: Machine
    on_maybe: str


def hello(role: str, settings: Settings, identity: Identity, main: str) -> dict[str, Any]:
    limits = identity.limits
    body: dict[str, Any] = {
        "version": frames.HIGHEST, "implementation": "simlib", "qemu-version": settings.version, "role": role,
        "limits": {"frame": limits.frame_bytes, "data": limits.data_bytes, "channels": limits.channels},
        "main": main, "tls": settings.tls,
        "authentication": ["psk"] if identity.psk else ["tls-exporter"] if settings.tls else ["none"],
    }  # fmt: skip
    return body | ({"session": identity.session} if identity.session else {})


def read_hello(body: dict[str, Any], role: str) -> Hello:
    if body["role"] != role:
        raise PeerError("reflected", f"the peer too says that it is the {clean(body['role'], 40)}", "role")
    if body["main"] not in ("separate", "inline"):
        raise PeerError("unknown-value", f"main is carried {clean(body['main'], 40)!r}", "HELLO.main")
    return Hello(clean(body["qemu-version"], 80), body.get("session", ""), body["main"])


def offer(settings: Settings, identity: Identity, stances: tuple[Stance, ...]) -> dict[str, Any]:
    return facts(settings.machine) | {
        "features": [stance_body(s) for s in stances], "config": public(settings.parameters),
        "on-maybe": identity.on_maybe,
    }  # fmt: skip


def public(parameters: tuple[tuple[str, int | str], ...]) -> dict[str, Any]:
    """The parameters that the peer may see: those for TLS name local objects."""
    return {k: v for k, v in parameters if not k.startswith("tls-")}


def facts(machine: Machine) -> dict[str, Any]:
    """Machine, memory and devices: what an OFFER and a manifest have in common."""
    return {
        "machine": {
            "type": machine.type, "arch": machine.arch, "page-bits": machine.page_bits, "vcpus": machine.vcpus,
            "cpu": machine.cpu, "cpu-features": list(machine.cpu_features), "uuid": machine.uuid,
        },
        "ram-blocks": [{"name": b.name, "size": b.size_bytes, "page-size": b.page_bytes} for b in machine.ram_blocks],
        "devices": [
            {
                "id": d.id, "instance": d.instance, "version": d.version, "minimum-version": d.minimum_version,
                "subsections": [[s.name, s.version, s.needed] for s in d.subsections],
                "nested": [list(n) for n in d.nested], "schema": d.schema, "described": d.described,
                "migratable": d.migratable, "features": list(d.features),
            }
            for d in machine.devices
        ],
    }  # fmt: skip


def read_facts(body: dict[str, Any]) -> Machine:
    """The machine that an OFFER or a manifest describes. Raises PeerError."""
    if len(body["devices"]) > 4096 or len(body["ram-blocks"]) > 1024:
        raise PeerError("too-much", "more than 4096 devices or 1024 memory blocks", "devices")
    m = body["machine"]
    numbers = [m["page-bits"], m["vcpus"], *(n for b in body["ram-blocks"] for n in (b["size"], b["page-size"]))]
    if min([*numbers, *(d[k] for d in body["devices"] for k in ("instance", "version", "minimum-version"))]) < 0:
        raise PeerError("unknown-value", "a size, count or version is negative", "machine")
    devices = []
    for i, d in enumerate(body["devices"]):
        subsections = tuple(
            Subsection(*_row(r, (str, int, str), f"devices[{i}].subsections")) for r in d["subsections"]
        )
        nested = tuple(_row(r, (str, int, int), f"devices[{i}].nested") for r in d["nested"])
        devices.append(Device(
            clean(d["id"], 256), d["instance"], d["version"], d["minimum-version"], 0, subsections, nested, d["schema"],
            d["described"], d["migratable"], tuple(d["features"]),
        ))  # fmt: skip
    blocks = tuple(RamBlock(clean(b["name"], 256), b["size"], b["page-size"]) for b in body["ram-blocks"])
    return Machine(
        m["type"], (), m["arch"], m["page-bits"], m["vcpus"], m["cpu"], tuple(m["cpu-features"]), m["uuid"], blocks,
        tuple(devices),
    )  # fmt: skip


def _row(row: Any, types: tuple[type, ...], path: str) -> Any:
    fits = isinstance(row, list) and len(row) == len(types)
    if not fits or not all(type(v) is t for v, t in zip(row, types, strict=True)):
        raise PeerError("unknown-value", f"{path} holds something that is not {len(types)} values", path)
    return tuple(row)


def read_offer(body: dict[str, Any]) -> Offer:
    if body["on-maybe"] not in ("warn", "reject"):
        raise PeerError("unknown-value", f"on-maybe is {clean(body['on-maybe'], 40)!r}", "OFFER.on-maybe")
    return Offer(read_stances(body["features"]), read_facts(body), body["on-maybe"])


def stance_body(stance: Stance) -> dict[str, Any]:
    body: dict[str, Any] = {"name": stance.feature, "need": stance.need}
    return body | ({"parameters": {k: list(v) for k, v in stance.parameters}} if stance.parameters else {})


def read_stances(bodies: list[dict[str, Any]]) -> tuple[Stance, ...]:
    """Unknown features stay (nobody else will want them); an unknown need is refused."""
    if len(bodies) > 512:
        raise PeerError("too-much", f"{len(bodies)} features; 512 are allowed", "features")
    if len({b["name"] for b in bodies}) != len(bodies):
        raise PeerError("unknown-value", "a feature is listed twice", "features")
    found = []
    for body in bodies:
        name = body["name"]
        if body["need"] not in NEEDS:
            raise PeerError("unknown-value", f"feature {clean(name, 80)} has the need {clean(body['need'], 40)!r}",
                            f"feature[{clean(name, 80)}]")  # fmt: skip
        parameters = body.get("parameters", {})
        if not isinstance(parameters, dict) or not all(_is_range(v) for v in parameters.values()):
            raise PeerError("unknown-value", f"feature {clean(name, 80)} has parameters that are neither ranges nor "
                            "choices", f"feature[{clean(name, 80)}]")  # fmt: skip
        found.append(Stance(name, body["need"], tuple(sorted((k, tuple(v)) for k, v in parameters.items()))))
    return tuple(found)


def _is_range(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(v, str) for v in value) or (len(value) == 2 and all(isinstance(v, int) for v in value))


def read_errors(bodies: list[dict[str, Any]]) -> tuple[Error, ...]:
    """Errors from the peer: shown to people, so cleaned and capped; an unknown code stays what it is."""
    found = []
    for body in bodies[:64]:
        told = {k: clean(v, 4000 if k == "text" else 1000) for k, v in body.items() if k != "category"}
        if told["retry"] not in RETRY:
            told["retry"] = "never"
        if told["code"] not in CATEGORY:
            told["code"] = clean(told["code"], 80)
        found.append(Error(**told))
    return tuple(found)


def reject(errors: tuple[Error, ...], limits: Limits) -> dict[str, Any]:
    """All that is wrong, at once; the keys `code`, `text`, `version` of the first keep their meaning for ever (I5)."""
    retries = {e.retry for e in errors if e.severity == "error"}
    return {
        "errors": [e.body() for e in errors[: limits.errors]], "more": len(errors) > limits.errors,
        "code": errors[0].code, "text": errors[0].text, "version": frames.HIGHEST,
        "retry": next((r for r in RETRY if r in retries), "never"),
    }  # fmt: skip


def abort(error: Error, phase: str) -> dict[str, Any]:
    return {
        "code": error.code, "text": error.text, "version": frames.HIGHEST, "phase": phase, "errors": [error.body()],
        "retry": error.retry,
    }  # fmt: skip
