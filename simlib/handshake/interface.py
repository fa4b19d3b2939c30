"""All that passes between an endpoint and whoever runs it.

An endpoint has three neighbours: *management* above (QMP, libvirt's part), the *link* beside (connections, which are
anonymous until known), the *guest* below. Each input below says who tells it; each output, who is asked. Reports ask
nobody: a runner may ignore them, a trace keeps them.

A connection is a small integer that the endpoint (source) or the runner (destination) has chosen. `fill` counts
stand-in bytes that follow `data`: they mean that many zero bytes and are never made, so that a guest of 128 GiB costs
nothing to move.
"""

from __future__ import annotations

from dataclasses import fields

from .errors import Error
from .values import dataclass


@dataclass(frozen=True, slots=True)
class _Value:
    def __str__(self) -> str:
        told = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))
        return f"{type(self).__name__}({told})"


# --- inputs: management ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Start(_Value):
    """`migrate` at the source, `migrate-incoming` at the destination."""


@dataclass(frozen=True, slots=True)
class Cancel(_Value):
    """`migrate_cancel`; `code` is `cancelled` or `deadline` (the manager's own clock)."""

    code: str = "cancelled"


@dataclass(frozen=True, slots=True)
class SwitchToPostcopy(_Value):
    """`migrate-start-postcopy`."""


# --- inputs: the link -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Opened(_Value):
    """Connected (source) or accepted (destination)."""

    conn: int


@dataclass(frozen=True, slots=True)
class Secured(_Value):
    """The TLS handshake that `StartTls` asked for is done; `exporter` binds the session to it (RFC 9266), `alpn` is
    what both offered (RFC 7301)."""

    conn: int
    exporter: bytes = b""
    alpn: str = ""


@dataclass(frozen=True, slots=True)
class TlsFailed(_Value):
    conn: int
    text: str


@dataclass(frozen=True, slots=True)
class Received(_Value):
    conn: int
    data: bytes
    fill: int = 0


@dataclass(frozen=True, slots=True)
class Drained(_Value):
    """All that was sent on the connection has been taken by the transport (not: has arrived)."""

    conn: int


@dataclass(frozen=True, slots=True)
class Ended(_Value):
    """The peer will say no more on it (FIN)."""

    conn: int


@dataclass(frozen=True, slots=True)
class Broken(_Value):
    """The connection failed, or could not be made; `text` is the system's word for it."""

    conn: int
    text: str


# --- inputs: the guest, and time ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class RamCollected(_Value):
    """Bytes of guest memory to send now; `converged` when the rest fits the downtime limit."""

    size_bytes: int
    converged: bool


@dataclass(frozen=True, slots=True)
class GuestStopped(_Value):
    pass


@dataclass(frozen=True, slots=True)
class GuestMoved(_Value):
    """The source's guest stands still and its whole stream was handed over; `error` says why that failed."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class Applied(_Value):
    """The agreed configuration was set; `error` says why it was not, `code` what kind of reason (apply-failed, port,
    memory)."""

    error: str = ""
    code: str = "apply-failed"


@dataclass(frozen=True, slots=True)
class Loaded(_Value):
    """Every device ran its post_load; `error` says which one would not."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class GuestRunning(_Value):
    """`error`: it does not run and never will here, for certain."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class AlarmRang(_Value):
    name: str


# --- outputs: the link ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Open(_Value):
    """Make one more connection to the peer; `channel` is what the source wants it for."""

    conn: int
    channel: str


@dataclass(frozen=True, slots=True)
class StartTls(_Value):
    """Run TLS on it: as the client at the source, as the server at the destination. `alpn`: what to
    offer in it; a server that offers nothing, or another, goes on without (RFC 7301)."""

    conn: int
    alpn: str = ""


@dataclass(frozen=True, slots=True)
class Send(_Value):
    conn: int
    data: bytes
    fill: int = 0


@dataclass(frozen=True, slots=True)
class Pause(_Value):
    """Read no more from it: what arrives stays with the transport, which pushes back on the sender."""

    conn: int


@dataclass(frozen=True, slots=True)
class Resume(_Value):
    conn: int


@dataclass(frozen=True, slots=True)
class End(_Value):
    """No more from me (half-close)."""

    conn: int


@dataclass(frozen=True, slots=True)
class Drop(_Value):
    """Close both ways. Over unread bytes TCP sends RST and forgets what was not yet sent; `unread` says that the
    endpoint itself was given bytes that QEMU would have left with the kernel."""

    conn: int
    unread: bool = False


# --- outputs: the guest, and time -----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class CollectRam(_Value):
    """Next pass over guest memory: the `first` begins anew, the `last` comes when the guest has stopped."""

    last: bool = False
    first: bool = False


@dataclass(frozen=True, slots=True)
class StopGuest(_Value):
    pass


@dataclass(frozen=True, slots=True)
class MoveGuest(_Value):
    """The channels stand, as (name, connection): whoever runs this side carries the guest's own stream over them, with
    these capabilities and parameters at the source."""

    channels: tuple[tuple[str, int], ...]
    config: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class ResumeGuest(_Value):
    """The source's guest goes on after a failed migration."""


@dataclass(frozen=True, slots=True)
class Apply(_Value):
    """Set these capabilities and parameters (name, value) at the destination, through QMP where QEMU is real."""

    config: tuple[tuple[str, object], ...]


@dataclass(frozen=True, slots=True)
class Load(_Value):
    """All device state has arrived: run post_load; `size_bytes` of it."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class RunGuest(_Value):
    pass


@dataclass(frozen=True, slots=True)
class SetAlarm(_Value):
    name: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class StopAlarm(_Value):
    name: str


# --- reports --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Said(_Value):
    conn: int
    text: str


@dataclass(frozen=True, slots=True)
class Heard(_Value):
    conn: int
    text: str


@dataclass(frozen=True, slots=True)
class Entered(_Value):
    """The status that `query-migrate` shows from here on."""

    status: str


@dataclass(frozen=True, slots=True)
class Printed(_Value):
    """What the process writes to stderr; the peer never sees it."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished(_Value):
    """How this side ended. `reason` grades what the manager reads here: none (no text), generic (an errno text),
    specific. `exited`: the process is gone. `listening`: a correct attempt to the same process can follow."""

    status: str  # completed, failed, cancelled, rejected, uncertain
    text: str = ""
    reason: str = "none"
    errors: tuple[Error, ...] = ()
    exited: bool = False
    listening: bool = False


Input = (
    Start | Cancel | SwitchToPostcopy | Opened | Secured | TlsFailed | Received | Drained | Ended | Broken
    | RamCollected | GuestStopped | GuestMoved | Applied | Loaded | GuestRunning | AlarmRang
)  # fmt: skip
Output = (
    Open | StartTls | Send | Pause | Resume | End | Drop | CollectRam | StopGuest | MoveGuest | ResumeGuest | Apply
    | Load | RunGuest | SetAlarm | StopAlarm | Said | Heard | Entered | Printed | Finished
)  # fmt: skip
