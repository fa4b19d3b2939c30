"""The command `simlib`, also `python -m simlib`. Results go to stdout, progress and complaints to stderr.

Exit status: 0 done, 1 it could not be done, 2 it was asked wrongly, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from ..case.failure import Failure
from . import terminal
from .parser import parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    terminal.protect()
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # where people have modules of their own, as in --protocol module:name
    words = sys.argv[1:] if argv is None else argv
    end = words.index("--") if words[:2] == ["qemu", "profile"] and "--" in words else len(words)
    options = parser().parse_args(words[:end])
    if end < len(words):
        options.rest = words[end + 1 :]  # QEMU's own, whatever it looks like
    try:
        status = int(options.call(options))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as stopped:
        print(f"simlib: {str(stopped) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone; there is nobody to tell
        return _mute()
    except Failure as error:
        print(f"simlib: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        wanted = map(vars(options).get, ("out", "captures", "file"))
        print(f"simlib: {error.filename or next(filter(None, wanted), 'output')}: {error.strerror}", file=sys.stderr)
        return _mute()
    except ValueError as error:
        print(f"simlib: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        place = _place_outside(error)
        if not place:
            raise
        print(f"simlib: {place}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _place_outside(error: Exception) -> str:
    """File and line of a user's own module, if it was that which raised the error."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(last.filename).is_relative_to(Path(__file__).parents[1]) or "site-packages" in last.filename
    return "" if ours or last.filename.startswith(sys.base_prefix) else f"{last.filename}, line {last.lineno}"


def _mute() -> int:
    """What could not be written is not tried again when Python ends, where it would be told a second time."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
