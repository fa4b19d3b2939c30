"""Bytes that have arrived and wait to be understood; stand-in bytes among them stay numbers until somebody looks."""

from __future__ import annotations

from dataclasses import dataclass
from struct import calcsize

MOST: int = 2 ** (8 * calcsize("n") - 1) - 1  # what len() can say: 2 GiB where Python has 32 bits, as in a browser


@dataclass(frozen=True, slots=True)
class Buffer:
    """`head` real bytes, then `rest`: alternating counts of stand-in zero bytes and real bytes."""

    head: bytes = b""
    rest: tuple[int | bytes, ...] = ()

    def __len__(self) -> int:
        """How many bytes, up to MOST: a reader that takes that many finds the others behind them."""
        if not self.rest:
            return len(self.head)
        return min(len(self.head) + sum(r if isinstance(r, int) else len(r) for r in self.rest), MOST)

    def add(self, data: bytes, fill: int = 0) -> Buffer:
        """With these bytes, and then `fill` stand-in bytes, behind what has arrived before."""
        head, rest = self.head, self.rest
        if data:
            head, rest = (head + data, rest) if not rest else (head, (*rest, data))
        if fill:
            rest = (*rest[:-1], rest[-1] + fill) if rest and isinstance(rest[-1], int) else (*rest, fill)
        return Buffer(head, rest)

    def peek(self, size: int) -> bytes:
        """The first `size` bytes, or fewer when fewer are there. `size` is small: zeros are made for it."""
        data = self.head[:size]
        for part in self.rest:
            if len(data) == size:
                break
            missing = size - len(data)
            data += bytes(min(part, missing)) if isinstance(part, int) else part[:missing]
        return data

    def skip(self, size: int) -> Buffer:
        """Without the first `size` bytes (all that there are, if fewer)."""
        if size <= len(self.head):
            return Buffer(self.head[size:], self.rest) if len(self.head) > size or not self.rest else _joined(self.rest)
        size -= len(self.head)
        for at, part in enumerate(self.rest):
            length = part if isinstance(part, int) else len(part)
            if size < length:
                left = part - size if isinstance(part, int) else part[size:]
                return _joined((left, *self.rest[at + 1 :]))
            size -= length
        return Buffer()


def _joined(rest: tuple[int | bytes, ...]) -> Buffer:
    """A buffer whose head is as long as it can be without making zeros."""
    head = b""
    while rest and isinstance(rest[0], bytes):
        head, rest = head + rest[0], rest[1:]
    return Buffer(head, rest)
