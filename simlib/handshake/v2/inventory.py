"""The compatibility verdict: can this destination take that guest? Pure, and the same for live migration, for a
manifest before a saved stream, and for a preflight that touches nobody (SPEC section 6).

Every finding is an Error; severity `error` means no, `warning` means maybe. The rules for devices are those that the
loader will apply (savevm.c, vmstate.c) plus nested versions, which v1 never puts on the wire.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import Code, Error, Retry
from ..machine import Device, Machine


def verdict(findings: tuple[Error, ...]) -> str:
    """`yes`, `maybe` or `no`: the worst finding decides (SPEC section 6)."""
    if not findings:
        return "yes"
    return "no" if any(f.severity == "error" for f in findings) else "maybe"


def compare(
    source: Machine,
    destination: Machine,
    memory_limit_bytes: int = 0,
    uuid_checked: bool = False,
    postcopy: bool = False,
) -> tuple[Error, ...]:
    """All that stands against `source`'s guest on `destination`, worst first (SPEC section 6).

    `memory_limit_bytes` is what the destination's host can spare; 0: anything. `uuid_checked`: the stream will name the
    VM, by validate-uuid (vmstate_uuid, savevm.c) or in the first packets of QEMU's own multifd
    (multifd_recv_initial_packet, multifd.c). `postcopy`: postcopy-ram was agreed.
    """
    findings = [*_machine(source, destination)]
    if uuid_checked and source.uuid != destination.uuid:
        findings.append(_uuid(source, destination))
    findings += _memory(source, destination, memory_limit_bytes, postcopy)
    findings += _devices(source, destination)
    return tuple(sorted(findings, key=lambda e: e.severity != "error"))


def _uuid(source: Machine, destination: Machine) -> Error:
    """The stream names another VM."""
    return Error(
        Code.UUID,
        item="machine.uuid",
        source=source.uuid or "none",
        destination=destination.uuid or "none",
        text="The stream will name the VM by its UUID, and the two sides' differ.",
        hint="Start the destination with the source's -uuid, or migrate without validate-uuid and multifd.",
    )


def _machine(source: Machine, destination: Machine) -> Iterator[Error]:
    """Machine type, architecture, page size, CPUs. More CPUs at the destination are a doubt, fewer an error; CPU
    hotplug state has one entry for each, and no length (hw/acpi/cpu.c)."""
    names = (destination.type, *destination.aliases)
    if source.type not in names:
        yield Error(
            Code.MACHINE_TYPE,
            item="machine.type",
            source=source.type,
            destination=destination.type,
            text=f"The guest runs on machine type {source.type}, the destination was started with {destination.type}.",
            hint=f"Start the destination with -machine {source.type}.",
        )
    if source.arch != destination.arch:
        yield Error(
            Code.ARCH,
            item="machine.arch",
            source=source.arch,
            destination=destination.arch,
            text="The architectures differ.",
            retry=Retry.NEVER,
        )
    if source.page_bits != destination.page_bits:
        yield Error(
            Code.PAGE_BITS,
            item="machine.page-bits",
            source=str(source.page_bits),
            destination=str(destination.page_bits),
            text="The target page sizes differ.",
            hint="Use the same -cpu or machine property for the page size.",
        )
    if source.vcpus > destination.vcpus:
        yield Error(
            Code.VCPUS,
            item="machine.vcpus",
            source=str(source.vcpus),
            destination=str(destination.vcpus),
            text=f"The guest has {source.vcpus} CPUs, the destination {destination.vcpus}.",
            hint=f"Start the destination with -smp {source.vcpus}.",
        )
    elif source.vcpus < destination.vcpus:
        astray = any(s.by_vcpus and s.needed == "always" for d in source.devices for s in d.subsections)
        yield Error(
            Code.VCPUS,
            item="machine.vcpus",
            source=str(source.vcpus),
            destination=str(destination.vcpus),
            text="The destination has CPUs that the guest will not find"
            + (", and would read CPU hotplug state of its own length." if astray else "."),
            hint=f"Start it with -smp {source.vcpus}.",
            severity="error" if astray else "warning",
        )
    missing = sorted(set(source.cpu_features) - set(destination.cpu_features))
    for feature in missing:
        yield Error(
            Code.CPU_FEATURE,
            item=f"cpu-feature[{feature}]",
            source="on",
            destination="absent",
            text=f"The guest may use the CPU feature {feature}, which the destination does not offer.",
            hint="Give both sides a CPU model that the weaker host has.",
        )
    if source.cpu != destination.cpu:
        yield Error(
            Code.CPU_MODEL,
            item="machine.cpu",
            source=source.cpu,
            destination=destination.cpu,
            text=f"The CPU models differ: {source.cpu} and {destination.cpu}.",
            hint=f"Start it with -cpu {source.cpu}.",
            severity="warning",
        )


def _memory(source: Machine, destination: Machine, limit_bytes: int, postcopy: bool) -> Iterator[Error]:
    """Each block of the source must exist with its size, in postcopy with its page size too (parse_ramblock, ram.c),
    and fit what the host may take."""
    local = {b.name: b for b in destination.ram_blocks}
    for block in source.ram_blocks:
        other = local.get(block.name)
        item = f"ram-block[{block.name}]"
        if other is None:
            yield Error(
                Code.RAM_BLOCK,
                item=item,
                source=str(block.size_bytes),
                destination="absent",
                text=f"The destination has no memory block {block.name}.",
                hint="Give it the same devices and memory.",
            )
        elif other.size_bytes != block.size_bytes and not other.resizable:
            yield Error(
                Code.RAM_SIZE,
                item=item,
                source=str(block.size_bytes),
                destination=str(other.size_bytes),
                text=f"Memory block {block.name} has {block.size_bytes} bytes at the source and "
                f"{other.size_bytes} at the destination.",
                hint="Start the destination with the same -m.",
            )
        elif postcopy and other.page_bytes != block.page_bytes:
            yield Error(
                Code.RAM_PAGE_SIZE,
                item=item,
                source=str(block.page_bytes),
                destination=str(other.page_bytes),
                text=f"Memory block {block.name} has pages of {block.page_bytes} bytes at the source and of "
                f"{other.page_bytes} at the destination; postcopy needs the same.",
                hint="Back both with the same huge pages, or migrate without postcopy-ram.",
            )
    if 0 < limit_bytes < source.ram_bytes:
        yield Error(
            Code.MEMORY,
            item="ram",
            source=str(source.ram_bytes),
            destination=str(limit_bytes),
            text=f"The guest has {source.ram_bytes} bytes of memory, the destination may take {limit_bytes}.",
            hint="Free memory there, or choose another host.",
            retry=Retry.LATER,
        )


def _devices(source: Machine, destination: Machine) -> Iterator[Error]:
    """Each device of the source must exist here; one that is only here keeps its reset state, which v1 does not
    notice."""
    local = {(d.id, d.instance): d for d in destination.devices}
    ids = {d.id for d in destination.devices}
    for device in source.devices:
        other = local.get((device.id, device.instance))
        if not device.migratable:
            yield Error(
                Code.DEVICE_UNMIGRATABLE,
                item=_item(device),
                source="not migratable",
                destination="takes only what is",
                text=f"{device.id} can't be migrated.",
                hint="Unplug it first.",
            )
        elif other is not None:
            yield from _pair(device, other)
        elif device.id in ids:
            yield Error(
                Code.DEVICE_INSTANCE,
                item=_item(device),
                source=f"instance {device.instance}",
                destination="absent",
                text=f"The destination has {device.id}, but no instance {device.instance} of it.",
                hint="Give the destination as many of them.",
            )
        else:
            yield Error(
                Code.DEVICE_UNKNOWN,
                item=_item(device),
                source=f"version {device.version}",
                destination="absent",
                text=f"The destination has no {device.id}.",
                hint="Start it with the same devices at the same addresses.",
            )
    known = {(d.id, d.instance) for d in source.devices}
    for device in destination.devices:
        if (device.id, device.instance) not in known:
            yield Error(
                Code.DEVICE_EXTRA,
                item=_item(device),
                source="absent",
                destination=f"version {device.version}",
                text=f"The destination has {device.id}, of which the source sends nothing: it would "
                "keep its reset state.",
                hint="Start the destination with the same devices.",
                severity="warning",
            )


def _pair(device: Device, other: Device) -> Iterator[Error]:
    """One device on both sides: its version must be loadable (vmstate_load_state, vmstate.c), and the destination
    must know each subsection that may be sent (vmstate_subsection_load). Nested versions and fields are on no v1
    wire."""
    if device is other:
        return  # what saved it can load it
    item = _item(device)
    if not other.minimum_version <= device.version <= other.version:
        yield Error(
            Code.DEVICE_VERSION,
            item=item,
            source=str(device.version),
            destination=f"{other.minimum_version}..{other.version}",
            text=f"{device.id} has version {device.version}; there it loads {other.minimum_version}..{other.version}.",
            hint="Use a machine type that both versions know, or the same QEMU version.",
            retry=Retry.WITH_VERSION,
        )
    nested = {name: (version, minimum) for name, version, minimum in other.nested}
    for name, version, _minimum in device.nested:
        if name in nested and not nested[name][1] <= version <= nested[name][0]:
            yield Error(
                Code.DEVICE_NESTED_VERSION,
                item=f"{item}.{name}",
                source=str(version),
                destination=f"{nested[name][1]}..{nested[name][0]}",
                text=f"{name} inside {device.id} has version {version}; the destination loads {nested[name][1]} to "
                f"{nested[name][0]}. v1 does not carry this number.",
                hint="Use a machine type that both versions know, or the same QEMU version.",
                retry=Retry.WITH_VERSION,
            )
    known = {s.name: s.version for s in other.subsections}
    sent = [s for s in device.subsections if s.needed != "never"]
    for subsection in (s for s in sent if known.get(s.name, s.version) < s.version):
        yield Error(
            Code.DEVICE_SUBSECTION,
            item=f"{item}.{subsection.name}",
            source=f"version {subsection.version}",
            destination=f"version {known[subsection.name]}",
            text=f"{device.id} {'may send' if subsection.needed == 'maybe' else 'sends'} {subsection.name} of version "
            f"{subsection.version}; the destination knows version {known[subsection.name]}.",
            hint="Use a machine type that both versions know.",
            retry=Retry.WITH_VERSION,
            severity="error" if subsection.needed == "always" else "warning",
        )
    for subsection in (s for s in sent if s.name not in known):
        surely = subsection.needed == "always" and other.described  # undescribed: nobody knows what it would take
        yield Error(
            Code.DEVICE_SUBSECTION,
            item=f"{item}.{subsection.name}",
            source=subsection.needed,
            destination="unknown",
            text=f"{device.id} {'may send' if subsection.needed == 'maybe' else 'sends'} {subsection.name}, which the "
            f"destination {'does not know' if other.described else 'may not know: it has no description there'}.",
            hint="Use a machine type that both versions know.",
            retry=Retry.WITH_VERSION,
            severity="error" if surely else "warning",
        )
    missing = sorted(set(device.features) - set(other.features))
    if missing and other.features:
        yield Error(
            Code.DEVICE_FEATURES,
            item=item,
            source=" ".join(missing),
            destination="absent",
            text=f"The guest has negotiated {', '.join(missing)} with {device.id}, which the "
            "destination's does not offer.",
            hint="Start the destination's device with the same properties.",
        )
    alike = device.described == other.described  # the two kinds of digest can't be compared
    if alike and device.schema != other.schema and device.version == other.version and device.schema and other.schema:
        yield Error(
            Code.DEVICE_SCHEMA,
            item=item,
            source=device.schema,
            destination=other.schema,
            text=f"{device.id} has the same version but other fields.",
            hint="Compare the two QEMU versions' VMState.",
            severity="warning",
        )


def _item(device: Device) -> str:
    """How a device is called in errors: by name and, beyond the first, its instance."""
    return f"device[{device.id}/{device.instance}]" if device.instance else f"device[{device.id}]"
