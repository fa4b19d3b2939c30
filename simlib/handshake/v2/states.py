"""The states of v2's two sides. Which message leads where is in the tables `RECEIVES`, `SENDS` and `EVENTS` of
`source.Source` and `destination.Destination`; nothing else changes a state."""

from __future__ import annotations

from ..names import Name

SOURCE, DESTINATION = "source", "destination"


class SourceState(Name):
    """States of the source (SPEC section 9)."""

    CONNECTING = "connecting"
    OFFERED = "offered"
    GREETED = "greeted"  # the destination's HELLO has come
    AGREED = "agreed"
    READY = "ready"  # the data flows
    LOADED = "loaded"  # GO was sent
    PACKAGE_SENT = "package-sent"  # postcopy, from here on
    PACKAGE_LOADED = "package-loaded"  # GO was sent
    POSTCOPY = "postcopy"  # the guest runs there
    PAUSED = "postcopy-paused"  # and its memory can't follow
    CLOSING = "closing"  # a channel was lost and ABORT was sent: the destination's own reason may be on its way
    COMPLETED = "completed"
    FAILED = "failed"


class DestinationState(Name):
    """States of the destination (SPEC section 9)."""

    NONE = "none"
    LISTENING = "listening"
    GREETED = "greeted"
    ACCEPTED = "accepted"
    STARTED = "started"  # until every planned channel is bound and the configuration is set
    READY = "ready"
    LOADING = "loading"
    LOADED = "loaded"
    GOING = "going"  # GO has come: nothing that is sent now can take it back
    PAUSED = "postcopy-paused"  # the guest runs without all of its memory, which can't follow
    COMPLETED = "completed"
    FAILED = "failed"


class Event(Name):
    """What changes a state besides messages."""

    STARTED = "started"  # `migrate-incoming`
    PACKAGE_SENT = "package-sent"  # postcopy: all but the memory
    GIVEN_UP = "given-up"  # the guest, without a final-ack
    CHANNEL_LOST = "channel-lost"
    CANCELLED = "cancelled"
    STREAM_READ = "stream-read"  # all that is needed to load the devices
    RUN_FAILED = "run-failed"  # GO was not obeyed, for certain
    COMPLETED = "completed"
    PAUSED = "paused"  # a postcopy whose session was lost
    FAILED = "failed"
    RESET = "reset"  # ready for the next attempt


class Stage(Name):
    """How far a source is with the guest's data."""

    BEFORE = ""
    SETUP = "setup"
    RAM = "ram"  # between two passes
    COLLECT = "collect"
    STOPPING = "stopping"
    COLLECT_LAST = "collect-last"
    PACKAGE = "package"
    SENT = "sent"
    RELAY = "relay"  # the stream is a QEMU's, from here on
    ARRIVED = "arrived"  # LOADED has come before that QEMU has reported its end
    ENDING = "ending"


STAGES: dict[Stage, tuple[Stage, ...]] = {
    Stage.BEFORE: (Stage.SETUP, Stage.RELAY),
    Stage.SETUP: (Stage.RAM,),
    Stage.RAM: (Stage.COLLECT, Stage.STOPPING),
    Stage.COLLECT: (Stage.RAM,),
    Stage.STOPPING: (Stage.COLLECT_LAST, Stage.PACKAGE),
    Stage.COLLECT_LAST: (Stage.SENT,),
    Stage.PACKAGE: (Stage.COLLECT_LAST, Stage.SENT, Stage.PACKAGE, Stage.ENDING),
    Stage.SENT: (),
    Stage.RELAY: (Stage.PACKAGE, Stage.SENT, Stage.ARRIVED),
    Stage.ARRIVED: (Stage.PACKAGE, Stage.SENT),
    Stage.ENDING: (Stage.PACKAGE, Stage.SENT),
}
