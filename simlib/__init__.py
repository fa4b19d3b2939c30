"""A lab for the QEMU live-migration handshake.

    import simlib as lab

    lab.run("stranger_multifd", "v2", version="10.0")       # one scenario under one protocol
    lab.compare("stranger_multifd")                         # under v1, v1 with libvirt, and v2
    lab.search("matched_multifd", "v2", cuts=1)             # every order of events
    lab.sweep("matched", {"link.delay-ms": [1, 10, 100]})   # many runs

One's own protocols, managers, faults, intruders, properties and delay distributions are objects that these functions
take, and that `protocol`, `manager` and `fault` give a name: notebook 07. Importing this package imports nothing else.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"
_HOMES = {
    "run": "api",
    "compare": "api",
    "search": "api",
    "sweep": "api",
    "scenarios": "api",
    "scenario": "api",
    "protocol": "api",
    "manager": "api",
    "fault": "api",
    "pump": "handshake.pump",
    "Scenario": "case.scenario",
    "Fault": "case.faults",
    "Strike": "case.faults",
    "Manager": "case.managers",
    "Intruder": "case.intruders",
    "Delay": "case.delays",
    "Property": "explore.properties",
}
__all__ = ["__version__", *_HOMES]  # their names, which linters can't read here


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
