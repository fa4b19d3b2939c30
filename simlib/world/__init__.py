"""A SimPy world that runs the endpoints of `simlib.handshake`: `run(scenario, seed=1)`."""

from ..record.result import Result
from .run import run

__all__ = ["Result", "run"]
