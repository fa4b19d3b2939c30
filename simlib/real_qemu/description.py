"""The JSON text that ends a v1 stream (vmstate.c, vmstate_save_state_v): what each device sent, and how much.

No destination reads it; it is the only place where a stream states how long a device's state is. Each function takes
one device's entry, or one nested description inside it.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import shapes
from .shapes import Described, Vmsd


def devices(text: bytes) -> list[Described] | None:
    """The devices that the text describes, or None if it is none: a stream may come from anywhere."""
    try:
        return shapes.decoded(text, shapes.Description)["devices"]
    except shapes.WRONG:
        return None


def sent_bytes(vmsd: Described | Vmsd) -> int:
    size: int = sum(field["size"] * field.get("array_len", 1) for field in vmsd.get("fields", ()))
    for subsection in vmsd.get("subsections", ()):
        size += 1 + 1 + len(subsection["vmsd_name"]) + 4 + sent_bytes(subsection)
    return size


def sent_subsections(vmsd: Described | Vmsd) -> Iterator[tuple[str, int]]:
    for subsection in vmsd.get("subsections", ()):
        yield subsection["vmsd_name"], subsection["version"]
        yield from sent_subsections(subsection)
    for field in vmsd.get("fields", ()):
        if "struct" in field:
            yield from sent_subsections(field["struct"])


def sent_nested(vmsd: Described | Vmsd) -> Iterator[tuple[str, int]]:
    for field in vmsd.get("fields", ()):
        if "struct" in field:
            yield field["struct"]["vmsd_name"], field["struct"]["version"]
            yield from sent_nested(field["struct"])


def sent_fields(vmsd: Described | Vmsd) -> list[object]:
    """Names and types; an array's elements once, and no sizes, for some depend on the configuration."""
    fields: list[object] = []
    for field in vmsd.get("fields", ()):
        inner = field.get("struct")
        entry: list[object] = [field["name"], field["type"]]
        if inner:
            entry.append([inner["vmsd_name"], inner["version"], sent_fields(inner)])
        if entry not in fields:
            fields.append(entry)
    return fields
