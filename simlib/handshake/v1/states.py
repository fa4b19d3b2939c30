"""The stages of v1's source, and what a destination takes each connection for."""

from __future__ import annotations

from ..names import Name


class Stage(Name):
    """Where the migration thread stands (migration_thread and what precedes it, migration/migration.c)."""

    NONE = "none"
    CONNECT = "connect"
    TLS = "tls"
    CHANNELS = "channels"
    LATE_CHANNELS = "late-channels"
    SETUP = "setup"
    PASS = "pass"
    COLLECT = "collect"
    PART = "part"
    WAIT_ACK = "wait-ack"
    SWITCH = "switch"
    STOPPING = "stopping"
    COLLECT_LAST = "collect-last"
    WAIT_PONG = "wait-pong"
    WAIT_PREEMPT = "wait-preempt"
    WAIT_STOP = "wait-stop"
    SNAPSHOT = "snapshot"
    TAKING = "taking"
    DEVICES = "devices"
    END = "end"
    LAST = "last"
    WAIT_SHUT = "wait-shut"
    PAUSED = "paused"
    DONE = "done"


S = Stage
NEXT: dict[Stage, tuple[Stage, ...]] = {  # besides DONE and PAUSED, where any of them may end
    S.NONE: (S.CONNECT,),
    S.CONNECT: (S.TLS, S.CHANNELS),
    S.TLS: (S.CHANNELS,),
    S.CHANNELS: (S.SETUP, S.LATE_CHANNELS),
    S.LATE_CHANNELS: (S.SETUP,),
    S.SETUP: (S.PASS, S.SNAPSHOT),
    S.PASS: (S.COLLECT, S.WAIT_PONG),
    S.COLLECT: (S.PART,),
    S.PART: (S.PASS, S.WAIT_ACK, S.SWITCH, S.DEVICES),
    S.WAIT_ACK: (S.PASS,),
    S.SWITCH: (S.STOPPING,),
    S.STOPPING: (S.COLLECT_LAST,),
    S.COLLECT_LAST: (S.PART,),
    S.WAIT_PONG: (S.WAIT_PREEMPT,),
    S.WAIT_PREEMPT: (S.WAIT_STOP,),
    S.WAIT_STOP: (S.COLLECT_LAST,),
    S.SNAPSHOT: (S.TAKING,),
    S.TAKING: (S.COLLECT_LAST,),
    S.DEVICES: (S.END,),
    S.END: (S.LAST,),
    S.LAST: (S.WAIT_SHUT,),
    S.WAIT_SHUT: (),
    S.PAUSED: (),
    S.DONE: (),
}


class Kind(Name):
    """What a destination takes a connection for."""

    NEW = "new"
    TLS = "tls"  # its handshake runs
    PEEK = "peek"  # its first four bytes are awaited, in the main loop
    PARKED = "parked"  # and on their own, from 11.2
    INITIAL = "initial"  # multifd's initial packet is awaited
    MAIN = "main"
    MULTIFD = "multifd"
    PREEMPT = "preempt"
    CLOSED = "closed"
