"""A SimPy world that runs the endpoints of `simlib.handshake`: `run(scenario, seed=1)`."""

from ..result import Result
from .run import run

__all__ = ["Result", "run"]
