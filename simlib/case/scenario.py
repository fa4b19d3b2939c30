"""A scenario: all that a run is given, read from a TOML file that people write or made in Python.

Every part checks its own fields when it is made, so that a wrong name, type or number never reaches a run;
`files.load` adds the file and the key as it is spelt there. Units are part of the names.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from ..handshake.machine import Machine, Settings
from .checks import Part, require_keys
from .faults import Fault
from .profiles import ProfileError, edited, is_file, machine
from .registry import ScenarioError

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Side(Part):
    """One side: its QEMU, its machine, its migration settings, and how it speaks v2."""

    machine: str = "pc-i440fx-7.2"  # a configuration of data/profiles, or FILE.json#MACHINE
    machine_type: str = ""  # another machine type for the same devices
    memory_mib: int = 0  # 0: as in the profile
    vcpus: int = 0
    cpu: str = "qemu64"
    cpu_features: tuple[str, ...] = ()
    uuid: str = ""
    edit: tuple[dict[str, Any], ...] = ()  # devices changed, for version skew that no profile has
    capabilities: tuple[str, ...] = ()
    parameters: dict[str, int | str] = field(default_factory=dict)
    exit_on_error: bool = True
    knows_v2: bool = True  # False: a binary from before the handshake
    accept: str = "v2"  # destination: v2, v1, v2-or-v1
    require: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    on_maybe: str = "warn"
    session: str = ""
    psk: str = ""
    memory_limit_mib: int = 0
    detect_timeout_s: float = -1.0  # of its own; negative: the scenario's
    keepalive_s: float = 5.0  # between two looks at whether the peer is alive; 0: never
    keepalive_count: int = 5  # PINGs without an answer

    @property
    def accepts_both(self) -> bool:
        return self.accept == "v2-or-v1"

    @property
    def accepts_stream_alone(self) -> bool:
        return self.accept == "v1"

    apply_error: str = ""  # why the agreed configuration can't be set there
    apply_code: str = "apply-failed"  # or port, memory


@dataclass(frozen=True)
class Link(Part):
    """The way between the hosts. Delays are one way; `delay_law` with its parameters draws the jitter on top."""

    transport: str = "tcp"  # tcp, unix, exec-socat, exec-cat, exec-tee, exec-true, file
    delay_ms: float = 0.05
    delay_law: str = "constant"  # lognormal, pareto, exponential, empirical
    jitter_ms: float = 0.0  # scale of the law
    shape: float = 1.0  # lognormal: sigma; pareto: alpha
    samples_ms: Numbers = ()  # empirical
    rate_mib_s: float = 1200.0
    loss: float = 0.0
    syn_loss: float = 0.0
    buffer_kib: int = 4096
    told_bidirectional: bool = True  # whether the manager declares exec: as bidirectional
    load_transport: str = ""  # saved files: how the destination reads them; empty: as they were written

    @property
    def has_listener(self) -> bool:
        """Whether a destination listens at the other end, and no file or command takes the stream."""
        return self.transport not in ("file", "exec-cat", "exec-tee", "exec-true", "exec-null")

    @property
    def local(self) -> bool:
        """Whether there is no network between the two: delays and losses have no effect."""
        return self.transport == "unix" or self.transport.startswith("exec")


@dataclass(frozen=True)
class GuestFacts(Part):
    """The guest: what moves, how fast it dirties memory, how its devices load."""

    ram_mib: float = 64.0  # that it has touched
    dirty_mib_s: float = 0.0
    working_set_mib: float = 8.0
    load_ms: float = 1.0
    jitter_ms: float = 0.0  # whatever the hosts do takes up to so much longer
    post_load_error: str = ""
    source_ms: Numbers = ()  # when its answers come at the source, for an exact replay; empty: when they are ready
    destination_ms: Numbers = ()


@dataclass(frozen=True)
class Management(Part):
    """What the manager does besides starting both sides; times count from the start of the migration."""

    cancel_at_s: float = -1.0
    deadline_s: float = -1.0
    postcopy_at_s: float = -1.0
    retries: int = 0  # further attempts at the same destination, while it listens; faults hit the first only
    observe_s: float = 60.0  # what has not ended by then counts as hung
    loads_anyway: bool = False  # loads a saved file even if the source reports that saving failed
    lies: bool = False  # the manager configured the sides wrongly: v2's properties do not cover that


@dataclass(frozen=True)
class Timing(Part):
    """When one connection is up and its messages arrive, in ms from the start: replays one order of events exactly.
    A negative time: it is lost in its sender's buffer. What is not listed stays there (to the destination), or takes
    its normal time (to the source)."""

    connection: str
    connected_ms: float = -1.0  # its opener learns it; negative: never
    accepted_ms: float = -1.0
    to_destination_ms: Numbers = ()
    to_source_ms: Numbers = ()
    reset_at_destination_ms: float = -1.0  # that side learns that the connection is broken
    reset_at_source_ms: float = -1.0


@dataclass(frozen=True)
class Scenario(Part):
    """One situation: two sides, the link between them, their managers, and what goes wrong."""

    name: str = ""
    title: str = ""
    about: str = ""
    claims: tuple[str, ...] = ()
    versions: tuple[str, ...] = ("7.2", "10.0")  # "7.2" for both sides, or "7.2>10.0"
    protocols: tuple[str, ...] = ("v1", "v2")
    managers: tuple[str, ...] = ("naive",)
    source: Side = field(default_factory=Side)
    destination: Side = field(default_factory=Side)
    link: Link = field(default_factory=Link)
    guest: GuestFacts = field(default_factory=GuestFacts)
    management: Management = field(default_factory=Management)
    faults: tuple[Fault, ...] = ()
    schedule: tuple[Timing, ...] = ()
    detect_timeout_s: float = 1.0

    def covers(self, protocol: str) -> bool:
        """Whether it is meant to be played with a protocol."""
        return protocol in self.protocols

    def vary(self, **changes: Any) -> Scenario:
        """A copy with some keys changed; `link__delay_ms=5` reaches into a part. Units are part of the names.

        Raises:
            ScenarioError: for a key that does not exist, and a value that it can't have.
        """
        flat = {k: v for k, v in changes.items() if "__" not in k}
        require_keys(Scenario, flat)
        for key, value in changes.items():
            name, _, inner = key.partition("__")
            if inner:
                require_keys(Scenario, (name,))
                part = flat.get(name, getattr(self, name))
                if not isinstance(part, Part):
                    raise ScenarioError(f"Scenario: nothing is below '{name}', so that there is no '{key}'")
                require_keys(type(part), (inner,))
                flat[name] = replace(part, **{inner: value})
        return replace(self, **flat)

    def settings(self, source: bool, version: str) -> Settings:
        """One side's settings on a QEMU version. Raises ScenarioError."""
        side = self.source if source else self.destination
        transport = self.link.transport if source else (self.link.load_transport or self.link.transport)
        return Settings(
            version,
            _machine(self, side, version),
            side.capabilities,
            tuple(sorted(side.parameters.items())),
            transport.partition("-")[0],
            side.exit_on_error,
        )


def _machine(scenario: Scenario, side: Side, version: str) -> Machine:
    asked = (side.machine_type, side.memory_mib, side.vcpus, side.cpu, tuple(side.cpu_features), side.uuid)
    try:
        started = _started.__wrapped__ if is_file(side.machine) else _started  # a file may change
        as_started = started(version, side.machine, *asked)
        return edited(as_started, side.edit) if side.edit else as_started
    except ProfileError as error:
        raise ScenarioError(f"{scenario.name}: {error}") from None


@lru_cache(maxsize=64)
def _started(
    version: str,
    profile: str,
    machine_type: str,
    memory_mib: int,
    vcpus: int,
    cpu: str,
    cpu_features: tuple[str, ...],
    uuid: str,
) -> Machine:
    """A profile's machine as a command line asks for it, the same one for each run. Raises ProfileError."""
    profiled = machine(version, profile)
    blocks = profiled.ram_blocks
    if memory_mib:
        blocks = (replace(blocks[0], size_bytes=memory_mib << 20), *blocks[1:])
    return replace(
        profiled,
        type=machine_type or profiled.type,
        ram_blocks=blocks,
        vcpus=vcpus or profiled.vcpus,
        cpu=cpu,
        cpu_features=cpu_features,
        uuid=uuid,
    )
