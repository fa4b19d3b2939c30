"""All that passes between an endpoint and its runner.

An endpoint has three neighbours: *management* above (QMP, libvirt's part), the *link* beside (connections, which are
anonymous until known), the *guest* below. Inputs and outputs are grouped below by
neighbour. Reports are informational: a runner may ignore them, a trace keeps them.

A connection is a small integer that the endpoint (source) or the runner (destination) has chosen. `fill` counts
stand-in bytes that follow `data`: they mean that many zero bytes and are never made, so that a guest of 128 GiB costs
nothing to move.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import Code, Error
from .names import Reason, Status


@dataclass(frozen=True, slots=True, repr=False)
class _Value:
    """What passes: never changed, and equal where its fields are."""

    def __repr__(self) -> str:
        values = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))
        return f"{type(self).__name__}({values})"


# --- inputs: management ---------------------------------------------------------------------------------------------
class Start(_Value):
    """`migrate` at the source, `migrate-incoming` at the destination."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, repr=False)
class Cancel(_Value):
    """`migrate_cancel`; `code` is `cancelled` or `deadline` (the manager's own clock)."""

    code: str = Code.CANCELLED


class SwitchToPostcopy(_Value):
    """`migrate-start-postcopy`."""

    __slots__ = ()


class Continue(_Value):
    """`migrate-continue`, for a source whose status is `pre-switchover`."""

    __slots__ = ()


# --- inputs: the link -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, repr=False)
class Opened(_Value):
    """Connected (source) or accepted (destination)."""

    conn: int


@dataclass(frozen=True, slots=True, repr=False)
class Secured(_Value):
    """The TLS handshake that `StartTls` asked for is done; `exporter` binds the session to it (RFC 9266), `alpn` is
    what both offered (RFC 7301)."""

    conn: int
    exporter: bytes = b""
    alpn: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class TlsFailed(_Value):
    """The TLS handshake that `StartTls` asked for failed; `text` is the library's word for it."""

    conn: int
    text: str


@dataclass(frozen=True, slots=True, repr=False)
class Received(_Value):
    """What arrived on it, in any pieces."""

    conn: int
    data: bytes
    fill: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Drained(_Value):
    """All that was sent on the connection has been taken by the transport (not: has arrived)."""

    conn: int


@dataclass(frozen=True, slots=True, repr=False)
class Ended(_Value):
    """The peer will say no more on it (FIN)."""

    conn: int


@dataclass(frozen=True, slots=True, repr=False)
class Broken(_Value):
    """The connection failed, or could not be made; `text` is the system's word for it."""

    conn: int
    text: str


# --- inputs: the guest, and time ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, repr=False)
class RamCollected(_Value):
    """Bytes of guest memory to send now; `converged` when the rest fits the downtime limit."""

    size_bytes: int
    converged: bool


class GuestStopped(_Value):
    """The guest stands still, as `StopGuest` asked (vm_stop_force_state, system/runstate.c)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, repr=False)
class GuestMoved(_Value):
    """The source's guest stands still and its whole stream was handed over; `error` is why that failed. `postcopy`:
    all but its memory was, which follows until this is reported again."""

    error: str = ""
    postcopy: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class Applied(_Value):
    """The agreed configuration was set; `error` is why it was not, `code` what kind of reason (apply-failed, port,
    memory)."""

    error: str = ""
    code: str = Code.APPLY_FAILED


@dataclass(frozen=True, slots=True, repr=False)
class Loaded(_Value):
    """Every device ran its post_load; `error` is the reason of the one that would not. `postcopy`, of a stream that is
    not ours: its memory follows until this is reported again."""

    error: str = ""
    postcopy: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class GuestRunning(_Value):
    """`error`: it does not run and never will here, for certain."""

    error: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class PageFault(_Value):
    """The guest here waits for a part of a memory block that has yet to come, as `WatchFaults` asked (userfaultfd)."""

    block: str
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True, repr=False)
class AlarmRang(_Value):
    """The time of a `SetAlarm` is over."""

    name: str


# --- outputs: the link ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, repr=False)
class Open(_Value):
    """Make one more connection to the peer; `channel` is what the source wants it for."""

    conn: int
    channel: str


@dataclass(frozen=True, slots=True, repr=False)
class StartTls(_Value):
    """Run TLS on it: as the client at the source, as the server at the destination. `alpn`: what to
    offer in it; a server that offers nothing, or another, goes on without (RFC 7301)."""

    conn: int
    alpn: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Send(_Value):
    """To the peer, behind all that was sent on it before."""

    conn: int
    data: bytes
    fill: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Pause(_Value):
    """Read no more from it: what arrives stays with the transport, which pushes back on the sender."""

    conn: int


@dataclass(frozen=True, slots=True, repr=False)
class Resume(_Value):
    """Read on, after `Pause`."""

    conn: int


@dataclass(frozen=True, slots=True, repr=False)
class End(_Value):
    """No more from me (half-close)."""

    conn: int


@dataclass(frozen=True, slots=True, repr=False)
class Drop(_Value):
    """Close both ways. Over unread bytes TCP sends RST and forgets what was not yet sent; `unread` means that the
    endpoint itself was given bytes that QEMU would have left with the kernel."""

    conn: int
    unread: bool = False


class StopListening(_Value):
    """Close the listening socket: who waits there is reset, who comes later is refused."""

    __slots__ = ()


# --- outputs: the guest, and time -----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, repr=False)
class CollectRam(_Value):
    """Next pass over guest memory: the `first` begins anew, the `last` comes when the guest has stopped."""

    last: bool = False
    first: bool = False


class StopGuest(_Value):
    """Stop the guest for the last pass; `GuestStopped` answers."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, repr=False)
class MoveGuest(_Value):
    """The channels stand, as (name, connection): the runner of this side carries the guest's own stream over them, with
    these capabilities and parameters at the source."""

    channels: tuple[tuple[str, int], ...]
    config: tuple[tuple[str, object], ...] = ()


class SwitchGuest(_Value):
    """The guest's own stream may go over to postcopy."""

    __slots__ = ()


class ResumeGuest(_Value):
    """The source's guest goes on after a failed migration."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, repr=False)
class Apply(_Value):
    """Set these capabilities and parameters (name, value) at the destination, through QMP where QEMU is real."""

    config: tuple[tuple[str, object], ...]


@dataclass(frozen=True, slots=True, repr=False)
class Load(_Value):
    """All device state has arrived: run post_load; `size_bytes` of it."""

    size_bytes: int


class RunGuest(_Value):
    """Start the guest here; `GuestRunning` answers (vm_start, system/cpus.c)."""

    __slots__ = ()


class WatchFaults(_Value):
    """The guest runs without all of its memory: report what it waits for (`PageFault`)."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, repr=False)
class SetAlarm(_Value):
    """`AlarmRang` in so many seconds; set again, it begins anew."""

    name: str
    delay_s: float


@dataclass(frozen=True, slots=True, repr=False)
class StopAlarm(_Value):
    """No `AlarmRang` of that name, if it has not rung."""

    name: str


# --- reports --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, repr=False)
class Said(_Value):
    """What was sent, in the words of the protocol."""

    conn: int
    text: str


@dataclass(frozen=True, slots=True, repr=False)
class Heard(_Value):
    """What was received, in the words of the protocol."""

    conn: int
    text: str


@dataclass(frozen=True, slots=True, repr=False)
class Entered(_Value):
    """The status that `query-migrate` shows from here on."""

    status: Status


@dataclass(frozen=True, slots=True, repr=False)
class Printed(_Value):
    """What the process writes to stderr; the peer never sees it."""

    text: str


@dataclass(frozen=True, slots=True, repr=False)
class Finished(_Value):
    """How this side ended. `reason` grades what the manager reads here: none (no text), generic (an errno text),
    specific. `exited`: the process is gone. `listening`: a correct attempt to the same process can follow."""

    status: Status  # completed, failed, cancelled, rejected, uncertain
    text: str = ""
    reason: Reason = Reason.NONE
    errors: tuple[Error, ...] = ()
    exited: bool = False
    listening: bool = False


Input = (
    Start
    | Cancel
    | SwitchToPostcopy
    | Continue
    | Opened
    | Secured
    | TlsFailed
    | Received
    | Drained
    | Ended
    | Broken
    | RamCollected
    | GuestStopped
    | GuestMoved
    | Applied
    | Loaded
    | GuestRunning
    | PageFault
    | AlarmRang
)
Output = (
    Open
    | StartTls
    | Send
    | Pause
    | Resume
    | End
    | Drop
    | StopListening
    | CollectRam
    | StopGuest
    | MoveGuest
    | SwitchGuest
    | ResumeGuest
    | Apply
    | Load
    | RunGuest
    | WatchFaults
    | SetAlarm
    | StopAlarm
    | Said
    | Heard
    | Entered
    | Printed
    | Finished
)
