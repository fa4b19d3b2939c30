"""A SimPy world that runs the endpoints of `simlib.handshake`: `run(scenario, seed=1)`."""

from .run import Result, run

__all__ = ["Result", "run"]
