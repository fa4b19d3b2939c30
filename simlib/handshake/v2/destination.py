"""v2's destination: silent until eight good bytes, refuses with everything it knows, binds channels by name and MAC.

A failed or foreign attempt leaves it listening. One that has begun to load can't listen again: its device state is
dirty, and it says `needs-restart`. It runs the guest on GO alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from .. import interface as i
from .. import stream
from ..endpoint import Table, reducible
from ..errors import Error, PeerError, clean
from ..machine import Settings
from . import binding, body, features, frames, inventory, messages, states
from .answers import DestinationAnswers
from .features import Agreement
from .frames import Frame
from .messages import Identity
from .source import agreed_settings, agreement_body, as_config, channel_plan

STRANGE = ("new", "leaving")  # connections of nobody that is known
_SHOWN = {"machine": "CONFIGURATION {0}", "setup": "START ram", "eof": "EOF"}  # of the stream, in the trace


@reducible
class Destination(DestinationAnswers):
    role, magic, peer_magic = states.DESTINATION, frames.RESPONDER, frames.INITIATOR
    RANDOM: ClassVar[Mapping[str, str]] = {"digest": "of an agreement with the session's id"}

    def __init__(self, settings: Settings, identity: Identity = Identity()) -> None:
        super().__init__(settings, identity)
        self.state = "rejected"
        self.own_settings = settings  # before anything was agreed
        self.applies = 0  # asked and not yet answered, over all attempts
        self.sessions = 0  # attempts so far, so that each has its own secret
        self.ended_as: tuple[Error, ...] = ()  # of the last attempt
        self._reset()
        self.state = "none"

    def _reset(self) -> None:
        """Ready for the next attempt."""
        self.settings = self.own_settings
        self.control: int | None = None
        self.peer = messages.Hello("", "", "separate")
        self.agreement = Agreement()
        self.plan: tuple[str, ...] = ()
        self.session_id = self.digest = ""
        self.bound: tuple[tuple[str, int, str], ...] = ()  # name, connection, the source's nonce
        self.applied = self.postcopy = self.running = self.eof = False
        self.main_bytes = self.flushes = 0
        self.lanes: Table[stream.Lane] = Table()
        self._loader = stream.Loader(self.settings)
        self.exporter = self.key_bytes = self.sent = self.heard = b""
        self.state = "listening"

    @property
    def accepting(self) -> bool:
        return self.finished is None and self.state != "none"

    @property
    def inline(self) -> bool:
        return self.peer.main == "inline"

    def _on_start(self, _: i.Start) -> None:
        if self.settings.transport == "file" or (self.settings.transport == "exec" and not self.identity.bidirectional):
            error = Error("transport-one-way", "transport", "", "file", "A file can't answer: see its manifest.")
            self._finish("rejected", (error,), listening=False)
            return
        self.state = "listening"
        self._enter("setup")

    # --- connections ------------------------------------------------------------------------------------------------
    def _on_opened(self, opened: i.Opened) -> None:
        conn = opened.conn
        self._add_link(conn)
        unknown = [c for c, link in self.links.items() if link.kind in STRANGE]
        awaited = len(self.plan) - len(self.bound)  # its own channels may all be here before their first bytes
        if len(unknown) > self.identity.limits.unauthenticated + awaited:
            self._close(unknown[0])  # the oldest that has not said who it is
        if self.identity.limits.guard_s:
            self._out.append(i.SetAlarm(f"guard-{conn}", self.identity.limits.guard_s))
        if self.settings.tls:
            self._out.append(i.StartTls(conn, frames.ALPN))

    def _on_secured(self, secured: i.Secured) -> None:
        if secured.conn in self.links:
            self._set(secured.conn, exporter=secured.exporter)

    def _on_tlsfailed(self, failed: i.TlsFailed) -> None:
        if failed.conn in self.links:
            self._out.append(i.Printed(f"TLS handshake failed: {failed.text}"))
            self._close(failed.conn)

    def _on_alarmrang(self, alarm: i.AlarmRang) -> None:
        """A guard against connections that never say who they are. It selects nothing."""
        conn = int(alarm.name.rpartition("-")[2])
        late = f"connection {conn} did not authenticate within {self.identity.limits.guard_s} s"
        kind = self.links[conn].kind if conn in self.links else ""
        if kind == "new":
            self._out.append(i.Printed(late))
            self._close(conn)
        elif kind == "leaving":
            self._close(conn)  # it was told why and would not go
        elif conn == self.control and self.state in ("greeted", "accepted"):
            self._out.append(i.Printed(late))
            self._attempt_over((Error("connection-lost", "control", "", "", late, "", "later"),))

    def _known(self, conn: int, kind: str) -> None:
        self._set(conn, kind=kind)
        if self.identity.limits.guard_s:
            self._out.append(i.StopAlarm(f"guard-{conn}"))

    def _on_received(self, received: i.Received) -> None:
        conn, link = received.conn, self.links.get(received.conn)
        if link is None or link.kind == "leaving":
            return
        if link.kind not in ("new", "control"):
            self._stream(conn, received.data, received.fill)
            return
        if link.kind == "new" or (conn == self.control and self.state == "greeted"):
            self._set(conn, heard=link.heard + received.data)
        self._read(conn, received.data, received.fill)

    def _reads(self, conn: int) -> bool:
        return conn in self.links and self.links[conn].kind in ("new", "control")

    def _first_frames(self, conn: int) -> tuple[int, ...]:
        return (frames.HELLO,)

    def _apart(self, conn: int, type: int) -> bool:
        """HELLO on an unknown connection while a session is on: refused there, and the session goes on."""
        return type == frames.HELLO and self.control is not None and conn != self.control

    def _got_frame(self, conn: int, got: Frame) -> None:
        if self.links[conn].kind == "new" and got.type == frames.CHANNEL_OPEN:
            told = body.load(got.payload, messages.SHAPES[got.type], "CHANNEL_OPEN")
            self._heard_channel_open(conn, told)
        elif got.type in (frames.CHANNEL_OPEN, frames.CHANNEL_OK):
            raise PeerError("bad-state", f"{frames.name(got.type)} on {self.links[conn].kind}", frames.name(got.type))
        else:
            super()._got_frame(conn, got)

    # --- the session ------------------------------------------------------------------------------------------------
    def _heard_hello(self, conn: int, told: dict[str, Any]) -> None:
        if self.control is not None:
            self._turn_away(conn, Error(
                "busy", "session", "new", "another is on", "The destination is in a handshake with somebody else.", "",
                "later",
            ))  # fmt: skip
            return
        self.control = conn
        self._set(conn, kind="control")  # its guard runs on until START has proved who it is
        self.exporter = self.links[conn].exporter
        self.peer = messages.read_hello(told, states.SOURCE)
        theirs, ours = self.peer.session, self.identity.session
        if theirs and ours and theirs != ours:
            raise PeerError("wrong-session", "The two managers name different migrations.", "session", theirs, ours)

    def _heard_offer(self, conn: int, told: dict[str, Any]) -> None:
        offer = messages.read_offer(told)
        ours = features.stances(self.settings, False, self.identity.require, self.identity.forbid)
        self.agreement = features.resolve(offer.stances, ours)
        checked = self.identity.relays and self.agreement.has("multifd")  # by who reads its first packets
        findings = inventory.compare(offer.machine, self.settings.machine, self.identity.memory_limit_bytes, checked)
        verdict = inventory.verdict(findings)
        errors = [*self.agreement.errors, *(f for f in findings if f.severity == "error")]
        warnings = [f for f in findings if f.severity == "warning"]
        if verdict == "maybe" and "reject" in (offer.on_maybe, self.identity.on_maybe):
            text = "The verdict is maybe, and one side wants certainty."
            errors.append(Error("maybe-refused", "on-maybe", offer.on_maybe, self.identity.on_maybe, text))
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
        hello = messages.hello(self.role, self.settings, self.identity, self.peer.main)
        told_before = self._greeting(conn) + self._frame(frames.HELLO, hello)
        heard = self.links[conn].heard
        heard = heard[: len(heard) - len(self.links[conn].reader.buffer)]
        sent = self._say(conn, frames.ACCEPT, {
            "features": [messages.stance_body(s) for s in ours], "agreement": agreement,
            "session-id": self.session_id, "secret": secret.hex(), "channels": list(self.plan), "verdict": verdict,
            "warnings": [w.body() for w in warnings[:64]], "skipped": [list(s) for s in self.agreement.skipped],
            "config": messages.public(agreed_settings(self.settings, self.agreement).parameters),
        }, told_before)  # fmt: skip
        self._make_key(secret, heard, sent)
        self._set(conn, heard=b"")

    def _heard_start(self, conn: int, told: dict[str, Any]) -> None:
        if told["agreement"] != self.digest:
            raise PeerError("agreement-mismatch", "the source starts on another agreement", "agreement",
                            clean(told["agreement"], 16), self.digest[:16])  # fmt: skip
        if not binding.same(told["mac"], binding.mac(self.key_bytes, "START", self.digest)):
            raise PeerError("transcript", "START does not prove the same conversation: something changed it", "START")
        self._known(conn, "control")
        self.applies += 1
        self._out.append(i.Apply(as_config(agreed_settings(self.settings, self.agreement))))

    def _on_applied(self, applied: i.Applied) -> None:
        self.applies -= 1
        if self.state != "started" or self.applies:  # an answer to an attempt that is over
            return
        if applied.error:
            self._refuse((Error(
                applied.code, "config", str(dict(self.agreement.on)), applied.error,
                f"The destination could not set what was agreed: {applied.error}.", "Change what is asked for.",
            ),))  # fmt: skip
            return
        self.applied = True
        self.settings = agreed_settings(self.settings, self.agreement)
        self._loader = stream.Loader(self.settings)
        self._ready_when_complete()

    def _heard_channel_open(self, conn: int, told: dict[str, Any]) -> None:
        name, nonce = told["name"], told["nonce"]
        item, wrong = f"channel[{clean(name, 80)}]", None
        if not self.session_id or not self.key_bytes:
            wrong = Error("no-session", "session", clean(told["session-id"], 32), "none", "No session is on here.")
        elif told["session-id"] != self.session_id:
            wrong = Error("wrong-session", "session", clean(told["session-id"], 32), self.session_id,
                          "The channel belongs to another session.")  # fmt: skip
        elif not binding.same(told["mac"], binding.mac(self.key_bytes, "CHANNEL_OPEN", self.session_id, name, nonce)):
            wrong = Error("channel-auth", item, "wrong MAC", "", "The channel's MAC is wrong.")
        elif name not in self.plan:
            planned = ", ".join(self.plan)
            wrong = Error("channel-unplanned", item, clean(name, 80), planned, "No such channel was agreed.")
        elif any(bound == name for bound, _, _ in self.bound):
            wrong = Error("channel-duplicate", item, "second", "first", "It is bound already; the first is kept.")
        if wrong is not None:
            self._turn_away(conn, wrong)
            return
        self._out.append(i.Heard(conn, f"CHANNEL_OPEN {name}"))
        self._known(conn, name)
        self.bound = (*self.bound, (name, conn, nonce))
        ours = self.links[conn].nonce.hex()
        answer = {"nonce": ours, "mac": binding.mac(self.key_bytes, "CHANNEL_OK", name, nonce, ours)}
        self._say(conn, frames.CHANNEL_OK, answer, self._greeting(conn), name)
        if len(self.links[conn].reader.buffer):
            raise PeerError("bad-state", f"bytes on channel {name} before READY", item)
        self._ready_when_complete()

    def _ready_when_complete(self) -> None:
        """READY says that START was seen, the config is set, and every planned channel is bound."""
        control = self.control
        if self.state != "started" or not self.applied or control is None or len(self.bound) < len(self.plan):
            return
        rows = {name: (conn, nonce) for name, conn, nonce in self.bound}
        told = [[name, rows[name][1]] for name in self.plan]
        mac = binding.mac(self.key_bytes, "READY", *(part for row in told for part in row))
        self.state = "ready"
        self.lanes = Table({rows[n][0]: stream.Lane() for n in self.plan if n.startswith("multifd")})
        self._set(control, reader=self.links[control].reader._replace(unlimited=True))
        self._enter("active")
        self._say(control, frames.READY, {"channels": told, "mac": mac})
        if self.identity.relays:
            self._out.append(i.MoveGuest(tuple((name, rows[name][0]) for name in self.plan)))

    # --- the data ---------------------------------------------------------------------------------------------------
    def _stream(self, conn: int, data: bytes, fill: int) -> None:
        if self.state not in ("ready", "loading", "loaded", "going"):
            error = Error("bad-state", f"channel[{self.links[conn].kind}]", "bytes", self.state,
                          "Bytes came before READY.")  # fmt: skip
            self._refuse((error,))
            return
        self._pass_on(self.links[conn].kind, conn, data, fill)

    def _heard_data(self, conn: int, got: Frame) -> None:
        self._pass_on("main", conn, got.payload, got.fill)

    def _pass_on(self, kind: str, conn: int, data: bytes, fill: int) -> None:
        try:
            if kind == "main":
                self._load(data, fill)
            elif kind != "postcopy-preempt":
                self._read_lane(conn, data, fill)
        except stream.StreamError as error:
            self._broke_off(str(error))

    def _read_lane(self, conn: int, data: bytes, fill: int) -> None:
        compression = str(self.agreement.parameter("multifd", "compression", "none"))
        self.lanes[conn] = self.lanes[conn].add(data, fill).read(compression, conn, 1 << 30)
        self._loaded_when_complete()

    def _load(self, data: bytes, fill: int) -> None:
        self._loader.feed(data, fill)
        while (event := self._loader.next_event()) is not None:
            if event[0] in _SHOWN:
                self._out.append(i.Heard(self._main, _SHOWN[str(event[0])].format(*event[1:])))
            if event[0] == "ram":
                assert isinstance(event[1], int)
                self.main_bytes += event[1]
            elif event[0] == "flush":
                self.flushes += 1
            elif event[0] == "command" and event[1] == stream.POSTCOPY_RUN:
                self.postcopy = True
                self._start_loading()
            elif event[0] == "eof":
                self.eof = True
                self._loaded_when_complete()

    @property
    def _main(self) -> int:
        """The connection that carries main."""
        assert self.control is not None
        return next((conn for name, conn, _ in self.bound if name == "main"), self.control)

    def _loaded_when_complete(self) -> None:
        """The stream is at its end and every lane has said all its SYNCs."""
        if not self.eof or any(lane.syncs < self.flushes for lane in self.lanes.values()):
            return
        if self.postcopy:
            self._memory_over()
        elif self.state == "ready":
            self._start_loading()

    def _start_loading(self) -> None:
        self.state = "loading"
        self._out.append(i.Load(sum(d.size_bytes for d in self.settings.machine.devices)))

    def _on_loaded(self, loaded: i.Loaded) -> None:
        if self.identity.relays and self.postcopy and self.state in ("loaded", "going"):
            self.eof = not loaded.error
            self._memory_over(loaded.error)
        elif self.state != ("ready" if self.identity.relays else "loading"):
            return
        elif loaded.error:
            self._broke_off(loaded.error)
        else:
            self.state, self.postcopy = "loaded", self.postcopy or loaded.postcopy
            self._tell(frames.LOADED, {"bytes": self.ram_bytes})

    def _heard_go(self, conn: int, told: dict[str, Any]) -> None:
        self._out.append(i.RunGuest())

    def _on_guestrunning(self, running: i.GuestRunning) -> None:
        if running.error:  # GO was not obeyed, and the source may have its guest back
            self.state = "loaded"
            self._broke_off(running.error, "run")
            return
        self.running = True
        self._tell(frames.RUNNING, {})
        if self.postcopy:
            self._enter("postcopy-active")
        if self.eof and self.postcopy:
            self._memory_over()
        elif not self.postcopy:
            self._completed()

    def _memory_over(self, error: str = "") -> None:
        """Of a guest that came by postcopy: all of its memory is here, or never will be."""
        if not self.running:
            if error:
                self._broke_off(error)
        elif error:
            self._enter("postcopy-paused")
            text = f"The source went away ({clean(error)}) while its guest ran here without all of its memory."
            self._finish("failed", (Error("connection-lost", "control", "", "", text, "", "never"),))
        else:
            self._tell(frames.LOADED, {"bytes": self.ram_bytes})
            self._completed()

    def _completed(self) -> None:
        self.state = "completed"
        self._enter("completed")
        for conn in list(self.links):
            self._close(conn)
        self._finish("completed", ())

    # --- endings ----------------------------------------------------------------------------------------------------
    def _heard_reject(self, conn: int, told: dict[str, Any]) -> None:
        self._attempt_over(messages.read_errors(told["errors"]))

    _heard_abort = _heard_error = _heard_reject

    def _on_ended(self, ended: i.Ended) -> None:
        self._lost(ended.conn, "closed by the peer")

    def _on_broken(self, broken: i.Broken) -> None:
        self._lost(broken.conn, broken.text)

    def _lost(self, conn: int, how: str) -> None:
        if conn not in self.links:
            return
        kind = self.links[conn].kind
        if kind in STRANGE:
            self._close(conn)
            return
        if self.state in ("going", "completed"):
            if conn == self.control and self.running:  # postcopy: its memory will not come any more
                self._memory_over(how)
            return
        if conn == self.control:
            self._attempt_over((Error("connection-lost", "control", "", "", f"The source went away ({clean(how)}).", "",
                                      "later"),))  # fmt: skip
        else:
            self._refuse((Error("channel-lost", f"channel[{kind}]", "closed", "open", f"Channel {kind} was lost "
                                f"({clean(how)}).", "", "later"),))  # fmt: skip

    def _mistake(self, conn: int, error: Error) -> None:
        """On the control connection it ends the attempt; anywhere else it ends that connection alone."""
        if conn == self.control or self.links[conn].kind not in STRANGE:
            self._refuse((error,))
            return
        self._out.append(i.Printed(f"connection {conn} refused: {error.code}: {error.text}"))
        if self.links[conn].reader.got_preface or error.code in ("frame-too-big", "no-common-version"):
            self._turn_away(conn, error)
        else:
            self._close(conn)  # it never said eight good bytes: not a word

    def _turn_away(self, conn: int, error: Error) -> None:
        """Refuse one connection; the session, if any, goes on."""
        told = messages.reject((error,), self.identity.limits)
        self._say(conn, frames.REJECT, told, self._greeting(conn), error.code)
        self._let_go(conn)

    def _refuse(self, errors: tuple[Error, ...]) -> None:
        """End the attempt and tell the source everything: REJECT before READY, ERROR after."""
        conn = self.control
        assert conn is not None
        if self.state == "going":  # GO was obeyed: nothing that is said now can take it back
            self._out.append(i.Printed(f"ignored after GO: {errors[0].code}: {errors[0].text}"))
            return
        self._out.append(i.Printed("; ".join(f"{e.code}: {e.text}" for e in errors)))
        codes = ", ".join(dict.fromkeys(e.code for e in errors))
        if self.state in ("ready", "loading", "loaded"):
            self._say(conn, frames.ERROR, {"errors": [e.body() for e in errors]}, note=codes)
        else:
            before = b"" if self.links[conn].spoke else self._greeting(conn)
            self._say(conn, frames.REJECT, messages.reject(errors, self.identity.limits), before, codes)
        self._let_go(conn)
        self._attempt_over(errors)

    def _broke_off(self, text: str, what: str = "load") -> None:
        """Loading failed: v1 would print this and exit; here the source reads it."""
        self._refuse((
            Error("needs-restart", "guest", "", text, f"The destination could not {what} the guest: {text}.",
                  "Restart the destination; its device state is dirty.", "after-change"),
        ))  # fmt: skip

    def _attempt_over(self, errors: tuple[Error, ...]) -> None:
        """Listen again, unless loading had begun."""
        self.ended_as = errors
        begun = self._loader.state != "header" or self.identity.relays
        dirty = begun and self.state in ("ready", "loading", "loaded", "failed")
        for conn in [c for c, link in self.links.items() if link.kind not in STRANGE]:
            self._close(conn)
        if dirty:
            self.state = "failed"
            self._enter("failed")
            self._finish("failed", errors, listening=False)
        else:
            self._reset()
            self._enter("setup")

    def _tell(self, type: int, told: dict[str, Any]) -> None:
        assert self.control is not None
        self._say(self.control, type, told)

    def _let_go(self, conn: int) -> None:
        """Half-close and read on until the peer has gone: a close over unread bytes would be a reset, and a reset may
        overtake the reason."""
        self._set(conn, kind="leaving", reader=frames.Reader(self.peer_magic, self.identity.limits), heard=b"")
        self._out.append(i.End(conn))
        if self.identity.limits.guard_s:
            self._out.append(i.SetAlarm(f"guard-{conn}", self.identity.limits.guard_s))

    def _close(self, conn: int) -> None:
        if self.links.pop(conn).kind in STRANGE and self.identity.limits.guard_s:
            self._out.append(i.StopAlarm(f"guard-{conn}"))
        self._out.append(i.Drop(conn))

    def _finish(self, status: str, errors: tuple[Error, ...], listening: bool = False) -> None:
        text = "; ".join(str(e) for e in errors)
        self.finished = i.Finished(status, text, "specific" if errors else "none", errors, listening=listening)
        self._out.append(self.finished)
