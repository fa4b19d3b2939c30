"""Output that fits any locale and can't control the terminal, wherever the text comes from; and progress bars."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import sys
from collections.abc import Iterable
from typing import TextIO, TypeVar, cast

T = TypeVar("T")

# C0 and C1 but for tabs and line ends, and what turns the direction of text. Progress bars on stderr return to their
# line's beginning.
_COMMANDS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069"
_OF_STDOUT, _OF_STDERR = re.compile(f"[{_COMMANDS}\r]"), re.compile(f"[{_COMMANDS}]")


def protect() -> None:
    """Make stdout and stderr such outputs."""
    codecs.register_error("simlib", _replacement)
    sys.stdout, sys.stderr = _shown(sys.stdout, _OF_STDOUT), _shown(sys.stderr, _OF_STDERR)


def _shown(stream: TextIO | None, commands: re.Pattern[str]) -> TextIO:
    if stream is None:  # closed, as by `>&-`
        stream = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="simlib")
    return cast(TextIO, Shown(stream, commands))


class Shown:
    """A stream whose text is escaped where it must be; as in JSON, so that JSON stays JSON."""

    def __init__(self, stream: TextIO, commands: re.Pattern[str]) -> None:
        self.stream, self.commands = stream, commands

    def write(self, text: str) -> int:
        return self.stream.write(self.commands.sub(lambda match: _escaped(match[0]), text))

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


def _replacement(error: UnicodeError) -> tuple[str, int]:
    """Of what the locale's encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    return _escaped(error.object[error.start : error.end]), error.end


def _escaped(text: str) -> str:
    return "".join("\\u007f" if c == "\x7f" else json.dumps(c)[1:-1] for c in text)  # JSON lets that one through


def line(text: str) -> str:
    """A title of several lines could pass for lines of ours."""
    return " ".join(text.split())


def progress(items: Iterable[T], total: int, unit: str) -> Iterable[T]:
    """The items, with a bar and the time left on stderr: on a terminal, and after two seconds."""
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(items, total=total, unit=f" {unit}", delay=2, disable=None, leave=False)
    return bar
