"""The shapes of what comes from outside as JSON: profiles, QMP's answers, the description that ends a stream.

It may come from anywhere and be anything: msgspec reads it strictly (no NaN, no half characters, no bottomless nesting)
and reports the place that is wrong. What these types do not name is let through, or left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Required, TypedDict, TypeVar

import msgspec
from msgspec import Meta, Struct, field

convert = msgspec.convert
Name = Annotated[str, Meta(max_length=255, pattern=r"\A[^\x00-\x1f\x7f-\x9f]*\Z")]
U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
Bytes = Annotated[int, Meta(ge=0, le=1 << 60)]
Few = Annotated[int, Meta(ge=0, le=4096)]
Json = dict[str, Any]  # an object of JSON whose keys are checked elsewhere, or not at all: profiles, what QMP answers
JsonValue = Any  # any JSON at all, as a QMP command may return it; ANSWERS has the shapes that are relied on
T = TypeVar("T")
WRONG = (ValueError, RecursionError)  # msgspec's own errors are ValueErrors


def decoded(text: bytes, kind: type[T]) -> T:
    """JSON of a kind. Raises WRONG, with a text that names the place."""
    return msgspec.json.decode(text, type=kind)


# --- a profile, as `simlib qemu profile` writes it ------------------------------------------------------------------
class Versioned(Struct):
    name: Name
    version: U32


class Nested(Struct, array_like=True, forbid_unknown_fields=True):
    name: Name
    version: U32
    minimum: U32 = 0


class Device(Struct, rename="kebab"):
    id: Name
    instance: U32
    version: U32
    minimum_version: U32
    size: U32
    subsections: Annotated[list[Versioned], Meta(max_length=4096)]
    sent_subsections: list[Name]
    nested: Annotated[list[Nested], Meta(max_length=4096)]
    schema: Name
    vmsd: Name | bool


class Block(Struct):
    name: Name
    size: Bytes
    resizable: bool = False


class Configuration(Struct, rename="kebab"):
    name: Name
    machine_type: Name
    ram_blocks: Annotated[list[Block], Meta(max_length=1024)]
    devices: Annotated[list[Device], Meta(max_length=4096)]
    vcpus: Few = 0
    cpu: Name | None = None
    cpu_features: list[Name] | None = None  # not stated
    uuid: Annotated[str, Meta(pattern=r"\A([0-9a-f]{32})?\Z")] = ""
    arch: Name = ""
    page_bits: Annotated[int, Meta(ge=10, le=30)] = 12


class Capability(Struct):
    name: Name
    default: bool


class MachineType(Struct):
    name: Name
    alias: Name = ""


class Profile(Struct, rename="kebab"):
    version: Annotated[str, Meta(pattern=r"\A\d{1,3}(\.\d{1,3}){1,3}\Z")]
    capabilities: list[Capability]
    machine_types: list[MachineType]
    machines: Annotated[list[Configuration], Meta(min_length=1)]
    notes: list[Name] = field(default_factory=list)


# --- the description that ends a stream (vmstate.c, vmstate_save_state_v) -------------------------------------------
class Field(TypedDict, total=False):
    name: Required[Name]
    type: Required[Name]
    size: Required[U32]
    array_len: U32
    struct: Vmsd


class Vmsd(TypedDict, total=False):
    vmsd_name: Required[Name]
    version: Required[U32]
    fields: list[Field]
    subsections: list[Vmsd]


class Described(TypedDict, total=False):
    name: Required[Name]
    instance_id: Required[U32]
    version: U32  # absent: slirp's
    vmsd_name: Name
    fields: list[Field]
    subsections: list[Vmsd]


class Description(TypedDict):
    devices: Annotated[list[Described], Meta(max_length=65_536)]


# --- -dump-vmstate (savevm.c, dump_vmstate_json_to_file) -------------------------------------------------------------
class DumpField(TypedDict, total=False):
    field: Required[Name]
    version_id: Required[int]
    size: Required[int]
    Description: DumpVmsd


class DumpVmsd(TypedDict, total=False):
    name: Required[Name]
    version_id: Required[U32]
    minimum_version_id: Required[U32]
    Fields: list[DumpField]
    Subsections: list[DumpVmsd]


class DumpEntry(TypedDict, total=False):
    Description: DumpVmsd


Dump = dict[str, DumpEntry]


# --- QMP ------------------------------------------------------------------------------------------------------------
class Refusal(Struct):
    desc: str


class Number(TypedDict):
    major: Few
    minor: Few
    micro: Few


class Version(TypedDict):
    qemu: Number
    package: str


class State(TypedDict):
    capability: Name
    state: bool


class Machine(TypedDict, total=False):
    name: Required[Name]
    alias: Name
    deprecated: bool


class Property(TypedDict):
    name: Name
    type: Name


Cpu = TypedDict("Cpu", {"qom-path": str})


class Uuid(TypedDict):
    UUID: Annotated[str, Meta(pattern=r"\A[0-9a-fA-F-]{36}\Z")]


class Target(TypedDict):
    arch: Name


Status = TypedDict("Status", {"status": str, "error-desc": str}, total=False)

ANSWERS: dict[str, Any] = {
    "query-version": Version,
    "query-migrate-capabilities": list[State],
    "query-migrate-parameters": dict[str, Any],
    "query-machines": list[Machine],
    "query-cpus-fast": Annotated[list[Cpu], Meta(min_length=1)],
    "qom-list": list[Property],
    "qom-get": str | bool,
    "query-uuid": Uuid,
    "query-target": Target,
    "query-migrate": Status,
    "human-monitor-command": str,
}
