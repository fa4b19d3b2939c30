"""The command `simlib`, also `python -m simlib`. Results go to stdout, progress and errors to stderr.

Exit status: 0 done, 1 it could not be done, 2 wrong usage, 130 interrupted.
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
    """Run the command line; returns the exit status."""
    terminal.protect()
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # for users' own modules, as in --protocol module:name
    arguments = sys.argv[1:] if argv is None else argv
    end = arguments.index("--") if arguments[:2] == ["qemu", "profile"] and "--" in arguments else len(arguments)
    options = parser().parse_args(arguments[:end])
    if end < len(arguments):
        options.rest = arguments[end + 1 :]  # QEMU's own, whatever it looks like
    try:
        status = int(options.call(options))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as stopped:
        print(f"simlib: {str(stopped) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone; no message would reach it
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
    """What could not be written is not tried again when Python ends, which would report it a second time."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
