# %% [markdown]
# # Can v2 be detected, or must QEMU be told?
#
# Daniel Berrangé: QEMU can't validate that a channel is bidirectional without timeouts in the detection, which should be
# avoided. Here is what such a timeout does: for which paths is there one that errs less than once in a million, what
# does it cost, and for which paths is there none? Lines are closed forms, points are runs of the real endpoints.

# %%
from IPython.display import Markdown

from simlib import world
from simlib.study import curves, figures
from simlib.study.claims import ExperimentContext
from simlib.study.detection import needs_a_timeout

lab = ExperimentContext(world.run)

# %% [markdown]
# ## Timeout against round trip: two errors
#
# Both sides are new, and the jitter of each way is lognormal with a tenth of the round trip as its scale. Left: the source
# waits for the destination's greeting (c) and gives up too soon, so that v1 is spoken where v2 could be. Right: the
# destination probes (a), and the two sides give up at different moments, so that the migration fails or the guest is lost. 64 runs a
# cell.

# %%
timeouts_s, rtts_s = (0.01, 0.03, 0.1, 0.3, 1, 3), (0.002, 0.01, 0.05, 0.2, 1, 2)
table = curves.grid(lab, timeouts_s, rtts_s, runs=64)
panels = (("missed", "(c) does not find v2"), ("harmed", "(a) fails or loses the guest"))
figures.heat_maps(table, panels, curves.limit(rtts_s))

# %% [markdown]
# ## The tail decides, not the round trip
#
# Seven kinds of path, all with 5 ms and a jitter of scale 1 ms each way. Points are counted in the simulated world, with
# their 95 % intervals.

# %%
names = ("lognormal, sigma 1", "lognormal, sigma 2", "Pareto, alpha 1.5", "Pareto, alpha 1")
points = curves.by_runs(lab, names, (0.013, 0.02, 0.05), runs=100)
figures.error_curves(curves.by_path(curves.spread(0.01, 1000)), points, "What a timeout misses, by kind of path")

# %%
needed = curves.needed()
needed.assign(
    round_trip=needed.round_trip_s.map(figures.seconds),
    timeout=needed.timeout_s.map(figures.seconds),
    missed_after_1_s=needed.missed_after_1_s.map("{:.2g}".format),
    in_round_trips=needed.in_round_trips.map("{:,.0f}".format),
).drop(columns=["round_trip_s", "timeout_s"])

# %%
tails = curves.tails()
figures.tail_curves(tails, "The timeout for one error in a million grows with the tail's weight")

# %% [markdown]
# ## What is lost comes again, later
#
# TCP sends again after 0.2, 0.4, 0.8 s and so on. With independent losses each doubling of the timeout buys one more
# attempt. In an outage all attempts are lost together, and nothing helps but to outlast it.

# %%
figures.error_curves(curves.by_loss(curves.spread(0.008, 100, 90)), None, "What a timeout misses on a path that loses")

# %% [markdown]
# ## The other error: who is asked may be old
#
# A timeout that is long enough for the path is still wrong towards binaries from before the handshake. Timeouts of 0.1 to 10 s,
# round trips of 2 ms to 2 s; right means: v2 between new sides, v1 otherwise, and the guest arrives.

# %%
peers = list(curves.peers(lab))
figures.shares(peers, "variant", "peer")

# %% [markdown]
# ## The answer

# %%
verdict = needs_a_timeout(lab)
short = [name for name, s in needed.timeout_s.items() if s <= 1]
long = {name: figures.seconds(s) for name, s in needed.timeout_s.items() if s > 10}
clean = [v for v in dict.fromkeys(p[0] for p in peers) if all(ok for name, _, ok in peers if name == v)]

# %%
Markdown(
    f"**D2 {verdict.verdict}: {verdict.exception}.**\n\n"
    f"- One error in a million within a second: {'; '.join(short)}. Each migration to an old peer, and each "
    f"`exec:cat`, then waits that long: {figures.seconds(max(needed.timeout_s[short]))} for the worst of them.\n"
    f"- None that anybody would wait for: {'; '.join(f'{n} ({s})' for n, s in long.items())}.\n"
    f"- {'; '.join(verdict.numbers[:1])}.\n"
    f"- Right with every peer on the whole grid: {', '.join(clean) or 'none'}, which asks no clock."
)
