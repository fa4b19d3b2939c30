# %% [markdown]
# # Is the simulated v1 QEMU's v1, and does v2 move a real guest?
#
# Every scenario that two real processes can play was run on real QEMUs (7.2 and 10.0, and others where it names them) and in
# the simulated world, from the same file, three times each. v2 ran by an agent beside each QEMU, which knows nothing of it.
# The guest counts, rewrites its memory, and checks each page before it does; after it has moved, what it holds is checked from
# outside too. This notebook shows what was recorded by `make qemu-check` and needs no QEMU itself.

# %%
from IPython.display import Markdown

from simlib.study.real import agreement, by_version, cells, costs, costs_figure, ran, told

results = cells()
agreement(results)

# %% [markdown]
# ## Where they differ

# %%
differ = ran(results).query("~agrees")
differ[["scenario", "version", "protocol", "outcome", "simulated", "reason"]].style.hide(axis="index")

# %% [markdown]
# ## How real v1 ends

# %%
played = ran(results)
by_version(played, "v1")

# %% [markdown]
# ## How v2 ends in the same situations, beside the same QEMUs

# %%
by_version(played, "v2")

# %% [markdown]
# ## What a mismatch costs
#
# Situations in which v2 refuses and v1 did something else. Real seconds, real bytes; a guest of at most 64 MiB on loopback, so that
# the bytes grow with the guest and the seconds with the network. v1's end may be a *completed* of a guest that was lost.

# %%
table = costs(results)
table.style.format({"v1 s": "{:.2f}", "v1 MiB": "{:.1f}", "v2 s": "{:.2f}", "v2 MiB": "{:.1f}"}, na_rep="never")

# %%
costs_figure(table)

# %% [markdown]
# ## One migration of a real guest with v2, step by step
#
# QEMU 7.2 on both sides, four multifd channels: the version that loses the guest when they arrive in a wrong order.

# %%
print(told("matched_multifd.v2.7.2"))

# %%
counts = agreement(results).sum()
wasted = table["v1 MiB"].sum()
arrived = (played[played.protocol == "v2"].outcome == "migrated").sum()
wrong = played[(played.protocol == "v2") & played.outcome.str.contains("corrupted")]

# %%
Markdown(
    f"**The simulated QEMU is QEMU**, in {counts.agree} of {counts.cells} cells of scenario, version and protocol that could be "
    f"played. **v2 moves real guests**: {arrived} cells arrived with every page verified, "
    f"and in {len(table)} in which v1 hangs, loses or fails, v2 refused before a guest byte moved, where v1 "
    f"sent {wasted:.0f} MiB of them. **{len(wrong)} arrived with wrong memory** "
    f"({', '.join(wrong.scenario + ' on ' + wrong.version)}): 11.1's own stream, which the agents carry, "
    "loses the guest's last write there."
)
