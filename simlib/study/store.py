"""What a sweep has done so far, safe against being killed at any moment: one append-only log beside the result.

A record is a chunk of rows: a header (first run, run after the last, length, checksum of all) and the rows' columns as
compressed JSON. A record that was being written when the process died is cut off when the log is opened again; one that
was damaged since costs its own rows, which are run again, and no other's. In the end the records are merged, in the
order of the runs and without ever holding more than a row group, into one Parquet file that appears whole or not at
all, and whose seal, a checksum of all its other bytes, shows whether it is unchanged.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import struct
import typing
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING

from ..case.failure import Failure
from ..record.outcome import Row

if TYPE_CHECKING:
    import pyarrow

SPAN = struct.Struct(">QQI")  # first run, run after the last, bytes
HEADER_BYTES = SPAN.size + 4  # and the checksum
MAGIC = b"simlib-sweep-3\n"
GROUP_ROWS = 1 << 14
SEAL = b"blake2b of all other bytes: "
NO_SEAL = b"0" * 32
Column = list[object]  # values as JSON has them


class StoreError(Failure):
    """Why a sweep can't be run or stored, in one sentence."""


def packed(rows: list[tuple[object, ...]]) -> bytes:
    """The columns of one chunk as bytes: made where they were computed, so that little travels."""
    columns = [column[:1] if _same(column) else column for column in zip(*rows, strict=True)]
    return zlib.compress(json.dumps(columns, separators=(",", ":")).encode(), 3)


def _same(column: tuple[object, ...]) -> bool:
    """Whether one value can represent all: to Python 1, 1.0 and True are equal, in a result they are not."""
    first, last = column[0], column[-1]
    return (
        first == last
        and type(first) is not list
        and column.count(first) == len(column)
        and len({*map(type, column)}) == 1
    )


def _sealed(first: int, after: int, body: bytes) -> bytes:
    """A record's header."""
    span = SPAN.pack(first, after, len(body))
    return span + zlib.crc32(body, zlib.crc32(span)).to_bytes(4, "big")


class Log:
    """The rows that are done. One process writes; a second one is refused."""

    def __init__(self, path: Path, identity: Mapping[str, object]) -> None:
        self.path = path
        self.at = array("Q")  # four numbers a chunk: first run, run after the last, offset, bytes
        self.done = 0  # rows
        self.damaged_bytes = 0  # passed over between good records
        try:
            self.file = path.open("a+b")
        except OSError as error:
            raise StoreError(f"{path}: can't be written: {error.strerror or error}") from None
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.file.seek(0)
            self.identity = self._head(identity)
            self._scan()
        except BlockingIOError:
            self.file.close()
            raise StoreError(f"{path}: another sweep writes to it now") from None
        except StoreError:
            self.close()
            raise

    def _head(self, identity: Mapping[str, object]) -> Mapping[str, object]:
        begin = self.file.read(len(MAGIC) + 8)
        length, check = struct.unpack(">II", begin[len(MAGIC) :]) if len(begin) == len(MAGIC) + 8 else (0, 0)
        size = self.path.stat().st_size
        stored = self.file.read(min(length, size))
        if begin.startswith(MAGIC) and len(stored) == length and zlib.crc32(stored) == check:
            head: dict[str, object] = json.loads(stored)
            return head
        if begin and not (MAGIC.startswith(begin[: len(MAGIC)])):
            raise StoreError(f"{self.path}: is not a sweep's; remove it, or choose another --out")
        encoded = json.dumps(identity).encode()
        if size > len(MAGIC) + 8 + len(encoded):
            raise StoreError(
                f"{self.path}: its head is damaged, so nobody can say whose rows these are; remove it to begin anew"
            )
        self.file.truncate(0)  # it died before it had begun
        self._write(MAGIC + struct.pack(">II", len(encoded), zlib.crc32(encoded)) + encoded)
        return identity

    def _scan(self) -> None:
        good, size = self.file.tell(), self.path.stat().st_size
        at = good
        with mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            while at + HEADER_BYTES < size:
                first, after, length = SPAN.unpack_from(data, at)
                body = at + HEADER_BYTES
                if (
                    first < after
                    and 0 < length <= size - body
                    and _sealed(first, after, data[body : body + length]) == data[at:body]
                ):
                    self._know(first, after, body, length)
                    self.damaged_bytes += at - good
                    good = at = body + length
                else:
                    at += 1  # until the next good one
        if good < size:
            self.file.truncate(good)
        self.file.seek(good)

    def add(self, first: int, after: int, body: bytes) -> None:
        """Keep a chunk of rows.

        Args:
            first: the index of its first run in the sweep.
            after: the index behind its last run.
            body: its rows as `packed` returns them.

        Raises:
            StoreError: if the disk is full; what was kept before stays good.
        """
        offset = self._write(_sealed(first, after, body) + body)
        self._know(first, after, offset + HEADER_BYTES, len(body))

    def _know(self, *chunk: int) -> None:
        self.at.extend(chunk)
        self.done += chunk[1] - chunk[0]

    def _in_order(self) -> Iterator[tuple[int, int, int, int]]:
        """Every chunk by its first run."""
        for n in sorted(range(0, len(self.at), 4), key=self.at.__getitem__):
            first, after, offset, length = self.at[n : n + 4]
            yield first, after, offset, length

    def _write(self, data: bytes) -> int:
        offset = self.file.seek(0, 2)
        try:
            self.file.write(data)
            self.file.flush()
        except OSError as error:
            with suppress(OSError):
                self.file.truncate(offset)
            raise StoreError(
                f"{self.path}: {error.strerror}; {self.done:,} rows are kept: once there is room, the "
                "same command goes on"
            ) from None
        return offset

    def gaps(self, runs: int) -> Iterator[tuple[int, int]]:
        """The spans of runs (first, after the last) that are still missing, of `runs` in all."""
        next_run = 0
        for first, after, *_ in self._in_order():
            if first > next_run:
                yield next_run, first
            next_run = after
        if next_run < runs:
            yield next_run, runs

    def columns(self) -> Iterator[list[Column]]:
        """Every chunk's columns in the order of the runs."""
        for first, after, offset, length in self._in_order():
            self.file.seek(offset)
            many = after - first
            columns = json.loads(zlib.decompress(self.file.read(length)))
            yield [column if len(column) == many else column * many for column in columns]

    def close(self) -> None:
        with suppress(OSError, ValueError):  # a full disk was reported already
            self.file.close()


# --- Parquet --------------------------------------------------------------------------------------------------------
def schema(columns: tuple[str, ...], examples: Mapping[str, Column], metadata: Mapping[str, object]) -> pyarrow.Schema:
    """The Arrow schema of a sweep's rows; `examples`: each parameter's values."""
    import pyarrow

    named = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    hints = typing.get_type_hints(Row)

    def kind(column: str) -> pyarrow.DataType:
        if column in examples:
            kinds = {type(v) for v in examples[column] if v is not None}
            one = kinds.pop() if len(kinds) == 1 else float if kinds == {int, float} else str
            return named.get(one, named[str])
        if column in hints:
            hint = hints[column]
            return named[typing.get_args(hint)[0] if isinstance(hint, UnionType) else hint]
        return named[str if column == "error" else int]

    encoded = {"simlib": json.dumps(metadata, indent=1)}
    return pyarrow.schema([(c, kind(c)) for c in columns], metadata=encoded)


def write(chunks: Iterable[list[Column]], arrow_schema: pyarrow.Schema, out: Path) -> int:
    """Write the Parquet file, whole or not at all, from chunks' columns; the number of rows. Raises StoreError."""
    import pyarrow
    import pyarrow.parquet

    count, partial = 0, out.with_name(out.name + ".tmp")
    try:
        # The pages' own checksums are for other readers, which know no seal.
        with pyarrow.parquet.ParquetWriter(partial, arrow_schema, compression="zstd", write_page_checksum=True) as file:
            columns: list[Column] = [[] for _ in arrow_schema]

            def flush() -> int:
                group = [column[:GROUP_ROWS] for column in columns]
                for column in columns:
                    del column[:GROUP_ROWS]
                arrays = [_array(column, field.type) for column, field in zip(group, arrow_schema, strict=True)]
                file.write_table(pyarrow.Table.from_arrays(arrays, schema=arrow_schema))
                return len(group[0])

            for chunk in chunks:
                for column, more in zip(columns, chunk, strict=True):
                    column.extend(more)
                while len(columns[0]) >= GROUP_ROWS:
                    count += flush()
            if columns[0]:
                count += flush()
            file.add_key_value_metadata({"simlib-seal": (SEAL + NO_SEAL).decode()})
        at, _, seal = _seal(partial)
        with partial.open("r+b") as sealing:
            sealing.seek(at)
            sealing.write(seal)
        partial.replace(out)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise StoreError(
            f"{out}: {error.strerror or error}; all rows are kept: once there is room, the same command goes on"
        ) from None
    return count


def _array(column: Column, kind: pyarrow.DataType) -> pyarrow.Array:
    """A column's values; a parameter that is a list, or sometimes a number and sometimes a text, is stored as text."""
    import pyarrow

    if kind == pyarrow.string():
        column = [v if v is None or isinstance(v, str) else json.dumps(v) for v in column]
    elif kind == pyarrow.float64():
        column = [float(v) if isinstance(v, int | float) else v for v in column]
    return pyarrow.array(column, kind)


def _seal(path: Path) -> tuple[int, bytes, bytes]:
    """Where a result's seal stands, what it is, and what it must be; -1 and nothing where there is none."""
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return -1, b"", b""
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            start = data.rfind(SEAL)
            if start < 0:
                return -1, b"", b""
            at = start + len(SEAL)
            after = at + len(NO_SEAL)
            right = blake2b(view[:at], digest_size=len(NO_SEAL) // 2)
            right.update(view[after:])
            return at, data[at:after], right.hexdigest().encode()


def intact(out: Path) -> bool | None:
    """Whether every byte of a result is as it was written; None if it has no seal. Raises StoreError."""
    try:
        at, seal, right = _seal(out)
    except OSError as error:
        raise StoreError(f"{out}: can't be read: {error.strerror}") from None
    return seal == right if at >= 0 else None


def metadata_of(out: Path) -> dict[str, object]:
    """What travels with a result: versions, commit, seed, command, the sweep. Raises StoreError."""
    import pyarrow
    import pyarrow.parquet

    try:
        entries = pyarrow.parquet.read_schema(out).metadata or {}
        metadata: dict[str, object] = json.loads(entries[b"simlib"])
        return metadata
    except (OSError, KeyError, ValueError, pyarrow.ArrowException):
        raise StoreError(f"{out}: is there, and is not a sweep's result; choose another --out") from None
