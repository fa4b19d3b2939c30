# %% [markdown]
# # What do two QEMUs tell each other before a guest moves, and what if they do not match?
#
# This page runs the lab in your browser: the protocol code itself, in a simulated world. No server computes anything, and
# nothing leaves this page. **Run → Run All Cells**; then choose, and the chart redraws. **v1** is today's stream, **v2** a
# bidirectional handshake.

# %%
from hashlib import sha256

import ipywidgets
from IPython.display import HTML, Markdown, display

from simlib.case.files import find, load_all
from simlib.explore.report import search_cases
from simlib.explore.story import Story
from simlib.record.chart import as_html
from simlib.record.compare import jobs, matrix_svg
from simlib.record.outcome import BAD
from simlib.world import run

# %% [markdown]
# ## Choose a situation
#
# Time runs downwards, one row an event; a cross marks what its reader did not take, since it never read it or could
# not use it; a dashed box is what a side prints to its own stderr. The delay is one way; a seed draws other luck.

# %%
chart = ipywidgets.HTML()
choices = {
    "scenario": ipywidgets.Dropdown(options=[s.name for s in load_all()], value="device_only_at_source"),
    "protocol": ipywidgets.ToggleButtons(options=["v1", "v2"], value="v2"),
    "delay_ms": ipywidgets.FloatSlider(5, min=0, max=100, step=1, description="delay (ms)"),
    "seed": ipywidgets.IntSlider(1, 1, 50),
}
for name, choice in choices.items():
    choice.description = choice.description or name
mistakes = ipywidgets.interactive_output(
    lambda scenario, delay_ms, **settings: setattr(
        chart, "value", run(find(scenario).vary(link__delay_ms=delay_ms), version="10.0", **settings)._repr_svg_()
    ),
    choices,
)
display(ipywidgets.VBox([*choices.values(), chart, mistakes]))

# %% [markdown]
# The same situation under both, as still pictures: under v1 the destination finds out at the end, and only it knows why.

# %%
run(find("device_only_at_source"), protocol="v1", version="10.0")

# %%
run(find("device_only_at_source"), protocol="v2", version="10.0")

# %% [markdown]
# ## What does a longer way cost?
#
# A matching pair with multifd, one way from 0 to 100 ms: when the first byte of the guest leaves, and how long it stands still.

# %%
delays = (0.05, 1, 5, 20, 50, 100)
rows = {
    (p, d): run(find("matched_multifd").vary(link__delay_ms=d), protocol=p).row for d in delays for p in ("v1", "v2")
}
shown = [
    f"| {d} | "
    + " | ".join(
        f"{rows[p, d].time_to_first_guest_byte_s * 1e3:,.1f} | {rows[p, d].downtime_s * 1e3:,.1f}" for p in ("v1", "v2")
    )
    + " |"
    for d in delays
]
head = [
    "| one way, ms | v1: first byte, ms | v1: downtime, ms | v2: first byte, ms | v2: downtime, ms |",
    "|--:|--:|--:|--:|--:|",
]
Markdown("\n".join([*head, *shown]))

# %% [markdown]
# ## Every situation at once
#
# Some hundred runs; in a browser they take a few seconds.

# %%
results = [run(j.scenario, protocol=j.protocol, version=j.version, manager=j.manager, seed=1) for j in jobs(load_all())]
outcomes = [r.row for r in results]
HTML(as_html(matrix_svg(outcomes), "How each situation ends under each protocol"))

# %% [markdown]
# The same seeds tell the same stories on every machine, to the last step and moment; a digest of them all, to compare:

# %%
sha256("".join(r.trace.digest() for r in results).encode()).hexdigest()

# %% [markdown]
# ## Every order of events
#
# A simulation shows some runs; a search shows all. The same endpoints, QEMU 7.2 with one multifd channel: this is the shortest
# order of events in which v1 fails although both sides are configured alike.

# %%
line = next(line for line in search_cases() if line.case.name == "v1 7.2, 1 multifd")
Story(line.case.model, line.result.violations["S4 no loss"])

# %% [markdown]
# ## The answer

# %%
ended = {p: [r for r in outcomes if r.protocol == p and not r.lied] for p in ("v1", "v2")}
bad = {p: sum(r.outcome in BAD for r in rs) for p, rs in ended.items()}
Markdown(
    f"Of {len(ended['v1'])} runs of today's stream **{bad['v1']}** hang, lose or corrupt the guest, or mislead whoever asked. "
    f"Of {len(ended['v2'])} runs with the handshake **{bad['v2']}** do: what does not fit is told before the guest moves."
)
