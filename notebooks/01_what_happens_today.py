# %% [markdown]
# # What happens today?
#
# Two QEMUs are about to migrate a guest and were not configured alike, or their connections arrive in another order, or
# somebody else connects first. What does today's stream (**v1**) do, who is told, and what would a bidirectional
# handshake (**v2**) say instead?
#
# Every chart is a run of the real protocol code in a simulated world. Time runs downwards, one row an event; a cross marks
# what nobody read; a dashed box is what the destination prints to its own stderr, which the source never sees. The claims
# P1–P8 are Peter Xu's, D1–D4 Daniel Berrangé's (qemu-devel, 22 June 2023).

# %%
import ipywidgets
from IPython.display import Markdown, display

from simlib.scenario import find, load_all
from simlib.study.table import outcomes
from simlib.world import run

# %% [markdown]
# ## 1. multifd is switched on at the destination alone: the guest is lost
#
# The destination waits for channels that nobody will open, without a timeout. The source has a small guest, so its last
# byte fits the socket buffer, and with that it is done: `completed`. A manager that trusts this throws the guest away.

# %%
run(find("multifd_only_at_destination_small"), protocol="v1", version="10.0")

# %% [markdown]
# Under v2 the destination takes what it needs from the source (P2): its preference for multifd meets a source that allows
# it, both compute the same agreement, and every connection says its name (P8).

# %%
run(find("multifd_only_at_destination_small"), protocol="v2", version="10.0")

# %% [markdown]
# ## 2. The connections arrive in another order
#
# Before 8.0 the first connection *is* main. Here all multifd connections arrive first, as they do when main's third ACK is
# lost: the destination reads the main stream as a multifd header and says so to itself.

# %%
run(find("order_multifd_first"), protocol="v1", version="7.2")

# %% [markdown]
# In v2 order means nothing: no connection but control exists before the handshake (D4), and each later one proves by name
# and MAC what it is.

# %%
run(find("order_multifd_first"), protocol="v2", version="7.2")

# %% [markdown]
# ## 3. A device that the destination lacks
#
# v1 sends device state last. The destination finds out after all memory has moved and the guest has stopped; without a
# return path the source never does.

# %%
run(find("device_only_at_source"), protocol="v1", version="10.0")

# %% [markdown]
# v2 compares the inventories before anything moves (P4). The source is told which device, and both values.

# %%
run(find("device_only_at_source"), protocol="v2", version="10.0")

# %%
large = [run(find("device_only_at_source_128_gib"), protocol=p).row for p in ("v1", "v2")]
Markdown(
    f"The same with a guest of 128 GiB and a return path: v1 moves **{large[0].guest_bytes_sent / 2**30:.0f} GiB** in "
    f"**{large[0].time_to_outcome_s:.0f} s** and then tells the source “{large[0].source_text}”. v2 moves "
    f"**{large[1].guest_bytes_sent} bytes** and needs **{large[1].time_to_outcome_s * 1e3:.1f} ms** to say: "
    f"“{large[1].source_text}”"
)

# %% [markdown]
# ## 4. A reason that never crosses
#
# The machine types differ, and both sides have a return path. The destination prints the exact reason and exits; the
# source gets an errno.

# %%
run(find("machine_type_differs_return_path"), protocol="v1", version="10.0")

# %% [markdown]
# ## 5. A stranger connects
#
# A multifd header with the all-zero UUID, sent after main has connected: v1 binds the stranger as channel 0.

# %%
run(find("stranger_multifd"), protocol="v1", version="10.0")

# %%
run(find("stranger_multifd"), protocol="v2", version="10.0")

# %% [markdown]
# ## 6. A path that does not return
#
# `exec:cat > FILE` with a return path: v1 waits for an answer from a file, the guest paused, for ever. That is D2: a
# one-way path can't be told from a slow one. v2 doesn't try: the manager says whether the path returns (D3).

# %%
run(find("exec_cat_return_path"), protocol="v1", version="10.0")

# %% [markdown]
# ## All situations, counted

# %%
table = outcomes(run, [s for s in load_all() if "v2" in s.protocols and "a" not in s.protocols])
both = table[table.manager == "naive"].groupby(["protocol", "outcome"]).size().unstack(fill_value=0)
both

# %%
failed = table[table.outcome.isin(["failed", "refused"])]
failed.assign(told=failed.error_codes.ne("") | failed.source_status.eq("rejected")).groupby("protocol").told.mean()

# %% [markdown]
# ## Try it
#
# Choose a situation, a protocol, a version and a seed; the chart redraws.

# %%
chart = ipywidgets.HTML()
names = [s.name for s in load_all()]
ipywidgets.interactive_output(
    lambda name, **given: setattr(chart, "value", run(find(name), **given)._repr_svg_()),
    box := {
        "name": ipywidgets.Dropdown(options=names, value="stranger_silent", description="situation"),
        "protocol": ipywidgets.Dropdown(options=["v1", "v2"], description="protocol"),
        "version": ipywidgets.Dropdown(options=["7.2", "10.0", "11.1"], description="QEMU"),
        "seed": ipywidgets.IntSlider(1, 1, 50, description="seed"),
    },
)  # fmt: skip
display(ipywidgets.VBox([*box.values(), chart]))

# %%
run(find("stranger_silent"), protocol="v1", version="11.1")

# %% [markdown]
# ## The answer

# %%
v1, v2 = (table[(table.protocol == p) & (table.manager == "naive")] for p in ("v1", "v2"))
bad = ["hung", "lost", "misconfigured", "corrupted", "split_brain"]
Markdown(
    f"Of {len(v1)} runs of v1, {v1.outcome.isin(bad).sum()} hang, lose the guest, run it wrongly or mislead the manager, and "
    f"of {v1.outcome.isin(['failed', 'refused']).sum()} that fail cleanly the source knows the cause in "
    f"{v1[v1.outcome == 'refused'].shape[0]}. Of {len(v2)} runs of v2 in the same situations "
    f"{v2.outcome.isin(bad).sum()} do so, and the source knows the cause of every failure. What v2 can't see early "
    f"(a device whose post_load fails) ends `failed`, with the guest still running at the source."
)
