# %% [markdown]
# # What happens when one side is newer, and can the handshake itself grow?
#
# Peter Xu: a newer source skips what the destination lacks (P6), a newer destination understands an older source (P7), and
# the handshake “is self-bootstrappable”: when it changes, old binaries go on working (P5, in its mild reading). Here are all
# pairs of four versions of QEMU, every setting of both sides, and peers from a future that nobody has written yet.

# %%
import pandas
from IPython.display import Markdown

from simlib.case.files import find
from simlib.study import growth
from simlib.study.claims import ExperimentContext
from simlib.study.experiments import newer_destination_understands, newer_source_skips, no_version_string
from simlib.study.widget import Explorer
from simlib.world import run

pandas.options.display.max_colwidth = None
versions = ("5.2", "7.2", "10.0", "11.1")

# %% [markdown]
# ## Every pair of versions
#
# The same machine type everywhere, and both sides set alike but for the last. `matched_preempt` asks for a capability that
# came with 7.1, `skew_new_feature` asks at the source alone for one that came with 8.1. A source that lacks what it is asked
# for refuses the command itself, whatever the protocol.

# %%
pairs = growth.skew(run, versions, ("matched", "matched_multifd", "matched_preempt", "skew_new_feature"))
growth.matrix(pairs, "v1")

# %%
growth.matrix(pairs, "v2")

# %% [markdown]
# ## P6: the newer source restrains itself
#
# 10.0 would like switchover-ack, 7.2 has never heard of it. v1 waits for an answer that never comes; v2 skips it, and
# ACCEPT says so among what it has `skipped`.

# %%
run(find("skew_new_feature"), protocol="v1", version="10.0>7.2")

# %%
run(find("skew_new_feature"), protocol="v2", version="10.0>7.2")

# %% [markdown]
# ## Peers from the future
#
# The real endpoints, with one thing changed that a later handshake might say. Whatever may be skipped is marked by who sends
# it; what is not marked and not known ends the attempt with its name. Each is searched in every order of events.

# %%
future = growth.peers()
future

# %% [markdown]
# ## v1 beside v2: who was told what
#
# A source of 10.0, a destination of 7.2. Daniel Berrangé's D3: the manager says it, by the channel type; an adaptive
# destination decides by eight bytes, without a clock. Nobody concludes a protocol from silence.

# %%
settings = growth.sides(run)
settings

# %% [markdown]
# ## Try it
#
# Choose two versions and a capability of one of them. Read without a kernel, the chart stands still.

# %%
Explorer(run, "skew_new_feature", protocol="v2", version="11.1>7.2")

# %% [markdown]
# ## The answer

# %%
lab = ExperimentContext(run)
decided = {
    claim: decide(lab)
    for claim, decide in (("P3", no_version_string), ("P6", newer_source_skips), ("P7", newer_destination_understands))
}
wrong = {p: int((~g.outcome.isin(["migrated", "refused"])).sum()) for p, g in pairs.groupby("protocol")}
goes_on = future[future["ends, in every order"] == "completed"]

# %%
Markdown(
    f"**Versions**: of {len(pairs) // 2} pairs and situations, {wrong['v1']} fail or hang under v1 and {wrong['v2']} under v2. "
    + " ".join(f"{claim} {verdict.verdict}: {verdict.numbers[0]}." for claim, verdict in decided.items())
    + f"\n\n**Growth**: of {len(future)} peers from the future {len(goes_on)} migrate in every order of events, and the other "
    f"{len(future) - len(goes_on)} end with what was not understood by name, the guest at "
    f"{', '.join(sorted(set(future[~future.index.isin(goes_on.index)]['guest at'])))}; properties broken: "
    f"{', '.join(sorted(set(future.breaks)))}. **Told**: of {len(settings)} settings of both sides "
    f"{(settings.outcome == 'migrated').sum()} migrate, and in the others {settings[settings.outcome != 'migrated'].guest_bytes.sum()} "
    f"guest bytes were sent."
)
