"""Runs a scenario in the simulated world until nothing more happens, and returns how it ended."""

from __future__ import annotations

from ..case.scenario import Scenario
from ..record.result import Result
from .faults import Rig
from .files import File
from .world import World


def run(
    scenario: Scenario, *, protocol: str = "v1", version: str = "", manager: str = "naive", seed: int = 1
) -> Result:
    """One run of a scenario in the simulated world: same arguments, same trace."""
    return play(World(scenario, protocol, version or scenario.versions[0], manager, seed))


def play(world: World) -> Result:
    """Run a world with its scenario's faults until nothing more happens."""
    file = arrange(world)
    world.management.begin()
    if world.management.refused is None and world.source.endpoint.finished is None:  # QMP has refused nothing
        _watch(world, file)
    world.management.end()
    return Result(world.row(), world.trace)


def arrange(world: World) -> File | None:
    """Lay the scenario's faults in, and put a file at the other end where nobody listens. Returns that file."""
    rig = Rig(world)
    if world.scenario.link.has_listener:
        world.on_listening = rig.arrange
        return None
    file = File(world)
    rig.arrange()
    return file


def _watch(world: World, file: File | None) -> None:
    """As long after each `migrate` as the scenario sets; a reader of a file begins after that."""
    while world.env.now < world.watched_until_s:
        world.env.run(until=world.watched_until_s)
    if file is not None:
        file.load()
        world.env.run(until=world.env.now + world.scenario.management.observe_s)
