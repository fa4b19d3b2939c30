"""Which migration capability exists in which QEMU version, and what QMP refuses before anything starts.

Sources: QEMU qapi/migration.json and migration/options.c of the named versions, measured refusals on 7.2, 10.0, 11.1.
"""

from __future__ import annotations

from .machine import Settings
from .stream import version_number

# Capability: first version that has it, first that no longer does.
CAPABILITIES: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    name: (since, until)
    for name, since, until in (
        ("xbzrle", (1, 2), (99, 0)), ("rdma-pin-all", (2, 0), (99, 0)), ("auto-converge", (1, 6), (99, 0)),
        ("zero-blocks", (1, 6), (11, 0)), ("events", (2, 4), (99, 0)), ("postcopy-ram", (2, 5), (99, 0)),
        ("x-colo", (2, 8), (99, 0)), ("compress", (2, 4), (9, 1)), ("release-ram", (2, 9), (99, 0)),
        ("block", (2, 10), (9, 1)), ("return-path", (2, 10), (99, 0)), ("multifd", (4, 0), (99, 0)),
        ("pause-before-switchover", (2, 11), (99, 0)), ("dirty-bitmaps", (2, 12), (99, 0)),
        ("postcopy-blocktime", (3, 0), (99, 0)), ("late-block-activate", (3, 0), (99, 0)),
        ("x-ignore-shared", (4, 0), (99, 0)), ("validate-uuid", (4, 2), (99, 0)),
        ("background-snapshot", (6, 0), (99, 0)), ("zero-copy-send", (7, 1), (99, 0)),
        ("postcopy-preempt", (7, 1), (99, 0)), ("switchover-ack", (8, 1), (99, 0)),
        ("dirty-limit", (8, 1), (99, 0)), ("mapped-ram", (9, 0), (99, 0)),
    )
}  # fmt: skip


def known_capabilities(version: str) -> tuple[str, ...]:
    number = version_number(version)
    return tuple(sorted(name for name, (since, until) in CAPABILITIES.items() if since <= number < until))


def refusal(settings: Settings, at_source: bool) -> str:
    """Why QMP refuses these settings before anything starts; empty when it doesn't (options.c, migration.c)."""
    version, known = version_number(settings.version), known_capabilities(settings.version)
    for name in settings.capabilities:
        if name not in known:
            return f"Invalid parameter '{name}'"
    for name, needs in (("postcopy-preempt", "postcopy-ram"), ("switchover-ack", "return-path")):
        if settings.has(name) and not settings.has(needs):
            return f"Capability '{name}' requires capability '{needs}'"
    for one, other in (("multifd", "xbzrle"), ("postcopy-ram", "x-ignore-shared"), ("postcopy-ram", "mapped-ram"),
                       ("mapped-ram", "xbzrle"), ("mapped-ram", "compress"), ("multifd", "compress")):  # fmt: skip
        if settings.has(one) and settings.has(other):
            return f"{one} is not compatible with {other}"
    if settings.has("multifd") and settings.has("postcopy-ram") and (8, 0) <= version < (10, 1):
        return "Postcopy is not yet compatible with multifd"
    plain_multifd = settings.has("multifd") and settings.compression == "none" and not settings.tls
    if settings.has("zero-copy-send") and not plain_multifd:
        return "Zero copy only available for non-compressed non-TLS multifd migration"
    if settings.transport == "file" and version < (8, 2):
        return "Parameter 'uri' expects a valid migration protocol"
    if settings.file_pages and settings.transport != "file":
        return "Migration requires seekable transport (e.g. file)"
    several = settings.channels or settings.has("postcopy-preempt")
    if at_source and several and version >= (8, 0) and settings.transport in ("exec", "file", "fd"):
        return "Migration requires multi-channel URIs (e.g. tcp)"
    return ""
