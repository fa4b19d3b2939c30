"""Message bodies: strict JSON in, canonical JSON out, and the rule for what is unknown (SPEC section 3).

A shape says what a body may hold: `str`, `int`, `bool`, `[shape]`, a dict of key -> shape (`key?` may be absent), or
`None` for anything. A key that starts with `?` may be ignored by who doesn't know it; any other unknown key is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from ..errors import PeerError, clean

DEPTH, ITEMS, STRING, IGNORABLE_KEYS = 16, 8192, 4096, 256
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|([\[\]{}])', re.DOTALL)  # strings are passed over

Shape = Any


def dump(body: dict[str, Any]) -> bytes:
    """The canonical form: sorted keys, no spaces, ASCII escapes. Used for digests, and on the wire because it is
    as good as any."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(dump(body)).hexdigest()


def load(payload: bytes, shape: Shape, what: str) -> dict[str, Any]:
    """A body that fits `shape`, marks stripped and ignorable keys gone. Raises PeerError."""
    _check_depth(payload, what)
    try:
        found = json.loads(
            payload.decode("utf-8"), object_pairs_hook=_pairs, parse_float=_refuse, parse_constant=_refuse,
            parse_int=_integer,
        )  # fmt: skip
    except PeerError:
        raise
    except (ValueError, RecursionError) as error:
        raise PeerError("encoding", f"{what} is not JSON: {error}", what) from None
    if not isinstance(found, dict):
        raise PeerError("encoding", f"{what} is not one JSON object", what)
    counter = [0]
    fitted = _fit(found, shape, what, counter)
    assert isinstance(fitted, dict)
    return fitted


def _check_depth(payload: bytes, what: str) -> None:
    depth = 0
    for bracket in b"".join(_BRACKETS.findall(payload)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH:
            raise PeerError("encoding", f"{what} is nested deeper than {DEPTH}", what)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise PeerError("encoding", "an object has the same key twice")
    return found


def _refuse(text: str) -> Any:
    raise PeerError("encoding", f"{text[:40]} is not an integer; floats are not allowed")


def _integer(text: str) -> int:
    number = int(text) if len(text) <= 20 else None
    if number is None or not -(1 << 63) <= number < 1 << 64:
        raise PeerError("encoding", f"an integer of {len(text)} digits does not fit 64 bits")
    return number


def _fits(value: Any, shape: Shape) -> bool:
    """A leaf that needs no closer look: nearly everything in a body."""
    kind = type(value)
    if kind is shape or (shape is None and kind in (str, int)):
        return kind is not str or (len(value) <= STRING and value.isascii())
    return False


def _fit(value: Any, shape: Shape, path: str, counter: list[int]) -> Any:
    if isinstance(value, str) and len(value) > STRING:
        raise PeerError("too-much", f"{path} is a string of {len(value)} characters; {STRING} are allowed", path)
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise PeerError("encoding", f"{path} holds half of a surrogate pair", path)
    if isinstance(value, (list, dict)) and len(value) > ITEMS:
        raise PeerError("too-much", f"{path} has {len(value)} items; {ITEMS} are allowed", path)
    if shape is None:
        return _anything(value, path, counter)
    if isinstance(shape, dict):
        return _fit_object(value, shape, path, counter)
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise PeerError("unknown-value", f"{path} must be a list", path)
        inner = shape[0]
        return [v if _fits(v, inner) else _fit(v, inner, f"{path}[{i}]", counter) for i, v in enumerate(value)]
    if not isinstance(value, shape) or (shape is int and isinstance(value, bool)):
        raise PeerError("unknown-value", f"{path} must be of type {shape.__name__}, not {type(value).__name__}", path)
    return value


def _fit_object(value: Any, shape: dict[str, Shape], path: str, counter: list[int]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PeerError("unknown-value", f"{path} must be an object", path)
    fitted: dict[str, Any] = {}
    for key, inner in value.items():
        bare = key[1:] if key.startswith("?") else key
        known = ... if bare.endswith("?") else shape.get(bare, shape.get(bare + "?", ...))
        if known is not ...:
            if bare in fitted:
                raise PeerError("encoding", f"{path} has {bare} twice, marked and unmarked", path)
            fitted[bare] = inner if _fits(inner, known) else _fit(inner, known, f"{path}.{bare}", counter)
        elif key.startswith("?"):
            counter[0] += 1
            if counter[0] > IGNORABLE_KEYS:
                raise PeerError("too-much", f"more than {IGNORABLE_KEYS} ignorable keys", path)
        else:
            raise PeerError("unknown-key", f"{path} has the key {clean(bare, 80)!r}, which this version does not know",
                            f"{path}.{clean(bare, 80)}")  # fmt: skip
    for key in shape if len(fitted) < len(shape) else ():
        if not key.endswith("?") and key not in fitted:
            raise PeerError("unknown-value", f"{path} lacks the key {key!r}", f"{path}.{key}")
    return fitted


def _anything(value: Any, path: str, counter: list[int]) -> Any:
    if isinstance(value, dict):
        return {k: _fit(v, None, f"{path}.{clean(k, 80)}", counter) for k, v in value.items()}
    if isinstance(value, list):
        return [v if _fits(v, None) else _fit(v, None, path, counter) for v in value]
    return value
