"""Sliders beside a sequence chart: what changes if the path, the versions, the channels or what goes wrong change?

    Explorer(world.run, "stranger_multifd")

Every move runs the endpoints again and redraws, a few milliseconds in Python. The runner comes as an argument. Where no
kernel answers (an export, a page, the repository) the same object shows the chart as a still picture. Needs ipywidgets
and nothing heavier, so that it runs in a browser too.
"""

from __future__ import annotations

from dataclasses import replace
from html import escape
from typing import TypedDict, cast

import ipywidgets

from ..case.faults import Fault
from ..case.files import find, load_all
from ..case.protocols import Protocol
from ..case.registry import MANAGERS, PROTOCOLS, ScenarioError, require
from ..case.scenario import Scenario, Side
from ..record.chart import as_html, sequence_svg
from ..record.compare import Run, Runner
from ..record.outcome import OUTCOMES

VERSIONS = ("5.2", "7.2", "8.2", "10.0", "11.1")
LAWS = {
    "exponential": ("exponential", 1.0),
    "lognormal, sigma 1": ("lognormal", 1.0),
    "lognormal, sigma 2": ("lognormal", 2.0),
    "Pareto, alpha 1.5": ("pareto", 1.5),
    "Pareto, alpha 1": ("pareto", 1.0),
}
FAULTS = {
    "nothing more": None,
    "a silent intruder comes first": Fault("intruder", payload="silent", at_s=0.0),
    "an intruder sends multifd's header": Fault("intruder", payload="multifd", at_s=0.0005),
    "an intruder sends garbage": Fault("intruder", payload="garbage", at_s=0.0),
    "cut at the first bytes": Fault("cut", after_mib=0.0001),
    "cut after 20 MiB": Fault("cut", after_mib=20),
    "destination killed after 8 MiB": Fault("kill", after_mib=8),
    "destination frozen": Fault("freeze", before_start=True),
    "nothing comes back": Fault("blackhole", direction="to-source", after_mib=0),
}
PIPED_MIB = 2.0
LOCAL = ("unix", "exec", "file", "fd")  # no network between the two


class Values(TypedDict):
    """The controls' values, by their names."""

    situation: str
    protocol: str
    manager: str
    fault: str
    round_trip_ms: float
    jitter_ms: float
    law: str
    loss_percent: float
    detect_timeout_s: float
    channels: int
    source_version: str
    destination_version: str
    seed: int


class Explorer:
    """The controls, the chart, and what they stand for. `controls` holds each control by name; `scenario`, `version`
    and `result` are what was run last, so that a cell below can go on with it.

    Args:
        run: the runner.
        situation: a scenario, or the name of one of the library.
        protocol: a protocol, or its name.
        version: QEMU's of both sides, "10.0", or of source and destination, "7.2>10.0".
    """

    result: Run | None
    still: str

    def __init__(
        self,
        run: Runner,
        situation: str | Scenario = "matched",
        protocol: str | Protocol = "v1",
        version: str = "10.0",
        seed: int = 1,
    ) -> None:
        self.library = {s.name: s for s in load_all()}
        if isinstance(situation, Scenario):  # of one's own
            self.library[situation.name] = situation
            situation = situation.name
        protocol = PROTOCOLS.name_of(protocol)
        require("protocol", protocol, PROTOCOLS)
        self.run, self.scenario, self.version = run, self._find(situation), version
        self.controls: dict[str, ipywidgets.ValueWidget] = _controls(list(self.library))
        self.message, self.chart = ipywidgets.HTML(), ipywidgets.HTML()
        self._settling = True
        there = self.controls
        there["situation"].value = situation
        there["protocol"].value, there["seed"].value = protocol, seed
        there["source_version"].value, _, other = version.partition(">")
        there["destination_version"].value = other or version
        self._settling = False
        for name, control in there.items():
            control.observe(self._situation_changed if name == "situation" else self._changed, "value")
        self._situation_changed()
        grid = ipywidgets.Box(list(there.values()), layout={"flex_flow": "row wrap"})  # as many a row as there is room
        self.view = ipywidgets.VBox([grid, self.message, self.chart])

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, object]:
        """The live view where a kernel runs, the picture elsewhere, so that an export is never empty."""
        live: dict[str, object] = self.view._repr_mimebundle_(**kwargs) or {}
        picture = {"image/svg+xml": self.still, "text/html": as_html(self.still, repr(self))} if self.still else {}
        return {**live, **picture, "text/plain": repr(self)}

    def __repr__(self) -> str:
        if self.result is None:
            return str(self.message.value)
        row = self.result.row
        return f"{row.scenario}: {row.protocol}, {self.version}, seed {row.seed}: {row.outcome}"

    def _find(self, situation: str) -> Scenario:
        return self.library.get(situation) or find(situation)

    # --- changes of the controls ------------------------------------------------------------------------------------
    def _situation_changed(self, change: object = None) -> None:
        """The sliders go to where the situation has them; only what is moved afterwards differs from it."""
        self._settling = True
        for name, value in _values(self._find(self.controls["situation"].value)).items():
            self.controls[name].value = value
        self._settling = False
        self._start = {name: c.value for name, c in self.controls.items()}
        self._changed()

    def _changed(self, change: object = None) -> None:
        if self._settling:
            return
        values = cast(Values, {name: c.value for name, c in self.controls.items()})
        self.controls["detect_timeout_s"].disabled = not PROTOCOLS.get(values["protocol"]).probes
        try:
            moved = {name for name, value in values.items() if value != self._start[name]}
            self.scenario = varied(self._find(values["situation"]), moved, values)
            ours, theirs = values["source_version"], values["destination_version"]
            self.version = ours if ours == theirs else f"{ours}>{theirs}"
            self.result = self.run(
                self.scenario,
                version=self.version,
                protocol=values["protocol"],
                manager=values["manager"],
                seed=values["seed"],
            )
        except ScenarioError as error:
            self.result, self.still, self.chart.value = None, "", ""
            self.message.value = _sentence(f"This can't be run: {error}.", "#a40e26")
            return
        row = self.result.row
        self.still = self.chart.value = sequence_svg(self.result.trace, row.outcome)
        when = f", after {1e3 * row.time_to_outcome_s:,.3g} ms" if row.time_to_outcome_s is not None else ""
        text = f"<b>{row.outcome.replace('_', ' ')}</b>{when}: {OUTCOMES[row.outcome]}. {escape(self.scenario.title)}."
        if self.scenario.link.transport.startswith(LOCAL):
            text += " There is no network between the two here: round trip, jitter and loss change nothing."
        self.message.value = _sentence(text, "#333")


def _sentence(text: str, colour: str) -> str:
    return f"<div style='color:{colour};line-height:1.4;max-width:990px;white-space:normal'>{text}</div>"


def _controls(situations: list[str]) -> dict[str, ipywidgets.ValueWidget]:
    many = {"layout": {"width": "275px"}, "style": {"description_width": "116px"}}
    choice, number, real, log = (
        ipywidgets.Dropdown,
        ipywidgets.IntSlider,
        ipywidgets.FloatSlider,
        ipywidgets.FloatLogSlider,
    )
    return {
        "situation": choice(options=situations, description="situation", **many),
        "protocol": choice(options=[(PROTOCOLS.get(p).label, p) for p in PROTOCOLS], description="protocol", **many),
        "manager": choice(options=list(MANAGERS), description="manager", **many),
        "fault": choice(options=list(FAULTS), description="what goes wrong", **many),
        "round_trip_ms": log(min=-1, max=3.5, step=0.05, readout_format=".3g", description="round trip, ms", **many),
        "jitter_ms": real(min=0, max=200, step=0.1, readout_format=".1f", description="jitter, ms", **many),
        "law": choice(options=list(LAWS), description="of the law", **many),
        "loss_percent": real(min=0, max=20, step=0.5, readout_format=".1f", description="loss, %", **many),
        "detect_timeout_s": log(min=-2, max=1.5, step=0.05, readout_format=".3g", description="timeout, s", **many),
        "channels": number(min=0, max=16, description="multifd channels", **many),
        "source_version": choice(options=VERSIONS, description="source is", **many),
        "destination_version": choice(options=VERSIONS, description="destination is", **many),
        "seed": number(min=1, max=100, value=1, description="seed", **many),
    }


def _channels(side: Side) -> int:
    return int(side.parameters.get("multifd-channels", 2)) if "multifd" in side.capabilities else 0


def _values(scenario: Scenario) -> dict[str, str | float]:
    """Where the sliders stand for a situation as the library has it."""
    link = scenario.link
    return {
        "fault": "nothing more",
        "round_trip_ms": 2 * link.delay_ms,
        "jitter_ms": link.jitter_ms,
        "law": next((n for n, law in LAWS.items() if law == (link.delay_law, link.shape)), "exponential"),
        "loss_percent": 100 * link.loss,
        "detect_timeout_s": scenario.detect_timeout_s,
        "channels": max(_channels(scenario.source), _channels(scenario.destination)),
    }


def varied(scenario: Scenario, moved: set[str], values: Values) -> Scenario:
    """The scenario with the values of the controls named in `moved`; all other keys stay as written."""
    link = scenario.link
    if "round_trip_ms" in moved:
        link = replace(link, delay_ms=values["round_trip_ms"] / 2)
    if moved & {"jitter_ms", "law"}:
        law, shape = LAWS[values["law"]]
        link = replace(link, delay_law=law, shape=shape, jitter_ms=values["jitter_ms"])
    if "loss_percent" in moved:
        link = replace(link, loss=values["loss_percent"] / 100)
    guest = scenario.guest
    if link.transport == "exec-socat":  # a pipe takes a guest in thousands of pieces: too many for a slider
        guest = replace(guest, ram_mib=min(guest.ram_mib, PIPED_MIB))
    source, destination = scenario.source, scenario.destination
    if "channels" in moved:
        source, destination = (_with_channels(side, values["channels"]) for side in (source, destination))
    more = FAULTS[values["fault"]]
    return replace(
        scenario,
        link=link,
        guest=guest,
        source=source,
        destination=destination,
        detect_timeout_s=values["detect_timeout_s"],
        faults=(*scenario.faults, *([more] if more else [])),
    )


def _with_channels(side: Side, many: int) -> Side:
    others = tuple(c for c in side.capabilities if c != "multifd")
    parameters = {k: v for k, v in side.parameters.items() if k != "multifd-channels"}
    if not many:
        return replace(side, capabilities=others, parameters=parameters)
    return replace(side, capabilities=(*others, "multifd"), parameters={**parameters, "multifd-channels": many})
