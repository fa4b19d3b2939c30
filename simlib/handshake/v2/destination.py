"""v2's destination: silent until eight good bytes, refuses with everything it knows, binds channels by name and MAC.

A failed or foreign attempt leaves it listening. One that has begun to load can't listen again: its device state is
dirty, and it answers `needs-restart`. It runs the guest on GO alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

from .. import interface as i
from ..endpoint import ConnectionTable, reducible
from ..errors import Code, Error, PeerError, Retry, clean
from ..loader import Loader, MultifdReader, Position
from ..machine import Settings
from ..names import Reason, Status
from . import binding, body, features, frames, inventory, messages, reasons, states
from .agreement import agreed_settings, agreement_body, as_config, channel_plan
from .answers import MEMORY, Peer
from .config import SessionConfig
from .features import Agreement
from .frames import Frame
from .incoming import Incoming
from .messages import Message
from .session import KEEPALIVE, Receive
from .states import DestinationState as S
from .states import Event

UNAUTHENTICATED = ("new", "draining")  # connections of nobody that is known
GUARDED = (*UNAUTHENTICATED, "control")  # connections that an alarm may end
UNREADY = (S.GREETED, S.ACCEPTED, S.STARTED)
TRANSFERRING = (S.READY, S.LOADING, S.LOADED)  # a failure is answered with ERROR


@reducible
class Destination(Incoming):
    """The side that the guest is to move to.

    Args:
        settings: of this QEMU.
        session_config: the session's configuration, randomness included.
    """

    role, magic, peer_magic = states.DESTINATION, frames.RESPONDER, frames.INITIATOR
    RANDOM: ClassVar[Mapping[str, str]] = {"digest": "of an agreement with the session's id"}

    def __init__(self, settings: Settings, session_config: SessionConfig = SessionConfig()) -> None:
        super().__init__(settings, session_config)
        self.own_settings = settings  # before anything was agreed
        self.applies = 0  # asked and not yet answered, over all attempts
        self.sessions = 0  # attempts so far, so that each has its own secret
        self.ended_as: tuple[Error, ...] = ()  # of the last attempt
        self._forget()

    def _forget(self) -> None:
        """Nothing is known of an attempt."""
        self.settings = self.own_settings
        self.control: int | None = None
        self.peer = Peer()
        self.agreement = Agreement()
        self.plan: tuple[str, ...] = ()
        self.session_id = self.digest = ""
        self.bound: tuple[tuple[str, int, str], ...] = ()  # name, connection, the source's nonce
        self.applied = False
        self._forget_data()
        self.exporter = self.key_bytes = self.sent = self.heard = b""
        self.quiet = 0

    @property
    def accepting(self) -> bool:
        """It accepts at any time: who connects is found out by what comes, and one at a time can hold nobody up."""
        return self.finished is None and self.state != S.NONE

    @property
    def inline(self) -> bool:
        """Control carries the stream: there is one connection."""
        return self.peer.main == "inline"

    def _start(self, _: i.Start) -> None:
        """`migrate-incoming`. Where nothing can be sent back there is no handshake: a manifest stands before the
        stream instead (SPEC section 8)."""
        transport = self.settings.transport
        if transport == "file" or (transport in ("exec", "fd") and not self.session_config.bidirectional):
            text = f"Nobody hears an answer over {transport}:; a saved stream has a manifest instead."
            error = Error(Code.TRANSPORT_ONE_WAY, item="transport", destination=transport, text=text)
            self._end(Status.REJECTED, (error,))
            return
        if refused := reasons.not_carried(self.settings, self.session_config):
            error = Error(Code.FEATURE_CONFLICT, item="config", destination=refused, text=refused)
            self._end(Status.REJECTED, (error,))
            return
        self._happened(Event.STARTED)
        self._report_status(Status.SETUP)

    # --- connections ------------------------------------------------------------------------------------------------
    def _opened(self, opened: i.Opened) -> None:
        """Somebody has connected. Nothing is sent before its preface (SPEC 2.2); how many may wait unknown is
        limited, and how long, since anybody may connect (SPEC 2.5)."""
        conn = opened.conn
        self._add_link(conn)
        unknown = [c for c, link in self.links.items() if link.kind in UNAUTHENTICATED]
        awaited = len(self.plan) - len(self.bound)  # its own channels may all be here before their first bytes
        if len(unknown) > self.session_config.limits.unauthenticated + awaited:
            self._close(unknown[0])  # the oldest that has not authenticated
        if self.session_config.limits.guard_s:
            self._out.append(i.SetAlarm(f"guard-{conn}", self.session_config.limits.guard_s))
        if self.settings.tls:
            self._out.append(i.StartTls(conn, frames.ALPN))

    def _secured(self, secured: i.Secured) -> None:
        """TLS is up: its channel binding becomes part of the key if this connection becomes control (RFC 9266)."""
        if secured.conn in self.links:
            self._set(secured.conn, exporter=secured.exporter)

    def _tls_failed(self, failed: i.TlsFailed) -> None:
        """That connection is over; nothing else is."""
        if failed.conn in self.links:
            self._out.append(i.Printed(f"TLS handshake failed: {failed.text}"))
            self._close(failed.conn)

    def _alarm_rang(self, alarm: i.AlarmRang) -> None:
        """A guard against connections that never prove who they are, and against attempts that do not come to READY.
        It selects nothing."""
        if alarm.name == KEEPALIVE:
            if self.control is not None:
                self._keepalive_rang(self.control, may_ping=True)
            return
        conn = int(alarm.name.rpartition("-")[2])
        late = f"connection {conn} did not authenticate within {self.session_config.limits.guard_s} s"
        kind = self.links[conn].kind if conn in self.links else ""
        if kind == "new":
            self._out.append(i.Printed(late))
            self._close(conn)
        elif kind == "draining":
            self._close(conn)  # it was refused and has not closed
        elif conn == self.control and self.state in UNREADY:
            guard_s = self.session_config.limits.guard_s
            self._refuse((reasons.handshake_timeout(guard_s, self._awaited()),))

    def _awaited(self) -> str:
        """What an attempt that has not come to READY waits for."""
        if self.state != S.STARTED:
            return "START" if self.state == S.ACCEPTED else "OFFER"
        bound = [name for name, _, _ in self.bound]
        return ", ".join(name for name in self.plan if name not in bound) or "configuration"

    def _known(self, conn: int, kind: str) -> None:
        """The connection has proved that it belongs to the session: its guard is off."""
        self._set(conn, kind=kind)
        if self.session_config.limits.guard_s:
            self._out.append(i.StopAlarm(f"guard-{conn}"))

    def _received(self, received: i.Received) -> None:
        """Bytes of a bound channel are the stream's. Before that they are frames, of which those up to OFFER belong
        to the transcript (SPEC 5.5)."""
        conn, link = received.conn, self.links.get(received.conn)
        if conn == self.control:
            self.quiet = 0
        if link is None or link.kind == "draining":
            return
        if link.kind not in ("new", "control"):
            self._stream(conn, received.data, received.fill)
            return
        if link.kind == "new" or (conn == self.control and self.state == S.GREETED):
            self._set(conn, heard=link.heard + received.data)
        self._read(conn, received.data, received.fill)

    def _is_control(self, conn: int) -> bool:
        """The connection of the session's HELLO."""
        return conn == self.control

    def _may_begin(self, conn: int, type: int) -> bool:
        """HELLO begins a session; CHANNEL_OPEN is looked for before this is asked."""
        return type == messages.Hello.TYPE

    def _is_connection_scoped(self, conn: int, kind: type[Message]) -> bool:
        """HELLO on an unknown connection while a session is on: refused there, and the session goes on."""
        return kind is messages.Hello and self.control is not None and conn != self.control

    def _got_frame(self, conn: int, frame: Frame) -> None:
        """CHANNEL_OPEN belongs to a connection of its own, and concerns no state of the session."""
        channel = (messages.ChannelOpen.TYPE, messages.ChannelOk.TYPE)
        if self.links[conn].kind == "new" and frame.type == messages.ChannelOpen.TYPE:
            content = body.load(frame.payload, messages.SHAPES[frame.type], "CHANNEL_OPEN")
            self._receivers[messages.ChannelOpen](self, conn, messages.read(frame.type, content))
        elif frame.type in channel:
            name = frames.name(frame.type)
            raise PeerError(Code.BAD_STATE, f"{name} on {self.links[conn].kind}", item=name)
        else:
            super()._got_frame(conn, frame)

    # --- the session ------------------------------------------------------------------------------------------------
    def _hello(self, conn: int, hello: messages.Hello) -> None:
        """The first HELLO makes its connection control; another one is refused there with `busy` (SPEC 5.1)."""
        if self.control is not None:
            error = Error(
                Code.BUSY,
                item="session",
                source="new",
                destination="another is on",
                text="The destination is in a handshake with somebody else.",
                retry=Retry.LATER,
            )
            self._reject_connection(conn, error)
            return
        self.control = conn
        self._set(conn, kind="control")  # its guard runs on until READY
        self.exporter = self.links[conn].exporter
        hello.check_role(states.SOURCE)
        if hello.main == "separate" and self.settings.transport not in ("tcp", "unix"):
            text = f"main is to be separate, and nobody can connect again over {self.settings.transport}:"
            raise PeerError(Code.UNKNOWN_VALUE, text, item="HELLO.main")
        self.peer = Peer(hello.qemu_version, hello.session or "", hello.main)
        theirs, ours = self.peer.session, self.session_config.session
        if theirs and ours and theirs != ours:
            text = "The two managers name different migrations."
            raise PeerError(Code.WRONG_SESSION, text, item="session", source=theirs, destination=ours)

    def _offer(self, conn: int, offer: messages.Offer) -> None:
        """Agreement and verdict, all at once: the source reads everything that is wrong in one answer (SPEC 5.2, 5.3
        and section 6)."""
        ours = features.stances(self.settings, False, self.session_config.require, self.session_config.forbid)
        self.agreement = features.resolve(offer.features, ours, self.inline)
        by_multifd = self.session_config.relays and self.agreement.has("multifd")  # by who reads its first packets
        machine = messages.whole_machine(offer)
        findings = inventory.compare(
            machine,
            self.settings.machine,
            self.session_config.memory_limit_bytes,
            uuid_checked=by_multifd or self.agreement.has("validate-uuid"),
            postcopy=self.agreement.has("postcopy-ram"),
        )
        verdict = inventory.verdict(findings)
        errors = [*self.agreement.errors, *(f for f in findings if f.severity == "error")]
        warnings = tuple(f for f in findings if f.severity == "warning")
        if verdict == "maybe" and "reject" in (offer.on_maybe, self.session_config.on_maybe):
            text = "The verdict is maybe, and one side wants certainty."
            sides = {"source": offer.on_maybe, "destination": self.session_config.on_maybe}
            errors.append(Error(Code.MAYBE_REFUSED, item="on-maybe", text=text, **sides))
            errors += [replace(w, severity="error") for w in warnings]
        if errors:
            self._refuse(tuple(errors))
            return
        self.sessions += 1
        self.session_id = self._derive(f"session {self.sessions}", 8).hex()
        self.plan = channel_plan(self.agreement, self.inline)
        agreement = agreement_body(self.agreement, self.plan, self.session_id)
        self.digest = body.digest(agreement)
        secret = self._derive(f"secret {self.sessions}", 32)
        hello = messages.hello(self.role, self.settings, self.session_config, self.peer.main)
        before = self._greeting(conn) + self._frame(hello)
        heard = self.links[conn].heard
        heard = heard[: len(heard) - len(self.links[conn].reader.buffer)]
        accept = messages.Accept(
            features=ours,
            agreement=agreement,
            session_id=self.session_id,
            secret=secret.hex(),
            channels=self.plan,
            verdict=verdict,
            warnings=warnings[: messages.ERRORS_LIMIT],
            skipped=self.agreement.skipped,
            config=messages.public(agreed_settings(self.settings, self.agreement).parameters),
        )
        self._make_key(secret, heard, self._say(conn, accept, before))
        self._set(conn, heard=b"")

    def _started(self, conn: int, start: messages.Start) -> None:
        """START proves that both sides have seen the same bytes so far, and names the agreement (SPEC 5.7). What was
        agreed is set now."""
        if start.agreement != self.digest:
            raise PeerError(
                Code.AGREEMENT_MISMATCH,
                "the source starts on another agreement",
                item="agreement",
                source=clean(start.agreement, 16),
                destination=self.digest[:16],
                retry=Retry.NEVER,
            )
        if not binding.same(start.mac, binding.mac(self.key_bytes, "START", self.digest)):
            text = "START does not prove the same conversation: something changed it"
            raise PeerError(Code.TRANSCRIPT, text, item="START")
        self.applies += 1
        self._out.append(i.Apply(as_config(agreed_settings(self.settings, self.agreement))))

    def _config_applied(self, applied: i.Applied) -> None:
        """The configuration is set, or can't be: QEMU knows some things only by trying."""
        self.applies -= 1
        if self.state != S.STARTED or self.applies:  # an answer to an attempt that is over
            return
        if applied.error:
            self._refuse(
                (
                    Error(
                        applied.code,
                        item="config",
                        source=", ".join(name for name, _ in self.agreement.on),
                        destination=applied.error,
                        text=f"The destination could not set what was agreed: {applied.error}.",
                        hint="Change what is asked for.",
                    ),
                )
            )
            return
        self.applied = True
        self.settings = agreed_settings(self.settings, self.agreement)
        self._loader = Loader(self.settings)
        self._ready_when_complete()

    def _channel_open(self, conn: int, opening: messages.ChannelOpen) -> None:
        """Bind a channel by name and MAC (SPEC 5.6): the order in which connections arrive means nothing."""
        name, nonce = opening.name, opening.nonce
        wrong = self._wrong_channel(conn, opening)
        if wrong is not None:
            self._reject_connection(conn, wrong)
            return
        self._out.append(i.Heard(conn, f"CHANNEL_OPEN {name}"))
        self._known(conn, name)
        self.bound = (*self.bound, (name, conn, nonce))
        ours = self.links[conn].nonce.hex()
        answer = messages.ChannelOk(ours, binding.mac(self.key_bytes, "CHANNEL_OK", name, nonce, ours))
        self._say(conn, answer, self._greeting(conn), name)
        if len(self.links[conn].reader.buffer):
            text = f"bytes on channel {name} before READY"
            raise PeerError(Code.BAD_STATE, text, item=f"channel[{clean(name, 80)}]")
        self._ready_when_complete()

    def _wrong_channel(self, conn: int, opening: messages.ChannelOpen) -> Error | None:
        """Why a connection is none of the session's channels."""
        name, nonce, session = opening.name, opening.nonce, clean(opening.session_id, 32)
        item = f"channel[{clean(name, 80)}]"
        if not self.session_id or not self.key_bytes:
            text = "No session is on here."
            return Error(Code.NO_SESSION, item="session", source=session, destination="none", text=text)
        if opening.session_id != self.session_id:
            text = "The channel belongs to another session."
            return Error(Code.WRONG_SESSION, item="session", source=session, destination=self.session_id, text=text)
        link = self.links[conn]
        mac = binding.mac(self.key_bytes, "CHANNEL_OPEN", self.session_id, name, nonce, link.exporter)
        if not binding.same(opening.mac, mac) or nonce != link.peer_nonce.hex():
            return Error(Code.CHANNEL_AUTH, item=item, source="wrong MAC", text="The channel's MAC is wrong.")
        if name not in self.plan:
            text, planned = "No such channel was agreed.", ", ".join(self.plan)
            return Error(Code.CHANNEL_UNPLANNED, item=item, source=clean(name, 80), destination=planned, text=text)
        if any(bound == name for bound, _, _ in self.bound):
            text = "It is bound already; the first is kept."
            return Error(Code.CHANNEL_DUPLICATE, item=item, source="second", destination="first", text=text)
        return None

    def _ready_when_complete(self) -> None:
        """READY means that START was seen, the config is set, and every planned channel is bound."""
        control = self.control
        if self.state != S.STARTED or not self.applied or control is None or len(self.bound) < len(self.plan):
            return
        rows = {name: (conn, nonce) for name, conn, nonce in self.bound}
        channels = tuple((name, rows[name][1]) for name in self.plan)
        mac = binding.mac(self.key_bytes, "READY", *(part for row in channels for part in row))
        self.lanes = ConnectionTable({rows[n][0]: MultifdReader() for n in self.plan if n.startswith("multifd")})
        self._set(control, reader=self.links[control].reader._replace(unlimited=True))
        self._known(control, "control")
        self._watch_peer()
        self._report_status(Status.ACTIVE)
        self._say(control, messages.Ready(channels, mac))
        if self.session_config.relays:
            self._out.append(i.MoveGuest(tuple((name, rows[name][0]) for name in self.plan)))

    # --- endings ----------------------------------------------------------------------------------------------------
    def _cancel(self, cancel: i.Cancel) -> None:
        """The manager's own deadline, or its cancel: before GO the attempt is over, and so is the command (SPEC 5.9).
        After GO the guest is here."""
        if self.state in (S.GOING, S.COMPLETED):
            return
        error = reasons.cancelled(cancel.code)
        if self.control is not None:
            self._refuse((error,))
        if self.finished is None:
            for conn in list(self.links):
                self._close(conn)
            self._happened(Event.CANCELLED)
            self._report_status(Status.CANCELLED)
            self._end(Status.CANCELLED, (error,))

    def _aborted(self, conn: int, answer: messages.Abort) -> None:
        """The source has ended the attempt (SPEC 5.4)."""
        self._attempt_over(answer.errors)

    def _memory_will_not_come(self, conn: int, answer: messages.Failure) -> None:
        """The source can't send the rest of a postcopy's memory (SPEC 5.9)."""
        self._session_lost(answer.errors[0])

    def _ended(self, ended: i.Ended) -> None:
        """FIN: a source that goes on keeps its connections open."""
        self._lost(ended.conn, "closed by the peer")

    def _broken(self, broken: i.Broken) -> None:
        """The connection was reset."""
        self._lost(broken.conn, broken.text)

    def _lost(self, conn: int, how: str) -> None:
        """After GO the guest is ours whatever becomes of the link (SPEC 5.9); before, a lost channel ends the
        attempt."""
        if conn not in self.links:
            return
        kind = self.links[conn].kind
        if kind in UNAUTHENTICATED:
            self._close(conn)
            return
        if conn == self.control:
            text = f"The source went away ({clean(how)})."
            error = Error(Code.CONNECTION_LOST, item="control", text=text, retry=Retry.LATER)
        else:
            error = replace(reasons.channel_lost(kind, how), destination="open")
        if self.state == S.GOING:
            if conn == self.control or (kind in MEMORY and not self.session_config.relays):
                self._session_lost(error)
        elif conn == self.control:
            self._attempt_over((error,))
        else:
            self._refuse((error,))

    def _mistake(self, conn: int, error: Error) -> None:
        """On the control connection it ends the attempt; anywhere else it ends that connection alone."""
        if conn == self.control or self.links[conn].kind not in UNAUTHENTICATED:
            self._refuse((error,))
            return
        self._out.append(i.Printed(f"connection {conn} refused: {error.code}: {error.text}"))
        readable = (Code.FRAME_TOO_BIG, Code.NO_COMMON_VERSION)
        if self.links[conn].reader.got_preface or error.code in readable:
            self._reject_connection(conn, error)
        else:
            self._close(conn)  # it never sent eight good bytes: not a word

    def _reject_connection(self, conn: int, error: Error) -> None:
        """Refuse one connection; the session, if any, goes on."""
        answer = messages.Reject.of((error,), self.session_config.limits)
        self._say(conn, answer, self._greeting(conn), error.code)
        self._half_close(conn)

    def _refuse(self, errors: tuple[Error, ...]) -> None:
        """End the attempt and tell the source everything: REJECT before READY, ERROR after."""
        conn = self.control
        assert conn is not None
        if self.state == S.GOING:
            self._out.append(i.Printed(f"after GO: {errors[0].code}: {errors[0].text}"))
            self._session_lost(errors[0])
            return
        self._out.append(i.Printed("; ".join(f"{e.code}: {e.text}" for e in errors)))
        codes = ", ".join(dict.fromkeys(e.code for e in errors))
        if self.state in TRANSFERRING:
            self._say(conn, messages.Failure(errors), note=codes)
        else:
            before = b"" if self.links[conn].spoke else self._greeting(conn)
            self._say(conn, messages.Reject.of(errors, self.session_config.limits), before, codes)
        self._half_close(conn)
        self._attempt_over(errors)

    def _attempt_over(self, errors: tuple[Error, ...]) -> None:
        """Listen again, unless loading had begun."""
        self.ended_as = errors
        if self.session_config.keepalive_s:
            self._out.append(i.StopAlarm(KEEPALIVE))
        begun = self._loader.state != Position.HEADER or self.session_config.relays
        dirty = begun and self.state in (*TRANSFERRING, S.FAILED)
        for conn in [c for c, link in self.links.items() if link.kind not in UNAUTHENTICATED]:
            self._close(conn)
        if dirty:
            self._happened(Event.FAILED)
            self._report_status(Status.FAILED)
            self._end(Status.FAILED, errors)
        else:
            self._happened(Event.RESET)
            self._forget()
            self._report_status(Status.SETUP)

    def _half_close(self, conn: int) -> None:
        """Read on until the peer has gone: a close over unread bytes would be a reset (RFC 1122, 4.2.2.13), and a reset
        may overtake the reason."""
        self._set(conn, kind="draining", reader=frames.Reader(self.peer_magic, self.session_config.limits), heard=b"")
        self._out.append(i.End(conn))
        if self.session_config.limits.guard_s:
            self._out.append(i.SetAlarm(f"guard-{conn}", self.session_config.limits.guard_s))

    def _close(self, conn: int) -> None:
        """Close it and forget it; its guard is off."""
        if self.links.pop(conn).kind in GUARDED and self.session_config.limits.guard_s:
            self._out.append(i.StopAlarm(f"guard-{conn}"))
        self._out.append(i.Drop(conn))

    def _end(self, status: Status, errors: tuple[Error, ...] = (), listening: bool = False) -> None:
        """Nothing more is handled; the errors are what the manager reads."""
        text = "; ".join(str(e) for e in errors)
        reason = Reason.SPECIFIC if errors else Reason.NONE
        self._finish(i.Finished(status, text, reason, errors, listening=listening))

    # --- the tables -------------------------------------------------------------------------------------------------
    HANDLERS: ClassVar[Mapping[type, Callable[..., None]]] = {
        i.Start: _start,
        i.Cancel: _cancel,
        i.Opened: _opened,
        i.Secured: _secured,
        i.TlsFailed: _tls_failed,
        i.Received: _received,
        i.Ended: _ended,
        i.Broken: _broken,
        i.Applied: _config_applied,
        i.Loaded: Incoming._guest_loaded,
        i.GuestRunning: Incoming._guest_running,
        i.PageFault: Incoming._page_fault,
        i.AlarmRang: _alarm_rang,
    }
    DATA_STATES = (S.READY, S.LOADING, S.LOADED, S.GOING)
    BEFORE_ACCEPT = (S.LISTENING, S.GREETED)
    RECEIVES: ClassVar[Mapping[type[Message], Receive]] = {
        messages.Hello: Receive({S.LISTENING: S.GREETED}, _hello),
        messages.Offer: Receive({S.GREETED: S.ACCEPTED}, _offer),
        messages.Start: Receive({S.ACCEPTED: S.STARTED}, _started),
        messages.ChannelOpen: Receive({}, _channel_open),  # on a connection of its own
        messages.Go: Receive({S.LOADED: S.GOING}, Incoming._go),
        messages.Abort: Receive(
            dict.fromkeys((S.GREETED, S.ACCEPTED, S.STARTED), S.LISTENING)
            | dict.fromkeys((S.READY, S.LOADING, S.LOADED), S.FAILED),
            _aborted,
        ),
        messages.Failure: Receive({S.GOING: S.GOING}, _memory_will_not_come),
    }
    SENDS: ClassVar[Mapping[type[Message], Mapping[S, S]]] = {
        messages.Ready: {S.STARTED: S.READY},
        messages.Loaded: {S.LOADING: S.LOADED},
    }
    EVENTS: ClassVar[Mapping[Event, Mapping[S, S]]] = {
        Event.STARTED: {S.NONE: S.LISTENING},
        Event.STREAM_READ: {S.READY: S.LOADING},
        Event.GIVEN_UP: {S.LOADING: S.GOING},
        Event.RUN_FAILED: {S.GOING: S.LOADED},
        Event.COMPLETED: {S.GOING: S.COMPLETED},
        Event.PAUSED: {S.GOING: S.PAUSED},
        Event.CANCELLED: {S.NONE: S.FAILED, S.LISTENING: S.FAILED},
        Event.FAILED: dict.fromkeys((*TRANSFERRING, S.FAILED), S.FAILED),
        Event.RESET: dict.fromkeys(S, S.LISTENING),
    }
