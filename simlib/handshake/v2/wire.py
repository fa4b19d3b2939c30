"""Messages as dataclasses: the shape of a body, reading it and writing it follow from the fields (SPEC section 3).

A field `page_bits` is the key `page-bits`. Metadata of a field declares what does not follow from its type:

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
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, cast

from ..errors import Code, PeerError, clean
from .body import Json

M = TypeVar("M")


class Codec(NamedTuple):
    """One type on the wire: its shape for `body.load`, how it is written, and how it is read at a path.

    `write` and `read` are None where a value stands on the wire as it is in the field.
    """

    shape: Any
    write: Callable[[Any], Any] | None = None
    read: Callable[[Any, str], Any] | None = None


class _Field(NamedTuple):
    """One field of a message: its key, its codec (None: it is not sent), and whether it may be absent."""

    field: dataclasses.Field[Any]
    key: str
    codec: Codec | None
    optional: bool


class _Plan(NamedTuple):
    """What is done for each message of a class, looked up once."""

    keys: tuple[str, ...]
    values: Callable[[Any], tuple[Any, ...]]  # of the fields that are sent
    optional: tuple[str, ...]
    writes: tuple[tuple[str, Callable[[Any], Any]], ...]
    reads: tuple[tuple[str, Callable[[Any, str], Any] | None, Any], ...]  # key (empty: not sent), how, value if unsent


def shape(cls: type) -> Json:
    """The shape of a message's body, as `body.load` takes it."""
    return {f"{f.key}?" if f.optional else f.key: f.codec.shape for f in _fields(cls) if f.codec is not None}


def to_body(message: object) -> Json:
    """The body of a message: what is None is left out."""
    plan = _plan(cast(Hashable, type(message)))
    body = dict(zip(plan.keys, plan.values(message), strict=True))
    for key in plan.optional:
        if body[key] is None:
            del body[key]
    for key, write in plan.writes:
        if key in body:
            body[key] = write(body[key])
    return body


def from_body(cls: type[M], body: Json, path: str) -> M:
    """A message from a body that has its shape. Raises PeerError for what a codec refuses."""
    values = []
    for key, read, unsent in _plan(cast(Hashable, cls)).reads:
        if not key:
            values.append(unsent)
            continue
        value = body.get(key)
        if read is not None and value is not None:
            value = read(value, f"{path}.{key}" if path else key)
        values.append(value)
    return cls(*values)


# --- from types to codecs -------------------------------------------------------------------------------------------
def _fields(cls: Any) -> Iterator[_Field]:
    """What is known of each field, from its type and its metadata."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        key = field.metadata.get("key", field.name.replace("_", "-"))
        codec = None if "unsent" in field.metadata else _codec(hints[field.name], field.metadata)
        yield _Field(field, key, codec, field.default is None)


@cache
def _plan(cls: Any) -> _Plan:
    """Looked up once for each class: messages are read and written by what is found here."""
    sent = [(f, f.codec) for f in _fields(cls) if f.codec is not None]
    names = [f.field.name for f, _ in sent]
    return _Plan(
        tuple(f.key for f, _ in sent),
        attrgetter(*names) if len(names) > 1 else lambda message: tuple(getattr(message, name) for name in names),
        tuple(f.key for f, _ in sent if f.optional),
        tuple((f.key, codec.write) for f, codec in sent if codec.write is not None),
        tuple(
            ("", None, f.field.metadata["unsent"]) if f.codec is None else (f.key, f.codec.read, None)
            for f in _fields(cls)
        ),
    )


def _codec(hint: object, metadata: Mapping[str, Any]) -> Codec:
    """The codec that follows from a type."""
    if "codec" in metadata:
        codec: Codec = metadata["codec"]
        return codec
    if "clean" in metadata:
        return Codec(str, None, lambda text, path: clean(text, metadata["clean"]))
    if isinstance(hint, types.UnionType):  # X | None
        return _codec(next(kind for kind in typing.get_args(hint) if kind is not type(None)), {})
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        return _list(inner[0]) if inner[1:] == (...,) else _row(inner, list, tuple)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        if getattr(hint, "IS_ROW", False):
            hints, names = typing.get_type_hints(hint), [field.name for field in dataclasses.fields(hint)]
            values_of = attrgetter(*names)
            return _row(tuple(hints[name] for name in names), lambda v: list(values_of(v)), lambda v: hint(*v))
        return Codec(shape(hint), to_body, lambda body, path: from_body(hint, body, path))
    return Codec(dict if typing.get_origin(hint) is dict else hint)


def _list(hint: object) -> Codec:
    """A list whose items have one type."""
    item = _codec(hint, {})
    write, read = item.write, item.read
    return Codec(
        [item.shape],
        list if write is None else lambda values: [write(value) for value in values],
        (lambda values, path: tuple(values))
        if read is None
        else lambda values, path: tuple([read(value, f"{path}[{n}]") for n, value in enumerate(values)]),
    )


def _row(
    kinds: tuple[type, ...], values_of: Callable[[Any], list[object]], make: Callable[[list[object]], object]
) -> Codec:
    """A list with one value of each type, in order; rows of another form are refused."""

    def read(values: object, path: str) -> object:
        at = path.rpartition("[")[0]
        fits = isinstance(values, list) and tuple(map(type, values)) == kinds
        if not isinstance(values, list) or not fits or any(type(v) is int and v < 0 for v in values):
            text = f"{at} holds something that is not {len(kinds)} values"
            raise PeerError(Code.UNKNOWN_VALUE, text, item=at)
        try:
            return make(values)
        except ValueError as error:
            raise PeerError(Code.UNKNOWN_VALUE, f"{at}: {clean(str(error), 200)}", item=at) from None

    return Codec([None], values_of, read)
