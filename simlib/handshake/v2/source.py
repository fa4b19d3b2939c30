"""v2's source: offers, agrees, opens the channels by name, sends, and hands the guest over.

It never touches the guest before READY, and gives it up only with GO. Every ending before GO leaves it running here;
after GO and before RUNNING the source is uncertain, reports that, and keeps its guest paused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

from .. import interface as i
from ..capabilities import refusal
from ..endpoint import reducible
from ..errors import Code, Error, PeerError, Retry, clean
from ..machine import Settings
from ..names import Reason, Status
from . import binding, body, features, frames, messages, reasons, states
from .agreement import agreement_body, as_config, channel_plan
from .answers import CONTROL, MEMORY
from .config import SessionConfig
from .features import FeatureOffer
from .messages import Message
from .outgoing import Outgoing
from .session import Receive
from .states import Event, Stage
from .states import SourceState as S

GIVEN_UP = (S.LOADED, S.PACKAGE_LOADED, S.POSTCOPY)  # the guest is no longer ours to keep


@reducible
class Source(Outgoing):
    """The side whose guest is to move.

    Args:
        settings: of this QEMU.
        session_config: the session's configuration, randomness included.
    """

    role, magic, peer_magic = states.SOURCE, frames.INITIATOR, frames.RESPONDER

    def __init__(self, settings: Settings, session_config: SessionConfig = SessionConfig()) -> None:
        super().__init__(settings, session_config)
        self.stances = features.stances(settings, True, session_config.require, session_config.forbid)
        self.warnings: tuple[Error, ...] = ()
        self.peer_version = ""
        self.session_id = ""
        self.agreed: tuple[str, ...] = ()  # channels whose CHANNEL_OK has come
        self.lost: tuple[Error, ...] = ()  # a channel, while control has yet to say why

    # --- management -------------------------------------------------------------------------------------------------
    def _start(self, _: i.Start) -> None:
        """`migrate`. What can't work is refused before anything is connected: a transport without answers, a
        required feature that this QEMU lacks, settings that QMP refuses."""
        transport = self.settings.transport
        lacking = [name for name in self.session_config.require if name not in {s.feature for s in self.stances}]
        one_way = transport == "file" or (transport in ("exec", "fd") and not self.session_config.bidirectional)
        both_ways = replace(self.settings, capabilities=(*self.settings.capabilities, "return-path"))
        refused = reasons.not_carried(self.settings, self.session_config)
        if not refused and transport != "file":
            refused = refusal(both_ways, at_source=True)
        if one_way:
            self._reject_command(
                Error(
                    Code.TRANSPORT_ONE_WAY,
                    item="transport",
                    source=transport,
                    text=f"Nobody can answer over {transport}:; a handshake needs both directions.",
                    hint="Save with a manifest instead, or give a transport that returns and say so.",
                )
            )
        elif lacking:
            text = f"This QEMU can't require {lacking[0]}: it has no such feature."
            item = f"feature[{lacking[0]}]"
            self._reject_command(Error(Code.FEATURE_REQUIRED, item=item, source="require", text=text))
        elif refused:
            self._reject_command(Error(Code.FEATURE_CONFLICT, item="config", source=refused, text=refused))
        else:
            self._add_link(CONTROL)
            self._set(CONTROL, kind="control")
            self._report_status(Status.SETUP)
            self._out.append(i.Open(CONTROL, "control"))
            self._watch_peer()

    def _cancel(self, cancel: i.Cancel) -> None:
        """`migrate_cancel`, or the manager's deadline: at any time before GO (SPEC 5.9). Channels that were not
        bound by then are named."""
        if self.state in (*GIVEN_UP, S.COMPLETED):
            return
        missing = [n for n in self.channels[1:] if n not in self.agreed] if self.state == S.AGREED else []
        self._give_up(reasons.cancelled(cancel.code), *map(reasons.channel_missing, missing))

    def _switch_to_postcopy(self, _: i.SwitchToPostcopy) -> None:
        """Obeyed if postcopy is agreed, now or later, and if the whole guest is not on its way already."""
        if self.stage in (Stage.COLLECT_LAST, Stage.SENT):
            return  # too late: the whole guest is on its way
        self.postcopy_ordered = True
        if self.stage:
            self._obey_switch()

    def _obey_switch(self) -> None:
        """Go over to postcopy at the end of this pass, where it was agreed."""
        self.postcopy = self.agreement.has("postcopy-ram")
        if not self.postcopy:
            self._out.append(i.Printed("postcopy-ram was not agreed: the migration goes on as precopy"))
        elif self.stage == Stage.RELAY:
            self._out.append(i.SwitchGuest())

    # --- connections ------------------------------------------------------------------------------------------------
    def _opened(self, opened: i.Opened) -> None:
        """Connected; TLS comes first, and offers the handshake's name in ALPN (RFC 7301)."""
        if self._given_up(opened.conn):
            return
        if self.settings.tls:
            self._out.append(i.StartTls(opened.conn, frames.ALPN))
        else:
            self._connected(opened.conn)

    def _secured(self, secured: i.Secured) -> None:
        """Control's channel binding becomes part of the session's key, a channel's of its MAC (SPEC 5.5, RFC 9266)."""
        if self._given_up(secured.conn):
            return
        if secured.conn == CONTROL:
            self.exporter = secured.exporter
        self._set(secured.conn, exporter=secured.exporter)
        self._connected(secured.conn)

    def _connected(self, conn: int) -> None:
        """Control begins with the offer, a channel with CHANNEL_OPEN (SPEC 5.6)."""
        if conn == CONTROL:
            self._offer(conn)
            return
        name = self.channels[conn]
        nonce = self.links[conn].nonce.hex()
        role, _, index = name.partition("[")
        exporter = self.links[conn].exporter
        mac = binding.mac(self.key_bytes, "CHANNEL_OPEN", self.session_id, name, nonce, exporter)
        opening = messages.ChannelOpen(self.session_id, name, role, int(index.rstrip("]") or 0), nonce, mac)
        self._say(conn, opening, self._greeting(conn), name)

    def _offer(self, conn: int) -> None:
        """Preface, HELLO and OFFER, at once: no round trip for versions alone."""
        main = "inline" if self.inline else "separate"
        hello = messages.hello(self.role, self.settings, self.session_config, main)
        data = self._greeting(conn) + self._frame(hello)
        self._out.append(i.Said(conn, "HELLO"))
        stances = self.stances
        if self.session_config.grease:
            stances = (*stances, FeatureOffer(f"x-grease-{self._derive('feature', 3).hex()}", features.PREFER))
        self.sent = self._say(conn, messages.offer(self.settings, self.session_config, stances), data)

    def _tls_failed(self, failed: i.TlsFailed) -> None:
        """Which connection, and the library's word for it."""
        if self._given_up(failed.conn):
            return
        channel = failed.conn != CONTROL
        name = self._name(failed.conn)
        error = Error(
            Code.CONNECT,
            item=f"channel[{name}]" if channel else name,
            text=f"The TLS handshake failed: {clean(failed.text)}",
            hint="Give both sides matching tls-creds.",
        )
        (self._channel_over if channel else self._end_attempt)((error,))

    def _given_up(self, conn: int) -> bool:
        """A channel that was dropped, and may not know it yet."""
        return self.state == S.CLOSING and conn != CONTROL

    def _received(self, received: i.Received) -> None:
        """What the destination sends up to ACCEPT belongs to the transcript (SPEC 5.5)."""
        if self._given_up(received.conn):
            return
        if received.conn == CONTROL:
            self.quiet = 0
        if received.conn == CONTROL and self.state in (S.OFFERED, S.GREETED):
            self.heard += received.data
        name = self.links[received.conn].kind if received.conn in self.links else ""
        if self._reads(received.conn):
            self._read(received.conn, received.data, received.fill)
        else:
            self._from_channel(name, received)

    def _from_channel(self, name: str, received: i.Received) -> None:
        """Of all channels main alone carries anything this way (SPEC 5.8)."""
        try:
            if name != "main":
                raise PeerError(Code.BAD_STATE, f"bytes on {name} from the destination", item=f"channel[{name}]")
            self._read_replies(received.data, received.fill)
        except PeerError as error:
            self._mistake(received.conn, error.error)

    def _ended(self, ended: i.Ended) -> None:
        """FIN: a destination that goes on keeps its connections open."""
        self._lost(ended.conn, "closed by the peer")

    def _broken(self, broken: i.Broken) -> None:
        """The connection was reset, or could not be made."""
        self._lost(broken.conn, broken.text)

    def _lost(self, conn: int, how: str) -> None:
        """What a lost connection means depends on how far the session is: nobody there, a peer that knows no
        handshake, a channel, or, after GO, uncertainty (SPEC section 9)."""
        if self.state == S.CONNECTING:
            text = f"No connection: {clean(how)}."
            self._give_up(Error(Code.CONNECT, item="control", text=text, retry=Retry.LATER))
        elif self.state in (S.OFFERED, S.GREETED):
            self._give_up(
                Error(
                    Code.PEER_CLOSED,
                    item="control",
                    text=f"The peer went away before it answered ({clean(how)}).",
                    hint="Is the destination listening for a handshake (channel type control), or for the v1 stream?",
                    retry=Retry.LATER,
                )
            )
        elif self.state == S.CLOSING:
            if conn == CONTROL:
                self._end_attempt(self.lost)
        elif conn != CONTROL and self.state in (S.AGREED, S.READY, S.PACKAGE_SENT):
            self._channel_lost(self._name(conn), how)
        elif self.state in GIVEN_UP:
            if conn == CONTROL:
                self._control_lost(how)
            elif self._name(conn) in MEMORY and self.state != S.LOADED:
                self._memory_channel_lost(self._name(conn), how)
        elif self.state not in (S.COMPLETED, S.FAILED):
            text = f"The connection {self._name(conn)} was lost while {self.state} ({clean(how)})."
            self._give_up(Error(Code.CONNECTION_LOST, item=self._name(conn), text=text, retry=Retry.LATER))

    def _channel_lost(self, name: str, how: str) -> None:
        """The destination may know more: see `_channel_over`."""
        when = "while the guest moved " if self.stage else "before READY "
        self._channel_over((reasons.channel_lost(name, how, when),))

    def _control_lost(self, how: str) -> None:
        """After GO."""
        if self.state != S.POSTCOPY:
            self._uncertain(how)
            return
        text = f"The connection to the destination was lost ({clean(how)})."
        self._paused(self.lost or (Error(Code.CONNECTION_LOST, item="control", text=text),))

    def _memory_channel_lost(self, name: str, how: str) -> None:
        """In postcopy the rest of the memory can't follow, and the destination may not know. Its LOADED may be on the
        way, though, for nothing orders connections: control decides (SPEC 5.9). Beside a QEMU that one reports it."""
        if not self.lost and not self.session_config.relays:
            self.lost = (reasons.channel_lost(name, how),)
            self._say(CONTROL, messages.Failure(self.lost), note=Code.CHANNEL_LOST)

    def _alarm_rang(self, alarm: i.AlarmRang) -> None:
        """PING is legal once ACCEPT has come (SPEC section 5)."""
        self._keepalive_rang(CONTROL, self.state not in (*self.BEFORE_ACCEPT, S.CLOSING))

    def _peer_silent(self, error: Error) -> None:
        """Like a lost connection: before GO the guest stays, after it the source is uncertain."""
        if self.state == S.CLOSING:
            self._end_attempt(self.lost)
        elif self.state != S.COMPLETED:  # then only the QEMU beside has to end
            self._give_up(error)

    def _channel_over(self, errors: tuple[Error, ...]) -> None:
        """A channel or the stream failed, and the guest stays. Why it happened is the destination's to say, on control;
        its word may still be on the way, so ABORT goes out and the report waits until control has ended."""
        self.lost = errors
        self._say(CONTROL, messages.Abort.of(errors, self.state), note=errors[0].code)
        self._happened(Event.CHANNEL_LOST)
        self._out += [i.ResumeGuest(), *(i.Drop(c) for c in self.links if c != CONTROL), i.End(CONTROL)]

    def _name(self, conn: int) -> str:
        """A connection's channel, for errors."""
        return self.channels[conn] if conn < len(self.channels) else str(conn)

    # --- messages of the destination --------------------------------------------------------------------------------
    def _is_control(self, conn: int) -> bool:
        """The first connection."""
        return conn == CONTROL

    def _may_begin(self, conn: int, type: int) -> bool:
        """A channel's first frame is its answer: CHANNEL_OK, or REJECT."""
        return type in (messages.ChannelOk.TYPE, messages.Reject.TYPE)

    def _is_connection_scoped(self, conn: int, kind: type[Message]) -> bool:
        """Everything on a channel's connection concerns that channel alone."""
        return conn != CONTROL

    def _hello(self, conn: int, hello: messages.Hello) -> None:
        """The destination's version is kept for people: nothing is decided by it (P3)."""
        hello.check_role(states.DESTINATION)
        if (hello.main == "inline") != self.inline:
            text = f"the destination carries main {hello.main}"
            raise PeerError(Code.UNKNOWN_VALUE, text, item="HELLO.main")
        self.peer_version = hello.qemu_version

    def _accept(self, conn: int, accept: messages.Accept) -> None:
        """Both sides have computed the agreement from the same stances; if the results differ, nothing goes on (SPEC
        4.4). START then proves the conversation, and the channels are opened, all at once."""
        self.agreement = features.resolve(self.stances, accept.features, self.inline)
        self.session_id = accept.session_id
        plan = channel_plan(self.agreement, self.inline)
        ours = agreement_body(self.agreement, plan, self.session_id)
        if self.agreement.errors or body.dump(ours) != body.dump(accept.agreement) or accept.channels != plan:
            self._give_up(*(self.agreement.errors or (reasons.agreement_mismatch(ours, accept.agreement),)))
            return
        self.warnings = accept.warnings
        heard = self.heard[: len(self.heard) - len(self.links[conn].reader.buffer)]
        self._make_key(bytes.fromhex(accept.secret), self.sent, heard)
        digest = body.digest(ours)
        self._say(conn, messages.Start(digest, binding.mac(self.key_bytes, "START", digest)))
        for name in plan:
            self._add_link(len(self.channels))
            self._out.append(i.Open(len(self.channels), name))
            self.channels = (*self.channels, name)

    def _channel_ok(self, conn: int, answer: messages.ChannelOk) -> None:
        """The destination has bound that channel, and proves that it knows the key (SPEC 5.6)."""
        name, ours = self.channels[conn], self.links[conn].nonce.hex()
        mac = binding.mac(self.key_bytes, "CHANNEL_OK", name, ours, answer.nonce)
        if not binding.same(answer.mac, mac) or answer.nonce != self.links[conn].peer_nonce.hex():
            text = f"the answer on channel {name} is not from our peer"
            raise PeerError(Code.CHANNEL_AUTH, text, item=f"channel[{name}]")
        self._set(conn, kind=name, reader=self.links[conn].reader._replace(unlimited=True))
        self.agreed = (*self.agreed, name)
        if len(self.links[conn].reader.buffer):
            raise PeerError(Code.BAD_STATE, f"bytes on {name} before the stream", item=f"channel[{name}]")
        self._begin_when_complete()

    def _ready(self, conn: int, ready: messages.Ready) -> None:
        """READY lists the channels with our nonces: each was bound to the connection that we have opened (SPEC 5.7)."""
        if self.state == S.CLOSING:
            return
        ours = tuple((name, self.links[c].nonce.hex()) for c, name in enumerate(self.channels) if c != CONTROL)
        mac = binding.mac(self.key_bytes, "READY", *(part for row in ours for part in row))
        if ready.channels != ours or not binding.same(ready.mac, mac):
            raise PeerError(Code.TRANSCRIPT, "READY does not name the channels that we opened", item="READY")
        self._begin_when_complete()

    def _begin_when_complete(self) -> None:
        """READY, and CHANNEL_OK on every connection of ours, in whatever order they come: then no copy of CHANNEL_OPEN
        that somebody else has sent can have taken a channel's place."""
        if self.state == S.READY and not self.stage and len(self.agreed) == len(self.channels) - 1:
            for conn, link in self.links.items():
                self._set(conn, reader=link.reader._replace(unlimited=True))
            self._report_status(Status.ACTIVE)
            self._stage_to(Stage.RELAY if self.session_config.relays else Stage.SETUP)
            if self.session_config.relays:
                channels = tuple((n, c) for c, n in enumerate(self.channels) if c != CONTROL)
                self._out.append(i.MoveGuest(channels, as_config(self._agreed_settings)))
            if self.postcopy_ordered:
                self._obey_switch()
            self._advance()

    def _rejected(self, conn: int, answer: messages.Reject) -> None:
        """On control the attempt is over; on a channel the destination may have more to say on control."""
        if conn == CONTROL:
            self._end_attempt(answer.errors)
        elif self.state in (S.AGREED, S.READY):
            self._channel_over(answer.errors)

    def _failed(self, conn: int, failure: messages.Failure) -> None:
        """The destination failed after READY; its device state may be dirty (`needs-restart`). In postcopy its guest
        runs, without all of its memory."""
        if self.state == S.POSTCOPY:
            self._paused(self.lost or failure.errors)
        else:
            self._end_attempt(failure.errors)

    def _loaded(self, conn: int, loaded: messages.Loaded) -> None:
        """All state is loaded there: GO gives the guest up (SPEC 5.9). In postcopy a second LOADED means that all
        memory is there."""
        if self.state == S.CLOSING:
            return
        if self.state == S.POSTCOPY:
            self._memory_loaded()
        elif self.stage == Stage.RELAY:  # the guest here has yet to report that it stands still
            self._stage_to(Stage.ARRIVED)
        elif self.stage in (Stage.SENT, Stage.PACKAGE):
            self._say(conn, messages.Go())
        else:
            raise PeerError(Code.BAD_STATE, "LOADED before everything was sent", item="LOADED")

    def _memory_loaded(self) -> None:
        """The end of a postcopy, where all memory was sent."""
        if self.stage != Stage.SENT and not self.session_config.relays:
            raise PeerError(Code.BAD_STATE, "LOADED before all memory was sent", item="LOADED")
        self._happened(Event.COMPLETED)
        if self.stage == Stage.SENT:
            self._completed()
        else:
            self._stage_to(Stage.ENDING)  # what carries the stream here has yet to notice

    def _running(self, conn: int, running: messages.Running) -> None:
        """The guest runs there. In postcopy its memory follows."""
        if self.state == S.POSTCOPY:
            self._report_status(Status.POSTCOPY_ACTIVE)
            if not self.session_config.relays and not self.lost:
                self._collect(last=True)
        else:
            self._completed()

    def _guest_moved(self, moved: i.GuestMoved) -> None:
        """Of a stream that is not ours."""
        before = self.stage
        awaited = (Stage.RELAY, Stage.ARRIVED, Stage.PACKAGE, Stage.ENDING)
        if before not in awaited or self.state == S.CLOSING:
            return
        self._stage_to(Stage.PACKAGE if moved.postcopy else Stage.SENT)
        if before == Stage.ENDING:
            self._completed()
        elif moved.error:
            text = f"The guest could not be sent: {clean(moved.error)}."
            error = Error(Code.CONNECTION_LOST, item="guest", source=moved.error, text=text, retry=Retry.LATER)
            if self.state in (S.READY, S.PACKAGE_SENT):
                self._channel_over((error,))
            else:
                self._give_up(error)
        elif before == Stage.ARRIVED or moved.postcopy:
            if moved.postcopy:
                self._happened(Event.PACKAGE_SENT)
            if before == Stage.ARRIVED:
                self._say(CONTROL, messages.Go())

    def _completed(self) -> None:
        """The destination has everything."""
        self._report_status(Status.COMPLETED)
        self._drop_all()
        self._end(Status.COMPLETED)

    # --- endings ----------------------------------------------------------------------------------------------------
    def _mistake(self, conn: int, error: Error) -> None:
        """A peer that breaks rules is not trusted with the guest."""
        self._give_up(error)

    def _give_up(self, *errors: Error) -> None:
        """End a migration that still may be ended: tell the peer if the link carries, keep the guest."""
        if self.finished is not None:
            return
        if self.state == S.COMPLETED:  # the guest is there, whatever the peer sends now
            self._completed()
            return
        if self.state == S.POSTCOPY:
            self._say(CONTROL, messages.Failure(errors), note=errors[0].code)
            self._paused(errors)
            return
        if self.state in GIVEN_UP:
            self._uncertain(str(errors[0]))
            return
        gone = errors[0].code in (Code.CONNECTION_LOST, Code.PEER_CLOSED, Code.CONNECT)
        if self.state not in (S.CONNECTING, S.FAILED, S.CLOSING) and not gone:
            self._say(CONTROL, messages.Abort.of(errors, self.state), note=errors[0].code)
        self._end_attempt(errors)

    def _end_attempt(self, errors: tuple[Error, ...]) -> None:
        """The guest stays here and goes on."""
        self._drop_all()
        self._out.append(i.ResumeGuest())
        status = Status.CANCELLED if errors[0].code in (Code.CANCELLED, Code.DEADLINE) else Status.FAILED
        self._report_status(status)
        self._end(status, errors)

    def _uncertain(self, how: str) -> None:
        """Between GO and RUNNING nobody here can know where the guest runs; only then is it paused on both sides,
        and only then must a person look (SPEC 5.9)."""
        self._drop_all()
        self._report_status(Status.UNCERTAIN)
        self._end(Status.UNCERTAIN, (reasons.uncertain(how),))

    def _paused(self, errors: tuple[Error, ...]) -> None:
        """The guest runs at the destination, and the rest of its memory is here and can't follow (SPEC 5.9)."""
        self._drop_all()
        self._happened(Event.PAUSED)
        self._report_status(Status.POSTCOPY_PAUSED)
        self._end(Status.POSTCOPY_PAUSED, (reasons.postcopy_paused(errors[0], "at the destination"),))

    def _drop_all(self) -> None:
        """Every connection."""
        self._out += [i.Drop(conn) for conn in self.links]

    def _reject_command(self, error: Error) -> None:
        """`migrate` is refused before anything has started."""
        self._end(Status.REJECTED, (error,))

    def _end(self, status: Status, errors: tuple[Error, ...] = ()) -> None:
        """Nothing more is handled; the errors are what the manager reads."""
        text = "; ".join(str(e) for e in errors)
        reason = Reason.SPECIFIC if errors else Reason.NONE
        self._finish(i.Finished(status, text, reason, errors, listening=status == Status.REJECTED))

    # --- the tables -------------------------------------------------------------------------------------------------
    HANDLERS: ClassVar[Mapping[type, Callable[..., None]]] = {
        i.Start: _start,
        i.Cancel: _cancel,
        i.SwitchToPostcopy: _switch_to_postcopy,
        i.Opened: _opened,
        i.Secured: _secured,
        i.TlsFailed: _tls_failed,
        i.Received: _received,
        i.Drained: Outgoing._drained,
        i.Ended: _ended,
        i.Broken: _broken,
        i.RamCollected: Outgoing._ram_collected,
        i.GuestStopped: Outgoing._guest_stopped,
        i.GuestMoved: _guest_moved,
        i.AlarmRang: _alarm_rang,
    }
    DATA_STATES = (S.READY, S.LOADED, S.PACKAGE_SENT, S.PACKAGE_LOADED, S.POSTCOPY)
    BEFORE_ACCEPT = (S.CONNECTING, S.OFFERED, S.GREETED)
    RECEIVES: ClassVar[Mapping[type[Message], Receive]] = {
        messages.Hello: Receive({S.OFFERED: S.GREETED}, _hello),
        messages.Accept: Receive({S.GREETED: S.AGREED}, _accept),
        messages.Reject: Receive(
            {S.OFFERED: S.FAILED, S.GREETED: S.FAILED, S.AGREED: S.FAILED, S.CLOSING: S.FAILED}, _rejected
        ),
        messages.ChannelOk: Receive({}, _channel_ok),  # on the channel's own connection
        messages.Ready: Receive({S.AGREED: S.READY, S.CLOSING: S.CLOSING}, _ready),
        messages.Loaded: Receive(
            {
                S.READY: S.READY,
                S.PACKAGE_SENT: S.PACKAGE_SENT,
                S.POSTCOPY: S.POSTCOPY,  # the second: all memory is there
                S.CLOSING: S.CLOSING,
            },
            _loaded,
        ),
        messages.Running: Receive({S.LOADED: S.COMPLETED, S.PACKAGE_LOADED: S.POSTCOPY}, _running),
        messages.Failure: Receive(
            dict.fromkeys((S.READY, S.LOADED, S.PACKAGE_SENT, S.PACKAGE_LOADED, S.CLOSING), S.FAILED)
            | {S.POSTCOPY: S.POSTCOPY},
            _failed,
        ),
    }
    SENDS: ClassVar[Mapping[type[Message], Mapping[S, S]]] = {
        messages.Offer: {S.CONNECTING: S.OFFERED},
        messages.Go: {S.READY: S.LOADED, S.PACKAGE_SENT: S.PACKAGE_LOADED},
    }
    EVENTS: ClassVar[Mapping[Event, Mapping[S, S]]] = {
        Event.PACKAGE_SENT: {S.READY: S.PACKAGE_SENT, S.PACKAGE_SENT: S.PACKAGE_SENT},
        Event.GIVEN_UP: {S.READY: S.LOADED, S.PACKAGE_SENT: S.PACKAGE_LOADED},
        Event.CHANNEL_LOST: dict.fromkeys((S.AGREED, S.READY, S.PACKAGE_SENT), S.CLOSING),
        Event.COMPLETED: {S.POSTCOPY: S.COMPLETED},
        Event.PAUSED: {S.POSTCOPY: S.PAUSED},
    }
