"""The compatibility verdict: can this destination take that guest? Pure, and the same for live migration, for a
manifest before a saved stream, and for a preflight that touches nobody (SPEC section 6).

Every finding is an Error; severity `error` means no, `warning` means maybe. The rules for devices are those that the
loader will apply (savevm.c, vmstate.c) plus nested versions, which v1 never puts on the wire.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import Error
from ..machine import Device, Machine


def verdict(findings: tuple[Error, ...]) -> str:
    """yes, maybe or no: the worst finding."""
    if not findings:
        return "yes"
    return "no" if any(f.severity == "error" for f in findings) else "maybe"


def compare(
    source: Machine, destination: Machine, memory_limit_bytes: int = 0, uuid_checked: bool = False
) -> tuple[Error, ...]:
    """All that stands against `source`'s guest on `destination`, worst first. `uuid_checked`: QEMU's own multifd
    carries it, whose first packets name the VM (migration/multifd.c, multifd_recv_initial_packet)."""
    found = [*_machine(source, destination), *_memory(source, destination, memory_limit_bytes)]
    found += _devices(source, destination)
    if uuid_checked and source.uuid != destination.uuid:
        found.append(Error(
            "parameter", "machine.uuid", source.uuid, destination.uuid, "QEMU's multifd checks the VM's UUID, and the "
            "two differ.", "Start the destination with the source's -uuid, or migrate without multifd.",
        ))  # fmt: skip
    return tuple(sorted(found, key=lambda e: e.severity != "error"))


def _machine(source: Machine, destination: Machine) -> Iterator[Error]:
    names = (destination.type, *destination.aliases)
    if source.type not in names:
        yield Error(
            "machine-type", "machine.type", source.type, destination.type,
            f"The guest runs on machine type {source.type}, the destination was started with {destination.type}.",
            f"Start the destination with -machine {source.type}.",
        )  # fmt: skip
    if source.arch != destination.arch:
        yield Error("arch", "machine.arch", source.arch, destination.arch, "The architectures differ.", "", "never")
    if source.page_bits != destination.page_bits:
        yield Error(
            "page-bits", "machine.page-bits", str(source.page_bits), str(destination.page_bits),
            "The target page sizes differ.", "Use the same -cpu or machine property for the page size.",
        )  # fmt: skip
    if source.vcpus > destination.vcpus:
        yield Error(
            "vcpus", "machine.vcpus", str(source.vcpus), str(destination.vcpus),
            f"The guest has {source.vcpus} CPUs, the destination {destination.vcpus}.",
            f"Start the destination with -smp {source.vcpus}.",
        )  # fmt: skip
    elif source.vcpus < destination.vcpus:
        astray = any(s.by_vcpus and s.needed == "always" for d in source.devices for s in d.subsections)
        yield Error(
            "vcpus", "machine.vcpus", str(source.vcpus), str(destination.vcpus),
            "The destination has CPUs that the guest will not find"
            + (", and would read CPU hotplug state of its own length." if astray else "."),
            f"Start it with -smp {source.vcpus}.", severity="error" if astray else "warning",
        )  # fmt: skip
    missing = sorted(set(source.cpu_features) - set(destination.cpu_features))
    for feature in missing:
        yield Error(
            "cpu-feature", f"cpu-feature[{feature}]", "on", "absent",
            f"The guest may use the CPU feature {feature}, which the destination does not offer.",
            "Give both sides a CPU model that the weaker host has.",
        )  # fmt: skip
    if source.cpu != destination.cpu:
        yield Error(
            "cpu-model", "machine.cpu", source.cpu, destination.cpu,
            f"The CPU models differ: {source.cpu} and {destination.cpu}.", f"Start it with -cpu {source.cpu}.",
            severity="warning",
        )  # fmt: skip


def _memory(source: Machine, destination: Machine, limit_bytes: int) -> Iterator[Error]:
    local = {b.name: b for b in destination.ram_blocks}
    for block in source.ram_blocks:
        other = local.get(block.name)
        item = f"ram-block[{block.name}]"
        if other is None:
            yield Error(
                "ram-block", item, str(block.size_bytes), "absent",
                f"The destination has no memory block {block.name}.", "Give it the same devices and memory.",
            )  # fmt: skip
        elif other.size_bytes != block.size_bytes and not other.resizable:
            yield Error(
                "ram-size", item, str(block.size_bytes), str(other.size_bytes),
                f"Memory block {block.name} has {block.size_bytes} bytes at the source and {other.size_bytes} at the "
                "destination.", "Start the destination with the same -m.",
            )  # fmt: skip
    if 0 < limit_bytes < source.ram_bytes:
        yield Error(
            "memory", "ram", str(source.ram_bytes), str(limit_bytes),
            f"The guest has {source.ram_bytes} bytes of memory, the destination may take {limit_bytes}.",
            "Free memory there, or choose another host.", "later",
        )  # fmt: skip


def _devices(source: Machine, destination: Machine) -> Iterator[Error]:
    local = {(d.id, d.instance): d for d in destination.devices}
    ids = {d.id for d in destination.devices}
    for device in source.devices:
        other = local.get((device.id, device.instance))
        if not device.migratable:
            yield Error(
                "device-unmigratable", _item(device), "not migratable", "takes only what is",
                f"{device.id} can't be migrated.", "Unplug it first.",
            )  # fmt: skip
        elif other is not None:
            yield from _pair(device, other)
        elif device.id in ids:
            yield Error(
                "device-instance", _item(device), f"instance {device.instance}", "absent",
                f"The destination has {device.id}, but no instance {device.instance} of it.",
                "Give the destination as many of them.",
            )  # fmt: skip
        else:
            yield Error(
                "device-unknown", _item(device), f"version {device.version}", "absent",
                f"The destination has no {device.id}.", "Start it with the same devices at the same addresses.",
            )  # fmt: skip
    known = {(d.id, d.instance) for d in source.devices}
    for device in destination.devices:
        if (device.id, device.instance) not in known:
            yield Error(
                "device-extra", _item(device), "absent", f"version {device.version}",
                f"The destination has {device.id}, of which the source sends nothing: it would keep its reset state.",
                "Start the destination with the same devices.", severity="warning",
            )  # fmt: skip


def _pair(device: Device, other: Device) -> Iterator[Error]:
    if device is other:
        return  # what saved it can load it
    item = _item(device)
    if not other.minimum_version <= device.version <= other.version:
        yield Error(
            "device-version", item, str(device.version), f"{other.minimum_version}..{other.version}",
            f"{device.id} has version {device.version}; there it loads {other.minimum_version}..{other.version}.",
            "Use a machine type that both versions know, or the same QEMU version.", "with-version",
        )  # fmt: skip
    nested = {name: (version, minimum) for name, version, minimum in other.nested}
    for name, version, _minimum in device.nested:
        if name in nested and not nested[name][1] <= version <= nested[name][0]:
            yield Error(
                "device-nested-version", f"{item}.{name}", str(version), f"{nested[name][1]}..{nested[name][0]}",
                f"{name} inside {device.id} has version {version}; the destination loads {nested[name][1]} to "
                f"{nested[name][0]}. v1 does not carry this number.",
                "Use a machine type that both versions know, or the same QEMU version.", "with-version",
            )  # fmt: skip
    known = {s.name for s in other.subsections}
    strange = [s for s in device.subsections if s.needed != "never" and s.name not in known]
    for subsection in strange:
        surely = subsection.needed == "always" and other.described  # undescribed: nobody knows what it would take
        yield Error(
            "device-subsection", f"{item}.{subsection.name}", subsection.needed, "unknown",
            f"{device.id} {'may send' if subsection.needed == 'maybe' else 'sends'} {subsection.name}, which the "
            f"destination {'does not know' if other.described else 'may not know: it has no description there'}.",
            "Use a machine type that both versions know.", "with-version", "error" if surely else "warning",
        )  # fmt: skip
    missing = sorted(set(device.features) - set(other.features))
    if missing and other.features:
        yield Error(
            "device-features", item, " ".join(missing), "absent",
            f"The guest has negotiated {', '.join(missing)} with {device.id}, which the destination's does not offer.",
            "Start the destination's device with the same properties.",
        )  # fmt: skip
    alike = device.described == other.described  # the two kinds of digest can't be compared
    if alike and device.schema != other.schema and device.version == other.version and device.schema and other.schema:
        yield Error(
            "device-schema", item, device.schema, other.schema,
            f"{device.id} has the same version but other fields.", "Compare the two QEMU versions' VMState.",
            severity="warning",
        )  # fmt: skip


def _item(device: Device) -> str:
    return f"device[{device.id}/{device.instance}]" if device.instance else f"device[{device.id}]"
