"""Which migration capability exists in which QEMU version, and what QMP refuses before anything starts.

Sources: QEMU qapi/migration.json and migration/options.c of the named versions, measured refusals on 7.2, 10.0, 11.1.
"""

from __future__ import annotations

from .machine import Settings
from .versions import behaviour, version_number

# Capability: first version that has it, first that no longer does.
CAPABILITIES: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    name: (since, until)
    for name, since, until in (
        ("xbzrle", (1, 2), (99, 0)),
        ("rdma-pin-all", (2, 0), (99, 0)),
        ("auto-converge", (1, 6), (99, 0)),
        ("zero-blocks", (1, 6), (11, 0)),
        ("events", (2, 4), (99, 0)),
        ("postcopy-ram", (2, 5), (99, 0)),
        ("x-colo", (2, 8), (99, 0)),
        ("compress", (2, 4), (9, 1)),
        ("release-ram", (2, 9), (99, 0)),
        ("block", (2, 10), (9, 1)),
        ("return-path", (2, 10), (99, 0)),
        ("multifd", (4, 0), (99, 0)),
        ("pause-before-switchover", (2, 11), (99, 0)),
        ("dirty-bitmaps", (2, 12), (99, 0)),
        ("postcopy-blocktime", (3, 0), (99, 0)),
        ("late-block-activate", (3, 0), (99, 0)),
        ("x-ignore-shared", (4, 0), (99, 0)),
        ("validate-uuid", (4, 2), (99, 0)),
        ("background-snapshot", (6, 0), (99, 0)),
        ("zero-copy-send", (7, 1), (99, 0)),
        ("postcopy-preempt", (7, 1), (99, 0)),
        ("switchover-ack", (8, 1), (99, 0)),
        ("dirty-limit", (8, 1), (99, 0)),
        ("mapped-ram", (9, 0), (99, 0)),
    )
}


def known_capabilities(version: str) -> tuple[str, ...]:
    """The capabilities of a version, by QEMU's names, in alphabetical order (qapi/migration.json at its tag)."""
    number = version_number(version)
    return tuple(sorted(name for name, (since, until) in CAPABILITIES.items() if since <= number < until))


# In the order in which migrate_caps_check (options.c, 11.1) looks: a capability, another that it can't do with or (!)
# without, QMP's error text, the first version that looks, and the first that no longer does.
SNAPSHOT_EXCLUDES = (
    "postcopy-ram",
    "dirty-bitmaps",
    "postcopy-blocktime",
    "late-block-activate",
    "return-path",
    "multifd",
    "pause-before-switchover",
    "auto-converge",
    "release-ram",
    "rdma-pin-all",
    "compress",
    "xbzrle",
    "x-colo",
    "validate-uuid",
    "zero-copy-send",
)
PLAIN_MULTIFD = "Zero copy only available for non-compressed non-TLS multifd migration"
EVER, NEVER = (0, 0), (99, 0)
RULES: tuple[tuple[str, str, str, tuple[int, int], tuple[int, int]], ...] = (
    ("postcopy-ram", "x-ignore-shared", "Postcopy is not compatible with ignore-shared", EVER, NEVER),
    ("postcopy-ram", "multifd", "Postcopy is not yet compatible with multifd", (8, 1), (10, 1)),
    ("x-colo", "!return-path", "Capability 'x-colo' requires capability 'return-path'", (11, 0), NEVER),
    *(
        ("background-snapshot", other, f"Background-snapshot is not compatible with {other}", EVER, NEVER)
        for other in SNAPSHOT_EXCLUDES
    ),
    *(("zero-copy-send", other, PLAIN_MULTIFD, EVER, NEVER) for other in ("!multifd", "compress", "xbzrle")),
    ("postcopy-preempt", "!postcopy-ram", "Postcopy preempt requires postcopy-ram", EVER, NEVER),
    ("postcopy-preempt", "compress", "Postcopy preempt not compatible with compress", EVER, NEVER),
    ("multifd", "compress", "Multifd is not compatible with compress", (7, 2), NEVER),
    ("switchover-ack", "!return-path", "Capability 'switchover-ack' requires capability 'return-path'", EVER, NEVER),
    (
        "dirty-limit",
        "auto-converge",
        "dirty-limit conflicts with auto-converge either of then available currently",
        EVER,
        NEVER,
    ),
    ("dirty-limit", "!kvm", "dirty-limit requires KVM with accelerator property 'dirty-ring-size' set", EVER, NEVER),
    ("multifd", "xbzrle", "Multifd is not compatible with xbzrle", (8, 2), NEVER),
    ("compress", "xbzrle", "Compression is not compatible with xbzrle", (8, 2), NEVER),
    ("mapped-ram", "xbzrle", "Mapped-ram migration is incompatible with xbzrle", EVER, NEVER),
    ("mapped-ram", "compress", "Mapped-ram migration is incompatible with compression", EVER, NEVER),
    ("mapped-ram", "postcopy-ram", "Mapped-ram migration is incompatible with postcopy", EVER, NEVER),
)


def refusal(settings: Settings, at_source: bool) -> str:
    """Why QMP refuses these settings before anything starts, in its words; empty when it doesn't (options.c,
    migration.c). Hosts are taken for such without KVM's dirty ring, as in all that was measured."""
    version, known = version_number(settings.version), known_capabilities(settings.version)
    for name in settings.capabilities:
        if name not in known:
            return f"Invalid parameter '{name}'"
    for name, other, text, since, until in RULES:
        clash = not settings.has(other[1:]) if other.startswith("!") else settings.has(other)
        if settings.has(name) and clash and since <= version < until:
            return text
    if settings.has("zero-copy-send") and (settings.compression != "none" or settings.tls):
        return PLAIN_MULTIFD
    rules = behaviour(settings.version)
    if settings.transport == "file" and not rules.file_transport:
        return "Parameter 'uri' expects a valid migration protocol"
    if settings.file_pages and settings.transport != "file":
        return "Migration requires seekable transport (e.g. file)"
    if at_source and settings.file_pages and (settings.tls or settings.compression != "none"):
        return f"Cannot use {'compression' if settings.compression != 'none' else 'TLS'} with mapped-ram"
    several = settings.channels or settings.has("postcopy-preempt")
    if at_source and several and rules.needs_sockets_for_channels and settings.transport in ("exec", "file", "fd"):
        return "Migration requires multi-channel URIs (e.g. tcp)"
    return ""
