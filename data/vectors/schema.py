"""The bodies of all messages as one JSON Schema (draft 2020-12), from the shapes by which they are read.

JSON Schema, because bodies are JSON and every language has a validator; CDDL's validators want CBOR. A schema can't
express all of SPEC section 3: the same key twice, UTF-8 and the form of numbers are the parser's, "no two alike" in
lists of objects is the receiver's.
"""

from __future__ import annotations

from typing import Any

from simlib.handshake.machine import NEEDED
from simlib.handshake.v2 import body, messages
from simlib.handshake.v2.features import NEEDS
from simlib.handshake.v2.manifest import SHAPE

Schema = dict[str, Any]
INTEGER: Schema = {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1}
STRING: Schema = {"type": "string", "maxLength": body.STRING}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, "maxItems": body.ITEMS} | more


def _row(*items: Schema) -> Schema:
    return {"type": "array", "prefixItems": list(items), "items": False, "minItems": len(items)}


_PARAMETER: Schema = {
    "oneOf": [
        _row(INTEGER, INTEGER) | {"$comment": "a range; the first is not above the second"},
        _list(STRING, minItems=1, uniqueItems=True) | {"$comment": "a choice, best first"},
        {
            "$comment": "a set",
            "type": "object",
            "properties": {"set": _list(STRING, minItems=1, uniqueItems=True)},
            "required": ["set"],
            "additionalProperties": False,
        },
    ]
}
# Where the values of a key are narrower than its shape; a key of several messages without the message's name.
VALUES: dict[str, Schema] = {
    "HELLO.role": {"enum": ["source", "destination"]},
    "HELLO.main": {"enum": ["separate", "inline"]},
    "OFFER.on-maybe": {"enum": ["warn", "reject"]},
    "ACCEPT.verdict": {"enum": ["yes", "maybe"]},
    "ACCEPT.secret": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    "features[].need": {"enum": list(NEEDS)},
    "features[].parameters": {"type": "object", "additionalProperties": _PARAMETER, "maxProperties": body.ITEMS},
    "devices[].subsections[]": _row(STRING, INTEGER, {"enum": list(NEEDED)}),
    "devices[].nested[]": _row(STRING, INTEGER, INTEGER),
}
NEVER_EMPTY = ("REJECT.errors", "ABORT.errors", "ERROR.errors")
MOST = {
    "devices": messages.DEVICES_LIMIT,
    "ram-blocks": messages.BLOCKS_LIMIT,
    "features": messages.FEATURES_LIMIT,
}


def bodies() -> Schema:
    """One definition for each message, by name, and one for the manifest."""
    shapes = {cls.NAME: messages.SHAPES[type] for type, cls in messages.MESSAGES.items()} | {"manifest": SHAPE}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Bodies of the v2 migration handshake, version 2.1",
        "$defs": {name: _schema(shape, name) for name, shape in shapes.items()},
    }


def _schema(shape: Any, path: str) -> Schema:
    """Of a shape (`body.load` says what that is), at that path."""
    own = VALUES.get(path) or VALUES.get(path.partition(".")[2])
    if own is not None:
        return own
    if isinstance(shape, dict):
        return _object(shape, path)
    if isinstance(shape, list):
        most = MOST.get(path) or MOST.get(path.partition(".")[2]) or body.ITEMS
        return _list(_schema(shape[0], f"{path}[]"), maxItems=most) | ({"minItems": 1} if path in NEVER_EMPTY else {})
    return {str: STRING, int: INTEGER, bool: {"type": "boolean"}, dict: {"type": "object"}}.get(shape, {})


def _object(shape: dict[str, Any], path: str) -> Schema:
    """Each key may be marked with a "?", but not be there in both forms; what is marked and unknown may be anything."""
    keys = {key.rstrip("?"): _schema(inner, f"{path}.{key.rstrip('?')}") for key, inner in shape.items()}
    rules: list[Schema] = []
    for key in shape:
        bare = key.rstrip("?")
        either = [{"required": [bare]}, {"required": [f"?{bare}"]}]
        rules.append({"oneOf": either} if bare == key else {"not": {"required": [bare, f"?{bare}"]}})
    return {
        "type": "object",
        "properties": keys | {f"?{key}": schema for key, schema in keys.items()},
        "patternProperties": {"^\\?": {}},
        "additionalProperties": False,
        "maxProperties": body.ITEMS,
    } | ({"allOf": rules} if rules else {})
