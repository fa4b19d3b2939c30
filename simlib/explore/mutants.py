"""Each safety rule of v2 taken away, one at a time: what breaks then, and in which model.

A rule whose loss breaks nothing would be one too many, or a property is missing. A mutant is a subclass of the real
endpoint with one method bent; in its model the whole engine breaks nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..case.endpoints import Case
from ..handshake import interface as i
from ..handshake.detect import Adaptive
from ..handshake.endpoint import ConnectionTable, reducible
from ..handshake.errors import Code, Error
from ..handshake.v2 import binding, body, features, frames, messages
from ..handshake.v2.agreement import agreement_body, channel_plan
from ..handshake.v2.destination import Destination
from ..handshake.v2.frames import Frame
from ..handshake.v2.source import Source
from ..handshake.v2.states import DestinationState, Event, SourceState
from .models import postcopy, v2, v2_named
from .peers import Drifted, Future, Overheard
from .state import Faults, Model


# --- who may connect ------------------------------------------------------------------------------------------------
@reducible
class AnyMac(Destination):
    def _channel_open(self, conn: int, opening: messages.ChannelOpen) -> None:
        parts = self.session_id, opening.name, opening.nonce, self.links[conn].exporter
        right = binding.mac(self.key_bytes, "CHANNEL_OPEN", *parts)
        super()._channel_open(conn, replace(opening, mac=right))


@reducible
class LastIsKept(Destination):
    def _channel_open(self, conn: int, opening: messages.ChannelOpen) -> None:
        self.bound = tuple(b for b in self.bound if b[0] != opening.name)
        super()._channel_open(conn, opening)


@reducible
class ReadyIsEnough(Source):
    def _begin_when_complete(self) -> None:
        before, self.agreed = self.agreed, self.channels[1:]
        super()._begin_when_complete()
        self.agreed = before


@reducible
class NeverBusy(Destination):
    def _is_connection_scoped(self, conn: int, kind: type[messages.Message]) -> bool:
        if kind is messages.Hello:
            self.control, self.state = None, DestinationState.LISTENING
        return super()._is_connection_scoped(conn, kind)


@reducible
class EndlessPatience(Destination):
    def _add_link(self, conn: int) -> None:
        super()._add_link(conn)
        limits = replace(self.session_config.limits, ignorable=1 << 30)
        self._set(conn, reader=self.links[conn].reader._replace(limits=limits))


@reducible
class SpeaksFirst(Adaptive):
    def _opened(self, conn: int) -> list[i.Output]:
        return [*super()._opened(conn), i.Send(conn, frames.preface(frames.RESPONDER, bytes(16)))]


@reducible
class OneMagic(Source):
    peer_magic = frames.INITIATOR


# --- agreement ------------------------------------------------------------------------------------------------------
@reducible
class DriftedTrusting(Drifted):
    def _started(self, conn: int, start: messages.Start) -> None:
        right = binding.mac(self.key_bytes, "START", self.digest)
        super()._started(conn, messages.Start(self.digest, right))


@reducible
class Trusting(Source):
    def _accept(self, conn: int, accept: messages.Accept) -> None:
        agreed = features.resolve(self.stances, accept.features)
        plan = channel_plan(agreed, self.inline)
        own = agreement_body(agreed, plan, accept.session_id)
        super()._accept(conn, replace(accept, agreement=own, channels=plan))


@reducible
class AnyStart(Destination):
    def _started(self, conn: int, start: messages.Start) -> None:
        right = binding.mac(self.key_bytes, "START", self.digest)
        super()._started(conn, replace(start, mac=right))


@reducible
class Lenient(Destination):
    def _got_message(self, conn: int, frame: Frame) -> None:
        content = json.loads(frame.payload)
        content.pop("encrypt", None)
        super()._got_message(conn, replace(frame, payload=body.dump(content)))


# --- order ----------------------------------------------------------------------------------------------------------
@reducible
class EarlyReady(Destination):
    def _ready_when_complete(self) -> None:
        plan, there = self.plan, {name for name, _, _ in self.bound}
        self.plan = tuple(name for name in plan if name in there)
        super()._ready_when_complete()
        self.plan = plan


@reducible
class NoReady(Source):
    def _begin_when_complete(self) -> None:
        before, self.state = self.state, SourceState.READY
        super()._begin_when_complete()
        if not self.stage:
            self.state = before


@reducible
class EarlyLoaded(Destination):
    def _loaded_when_complete(self) -> None:
        before, self.lanes = self.lanes, ConnectionTable()
        super()._loaded_when_complete()
        self.lanes = before


@reducible
class NoGo(Destination):
    EVENTS: ClassVar[Mapping[Event, Mapping[Any, Any]]] = {
        **Destination.EVENTS,
        Event.COMPLETED: dict.fromkeys(DestinationState, DestinationState.COMPLETED),
    }

    def _guest_loaded(self, loaded: i.Loaded) -> None:
        super()._guest_loaded(loaded)
        self._out.append(i.RunGuest())


# --- endings --------------------------------------------------------------------------------------------------------
@reducible
class KeepsTheGuest(Source):
    def _give_up_without_go(self) -> None:
        pass


@reducible
class NeverUncertain(Source):
    def _uncertain(self, how: str) -> None:
        self._end_attempt((Error(Code.CONNECTION_LOST, text=how),))


@reducible
class CancelAnyTime(Source):
    def _cancel(self, cancel: i.Cancel) -> None:
        self._end_attempt((Error(cancel.code, text="cancelled"),))


@reducible
class EveryEndCounts(Source):
    def _lost(self, conn: int, how: str) -> None:
        if self.state == SourceState.LOADED:
            self._uncertain(how)
        else:
            super()._lost(conn, how)


@reducible
class NoReject(Destination):
    def _refuse(self, errors: tuple[Error, ...]) -> None:
        self._attempt_over(errors)


@reducible
class FirstWord(Source):
    def _channel_over(self, errors: tuple[Error, ...]) -> None:
        self._give_up(*errors)


@reducible
class WaitsForEver(Destination):
    def _lost(self, conn: int, how: str) -> None:
        if conn != self.control:
            super()._lost(conn, how)


# --- silence --------------------------------------------------------------------------------------------------------
@reducible
class SourceNeverAsks(Source):
    def _watch_peer(self) -> None:
        pass


@reducible
class DestinationNeverAsks(Destination):
    def _watch_peer(self) -> None:
        pass


@reducible
class StartIsEnough(Destination):
    def _started(self, conn: int, start: messages.Start) -> None:
        super()._started(conn, start)
        self._known(conn, "control")


@reducible
class MemoryGoesOn(Source):
    def _memory_channel_lost(self, name: str, how: str) -> None:
        pass


@reducible
class MemoryWillCome(Destination):
    def _session_lost(self, error: Error) -> None:
        pass


@dataclass(frozen=True)
class Mutant:
    """A rule, the mutants of the endpoints without it, the property that notices, and the model where."""

    rule: str
    classes: tuple[type, ...]
    killed_by: str
    where: str
    model: Model

    def mutated(self) -> Model:
        """The model without the rule."""
        return self.model.playing(*self.classes)


def mutants() -> list[Mutant]:
    """The table. Each model is one in which the whole engine breaks nothing (a test holds that too)."""
    matched, cut, copied = v2("v2", 1), v2("v2", 1, Faults(cuts=1)), v2("v2", 1, Faults(intruders=("replay",)))
    forged = v2("v2", 1, Faults(intruders=("forge",)))
    drift, tampered, future = (replace(matched.playing(c), compatible=False) for c in (Drifted, Overheard, Future))
    no_answer, no_source = (v2("v2", 1, Faults(freezes=(side,))) for side in ("destination", "source"))
    old = Model(Case(v2_named("v1, adaptive destination").setup.scenario, "v1", "10.0"))
    s1, s2, s3, s4, s5, s6, l2, l3 = (
        "S1 agreement",
        "S2 protocols apart",
        "S3 truth",
        "S4 no loss",
        "S5 one guest",
        "S6 same channels",
        "L2 eventually migrates",
        "L3 ends after faults",
    )
    return [
        Mutant("a channel proves that it knows the key", (AnyMac,), l2, "an intruder forges an opening", forged),
        Mutant("... and the source waits for the answer too", (AnyMac, ReadyIsEnough), s6, "the same", forged),
        Mutant("of two that open a channel the first is kept", (LastIsKept,), s6, "an opening is copied", copied),
        Mutant("CHANNEL_OK must come on every connection of ours", (ReadyIsEnough,), s6, "the same", copied),
        Mutant("one session at a time", (NeverBusy,), s2, "a rival source", v2_named("v2, a rival source")),
        Mutant(
            "ignorable frames are counted",
            (EndlessPatience,),
            "L4 floods end",
            "a flood",
            v2("v2", 1, Faults(intruders=("flood",))),
        ),
        Mutant("silence until eight good bytes", (SpeaksFirst,), s4, "an old source", old),
        Mutant("each role has its own magic", (OneMagic,), s2, "a pipe that echoes", v2_named("v2, echo")),
        Mutant("both sides compare their agreements", (Trusting, DriftedTrusting), s1, "a drifted peer", drift),
        Mutant("START proves the conversation", (AnyStart,), s1, "somebody changes a bit", tampered),
        Mutant("an unknown key is refused", (Lenient,), s1, "a peer from the future", future),
        Mutant("READY waits for every planned channel", (EarlyReady,), l2, "a matched pair", matched),
        Mutant("no data before READY", (NoReady,), s2, "a matched pair", matched),
        Mutant("LOADED waits for every lane", (EarlyLoaded,), s4, "a matched pair", matched),
        Mutant("the guest runs on GO alone", (NoGo,), s5, "a cut", cut),
        Mutant(
            "without final-ack the end of the stream gives the guest up",
            (KeepsTheGuest,),
            s5,
            "a cancel",
            v2_named("v2, no final-ack, 1 multifd, cancel and cut"),
        ),
        Mutant("after GO the source is uncertain", (NeverUncertain,), s5, "a cut", cut),
        Mutant("nobody cancels after GO", (CancelAnyTime,), s5, "a cancel", v2("v2", 1, Faults(orders=("cancel",)))),
        Mutant("after GO only control's end counts", (EveryEndCounts,), l2, "a matched pair", matched),
        Mutant("a refusal says why", (NoReject,), s3, "a device too many", v2_named("v2, device only at source")),
        Mutant(
            "a lost channel waits for control's word",
            (FirstWord,),
            s3,
            "agreed, but can't be set",
            v2_named("v2, can't be applied"),
        ),
        Mutant("control's end ends the attempt", (WaitsForEver,), l3, "a cut", cut),
        Mutant("a source asks whether its peer is there", (SourceNeverAsks,), l3, "a frozen destination", no_answer),
        Mutant("a destination asks, too", (DestinationNeverAsks,), l3, "a frozen source", no_source),
        Mutant("READY alone stops the guard", (StartIsEnough,), l3, "a frozen source", no_source),
        Mutant(
            "in postcopy the loss of main ends the session",
            (MemoryGoesOn, MemoryWillCome),
            l3,
            "a connection lost",
            postcopy(Faults(losses=1)),
        ),
    ]
