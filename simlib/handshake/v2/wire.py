"""Messages as dataclasses: the shape of a body, reading it and writing it follow from the fields (SPEC section 3).

A field `page_bits` is the key `page-bits`. Metadata of a field says what does not follow from its type:

    key     another key on the wire
    unsent  the field is not on the wire; a message that is read has this value there
    clean   a text for people: printable characters only, at most so many
    codec   a `Codec` of its own

A tuple of one type is a list; a tuple of several types is a row with one value each, and so is a dataclass with
IS_ROW. A field with the default None may be absent.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, cast

from ..errors import Code, PeerError, clean

M = TypeVar("M")
Body = dict[str, Any]


class Codec(NamedTuple):
    """One type on the wire: its shape for `body.load`, how it is written, and how it is read at a path.

    `write` and `read` are None where a value stands on the wire as it is in the field.
    """

    shape: Any
    write: Callable[[Any], Any] | None = None
    read: Callable[[Any, str], Any] | None = None


def shape(cls: type) -> dict[str, Any]:
    """The shape of a message's body, as `body.load` takes it."""
    return {f"{key}?" if optional else key: codec.shape for _, key, codec, optional in _sent(cast(Hashable, cls))}


def to_body(message: Any) -> Body:
    """The body of a message: what is None is left out."""
    cls: Any = type(message)
    fields = _sent(cls)
    body = dict(zip((key for _, key, _, _ in fields), _values(cls)(message), strict=True))
    for _, key, codec, optional in fields:
        if optional and body[key] is None:
            del body[key]
        elif codec.write is not None:
            body[key] = codec.write(body[key])
    return body


def from_body(cls: type[M], body: Mapping[str, Any], path: str) -> M:
    """A message from a body that has its shape. Raises PeerError for what a codec refuses."""
    values = []
    for field, key, codec, _ in _all(cast(Hashable, cls)):
        if codec is None:
            values.append(field.metadata["unsent"])
        else:
            value = body.get(key)
            values.append(value if codec.read is None or value is None else codec.read(value, f"{path}.{key}"))
    return cls(*values)


# --- from types to codecs -------------------------------------------------------------------------------------------
@cache
def _all(cls: Any) -> tuple[tuple[dataclasses.Field[Any], str, Codec | None, bool], ...]:
    """Field, key, codec (None: it is not sent) and whether it may be absent."""
    hints = typing.get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        key = field.metadata.get("key", field.name.replace("_", "-"))
        codec = None if "unsent" in field.metadata else _codec(hints[field.name], field.metadata)
        found.append((field, key, codec, field.default is None))
    return tuple(found)


@cache
def _sent(cls: Any) -> tuple[tuple[dataclasses.Field[Any], str, Codec, bool], ...]:
    return tuple((field, key, codec, optional) for field, key, codec, optional in _all(cls) if codec is not None)


@cache
def _values(cls: Any) -> Callable[[Any], tuple[Any, ...]]:
    names = [field.name for field, _, _, _ in _sent(cls)]
    if len(names) > 1:
        return attrgetter(*names)
    return lambda message: tuple(getattr(message, name) for name in names)


def _codec(hint: Any, metadata: Mapping[str, Any]) -> Codec:
    if "codec" in metadata:
        codec: Codec = metadata["codec"]
        return codec
    if "clean" in metadata:
        return Codec(str, None, lambda text, path: clean(text, metadata["clean"]))
    if isinstance(hint, types.UnionType):  # X | None
        return _codec(next(kind for kind in typing.get_args(hint) if kind is not type(None)), {})
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        return _list(inner[0]) if inner[1:] == (...,) else _row(inner, tuple)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        if getattr(hint, "IS_ROW", False):
            hints = typing.get_type_hints(hint)
            return _row(tuple(hints[field.name] for field in dataclasses.fields(hint)), lambda values: hint(*values))
        return Codec(shape(hint), to_body, lambda body, path: from_body(hint, body, path))
    return Codec(None if hint is object or typing.get_origin(hint) is dict else hint)


def _list(hint: Any) -> Codec:
    item = _codec(hint, {})
    write, read = item.write, item.read
    return Codec(
        [item.shape],
        list if write is None else lambda values: [write(value) for value in values],
        (lambda values, path: tuple(values))
        if read is None
        else lambda values, path: tuple([read(value, f"{path}[{n}]") for n, value in enumerate(values)]),
    )


def _row(kinds: tuple[type, ...], make: Callable[[Any], Any]) -> Codec:
    def write(value: Any) -> list[Any]:
        return list(value) if isinstance(value, tuple) else [getattr(value, f.name) for f in dataclasses.fields(value)]

    def read(values: Any, path: str) -> Any:
        fits = isinstance(values, list) and len(values) == len(kinds)
        if not fits or not all(type(v) is kind for v, kind in zip(values, kinds, strict=True)):
            at = path.rpartition("[")[0]
            text = f"{at} holds something that is not {len(kinds)} values"
            raise PeerError(Code.UNKNOWN_VALUE, text, item=at)
        return make(values)

    return Codec([None], write, read)
