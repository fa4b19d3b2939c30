"""v2's source: offers, agrees, opens the channels by name, sends, and hands the guest over.

It never touches the guest before READY, and gives it up only with GO. Every ending before GO leaves it running here;
after GO and before RUNNING the source is uncertain, says so, and keeps its guest paused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .. import interface as i
from .. import stream
from ..capabilities import refusal
from ..endpoint import reducible
from ..errors import Error, PeerError, clean
from ..machine import Settings
from . import binding, body, features, frames, messages, states
from .answers import CONTROL, SourceAnswers
from .features import Agreement
from .frames import Preface
from .messages import Identity

RAM_SECTION = 1


def channel_plan(agreement: Agreement, inline: bool) -> tuple[str, ...]:
    """The further connections, by name."""
    if inline:
        return ()
    lanes = int(agreement.parameter("multifd", "channels", 2)) if agreement.has("multifd") else 0
    preempt = ("postcopy-preempt",) if agreement.has("postcopy-preempt") else ()
    return ("main", *(f"multifd[{i}]" for i in range(lanes)), *preempt)


def agreement_body(agreement: Agreement, plan: tuple[str, ...], session_id: str) -> dict[str, Any]:
    """What both sides digest: features with their parameters, channels, session."""
    return {"features": agreement.body(), "channels": list(plan), "session-id": session_id}


@reducible
class Source(SourceAnswers):
    role, magic, peer_magic = states.SOURCE, frames.INITIATOR, frames.RESPONDER

    def __init__(self, settings: Settings, identity: Identity = Identity()) -> None:
        super().__init__(settings, identity)
        self.stances = features.stances(settings, True, identity.require, identity.forbid)
        self.agreement = Agreement()
        self.warnings: tuple[Error, ...] = ()
        self.peer_version = ""
        self.session_id = ""
        self.channels: tuple[str, ...] = ("control",)
        self.agreed: tuple[str, ...] = ()  # channels that have said CHANNEL_OK
        self.undrained: tuple[int, ...] = ()
        self.stage = ""  # of the data: "", ram, collect, stopping, collect-last, package, sent
        self.stopped = self.converged = self.postcopy = self.collected = False
        self.lost: tuple[Error, ...] = ()  # a channel, while control has yet to say why
        self.packets = 0

    @property
    def inline(self) -> bool:
        return self.settings.transport not in ("tcp", "unix")

    # --- management -------------------------------------------------------------------------------------------------
    def _on_start(self, _: i.Start) -> None:
        lacking = [name for name in self.identity.require if name not in {s.feature for s in self.stances}]
        one_way = self.settings.transport == "file" or (
            self.settings.transport in ("exec", "fd") and not self.identity.bidirectional
        )
        both_ways = replace(self.settings, capabilities=(*self.settings.capabilities, "return-path"))
        refused = "" if self.settings.transport == "file" else refusal(both_ways, at_source=True)
        if one_way:
            error = Error(
                "transport-one-way", "transport", self.settings.transport, "",
                f"Nobody can answer over {self.settings.transport}:; a handshake needs both directions.",
                "Save with a manifest instead, or give a transport that returns and say so.",
            )  # fmt: skip
            self._finish("rejected", (error,))
        elif lacking:
            text = f"This QEMU can't require {lacking[0]}: it has no such feature."
            self._finish("rejected", (Error("feature-required", f"feature[{lacking[0]}]", "require", "", text),))
        elif refused:
            self._finish("rejected", (Error("feature-conflict", "config", refused, "", refused),))
        else:
            self._add_link(CONTROL)
            self._set(CONTROL, kind="control")
            self._enter("setup")
            self._out.append(i.Open(CONTROL, "control"))

    def _on_cancel(self, cancel: i.Cancel) -> None:
        if self.state in ("loaded", "package-loaded", "postcopy"):
            return  # after GO the guest is no longer ours to keep
        texts = {"deadline": "The manager's deadline has passed.", "cancelled": "The manager cancelled the migration."}
        missing = [n for n in self.channels[1:] if n not in self.agreed] if self.state == "agreed" else []
        self._give_up(
            Error(cancel.code, "", "", "", texts[cancel.code], "", "later"),
            *(Error("channel-missing", f"channel[{n}]", "opened", "not bound", f"Channel {n} was not bound by then.",
                    "", "later") for n in missing),
        )  # fmt: skip

    def _on_switchtopostcopy(self, _: i.SwitchToPostcopy) -> None:
        if self.stage in ("collect-last", "sent"):
            return  # too late: the whole guest is on its way
        self.postcopy = self.agreement.has("postcopy-ram")
        if self.postcopy and self.stage == "relay":
            self._out.append(i.SwitchGuest())

    # --- the link ---------------------------------------------------------------------------------------------------
    def _on_opened(self, opened: i.Opened) -> None:
        if self.settings.tls:
            self._out.append(i.StartTls(opened.conn, frames.ALPN))
        else:
            self._connected(opened.conn)

    def _on_secured(self, secured: i.Secured) -> None:
        if secured.conn == CONTROL:
            self.exporter = secured.exporter
        self._connected(secured.conn)

    def _connected(self, conn: int) -> None:
        if conn == CONTROL:
            main = "inline" if self.inline else "separate"
            hello = messages.hello(self.role, self.settings, self.identity, main)
            told = self._greeting(conn) + self._frame(frames.HELLO, hello)
            self._out.append(i.Said(conn, "HELLO"))
            offer = messages.offer(self.settings, self.identity, self.stances)
            if self.identity.grease:
                offer["features"].append({"name": f"x-grease-{self._derive('feature', 3).hex()}", "need": "prefer"})
            self.sent = self._say(conn, frames.OFFER, offer, told)
            self.state = "offered"
            return
        name = self.channels[conn]
        nonce = self.links[conn].nonce.hex()
        role, _, index = name.partition("[")
        self._say(conn, frames.CHANNEL_OPEN, {
            "session-id": self.session_id, "name": name, "role": role, "index": int(index.rstrip("]") or 0),
            "nonce": nonce, "mac": binding.mac(self.key_bytes, "CHANNEL_OPEN", self.session_id, name, nonce),
        }, self._greeting(conn), name)  # fmt: skip

    def _on_tlsfailed(self, failed: i.TlsFailed) -> None:
        text = f"The TLS handshake failed: {clean(failed.text)}"
        self._give_up(Error("connect", self._name(failed.conn), "", "", text, "Give both sides matching tls-creds."))

    def _on_received(self, received: i.Received) -> None:
        if received.conn == CONTROL and self.state in ("offered", "greeted"):
            self.heard += received.data
        self._read(received.conn, received.data, received.fill)

    def _on_drained(self, drained: i.Drained) -> None:
        self.undrained = tuple(c for c in self.undrained if c != drained.conn)
        self._advance()

    def _on_ended(self, ended: i.Ended) -> None:
        self._lost(ended.conn, "closed by the peer")

    def _on_broken(self, broken: i.Broken) -> None:
        self._lost(broken.conn, broken.text)

    def _lost(self, conn: int, how: str) -> None:
        if self.state == "connecting":
            self._give_up(Error("connect", "control", "", "", f"No connection: {clean(how)}.", "", "later"))
        elif self.state in ("offered", "greeted"):
            self._give_up(Error(
                "peer-closed", "control", "", "", f"The peer went away before it answered ({clean(how)}).",
                "Is the destination listening for a handshake (channel type control), or for the v1 stream?", "later",
            ))  # fmt: skip
        elif self.state == "closing":
            if conn == CONTROL:
                self._end_attempt(self.lost)
        elif conn != CONTROL and self.state in ("agreed", "ready", "package-sent"):
            self._channel_lost(self._name(conn), how)
        elif self.state in ("loaded", "package-loaded", "postcopy"):
            if conn == CONTROL:  # the other channels may end before RUNNING arrives: nothing orders connections
                self._uncertain(how)
        elif self.state not in ("completed", "failed"):
            self._give_up(Error(
                "connection-lost", self._name(conn), "", "",
                f"The connection {self._name(conn)} was lost while {self.state} ({clean(how)}).", "", "later",
            ))  # fmt: skip

    def _channel_lost(self, name: str, how: str) -> None:
        when = "while the guest moved" if self.stage else "before READY"
        text = f"Channel {name} was lost {when} ({clean(how)})."
        self._channel_over((Error("channel-lost", f"channel[{name}]", "closed", "", text, "", "later"),))

    def _channel_over(self, errors: tuple[Error, ...]) -> None:
        """The guest stays. Why it happened is the destination's to say, on control; its word may still be on the way,
        so ABORT goes out and the report waits until control has ended."""
        self.lost = errors
        self._say(CONTROL, frames.ABORT, messages.abort(errors[0], self.state), note=errors[0].code)
        self.state = "closing"
        self._out += [i.ResumeGuest(), *(i.Drop(c) for c in self.links if c != CONTROL), i.End(CONTROL)]

    def _name(self, conn: int) -> str:
        return self.channels[conn] if conn < len(self.channels) else str(conn)

    # --- what the destination says ----------------------------------------------------------------------------------
    def _first_frames(self, conn: int) -> tuple[int, ...]:
        return frames.CHANNEL_OK, frames.REJECT

    def _apart(self, conn: int, type: int) -> bool:
        return conn != CONTROL

    def _greeted(self, conn: int, item: Preface) -> None:
        """The responder's preface; the frames say the rest."""

    def _heard_hello(self, conn: int, told: dict[str, Any]) -> None:
        self.peer_version = messages.read_hello(told, states.DESTINATION).qemu_version

    def _heard_accept(self, conn: int, told: dict[str, Any]) -> None:
        theirs = messages.read_stances(told["features"])
        self.agreement = features.resolve(self.stances, theirs)
        self.session_id = told["session-id"]
        plan = channel_plan(self.agreement, self.inline)
        ours = agreement_body(self.agreement, plan, self.session_id)
        if self.agreement.errors or body.dump(ours) != body.dump(told["agreement"]):
            self._give_up(*(self.agreement.errors or (Error(
                "agreement-mismatch", "agreement", body.digest(ours)[:16], body.digest(told["agreement"])[:16],
                "The two sides computed different agreements from the same offers.", "This is a defect.", "never",
            ),)))  # fmt: skip
            return
        if len(told["secret"]) != 64 or not all(c in "0123456789abcdef" for c in told["secret"]):
            raise PeerError("unknown-value", "ACCEPT's secret is not 32 bytes of lower-case hex", "ACCEPT.secret")
        self.warnings = messages.read_errors(told["warnings"])
        heard = self.heard[: len(self.heard) - len(self.links[conn].reader.buffer)]
        self._make_key(bytes.fromhex(told["secret"]), self.sent, heard)
        digest = body.digest(ours)
        self._say(conn, frames.START, {"agreement": digest, "mac": binding.mac(self.key_bytes, "START", digest)})
        for name in plan:
            self._add_link(len(self.channels))
            self._out.append(i.Open(len(self.channels), name))
            self.channels = (*self.channels, name)

    def _heard_channel_ok(self, conn: int, told: dict[str, Any]) -> None:
        name, ours = self.channels[conn], self.links[conn].nonce.hex()
        if not binding.same(told["mac"], binding.mac(self.key_bytes, "CHANNEL_OK", name, ours, told["nonce"])):
            raise PeerError("channel-auth", f"the answer on channel {name} is not from our peer", f"channel[{name}]")
        self._set(conn, kind=name, reader=self.links[conn].reader._replace(unlimited=True))
        self.agreed = (*self.agreed, name)
        self._begin_when_complete()

    def _heard_ready(self, conn: int, told: dict[str, Any]) -> None:
        if self.state == "closing":
            return
        mine = [[name, self.links[c].nonce.hex()] for c, name in enumerate(self.channels) if c != CONTROL]
        flat = [part for row in mine for part in row]
        if told["channels"] != mine or not binding.same(told["mac"], binding.mac(self.key_bytes, "READY", *flat)):
            raise PeerError("transcript", "READY does not name the channels that we opened", "READY")
        self._begin_when_complete()

    def _begin_when_complete(self) -> None:
        """READY, and CHANNEL_OK on every connection of ours, in whatever order they come: then no copy of CHANNEL_OPEN
        that somebody else has sent can have taken a channel's place."""
        if self.state == "ready" and not self.stage and len(self.agreed) == len(self.channels) - 1:
            for conn, link in self.links.items():
                self._set(conn, reader=link.reader._replace(unlimited=True))
            self._enter("active")
            self.stage = "relay" if self.identity.relays else "setup"
            if self.stage == "relay":
                channels = tuple((n, c) for c, n in enumerate(self.channels) if c != CONTROL)
                self._out.append(i.MoveGuest(channels, as_config(self._agreed_settings)))
                self._out += [i.SwitchGuest()] * self.postcopy
            self._advance()

    def _heard_reject(self, conn: int, told: dict[str, Any]) -> None:
        errors = messages.read_errors(told["errors"])
        if conn == CONTROL:
            self._refused(errors, told)
        elif self.state in ("agreed", "ready"):
            item, text = f"channel[{self._name(conn)}]", clean(told["text"])
            self._channel_over(errors or (Error(clean(told["code"], 80), item, text=text),))

    _heard_abort = _heard_reject

    def _heard_error(self, conn: int, told: dict[str, Any]) -> None:
        self._refused(messages.read_errors(told["errors"]), {"code": "connection-lost", "text": ""})

    def _refused(self, errors: tuple[Error, ...], told: dict[str, Any]) -> None:
        self._end_attempt(errors or (Error(clean(told["code"], 80), text=clean(told["text"])),))

    def _end_attempt(self, errors: tuple[Error, ...]) -> None:
        self._drop_all()
        self._out.append(i.ResumeGuest())
        cancelled = errors[0].code in ("cancelled", "deadline")
        self._enter("cancelled" if cancelled else "failed")
        self._finish("cancelled" if cancelled else "failed", errors)

    def _heard_loaded(self, conn: int, told: dict[str, Any]) -> None:
        if self.state == "closing":
            return
        if self.state == "completed" and self.identity.relays and self.stage != "sent":
            self.stage = "ending"  # what carries the stream here has yet to notice
            return
        if self.state == "completed":
            self._completed()
            return
        if self.stage == "relay":  # the guest here has yet to say that it stands still
            self.state, self.stage = "ready", "arrived"
            return
        if self.stage not in ("sent", "package"):
            self.state = "ready"
            raise PeerError("bad-state", "LOADED before everything was sent", "LOADED")
        self._say(conn, frames.GO, {})

    def _heard_running(self, conn: int, told: dict[str, Any]) -> None:
        if self.state == "postcopy":
            self._enter("postcopy-active")
            if not self.identity.relays:
                self.stage = "collect-last"
                self._out.append(i.CollectRam(last=True))
        else:
            self._completed()

    def _completed(self) -> None:
        self._enter("completed")
        self._drop_all()
        self._finish("completed", ())

    # --- the data ---------------------------------------------------------------------------------------------------
    def _on_ramcollected(self, ram: i.RamCollected) -> None:
        if self.stage not in ("collect", "collect-last") or self.state == "closing":
            return
        last = self.stage == "collect-last"
        self.converged = ram.converged
        lanes = [] if self.postcopy else [c for c, n in enumerate(self.channels) if n.startswith("multifd")]
        compression = str(self.agreement.parameter("multifd", "compression", "none"))
        for lane, piece, _named in stream.multifd_pass(lanes, ram.size_bytes, compression, self.packets):
            self.packets += 1
            self._write(lane, *piece)
        kind = stream.END if last else stream.PART
        agreed = self._agreed_settings  # what was skipped must not be on the wire
        for piece in stream.ram_pass(RAM_SECTION, agreed, 0 if lanes else ram.size_bytes, bool(lanes), kind):
            self._write_main(*piece)
        if last:
            devices = [] if self.postcopy else list(stream.device_state(3, self.settings.machine))
            pieces = [*devices, (stream.end_of_stream(b"" if self.postcopy else b"{}"), 0)]
            for piece in stream.joined(pieces):
                self._write_main(*piece)
        self.stage = "sent" if last else "ram"
        self._advance()

    def _on_gueststopped(self, _: i.GuestStopped) -> None:
        self.stopped = True
        self._advance()

    def _on_guestmoved(self, moved: i.GuestMoved) -> None:
        """Of a stream that is not ours."""
        before = self.stage
        if before not in ("relay", "arrived", "package", "ending") or self.state == "closing":
            return
        self.stage = "package" if moved.postcopy else "sent"
        if before == "ending":
            self._completed()
        elif moved.error:
            text = f"The guest could not be sent: {clean(moved.error)}."
            self._give_up(Error("connection-lost", "guest", moved.error, "", text, "", "later"))
        elif before == "arrived":
            self.state = "package-loaded" if moved.postcopy else "loaded"
            self._say(CONTROL, frames.GO, {})
        elif moved.postcopy:
            self.state = "package-sent"

    def _advance(self) -> None:
        """The migration thread: it stands still while the transport has not taken what it wrote."""
        if self.undrained or self.finished is not None or self.state == "closing":
            return
        if self.stage == "setup":
            self._out.append(i.Said(self._main, "QEVM, CONFIGURATION, START ram"))
            told = stream.header(self._agreed_settings) + stream.ram_start(RAM_SECTION, self._agreed_settings, False)
            self.stage = "ram"
            self._write_main(told, 0)
        elif self.stage == "ram" and not (self.converged or self.postcopy):
            self.stage = "collect"
            self._out.append(i.CollectRam(first=not self.collected))
            self.collected = True
        elif self.stage == "ram":
            self.stage = "stopping"
            self._enter("device")
            self._out.append(i.StopGuest())
        elif self.stage == "stopping" and self.stopped:
            if self.postcopy:
                self._send_package()
            else:
                self.stage = "collect-last"
                self._out.append(i.CollectRam(last=True))

    def _send_package(self) -> None:
        """Postcopy: device state now, memory later; LOADED, GO and RUNNING come in between."""
        self.stage, self.state = "package", "package-sent"
        start = stream.command(stream.POSTCOPY_LISTEN)
        pieces = [(start, 0), *stream.device_state(3, self.settings.machine),
                  (stream.command(stream.POSTCOPY_RUN), 0)]  # fmt: skip
        self._out.append(i.Said(self._main, "devices, POSTCOPY_RUN"))
        for piece in stream.joined(pieces):
            self._write_main(*piece)

    @property
    def _agreed_settings(self) -> Settings:
        return agreed_settings(self.settings, self.agreement)

    @property
    def _main(self) -> int:
        return CONTROL if self.inline else self.channels.index("main")

    def _write_main(self, data: bytes, fill: int) -> None:
        if not self.inline:
            self._write(self._main, data, fill)
            return
        limit = self.identity.limits.data_bytes
        while data or fill:
            part, data = data[:limit], data[limit:]
            room = min(fill, limit - len(part)) if not data else 0
            fill -= room
            self._write(CONTROL, frames.frame(frames.DATA, part, fill=room), room)

    def _write(self, conn: int, data: bytes, fill: int) -> None:
        self._out.append(i.Send(conn, data, fill))
        if conn not in self.undrained:
            self.undrained = (*self.undrained, conn)

    # --- endings ----------------------------------------------------------------------------------------------------
    def _mistake(self, conn: int, error: Error) -> None:
        self._give_up(error)

    def _give_up(self, *errors: Error) -> None:
        """End a migration that still may be ended: tell the peer if the link carries, keep the guest."""
        if self.finished is not None:
            return
        if self.state in ("loaded", "package-loaded", "postcopy"):
            self._uncertain(str(errors[0]))
            return
        gone = errors[0].code in ("connection-lost", "peer-closed", "connect")
        if self.state not in ("connecting", "failed", "closing") and not gone:
            self._say(CONTROL, frames.ABORT, messages.abort(errors[0], self.state), note=errors[0].code)
        self._end_attempt(errors)

    def _uncertain(self, how: str) -> None:
        self._drop_all()
        error = Error(
            "connection-lost", "control", "GO sent", "no RUNNING",
            f"The link was lost after GO, before the end was heard ({clean(how)}): the destination may run "
            "the guest. It is paused here.", "Ask the destination, then either resume here or quit.", "never",
        )  # fmt: skip
        self._enter("uncertain")
        self._finish("uncertain", (error,))

    def _drop_all(self) -> None:
        self._out += [i.Drop(conn) for conn in self.links]

    def _finish(self, status: str, errors: tuple[Error, ...]) -> None:
        text = "; ".join(str(e) for e in errors)
        self.finished = i.Finished(
            status, text, "specific" if errors else "none", errors, listening=status == "rejected"
        )
        self._out.append(self.finished)


def as_config(settings: Settings) -> tuple[tuple[str, object], ...]:
    """Capabilities and parameters, as (name, value), for who sets them."""
    return tuple((c, True) for c in settings.capabilities) + tuple(settings.parameters)


def agreed_settings(settings: Settings, agreement: Agreement) -> Settings:
    """The settings with the shared features as agreed; what only one side cares for stays."""
    keep = tuple(c for c in settings.capabilities if c not in features.SHARED)
    on = tuple(name for name, _ in agreement.on if name in features.DEPENDS and name != "final-ack")
    parameters = dict(settings.parameters)
    if agreement.has("multifd"):
        parameters["multifd-channels"] = int(agreement.parameter("multifd", "channels", 2))
        parameters["multifd-compression"] = str(agreement.parameter("multifd", "compression", "none"))
    return Settings(settings.version, settings.machine, keep + on, tuple(sorted(parameters.items())),
                    settings.transport, settings.exit_on_error)  # fmt: skip
