# %% [markdown]
# # What happens today when two QEMUs are not configured alike, and what would a handshake say instead?
#
# Today's stream (**v1**) starts at once and hopes. Six situations show what it then does and who is told; the same six under
# a bidirectional handshake (**v2**) show what could be said instead. In June 2023 Peter Xu listed what such a handshake
# should do (P1–P8) and Daniel Berrangé where that meets its limits (D1–D4), on qemu-devel.
#
# Every chart is a run of the protocol code in a simulated world. Time runs downwards, one row an event; a cross marks what
# its reader did not take (never read, or of no use to it); a dashed box is what a side prints to its own stderr. The word at
# the top right is how the run ended; the table below the six says what each means.

# %%
from IPython.display import Markdown

from simlib.case.files import find
from simlib.world import run

# %% [markdown]
# ## 1. multifd is on at the destination alone: the guest is lost
#
# The destination waits, without a timeout, for channels that nobody will open. The guest is small, its last byte fits the
# socket buffer, and with that the source has `completed`: a manager that trusts it throws the only guest away.

# %%
run(find("multifd_only_at_destination_small"), protocol="v1", version="10.0")

# %% [markdown]
# Under v2 the switches need not match (Peter's P2): the destination prefers multifd, the source allows it, and both compute
# the same agreement. `completed` comes after RUNNING, not after the last byte.

# %%
run(find("multifd_only_at_destination_small"), protocol="v2", version="10.0")

# %% [markdown]
# ## 2. The connections arrive in another order: both sides hang
#
# Before 8.0 the first connection *is* main. If main comes last, the destination reads it as a multifd channel: the magic
# `5145564d` of which it complains to itself is “QEVM”. Real 7.2 hangs the same way (`B-b2-mainlast-n2-7.2` in
# `data/ground-truth.jsonl`).

# %%
run(find("order_multifd_first"), protocol="v1", version="7.2")

# %% [markdown]
# Daniel's D4: once the primary channel answers, order follows, since nothing else is opened before. Peter's P8: every further
# connection says its name in a common header. Main comes last here too, and it does not matter.

# %%
run(find("order_multifd_first"), protocol="v2", version="7.2")

# %% [markdown]
# ## 3. A device that the destination lacks: found out when everything has moved
#
# v1 sends device state last. The destination finds out after all memory has moved and the guest has stopped; without a
# return path the source never does.

# %%
run(find("device_only_at_source"), protocol="v1", version="10.0")

# %% [markdown]
# v2 compares the two inventories before anything moves: the “solid error” of Peter's P4. The guest never stops, the
# destination listens again.

# %%
run(find("device_only_at_source"), protocol="v2", version="10.0")

# %%
large = [run(find("device_only_at_source_128_gib"), protocol=p).row for p in ("v1", "v2")]
Markdown(
    f"What finding out last costs, for a guest of 128 GiB and with a return path: v1 moves "
    f"**{large[0].guest_bytes_sent / 2**30:.0f} GiB** in **{large[0].time_to_outcome_s:.0f} s**, all for nothing, and "
    f"then tells the source “{large[0].source_text}”. v2 moves **{large[1].guest_bytes_sent} bytes** and needs "
    f"**{large[1].time_to_outcome_s * 1e3:.1f} ms** to tell it “{large[1].source_text}”"
)

# %% [markdown]
# ## 4. Machine types differ: the reason never crosses
#
# The source asks for a return path, but the destination fails before it has read that far. It prints the exact reason and
# exits; the source gets an errno.

# %%
run(find("machine_type_differs_return_path"), protocol="v1", version="10.0")

# %% [markdown]
# v2 sends the same reason to the side that can act on it (P4), with both values.

# %%
run(find("machine_type_differs_return_path"), protocol="v2", version="10.0")

# %% [markdown]
# ## 5. An intruder connects: it takes a channel's place
#
# It sends a multifd header with the all-zero UUID, which is what a guest without a UUID has. v1 binds it as channel 0, the
# real channel 0 is left over, and both sides wait for ever.

# %%
run(find("stranger_multifd"), protocol="v1", version="10.0")

# %% [markdown]
# In v2 a connection must name the session that the handshake made, under a MAC (P8's header, taken further). The intruder is
# refused alone; the migration does not notice.

# %%
run(find("stranger_multifd"), protocol="v2", version="10.0")

# %% [markdown]
# ## 6. `exec:cat > FILE`: a path that does not return
#
# With a return path asked for, v1 waits for an answer from a file, its guest stopped. A minute later the file is loaded, and
# the source still waits: Daniel's D2, nothing but a timeout tells a silent path from a slow one.

# %%
run(find("exec_cat_return_path"), protocol="v1", version="10.0")

# %% [markdown]
# v2 does not guess. The manager asks for v2 in so many words (Daniel's D3) and says as well whether an `exec:` can answer; if
# not, the command is refused before anything starts.

# %%
run(find("exec_cat_return_path"), protocol="v2", version="10.0")

# %% [markdown]
# ## All situations, counted
#
# Every scenario that both protocols play, on each of its versions. A *naive* manager believes what the source says; one with
# *libvirt's* rules sets both sides from the same flags, looks at the destination too, and resumes the source when nothing
# arrived (it plays the scenarios in which that matters). Left out are those that compare ways of detecting v2, and those in
# which the manager gives the two sides false information.

# %%
import pandas

from simlib.case.files import load_all
from simlib.record.outcome import BAD, OUTCOMES
from simlib.study.table import counted, outcomes

pandas.options.display.max_colwidth = None
shared = [s for s in load_all() if {"v1", "v2"} == {*s.protocols} and not s.management.lies]
table = outcomes(run, shared)
counts = counted(table)
counts.assign(meaning=[OUTCOMES[outcome] for outcome in counts.index])

# %% [markdown]
# ## Try it
#
# Run the next cell, choose a situation, and move what you like: path, timeout, versions, channels, faults, seed. The chart
# redraws with every move. Read without a kernel, it stands still where it began.

# %%
from simlib.study.widget import Explorer

Explorer(run, "stranger_silent", protocol="v1", version="11.1")

# %% [markdown]
# ## The answer

# %%
naive = table[table.manager == "naive"]
v1, v2 = (naive[naive.protocol == p] for p in ("v1", "v2"))
clean1, clean2 = (t[t.outcome.isin(["failed", "refused"])] for t in (v1, v2))
known1, known2 = (t[t.error_codes.ne("") | t.source_status.eq("rejected")] for t in (clean1, clean2))
bad = ", ".join(f"{n} {o}" for o, n in v1.outcome.value_counts().items() if o in BAD)
late = clean2[clean2.guest_bytes_sent > 0]
codes = ", ".join(f"{c} ({n})" for c, n in sorted(late.error_codes.value_counts().items()))
libvirt = table[table.manager == "libvirt"]
twice = v1.merge(libvirt[["scenario", "source_version", "destination_version"]])

# %%
Markdown(
    f"**Today** two QEMUs that do not match find out late, by themselves or not at all. Of {len(v1)} runs of v1 "
    f"{v1.outcome.isin(BAD).sum()} end badly ({bad}). {len(clean1)} fail cleanly, and in {len(known1)} of these the source "
    f"knows why. libvirt's rules help: of the {len(libvirt)} runs that were played under them too, "
    f"{twice.outcome.isin(BAD).sum()} end badly without and {libvirt.outcome.isin(BAD).sum()} with them.\n\n"
    f"**A handshake** would say what differs, to the source, before the guest moves. Of {len(v2)} runs of v2 in the same "
    f"situations {v2.outcome.isin(BAD).sum()} end badly. {len(clean2)} fail, the source knows why in {len(known2)}, and in "
    f"{len(clean2) - len(late)} of them not a byte of the guest had moved. The other {len(late)} come later: a link or a "
    f"destination that dies, a manager that gives up, a device that can't be loaded, a saved file, which has no destination "
    f"while it is written (D1). Their codes: {codes}."
)
