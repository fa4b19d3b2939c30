"""What one side is and holds: machine, memory blocks, devices, migration settings. Values only.

A device's facts are those of its VMState description (`-dump-vmstate`, and the JSON at the end of a v1 stream). The
metadata of fields declares how v2 sends them (`v2/wire.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

NEEDED = ("always", "maybe", "never")


@dataclass(frozen=True, slots=True)
class Subsection:
    """Optional state. `needed`: always, maybe or never sent, as far as its sender can say."""

    IS_ROW: ClassVar[bool] = True  # on the wire

    name: str
    version: int = 1
    needed: str = "maybe"

    def __post_init__(self) -> None:
        if self.needed not in NEEDED:
            raise ValueError(f"subsection {self.name}: needed is one of {', '.join(NEEDED)}, not {self.needed!r}")

    @property
    def by_vcpus(self) -> bool:
        """CPU hotplug: an entry for each CPU that its side has, and no count (VMSTATE_CPU_HOTPLUG, hw/acpi/cpu.c)."""
        return self.name.endswith("/cpuhp")

    def uncounted_bytes(self, vcpus: int) -> int:
        """Of its state: those that `Device.size_bytes` does not count."""
        return 5 + 10 * vcpus if self.by_vcpus else 0


@dataclass(frozen=True, slots=True)
class Device:
    """One entry of the inventory: (id, instance) names it on the wire."""

    id: str = field(metadata={"clean": 256})
    instance: int = 0
    version: int = 1
    minimum_version: int = 1  # the lowest that this binary loads
    size_bytes: int = field(default=64, metadata={"unsent": 0})  # of its state: each side goes by its own
    subsections: tuple[Subsection, ...] = ()
    nested: tuple[tuple[str, int, int], ...] = ()  # name, version, minimum version: not on the v1 wire
    schema: str = ""  # digest of the fields
    described: bool = True  # has a VMState description at all
    migratable: bool = True
    features: tuple[str, ...] = ()  # negotiated with the guest (virtio)
    post_load: str = field(default="", metadata={"unsent": ""})  # why loading it would fail here; known by trying


@dataclass(frozen=True, slots=True)
class RamBlock:
    """One block of guest memory, as v1 lists it in the RAM section."""

    name: str = field(metadata={"clean": 256})
    size_bytes: int = field(metadata={"key": "size"})
    page_bytes: int = field(default=4096, metadata={"key": "page-size"})
    resizable: bool = field(default=False, metadata={"unsent": False})


@dataclass(frozen=True, slots=True)
class Machine:
    """What a side knows of the machine that it runs or would run: all that a verdict goes by."""

    type: str = "pc-i440fx-7.2"
    aliases: tuple[str, ...] = field(default=(), metadata={"unsent": ()})
    arch: str = "x86_64"
    page_bits: int = 12
    vcpus: int = 1
    cpu: str = "qemu64"
    cpu_features: tuple[str, ...] = ()
    uuid: str = ""  # 32 hex digits, or empty
    ram_blocks: tuple[RamBlock, ...] = field(default=(RamBlock("pc.ram", 128 << 20),), metadata={"unsent": ()})
    devices: tuple[Device, ...] = field(default=(), metadata={"unsent": ()})

    def __hash__(self) -> int:
        """Not of the devices: there are many, a search hashes a machine often, and few machines differ in them only."""
        return hash((self.type, self.vcpus, self.cpu, self.uuid, self.ram_blocks))

    @property
    def ram_bytes(self) -> int:
        """All memory blocks together, in bytes."""
        return sum(block.size_bytes for block in self.ram_blocks)

    @property
    def machine_version(self) -> tuple[int, int]:
        """(7, 2) of "pc-i440fx-7.2"; migration properties go by it. Without a number: the newest."""
        major, dot, minor = self.type.rpartition("-")[2].partition(".")
        return (int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else (99, 0)


@dataclass(frozen=True, slots=True)
class Settings:
    """Migration settings of one side: QEMU's capabilities and parameters by QEMU's names."""

    version: str = "10.0"  # of the QEMU binary
    machine: Machine = field(default_factory=Machine)
    capabilities: tuple[str, ...] = ()
    parameters: tuple[tuple[str, int | str], ...] = ()
    transport: str = "tcp"  # tcp, unix, exec, file, fd
    exit_on_error: bool = True

    def has(self, capability: str) -> bool:
        """Whether a capability is on."""
        return capability in self.capabilities

    def parameter(self, name: str, default: int | str) -> int | str:
        """The value of a migration parameter, or `default` where it was not set."""
        return dict(self.parameters).get(name, default)

    @property
    def channels(self) -> int:
        """multifd's connections besides main: 0 without multifd."""
        return int(self.parameter("multifd-channels", 2)) if self.has("multifd") and not self.file_pages else 0

    @property
    def compression(self) -> str:
        """multifd-compression: none, zlib, zstd, qpl, uadk or qatzip."""
        return str(self.parameter("multifd-compression", "none"))

    @property
    def file_pages(self) -> bool:
        """Pages go to fixed offsets of a file: no multifd packets, no order of channels."""
        return self.has("mapped-ram")

    @property
    def tls(self) -> bool:
        """Whether tls-creds names credentials."""
        return bool(self.parameter("tls-creds", ""))

    @property
    def return_path(self) -> bool:
        """postcopy-ram implies it (QEMU migration/migration.c, migrate_fd_connect)."""
        return self.has("return-path") or self.has("postcopy-ram")
