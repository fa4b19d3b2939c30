"""Message bodies: strict JSON in, canonical JSON out, and the rule for what is unknown (SPEC section 3).

A shape is what a body may hold: `str`, `int` (not negative), `bool`, `[shape]`, a dict of key -> shape (`key?` may be
absent), `dict` for an object of anything, or `None` for anything. A key that starts with `?` may be ignored by who
doesn't know it; any other unknown key is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from ..errors import Code, PeerError, clean

DEPTH, ITEMS, STRING, IGNORABLE_KEYS = 16, 8192, 4096, 256
_LONG_NUMBER = re.compile(rb"\d{19}")  # 64 bits have 19 or 20 digits
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|([\[\]{}])', re.DOTALL)  # strings are passed over
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode

Shape = Any  # see above
Json = dict[str, Any]  # an object
JsonValue = Any  # what a body may hold: an object, a list, a string, an integer, true, false or null


def dump(body: Json) -> bytes:
    """The canonical form: sorted keys, no spaces, ASCII escapes. Used for digests, and on the wire because it is
    as good as any."""
    return _encode(body).encode()


def digest(body: Json) -> str:
    """SHA-256 of the canonical form, as 64 hexadecimal digits (SPEC 4.4)."""
    return hashlib.sha256(dump(body)).hexdigest()


def load(payload: bytes, shape: Shape, what: str) -> Json:
    """A body that fits `shape`, marks stripped and ignorable keys gone. Raises PeerError."""
    fast_path = _takes_fast_path(payload)
    if not fast_path:
        _check_depth(payload, what)
    try:
        value = (_FAST_DECODER if fast_path else _SLOW_DECODER).decode(payload.decode("utf-8"))
    except PeerError as error:
        raise PeerError(Code.ENCODING, error.error.text, item=what) from None
    except (ValueError, RecursionError) as error:
        raise PeerError(Code.ENCODING, f"{what} is not JSON: {error}", item=what) from None
    if not isinstance(value, dict):
        raise PeerError(Code.ENCODING, f"{what} is not one JSON object", item=what)
    fitted = _fit(value, shape, what, _Reading(fast_path))
    assert isinstance(fitted, dict)
    return fitted


@dataclass(slots=True)
class _Reading:
    """What is known of a body while it is read."""

    fast_path: bool
    ignored: int = 0


def _takes_fast_path(payload: bytes) -> bool:
    """Whether the bytes alone show that no string, number or nesting in them is against the rules: so it is with
    nearly every honest body, and only its shape is left to be looked at."""
    if b"\\" in payload or not payload.isascii():
        return False
    parts = payload.split(b'"')  # no escapes: every second part is a string
    outside = b"".join(parts[::2])
    if max(map(len, parts)) > STRING or _LONG_NUMBER.search(outside):
        return False
    brackets = outside.translate(_SQUARE, _NO_BRACKETS)
    for _ in range(DEPTH):
        brackets = brackets.replace(b"[]", b"")  # one level less
    return not brackets


def _check_depth(payload: bytes, what: str) -> None:
    """Nesting is limited before the parser sees it: a recursive one could be made to overflow (SPEC 3.1)."""
    depth = 0
    for bracket in b"".join(_BRACKETS.findall(payload)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH:
            raise PeerError(Code.ENCODING, f"{what} is nested deeper than {DEPTH}", item=what)


def _pairs(pairs: list[tuple[str, JsonValue]]) -> Json:
    """An object's keys must differ: parsers disagree on which of two equal ones counts (RFC 8259, section 4)."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise PeerError(Code.ENCODING, "an object has the same key twice")
    return members


def _refuse(text: str) -> JsonValue:
    """Floats are not allowed: their texts differ between implementations, and digests with them (SPEC 3.1)."""
    raise PeerError(Code.ENCODING, f"{text[:40]} is not an integer; floats are not allowed")


def _integer(text: str) -> int:
    """An integer of at most 64 bits, signed or unsigned (SPEC 3.1)."""
    number = int(text) if len(text) <= 20 else None
    if number is None or not -(1 << 63) <= number < 1 << 64:
        raise PeerError(Code.ENCODING, f"an integer of {len(text)} digits does not fit 64 bits")
    return number


_FAST_DECODER, _SLOW_DECODER = (
    json.JSONDecoder(object_pairs_hook=_pairs, parse_float=_refuse, parse_constant=_refuse, parse_int=number)
    for number in (int, _integer)
)


def _is_exact(value: JsonValue, shape: Shape) -> bool:
    """Whether a value of a tame body has its shape to the letter: no marks, and nothing unknown or left out."""
    kind = type(value)
    if shape is dict:
        return kind is dict and _is_exact(value, None)
    if kind is shape:
        return kind is not int or value >= 0
    if kind is list:
        if len(value) > ITEMS or not (shape is None or type(shape) is list):
            return False
        return all(map(_is_exact, value, repeat(shape and shape[0])))
    if kind is dict:
        if shape is None:
            return len(value) <= ITEMS and all(map(_is_exact, value.values(), repeat(None)))
        if type(shape) is not dict:
            return False
        if value.keys() != shape.keys():
            shape = {k.rstrip("?"): s for k, s in shape.items() if k[-1] != "?" or k[:-1] in value}
            if value.keys() != shape.keys():
                return False
        return all(map(_is_exact, value.values(), map(shape.__getitem__, value)))
    return shape is None


def _fit(value: JsonValue, shape: Shape, path: str, reading: _Reading) -> JsonValue:
    """Check a value against its shape, and return it without marks and ignorable keys (SPEC 3.3)."""
    if reading.fast_path and _is_exact(value, shape):
        return value
    if isinstance(value, str) and len(value) > STRING:
        raise PeerError(
            Code.TOO_MUCH, f"{path} is a string of {len(value)} characters; {STRING} are allowed", item=path
        )
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise PeerError(Code.ENCODING, f"{path} holds half of a surrogate pair", item=path)
    if isinstance(value, (list, dict)) and len(value) > ITEMS:
        raise PeerError(Code.TOO_MUCH, f"{path} has {len(value)} items; {ITEMS} are allowed", item=path)
    if shape is None or (shape is dict and isinstance(value, dict)):
        return _anything(value, path, reading)
    if isinstance(shape, dict):
        return _fit_object(value, shape, path, reading)
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise PeerError(Code.UNKNOWN_VALUE, f"{path} must be a list", item=path)
        return [_fit(v, shape[0], f"{path}[{i}]", reading) for i, v in enumerate(value)]
    if not isinstance(value, shape) or (shape is int and isinstance(value, bool)):
        raise PeerError(
            Code.UNKNOWN_VALUE, f"{path} must be of type {shape.__name__}, not {type(value).__name__}", item=path
        )
    if shape is int and value < 0:
        raise PeerError(Code.UNKNOWN_VALUE, f"{path} is negative", item=path)
    return value


def _fit_object(value: JsonValue, shape: dict[str, Shape], path: str, reading: _Reading) -> Json:
    """The keys of one object: known ones are checked, ignorable ones are counted and dropped, and any other is
    refused, since its sender may count on it (SPEC 3.3)."""
    if not isinstance(value, dict):
        raise PeerError(Code.UNKNOWN_VALUE, f"{path} must be an object", item=path)
    fitted: dict[str, Any] = {}
    for key, inner in value.items():
        bare = key[1:] if key.startswith("?") else key
        known = ... if bare.endswith("?") else shape.get(bare, shape.get(bare + "?", ...))
        if known is not ...:
            if bare in fitted:
                raise PeerError(Code.ENCODING, f"{path} has {bare} twice, marked and unmarked", item=path)
            fitted[bare] = _fit(inner, known, f"{path}.{bare}", reading)
        elif key.startswith("?"):
            reading.ignored += 1
            if reading.ignored > IGNORABLE_KEYS:
                raise PeerError(Code.TOO_MUCH, f"more than {IGNORABLE_KEYS} ignorable keys", item=path)
        else:
            raise PeerError(
                Code.UNKNOWN_KEY,
                f"{path} has the key {clean(bare, 80)!r}, which this version does not know",
                item=f"{path}.{clean(bare, 80)}",
            )
    for key in shape if len(fitted) < len(shape) else ():
        if not key.endswith("?") and key not in fitted:
            raise PeerError(Code.UNKNOWN_VALUE, f"{path} lacks the key {key!r}", item=f"{path}.{key}")
    return fitted


def _anything(value: JsonValue, path: str, reading: _Reading) -> JsonValue:
    """A value that no shape describes is still limited in its items, strings and nesting."""
    if isinstance(value, dict):
        return {k: _fit(v, None, f"{path}.{clean(k, 80)}", reading) for k, v in value.items()}
    if isinstance(value, list):
        return [_fit(v, None, path, reading) for v in value]
    return value
