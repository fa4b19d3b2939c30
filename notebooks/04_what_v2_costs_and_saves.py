# %% [markdown]
# # What does a handshake cost, and what does it save?
#
# Peter Xu's P1 asks for one extra phase before anything else. That phase costs round trips, whenever all is well. It saves
# whatever a mismatch costs today: memory that moves for nothing, and sources that never learn that it did. Both are measured
# here with the real endpoints in the simulated world, on a network of 1,200 MiB/s and with seed 1.

# %%
from IPython.display import Markdown

from simlib.case.files import find
from simlib.study import costs, figures
from simlib.study.widget import Explorer
from simlib.world import run

# %% [markdown]
# ## Where the round trips go
#
# Time runs to the right, a slanted line is a message. v1 connects, connects its channels, and sends. v2 asks first (HELLO and
# OFFER), connects the channels while START is under way, and waits until all of them have said their names and READY has come.

# %%
path = find("matched_multifd").vary(link__delay_ms=5)
traces = {f"{p} on QEMU 10.0": run(path, protocol=p, version="10.0").trace for p in ("v1", "v2")}
figures.time_space(traces, "A round trip of 10 ms, 4 multifd channels", until_s=0.06)

# %% [markdown]
# ## What it costs, over round trips and channels

# %%
table = costs.prices(run, (0.1, 1, 10, 100, 500), (0, 2, 4, 8, 16))
figures.prices(table)

# %% [markdown]
# Round trips count from the connection on; times are those of the first guest byte (under v2: READY), in ms; the bytes are
# said by both sides before it. The downtime grows by one round trip, LOADED and GO: the source gives its guest up only when
# the destination has it. Below 1 ms it is the hosts' own work that counts, not the path.

# %%
costs.side_by_side(table[table.channels.isin([0, 16])]).style.format("{:,.1f}").format_index("{:g}", level=0)

# %% [markdown]
# All connections of a direction share the rate of the link, as they do in the kernel (`tests/live/test_namespaces.py`
# compares both behind a token bucket). Until November 2026 the simulated link gave its whole rate to each connection, so that
# times and precopy passes with several channels came out too short by up to their number. A guest of 12,000 MiB:

# %%
costs.channels(run, (0, 1, 4, 8)).style.format("{:.1f} s")

# %% [markdown]
# ## What it saves: two machines that do not fit
#
# Every situation of the library in which nothing but the fit is wrong, v2 refuses, and v1 neither refuses nor arrives; guests
# of 64 MiB to 128 GiB. What goes alike is one line. A source that is told nothing, or `completed`, never knows.

# %%
misfits = costs.mismatches(run)
saved = costs.savings(run, misfits, (64, 256, 1024, 4096, 16384, 65536, 131072))
figures.waste(saved)

# %% [markdown]
# ## When does the source know?
#
# All runs of the library that did not migrate as asked, whatever was wrong: settings, machines, intruders, cuts, dead hosts. A
# curve that stays below 100 % is of sources that never know.

# %%
ended = costs.endings(run)
figures.known_by(ended, "When does the source of a migration that did not work know it?")

# %% [markdown]
# ## Try it
#
# A device that the destination lacks, and what you do to the path. Read without a kernel, the chart stands still.

# %%
Explorer(run, "device_only_at_source_return_path", protocol="v2")

# %% [markdown]
# ## The answer

# %%
two, one = (table[table.protocol == p].reset_index() for p in ("v2", "v1"))
added = ((two.ready_s - one.ready_s) * 1e3 / two.rtt_ms)[two.rtt_ms >= 10]
slower = ((two.downtime_s - one.downtime_s) * 1e3 / two.rtt_ms)[two.rtt_ms >= 10]
large = saved[saved.ram_mib == saved.ram_mib.max()].set_index("protocol")
never = {p: (int((g.knows_s == costs.NEVER).sum()), len(g)) for p, g in ended.groupby("protocol")}
moved = {p: int((large.loc[p].wasted_bytes > 2**30).sum()) for p in ("v1", "v2")}

# %%
Markdown(
    f"**It costs** {two.round_trips.max():.0f} round trips before the first guest byte, with 0 as with "
    f"{two.channels.max()} channels: {added.min():.1f} to {added.max():.1f} more than v1, "
    f"{slower.max():.1f} more of downtime, and {two.said_bytes.max() / 1024:.0f} KiB at most.\n\n"
    f"**It saves**, of {len(misfits)} mismatches with a guest of {saved.ram_mib.max() / 1024:.0f} GiB, all of the guest in "
    f"{moved['v1']} (v1 moves it for nothing; v2 in {moved['v2']}). v2's sources know after at most "
    f"{large.loc['v2'].knows_s.max() * 1e3:.1f} ms; v1's after up to "
    f"{large.loc['v1'].knows_s[large.loc['v1'].knows_s < costs.NEVER].max():.0f} s, and "
    f"{(large.loc['v1'].knows_s == costs.NEVER).sum()} of {len(misfits)} never. Over all runs that do not migrate, "
    f"{never['v1'][0]} of {never['v1'][1]} sources never know under v1, {never['v2'][0]} of {never['v2'][1]} under v2."
)
