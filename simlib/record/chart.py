"""A run as a sequence chart: one self-contained SVG, the same bytes for the same trace.

Time runs downwards, one row for each event, with the real time at the left: messages of a millisecond and waits of a
minute fit on one sheet. A message that never arrives ends in a cross.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, replace
from html import escape

from .trace import Step, Trace

COLOURS = {"control": "#0072B2", "main": "#D55E00", "multifd": "#009E73", "preempt": "#CC79A7", "": "#666666"}
BADGES = {"migrated": "#1a7f37", "refused": "#0550ae", "failed": "#bc4c00", "uncertain": "#6e40c9"}
ROW, TOP, LIMIT = 26, 74, 40
FONT = "font-family='DejaVu Sans, Helvetica, Arial, sans-serif'"


@dataclass(frozen=True, slots=True)
class _Line:
    """One row: a message (and when it was received), or something that happened at one side."""

    step: Step
    received_s: float | None = None


def sequence_svg(trace: Trace, outcome: str = "", width: int = 900) -> str:
    """The chart as SVG. Steps in the middle of a long run are left out, and the chart states their number.

    Args:
        outcome: the text of the badge, usually one of `outcome.OUTCOMES`; empty: no badge.
        width: in pixels; the height follows from the number of steps.
    """
    lines = _lines(trace)
    left_out = len(lines) - LIMIT
    if left_out > 1:
        lines = [*lines[: LIMIT * 2 // 3], *lines[-(LIMIT - LIMIT * 2 // 3) :]]
    height = TOP + ROW * (len(lines) + 2)
    at = {
        "source": width * 0.30,
        "destination": width * 0.72,
        "intruder": width - 10,
        "manager": 90,
        "link": width * 0.51,
    }
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' "
        f"style='max-width:100%;height:auto' {FONT} font-size='13' role='img'><title>{_safe(trace.title)}</title>"
        f"<desc>Sequence chart of a migration; it ends {_safe(outcome)}.</desc>"
        f"<rect width='{width}' height='{height}' fill='#fff'/>",
        f"<text x='16' y='26' font-size='16' font-weight='bold'>{_safe(trace.title)}</text>",
    ]
    if outcome:
        colour = BADGES.get(outcome, "#a40e26")
        wide = 24 + 9 * len(outcome)
        parts.append(
            f"<rect x='{width - wide - 12}' y='8' width='{wide}' height='26' rx='13' fill='{colour}'/><text "
            f"x='{width - wide / 2 - 12}' y='26' text-anchor='middle' fill='#fff'>{_safe(outcome)}</text>"
        )
    for side in ("source", "destination"):
        x = at[side]
        parts.append(f"<text x='{x}' y='58' text-anchor='middle' font-weight='bold'>{side}</text>")
        parts.append(f"<line x1='{x}' y1='66' x2='{x}' y2='{height - 34}' stroke='#999' stroke-width='1.5'/>")
    y, before = TOP + ROW / 2, 0.0
    for number, line in enumerate(lines):
        gap = left_out > 1 and number == LIMIT * 2 // 3
        if gap or line.step.time_s - before > 1:
            text = f"… {left_out} more steps" if gap else f"… {line.step.time_s - before:.0f} s later"
            parts.append(f"<text x='6' y='{y - ROW / 2 + 4}' fill='#888' font-size='11'>{text}</text>")
        before = line.step.time_s
        parts.append(
            f"<text x='78' y='{y + 4}' text-anchor='end' fill='#888' font-size='11'>{before * 1e3:.2f} ms</text>"
        )
        parts.append(_drawn(line, at, y))
        y += ROW
    ends = {s.side: s.text.partition(": ")[2] for s in trace.steps if s.kind == "end"}
    if ends.get("source"):
        text = f"the source is told: {ends['source']}"
        text = text if len(text) <= 118 else text[:115] + "…"
        parts.append(f"<text x='16' y='{height - 14}' fill='#a40e26'>{_safe(text)}</text>")
    states = {s.side: s.text for s in trace.steps if s.kind == "state"}
    for side, anchor, dx in (("source", "end", -10), ("destination", "start", 10)):
        if side not in ends:
            listens = side == "destination" and states.get(side) == "setup"
            word, colour = ("listening", "#444") if listens else ("waiting", "#a40e26")
            parts.append(
                f"<text x='{at[side] + dx}' y='{y + 6}' text-anchor='{anchor}' fill='{colour}'>still {word} …</text>"
            )
    return "\n".join([*parts, "</svg>\n"])


def as_html(svg: str, text: str) -> str:
    """A chart for a notebook's page, never wider than its output area; `text` replaces it where it can't be displayed.

    An output of the type image/svg+xml does not work: JupyterLab shows none before the notebook is trusted, since SVG
    can hold scripts, and draws it at its full width, so that the right edge is cut off. An image inside HTML runs
    no scripts and needs no trust, and obeys its own style. A signature (`jupyter trust`) would be of one machine alone,
    in its user's home, and void after the next edit from outside.
    """
    url = f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
    return f'<img alt="{escape(text)}" src="{url}" style="max-width: 100%; height: auto">'


def messages(trace: Trace) -> list[tuple[Step, float | None]]:
    """Each message with the time in seconds at which the other side received it (None: never), for charts to scale."""
    return [
        (line.step, line.received_s)
        for line in _lines(trace)
        if line.step.kind == "say" and not line.step.text.startswith("(")
    ]


def _lines(trace: Trace) -> list[_Line]:
    """Pair each message with the time of its receipt; collapse the passes over memory."""
    received: dict[tuple[str, str], list[Step]] = {}
    for s in trace.steps:
        if s.kind == "hear":
            received.setdefault((s.side, s.connection), []).append(s)
    lines: list[_Line] = []
    for s in _with_memory(trace):
        if s.kind == "say":
            other = "destination" if s.side == "source" else "source"
            words = {w.strip().split(" ")[0] for w in s.text.split(",")}
            waiting = received.get((other, s.connection), [])
            known = [h for h in waiting if h.text.split(" ")[0] in words and h.time_s >= s.time_s]
            received[(other, s.connection)] = [h for h in waiting if h not in known]
            received_s = known[-1].time_s if known else None
            if s.text in ("pages", "SYNC", "PART ram", "END ram", "urgent pages"):
                if lines and lines[-1].step.text == "guest memory":
                    continue
                s = Step(s.time_s, s.side, s.kind, "", "guest memory")
                lines.append(_Line(s, s.time_s))
            elif s.text == "EOF" and lines and lines[-1].step.text == "devices":
                lines[-1] = _Line(lines[-1].step._replace(text="devices, EOF"), received_s)
            else:
                lines.append(_Line(s, received_s))
        elif s.kind == "end" and lines and lines[-1].step.kind == "state" and s.text.startswith(lines[-1].step.text):
            lines[-1] = _Line(s)
        elif s.kind != "hear":
            lines.append(_Line(s))
    return _in_order(lines)


def _with_memory(trace: Trace) -> list[Step]:
    """v2's source does not report its passes over memory: the first packet of one stands for them."""
    if any(s.kind == "say" and s.text == "PART ram" for s in trace.steps):
        return trace.steps
    first = next((p.time_s for p in trace.packets if p.from_source and p.fill), None)
    if first is None:
        return trace.steps
    return sorted([*trace.steps, Step(first, "source", "say", "", "PART ram")], key=lambda s: s.time_s)


def _in_order(lines: list[_Line]) -> list[_Line]:
    """A connection keeps its order: a side that has received a later message has received the earlier ones too."""
    later: dict[tuple[str, str], float] = {}
    ordered = []
    for line in reversed(lines):
        lane = line.step.side, line.step.connection
        if line.step.kind == "say" and line.received_s is None and lane in later:
            line = replace(line, received_s=later[lane])
        elif line.received_s is not None:
            later[lane] = line.received_s
        ordered.append(line)
    return ordered[::-1]


def _drawn(line: _Line, at: dict[str, float], y: float) -> str:
    s = line.step
    x = at[s.side]
    if s.kind == "say" and not s.text.startswith("("):  # a remark in brackets is not a message
        return _arrow(line, at, y)
    if s.kind in ("state", "end"):
        text = s.text.partition(":")[0]
        bold = " font-weight='bold'" if s.kind == "end" else ""
        anchor, dx = ("end", -10) if s.side == "source" else ("start", 10)
        colour = "#a40e26" if s.text.startswith("failed") else "#1a7f37" if s.text.startswith("completed") else "#444"
        where = f"x='{x + dx}' y='{y + 4}' text-anchor='{anchor}'"
        return (
            f"<circle cx='{x}' cy='{y}' r='4' fill='{colour}'/><text {where} fill='{colour}'{bold}>{_safe(text)}</text>"
        )
    if s.kind == "print":
        from textwrap import wrap  # here: what draws no chart need not wait for it

        lines = [s.text] if len(s.text) <= 46 else wrap(s.text, 54, max_lines=2, placeholder=" …")
        size, first = (11, y + 4) if len(lines) == 1 else (10, y - 2)
        text = "".join(f"<tspan x='{x}' y='{first + 11 * n}'>{_safe(t)}</tspan>" for n, t in enumerate(lines))
        return (
            f"<g><title>{_safe(s.text)}</title><rect x='{x - 165}' y='{y - 12}' width='330' height='24' rx='4' "
            f"fill='#fff8e1' stroke='#b08800' stroke-dasharray='4 3'/><text text-anchor='middle' "
            f"font-size='{size}'>{text}</text></g>"
        )
    colour = "#1a7f37" if s.kind == "guest" else "#888"
    anchor, dx = {
        "source": ("end", -10),
        "destination": ("start", 10),
        "manager": ("start", 0),
        "intruder": ("end", 0),
    }.get(s.side, ("middle", 0))
    text = f"{s.connection} {s.text}".strip()
    if s.kind == "say":  # a remark stands where there is room for it, between the sides
        anchor, dx, text = ("start", 10, s.text) if s.side == "source" else ("end", -10, s.text)
    where = f"x='{x + dx}' y='{y + 4}' text-anchor='{anchor}'"
    shown = text if len(text) <= 34 else text[:33] + "…"
    return f"<text {where} fill='{colour}' font-style='italic'><title>{_safe(text)}</title>{_safe(shown)}</text>"


def _arrow(line: _Line, at: dict[str, float], y: float) -> str:
    s = line.step
    kind = next((k for k in COLOURS if (k and s.connection.endswith(k)) or (k and s.connection.startswith(k))), "")
    colour = COLOURS[kind]
    x1, x2 = at[s.side], at["destination" if s.side == "source" else "source"]
    text = s.text if len(s.text) <= 52 else s.text[:49] + "…"
    label = f"{_safe(text)}" + (
        f" <tspan fill='{colour}' font-size='10'>[{_safe(s.connection)}]</tspan>" if s.connection else ""
    )
    middle = f"<text x='{(x1 + x2) / 2}' y='{y - 3}' text-anchor='middle' font-size='12'>{label}</text>"
    if s.text == "guest memory":
        band = f"<rect x='{min(x1, x2)}' y='{y - 1}' width='{abs(x2 - x1)}' height='7'"
        return f"{band} fill='#D55E00' opacity='.35'/>{middle}"
    toward = 1 if x2 > x1 else -1
    if line.received_s is None:
        x2 -= toward * 60
        end = f"<path d='M{x2 - 5} {y - 3}l10 10m0 -10l-10 10' stroke='#D55E00' stroke-width='2'/>"
    else:
        end = f"<path d='M{x2} {y + 2}l{-9 * toward} -5v10z' fill='{colour}'/>"
    dash = " stroke-dasharray='6 3'" if kind == "multifd" else " stroke-dasharray='2 3'" if kind == "preempt" else ""
    return (
        f"<line x1='{x1}' y1='{y + 2}' x2='{x2}' y2='{y + 2}' stroke='{colour}' stroke-width='2'{dash}/>{end}{middle}"
    )


def _safe(text: str) -> str:
    return escape("".join(c if c.isprintable() else " " for c in text), quote=True)
