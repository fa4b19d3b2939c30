# %% [markdown]
# # Should migration v2 detect, or be told?
#
# A design review of the handshake that Peter Xu and Daniel Berrangé discussed on qemu-devel in June 2023.
#
# Peter: *“Handshake protocol should always be self-bootstrap-able”*
#
# Daniel: *“I think the mgmt app can just indicate the new v2 bi-directional protocol”*
#
# <small>Every number and picture was computed when this deck was made (`make slides`), by the protocol code itself: in a
# simulated world, in every order of events, and from what real QEMUs did.</small>

# %%
from IPython.display import Markdown

from simlib.case.files import find, load_all
from simlib.case.registry import PROTOCOLS
from simlib.record.outcome import BAD, OUTCOMES
from simlib.study import costs, curves, figures, growth, order, real
from simlib.study.claims import ExperimentContext, verdict_text
from simlib.study.registry import CLAIMS
from simlib.study.table import counted, outcomes
from simlib.world import run

# %% [markdown]
# ## Today a guest can be lost under “completed”
#
# multifd is on at the destination alone, QEMU 10.0 on both sides: one of the situations in the lab.

# %%
run(find("multifd_only_at_destination_small"), protocol="v1", version="10.0")

# %% [markdown]
# ## One situation of many

# %%
shared = [s for s in load_all() if {"v1", "v2"} == {*s.protocols} and not s.management.lies]
table = outcomes(run, shared)
counts = counted(table)
bold = {o: "**" if o in BAD else "" for o in counts.index}
rows = "\n".join(
    f"| {bold[o]}{o.replace('_', ' ')}{bold[o]} | {' | '.join(map(str, n))} | {OUTCOMES[o]} |"
    for o, n in counts.iterrows()
)
with_rules = table[table.manager == "libvirt"].scenario.nunique()
ends_badly = ", ".join(
    f"**{name}: {int(counts.loc[counts.index.isin(BAD), name].sum())} of {counts[name].sum()}**" for name in counts
)

# %%
Markdown(
    f"| outcome | {' | '.join(counts)} | |\n|---|--:|--:|--:|---|\n{rows}\n\n{len(shared)} situations. In bold, ends badly: "
    f"{ends_badly}. A naive manager trusts the source's status; one with libvirt's rules ({with_rules} situations) sets "
    "both sides and looks at both."
)

# %% [markdown]
# ## Find out alone? It hears the same on both paths

# %%
heard = order.histories()
lines = "\n".join(
    f"| {PROTOCOLS.get(name.split(')')[0].strip('(')).label}{name.partition(')')[2]} | {'the same' if row['the same on a slow path'] is True else row['the same on a slow path']} "
    f"| {row['it decides']} | {row['it errs']} |"
    for name, row in heard.iterrows()
)
Markdown(
    "What it has heard on a pipe that returns nothing, and on a slow path to a new peer:\n\n"
    f"| it asks by | on both | then | and errs |\n|---|---|---|---|\n{lines}"
)

# %% [markdown]
# ## So a timeout decides, and the tail sets its length

# %%
figures.tail_curves(curves.tails(), "The timeout for one error in a million: 5 ms and a jitter of scale 1 ms each way")

# %%
needed = curves.needed().timeout_s
Markdown(
    f"Of the {len(needed)} paths of notebook 03 the lightest ({needed.idxmin()}) needs {figures.seconds(needed.min())}, the "
    f"heaviest ({needed.idxmax()}) {figures.seconds(needed.max())}; a peer that never answers costs all of it, every time."
)

# %% [markdown]
# ## And the peer may be a binary from before v2

# %%
lab = ExperimentContext(run)
peers = list(curves.peers(lab))
wide = figures.shares(peers, "by", "peer")
head = "| by | " + " | ".join(wide.columns) + " |\n|---|" + "---|" * len(wide.columns)
body = "\n".join(
    f"| **{PROTOCOLS.get(by.strip('()')).label}** | " + " | ".join(row) + " |" for by, row in wide.iterrows()
)
clean = [by for by in wide.index if all(ok for name, _, ok in peers if name == by)]

# %%
Markdown(
    f"Right: v2 between new sides, v1 otherwise, and the guest arrives. Timeouts 0.1 to 10 s, round trips 2 ms to 2 s.\n\n"
    f"{head}\n{body}\n\nClean on the whole grid: **{', '.join(clean) or 'none'}**, the name in the TLS handshake (ALPN), which "
    "asks no clock and needs TLS."
)

# %% [markdown]
# ## Told by the manager: eight bytes decide, no clock

# %%
settings = growth.sides(run)
lines = "\n".join(
    f"| {at[0].split()[-1]} | {at[1]} | **{row.outcome}** | {row.guest_bytes / 2**20:.0f} | {row.told} |"
    for at, row in settings.iterrows()
)
Markdown(
    f"| source told | destination | outcome | MiB sent | the source says |\n|---|---|---|--:|---|\n{lines}\n\nA wrong setting costs an "
    "error message. No side falls back by itself, so nobody between the two can downgrade them to v1."
)

# %% [markdown]
# ## What v2 does before the guest moves

# %%
path = find("matched_multifd").vary(link__delay_ms=5)
traces = {f"{p} on QEMU 10.0": run(path, protocol=p, version="10.0").trace for p in ("v1", "v2")}
figures.time_space(traces, "A round trip of 10 ms, 4 multifd channels", until_s=0.06)

# %% [markdown]
# ## What it costs

# %%
prices = costs.prices(run, (0.1, 1, 10, 100, 500), (0, 2, 4, 8, 16))
figures.prices(prices)

# %%
two, one = (prices[prices.protocol == p].reset_index() for p in ("v2", "v1"))
slower = ((two.downtime_s - one.downtime_s) * 1e3 / two.rtt_ms)[two.rtt_ms >= 10]
Markdown(
    f"**{two.round_trips.max():.0f} round trips** once connected, whatever the number of channels; {slower.max():.0f} more of "
    f"downtime; {two.said_bytes.max() / 1024:.0f} KiB."
)

# %% [markdown]
# ## What it saves

# %%
misfits = costs.mismatches(run)
saved = costs.savings(run, misfits, (64, 256, 1024, 4096, 16384, 65536, 131072))
figures.waste(saved)

# %%
never = {p: (int((g.knows_s == costs.NEVER).sum()), len(g)) for p, g in costs.endings(run).groupby("protocol")}
Markdown(
    f"{len(misfits)} mismatches. Over all runs that do not migrate, the source never knows in **{never['v1'][0]} of "
    f"{never['v1'][1]}** under v1, in **{never['v2'][0]} of {never['v2'][1]}** under v2."
)

# %% [markdown]
# ## In every order of events, and with peers from the future

# %%
models = order.recorded()
figures.searched(models, "Models searched: deliveries, accepts, timers, cuts, intruders")

# %%
future, check = growth.peers(), real.agreement(real.cells()).loc["v1"]
on = int((future["ends, in every order"] == "completed").sum())
lied = ", ".join(models[(models.kind == "v2") & models.breaks].model.str.removeprefix("v2, "))
Markdown(
    f"v2 breaks only where its manager lied ({lied}). Of {len(future)} newer peers {on} migrate, {len(future) - on} "
    f"are refused by name. The simulated v1 ends as real QEMU in **{check.agree} of {check.cells}** cells."
)

# %% [markdown]
# ## The answer

# %%
asked = ("D2", "P5-strong", "D3", "P5-growth", "D1", "P4")
verdicts = {name: CLAIMS[name].decide(lab) for name in asked}
lines = "\n".join(
    f"| {n}, {CLAIMS[n].who.split()[0]}: {CLAIMS[n].text} | {verdict_text(v)} |" for n, v in verdicts.items()
)
decided = verdicts["D3"].verdict == "holds" and verdicts["P5-strong"].verdict == "refuted"
Markdown(
    f"**{'Be told.' if decided else 'Not decided.'}**\n\n| claim of 2023 | found |\n|---|---|\n{lines}\n\nOpen: "
    + "; ".join(dict.fromkeys(v.still_open for v in list(verdicts.values())[:3] if v.still_open))
    + "."
)
