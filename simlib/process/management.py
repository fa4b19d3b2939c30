"""Carries out a manager's commands on two simulated QEMUs, under any runner, and gives it their answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ..case.endpoints import Case
from ..case.managers import (
    Act,
    Answered,
    Begun,
    Command,
    Event,
    Exited,
    Over,
    Rang,
    Reported,
    Say,
    Spawn,
    Wait,
)
from ..case.registry import MANAGERS, ScenarioError
from ..handshake import interface as i
from ..handshake.capabilities import known_capabilities
from ..handshake.endpoint import Endpoint
from ..handshake.machine import Settings
from ..record.trace import Trace
from .host import Host

SILENT = "it does not answer"
Reply = tuple[object, str]  # what QMP returns, or its error


class Stage(Protocol):
    """What a runner does for a manager."""

    trace: Trace

    def host(self, side: str) -> Host:
        """The side's process as it is now."""

    def renew(self, side: str, endpoint: Endpoint) -> None:
        """Give a side a fresh endpoint: a new migration at the source, a new process at the destination."""

    def begin(self, side: str) -> None:
        """`migrate-incoming` or `migrate`: what it takes to listen, or to connect."""

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call it after so many seconds."""


class Management:
    """One run's manager at work."""

    def __init__(self, setup: Case, stage: Stage) -> None:
        self.setup, self.stage = setup, stage
        self.manager = MANAGERS.get(setup.manager)(setup)
        self.refused: i.Finished | None = None  # by QMP, before anything started
        self.started: set[str] = set()  # sides whose endpoint has been used
        self.settings: dict[str, Settings] = {}  # of sides where the manager has set them itself
        self.over = False
        self._last: dict[str, tuple[Host, str]] = {}  # what each side has reported last, and as which process
        self._events: deque[Event] = deque()
        self._busy = False

    # --- to the manager ---------------------------------------------------------------------------------------------
    def begin(self) -> None:
        self.deliver(Begun())

    def end(self) -> None:
        """The run is over: what has not ended counts as hung."""
        self.over = True
        self.deliver(Over())

    def reported(self, host: Host, status: str) -> None:
        if host is self.stage.host(host.side) and self._last.get(host.side) != (host, status):
            self._last[host.side] = host, status
            self.deliver(Reported(host.side, status))

    def exited(self, host: Host) -> None:
        if host is self.stage.host(host.side):
            self.deliver(Exited(host.side))

    def deliver(self, event: Event) -> None:
        """Deliver one event after the other; what a command causes follows after all commands of its own event."""
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        while self._events:
            for act in self.manager.handle(self._events.popleft()):
                self._do(act)
        self._busy = False

    # --- from the manager -------------------------------------------------------------------------------------------
    def _do(self, act: Act) -> None:
        match act:
            case Say(text):
                self._note(text)
            case Wait(name, for_s):
                self.stage.later(for_s, lambda: self.deliver(Rang(name)))
            case Spawn(side):
                self._renew(side, self.setup)
                self.started.discard(side)
            case Command():
                self._execute(act)
            case _:
                raise ScenarioError(f"manager {self.setup.manager!r}: {act!r} is none of Command, Spawn, Wait and Say")

    def _note(self, text: str) -> None:
        self.stage.trace.note(self.stage.host("source").now_s, "manager", "management", "", text)

    def _execute(self, command: Command) -> None:
        call = COMMANDS.get(command.execute)
        host = self.stage.host(command.side)
        if call is None:
            error, result = f"The command {command.execute} has not been found", None
        elif host.dead:
            error, result = "the connection to its monitor is lost", None
        elif (host.frozen or host.endpoint.blocked) and command.execute.startswith("query"):
            if not self.over:
                return
            error, result = SILENT, None
        else:
            hangs = host.frozen and not self.over
            result, error = call(self, command)
            if hangs:
                return
        self._events.append(Answered(command.side, command.execute, result, error))

    # --- commands ---------------------------------------------------------------------------------------------------
    def _begin(self, command: Command) -> Reply:
        protocol = command.arguments.get("channel-type", self.setup.protocol)
        setup, side = replace(self.setup, protocol=protocol), command.side
        refused = setup.refused()
        if refused is not None:
            where, self.refused = refused
            self.stage.trace.note(self.stage.host("source").now_s, where, "end", "", f"rejected: {self.refused.text}")
            return None, self.refused.text
        if side in self.started:
            self._renew(side, setup)
        elif setup.protocol != self.setup.protocol or side in self.settings:
            self.stage.host(side).endpoint = self._endpoint(side, setup)
        self.started.add(side)
        self.stage.host(side).tls_round_trips = setup.definition.tls_round_trips
        self.refused = None
        self.stage.begin(side)
        end = self.stage.host(side).endpoint.finished
        if end is not None and end.status == "rejected":
            self.refused = end if side == "destination" else None
            return None, end.text
        return {}, ""

    def _renew(self, side: str, setup: Case) -> None:
        self.stage.renew(side, self._endpoint(side, setup))

    def _endpoint(self, side: str, setup: Case) -> Endpoint:
        if self.settings:
            setup = replace(setup, own_settings=tuple(self.settings.items()))
        endpoint: Endpoint = setup.source() if side == "source" else setup.destination()
        return endpoint

    def _order(self, input: i.Input, command: Command) -> Reply:
        host = self.stage.host(command.side)
        if host.endpoint.finished is None:
            self._note(type(input).__name__)
            host.feed(input)
        return {}, ""

    def _cancel(self, command: Command) -> Reply:
        return self._order(i.Cancel(str(command.arguments.get("code", "cancelled"))), command)

    def _postcopy(self, command: Command) -> Reply:
        return self._order(i.SwitchToPostcopy(), command)

    def _continue(self, command: Command) -> Reply:
        return self._order(i.Continue(), command)

    def _cont(self, command: Command) -> Reply:
        guest = self.stage.host(command.side).guest
        guest.running, guest.stopped_s = True, None
        return {}, ""

    def _stop(self, command: Command) -> Reply:
        guest = self.stage.host(command.side).guest
        guest.running, guest.stopped_s = False, self.stage.host(command.side).now_s
        return {}, ""

    def _quit(self, command: Command) -> Reply:
        self.stage.host(command.side).die("quits")
        return {}, ""

    def _query_migrate(self, command: Command) -> Reply:
        endpoint = self.stage.host(command.side).endpoint
        end = endpoint.finished
        error = {"error-desc": end.text} if end is not None and end.status == "failed" and end.text else {}
        return {"status": end.status if end else endpoint.status, **error}, ""

    def _query_status(self, command: Command) -> Reply:
        return {"running": self.stage.host(command.side).guest.running}, ""

    def _query_capabilities(self, command: Command) -> Reply:
        at_source = command.side == "source"
        on = self._own(command.side)
        names = known_capabilities(self.setup.versions[0 if at_source else 1])
        return [{"capability": name, "state": on.has(name)} for name in names], ""

    def _set_capabilities(self, command: Command) -> Reply:
        settings = self._own(command.side)
        states = {c["capability"]: c["state"] for c in command.arguments.get("capabilities", ())}
        known = known_capabilities(self.setup.versions[0 if command.side == "source" else 1])
        unknown = [name for name in states if name not in known]
        if unknown:
            return None, f"Parameter 'capability' does not accept value '{unknown[0]}'"
        old = [name for name in settings.capabilities if states.get(name, True)]
        new = [name for name, on in states.items() if on and name not in old]
        self.settings[command.side] = replace(settings, capabilities=(*old, *new))
        return {}, ""

    def _set_parameters(self, command: Command) -> Reply:
        settings = self._own(command.side)
        values = dict(settings.parameters) | dict(command.arguments)
        self.settings[command.side] = replace(settings, parameters=tuple(sorted(values.items())))
        return {}, ""

    def _own(self, side: str) -> Settings:
        return self.settings.get(side) or self.setup.settings(side == "source")


COMMANDS: dict[str, Callable[[Management, Command], Reply]] = {
    "migrate-incoming": Management._begin,
    "migrate": Management._begin,
    "migrate-continue": Management._continue,
    "migrate_cancel": Management._cancel,
    "migrate-start-postcopy": Management._postcopy,
    "migrate-set-capabilities": Management._set_capabilities,
    "migrate-set-parameters": Management._set_parameters,
    "query-migrate": Management._query_migrate,
    "query-migrate-capabilities": Management._query_capabilities,
    "query-status": Management._query_status,
    "cont": Management._cont,
    "stop": Management._stop,
    "quit": Management._quit,
}
