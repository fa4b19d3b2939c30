"""The messages of the handshake: each a dataclass with its number, from which its body follows (SPEC section 5).

A message that is received is checked in three steps: its body has the shape of the dataclass (`body.load`), it is legal
in the receiver's state (`session.Receive`), and its values make sense (`read`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform

from ..errors import CODES, Code, Error, OurMistake, PeerError, Retry, clean
from ..machine import Device, Machine, RamBlock, Settings
from . import frames, wire
from .body import Json, JsonValue
from .config import SessionConfig
from .features import NEEDS, Choice, FeatureOffer, Names, Range
from .frames import Limits

RETRIES = frozenset(map(str, Retry))
DEVICES_LIMIT, BLOCKS_LIMIT, FEATURES_LIMIT, ERRORS_LIMIT = 4096, 1024, 512, 64
ERROR_TEXT_LIMIT = 4000  # characters


class Message:
    """What all messages have."""

    TYPE: ClassVar[int]
    NAME: ClassVar[str]

    @classmethod
    def check(cls, body: Json) -> None:
        """Raises PeerError for values that make no sense, of a body that has the shape."""


M = TypeVar("M", bound=type[Message])
MESSAGES: dict[int, type[Message]] = {}
SHAPES: dict[int, Any] = {}  # of their bodies


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def message(type: int, name: str) -> Callable[[M], M]:
    """Declare a message, with the number and the name of its frames."""

    def declared(cls: M) -> M:
        if type in frames.NAMES:
            raise OurMistake(f"frame type 0x{type:02x} is {frames.name(type)}'s already")
        dataclass(frozen=True)(cls)
        cls.TYPE, cls.NAME = type, name
        MESSAGES[type], SHAPES[type], frames.NAMES[type] = cls, wire.shape(cls), name
        return cls

    return declared


def read(type: int, body: Json) -> Message:
    """The message of a body that has its shape. Raises PeerError for values that make no sense."""
    cls = MESSAGES[type]
    cls.check(body)
    return wire.from_body(cls, body, cls.NAME)


# --- values inside messages -----------------------------------------------------------------------------------------
def read_stances(bodies: list[Json], path: str = "") -> tuple[FeatureOffer, ...]:
    """Unknown features stay (nobody else will want them); an unknown need is refused."""
    if len(bodies) > FEATURES_LIMIT:
        raise PeerError(Code.TOO_MUCH, f"{len(bodies)} features; {FEATURES_LIMIT} are allowed", item=path or "features")
    if len({b["name"] for b in bodies}) != len(bodies):
        raise PeerError(Code.UNKNOWN_VALUE, "a feature is listed twice", item=path or "features")
    return tuple(map(_read_stance, bodies))


def _read_stance(body: Json) -> FeatureOffer:
    """One feature with its need and its parameters (SPEC 4.1)."""
    name, need, parameters = body["name"], body["need"], body.get("parameters", {})
    item = f"feature[{clean(name, 80)}]"
    if need not in NEEDS:
        text = f"feature {clean(name, 80)} has the need {clean(need, 40)!r}"
        raise PeerError(Code.UNKNOWN_VALUE, text, item=item)
    values = {k: _read_values(v) for k, v in parameters.items()} if isinstance(parameters, dict) else {"": None}
    read = tuple((k, v) for k, v in sorted(values.items()) if v is not None)
    if len(read) < len(values):
        text = f"feature {clean(name, 80)} has parameters that are neither ranges nor choices nor sets"
        raise PeerError(Code.UNKNOWN_VALUE, text, item=item)
    return FeatureOffer(name, need, read)


def _read_values(value: JsonValue) -> Range | Choice | Names | None:
    """Two integers are a range, strings a choice, an object with strings under the key `set` a set."""
    if isinstance(value, dict):
        names = value["set"] if value.keys() == {"set"} else None
        strings = isinstance(names, list) and all(isinstance(n, str) for n in names)
        return frozenset(names) if names and strings and len(set(names)) == len(names) else None
    if not isinstance(value, list) or not value:
        return None
    is_range = len(value) == 2 and all(type(v) is int for v in value) and 0 <= value[0] <= value[1]
    is_choice = all(isinstance(v, str) for v in value) and len(set(value)) == len(value)
    return tuple(value) if is_range or is_choice else None


def _write_stances(stances: tuple[FeatureOffer, ...]) -> list[Json]:
    """A feature without parameters has no such key."""
    bodies = []
    for offered in stances:
        body: Json = {"name": offered.feature, "need": offered.need}
        parameters = {k: {"set": sorted(v)} if isinstance(v, frozenset) else list(v) for k, v in offered.parameters}
        bodies.append(body | ({"parameters": parameters} if parameters else {}))
    return bodies


def read_errors(bodies: list[Json], path: str = "") -> tuple[Error, ...]:
    """Errors from the peer: shown to people, so cleaned and capped; an unknown code stays what it is."""
    errors = []
    for body in bodies[:ERRORS_LIMIT]:
        values = {k: clean(v, 4000 if k == "text" else 1000) for k, v in body.items() if k != "category"}
        if values["retry"] not in RETRIES:
            values["retry"] = Retry.NEVER
        values["code"] = CODES.get(values["code"]) or clean(values["code"], 80)
        errors.append(Error(**values))
    return tuple(errors)


def _write_errors(errors: tuple[Error, ...]) -> list[dict[str, object]]:
    """Each error with all of its nine strings (SPEC 5.4), cut so that the peer reads it: a list of names has no end."""
    return [{key: str(value)[:ERROR_TEXT_LIMIT] for key, value in error.body().items()} for error in errors]


STANCES = wire.Codec([{"name": str, "need": str, "parameters?": None}], _write_stances, read_stances)
ERRORS = wire.Codec([dict.fromkeys(Error("").body(), str)], _write_errors, read_errors)


# --- the agreement --------------------------------------------------------------------------------------------------
@message(0x01, "HELLO")
class Hello(Message):
    """Who speaks, and how it carries the stream. `main`: "separate" connections, or "inline" on this one."""

    role: str
    main: str
    implementation: str
    qemu_version: str = field(metadata={"clean": 80})
    session: str | None = None

    def check_role(self, role: str) -> None:
        """Raises PeerError for a peer of another role, or one that carries the stream in a way that is not known."""
        if self.role != role:
            raise PeerError(Code.REFLECTED, f"the peer too says that it is the {clean(self.role, 40)}", item="role")
        if self.main not in ("separate", "inline"):
            text = f"main is carried {clean(self.main, 40)!r}"
            raise PeerError(Code.UNKNOWN_VALUE, text, item="HELLO.main")


@message(0x02, "OFFER")
class Offer(Message):
    """What the source has, and what it does with a verdict of maybe."""

    on_maybe: str
    features: tuple[FeatureOffer, ...] = field(metadata={"codec": STANCES})
    config: Json
    machine: Machine
    ram_blocks: tuple[RamBlock, ...]
    devices: tuple[Device, ...]

    @classmethod
    def check(cls, body: Json) -> None:
        """An unknown value of on-maybe is refused: its sender counts on what it means."""
        if body["on-maybe"] not in ("warn", "reject"):
            text = f"on-maybe is {clean(body['on-maybe'], 40)!r}"
            raise PeerError(Code.UNKNOWN_VALUE, text, item="OFFER.on-maybe")
        check_facts(body, "OFFER")


@message(0x04, "ACCEPT")
class Accept(Message):
    """What the destination has, and the agreement that it has computed."""

    features: tuple[FeatureOffer, ...] = field(metadata={"codec": STANCES})
    agreement: Json
    session_id: str
    secret: str
    channels: tuple[str, ...]
    verdict: str
    warnings: tuple[Error, ...] = field(metadata={"codec": ERRORS})
    skipped: tuple[tuple[str, ...], ...]
    config: Json

    @classmethod
    def check(cls, body: Json) -> None:
        """The verdict of an acceptance, and a secret of 32 bytes."""
        if body["verdict"] not in ("yes", "maybe"):
            text = f"an ACCEPT with the verdict {clean(body['verdict'], 40)!r}"
            raise PeerError(Code.UNKNOWN_VALUE, text, item="ACCEPT.verdict")
        if len(body["secret"]) != 64 or not set(body["secret"]) <= set("0123456789abcdef"):
            text = "ACCEPT's secret is not 32 bytes of lower-case hex"
            raise PeerError(Code.UNKNOWN_VALUE, text, item="ACCEPT.secret")


class _WithErrors(Message):
    """One that says what is wrong."""

    @classmethod
    def check(cls, body: Json) -> None:
        """There is something wrong."""
        if not body["errors"]:
            raise PeerError(Code.UNKNOWN_VALUE, f"{cls.NAME} without an error", item=f"{cls.NAME}.errors")


@message(0x05, "REJECT")
class Reject(_WithErrors):
    """All that is wrong, at once. The keys `code`, `text`, `version` keep their meaning for ever (I5)."""

    errors: tuple[Error, ...] = field(metadata={"codec": ERRORS})
    more: bool
    code: str = field(metadata={"clean": 80})
    text: str = field(metadata={"clean": 1000})
    version: int
    retry: str

    @classmethod
    def of(cls, errors: tuple[Error, ...], limits: Limits) -> Reject:
        """With the first error once more in keys that even a later version must read (SPEC 5.4, I5)."""
        retries = {e.retry for e in errors if e.severity == "error"}
        return cls(
            errors[: limits.errors],
            len(errors) > limits.errors,
            errors[0].code,
            errors[0].text[:ERROR_TEXT_LIMIT],
            frames.HIGHEST,
            next((r for r in Retry if r in retries), Retry.NEVER),
        )


@message(0x06, "START")
class Start(Message):
    """The source takes the agreement; the MAC covers the conversation so far."""

    agreement: str
    mac: str


@message(0x07, "READY")
class Ready(Message):
    """The destination has everything: each channel's name and nonce, and a MAC over them."""

    channels: tuple[tuple[str, ...], ...]
    mac: str


# --- channels -------------------------------------------------------------------------------------------------------
@message(0x08, "CHANNEL_OPEN")
class ChannelOpen(Message):
    """The first message on every further connection."""

    session_id: str
    name: str
    role: str
    index: int
    nonce: str
    mac: str


@message(0x09, "CHANNEL_OK")
class ChannelOk(Message):
    """The channel is bound."""

    nonce: str
    mac: str


# --- at any time ----------------------------------------------------------------------------------------------------
@message(0x0A, "ABORT")
class Abort(_WithErrors):
    """A side ends the attempt."""

    errors: tuple[Error, ...] = field(metadata={"codec": ERRORS})
    code: str = field(metadata={"clean": 80})
    text: str = field(metadata={"clean": 1000})
    version: int
    phase: str
    retry: str

    @classmethod
    def of(cls, errors: tuple[Error, ...], phase: str) -> Abort:
        """With the state in which its sender was."""
        first = errors[0]
        text = first.text[:ERROR_TEXT_LIMIT]
        return cls(errors[:ERRORS_LIMIT], first.code, text, frames.HIGHEST, phase, first.retry)


# --- the guest ------------------------------------------------------------------------------------------------------
@message(0x20, "LOADED")
class Loaded(Message):
    """All state is loaded; of a postcopy, a second time when all memory has come."""

    bytes: int


@message(0x21, "GO")
class Go(Message):
    """The source gives the guest up."""


@message(0x22, "RUNNING")
class Running(Message):
    """The guest runs at the destination."""


@message(0x23, "ERROR")
class Failure(_WithErrors):
    """The destination failed after READY, or the source in postcopy."""

    errors: tuple[Error, ...] = field(metadata={"codec": ERRORS})


# --- made of settings -----------------------------------------------------------------------------------------------
def hello(role: str, settings: Settings, session_config: SessionConfig, main: str) -> Hello:
    """The HELLO of a side (SPEC 5.1)."""
    return Hello(role, main, "simlib", settings.version, session_config.session or None)


def offer(settings: Settings, session_config: SessionConfig, stances: tuple[FeatureOffer, ...]) -> Offer:
    """The OFFER of a source: all facts that a verdict needs (SPEC 5.2)."""
    machine = settings.machine
    config = public(settings.parameters)
    return Offer(session_config.on_maybe, stances, config, machine, machine.ram_blocks, machine.devices)


def public(parameters: tuple[tuple[str, int | str], ...]) -> Json:
    """The parameters that the peer may see: those for TLS name local objects."""
    return {k: v for k, v in parameters if not k.startswith("tls-")}


def check_facts(body: Json, path: str) -> None:
    """Raises PeerError for too many devices or memory blocks, and for one that is listed twice; `path` is what the body
    is of: OFFER, manifest."""
    if len(body["devices"]) > DEVICES_LIMIT or len(body["ram-blocks"]) > BLOCKS_LIMIT:
        text = f"more than {DEVICES_LIMIT} devices or {BLOCKS_LIMIT} memory blocks"
        raise PeerError(Code.TOO_MUCH, text, item=f"{path}.devices")
    names = [(d["id"], d["instance"]) for d in body["devices"]], [b["name"] for b in body["ram-blocks"]]
    for each, item in zip(names, ("devices", "ram-blocks"), strict=True):
        if len(set(each)) < len(each):
            raise PeerError(Code.UNKNOWN_VALUE, f"one of {item} is listed twice", item=f"{path}.{item}")


class Facts(Protocol):
    """What an OFFER and a manifest have in common.

    Attributes:
        machine: without memory and devices.
        ram_blocks: the blocks of guest memory.
        devices: the inventory.
    """

    @property
    def machine(self) -> Machine: ...
    @property
    def ram_blocks(self) -> tuple[RamBlock, ...]: ...
    @property
    def devices(self) -> tuple[Device, ...]: ...


def whole_machine(facts: Facts) -> Machine:
    """The machine that an OFFER or a manifest describes."""
    return replace(facts.machine, ram_blocks=facts.ram_blocks, devices=facts.devices)
