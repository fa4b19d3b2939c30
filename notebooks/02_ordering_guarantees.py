# %% [markdown]
# # What holds in every order of events, whoever connects and whatever is cut?
#
# A simulation shows some runs. “We'll trivially ensure ordering” and “I don't think it's possible without timeouts” are claims
# about all of them. Here the very endpoints that the simulated world runs are searched exhaustively: every order of
# deliveries, accepts and timers, and a cut, an intruder or a cancel at any moment. What breaks is shown by its shortest story.

# %%
from IPython.display import Markdown

from simlib.explore.models import v2
from simlib.explore.properties import PROPERTIES
from simlib.explore.report import search_cases
from simlib.explore.story import Story
from simlib.study import figures
from simlib.study.order import histories, models, over_channels, rules, searched, states_figure

results = {line.case.name: line for line in search_cases()}  # each of them is a search over every order

# %% [markdown]
# ## Today: the first connection is main, until it is not
#
# QEMU 7.2 with one multifd channel, both sides configured alike, nobody else on the network, nothing lost. Two steps
# are enough: the multifd connection is accepted before main's.

# %%
line = results["v1 7.2, 1 multifd"]
Story(line.case.model, line.result.violations["S4 no loss"])

# %% [markdown]
# From 8.0 on the destination peeks at the first bytes, and among friends every order of main and multifd is well (preempt,
# which says nothing, is still taken by its place). One intruder who knows multifd's first packet is enough again, since
# nothing in it says whose it is.

# %%
line = results["v1 10.0, 1 multifd, intruder"]
Story(line.case.model, line.result.violations["S6 same channels"])

# %%
v1 = {name: line for name, line in results.items() if name.startswith("v1 ")}
models(v1)

# %% [markdown]
# ## Detection by probing: each way to ask has an order in which it hurts
#
# (a) the destination probes; (b) a version bump; (c) the destination greets; (d) PING on v1, (d') answered in a way that an old
# peer can't; (f) TLS's ALPN. The prior art's table, found again on running code; `timer` lets it ring at any moment.

# %%
probes = {name: line for name, line in results.items() if name.startswith("(")}
models(probes)

# %%
line = results["(a) new and new, timer"]
Story(line.case.model, line.result.violations["S2 protocols apart"])

# %% [markdown]
# ## Why the source must be told
#
# On a pipe that returns nothing, and on a path whose answer is late, the source hears the same. Whatever it decides from that is
# wrong on one of them; without a timer it never decides. (d') works where the path is known to return, at the price of a round
# trip and of a machine type that must match first. (f) works where there is TLS: both hellos of the TLS handshake come anyway,
# an old peer passes over a name that it doesn't know, and nobody between the two can change what was offered.

# %%
histories()

# %% [markdown]
# ## v2: nothing breaks, unless its manager lies
#
# An intruder, a copied CHANNEL_OPEN, a cut, a cancel, a rival source, full buffers, newer peers, each at any moment. The last
# two rows are what the handshake can't hold: a manager that told one side v1, and one that called a one-way pipe two-way.

# %%
v2s = {name: line for name, line in results.items() if name.startswith("v2")}
models(v2s)

# %% [markdown]
# ## What each rule is for
#
# Take one rule out of the real engine, and search again.

# %%
taken_away = rules()
taken_away

# %% [markdown]
# ## How many states that takes
#
# Two reductions: a step that only one side can notice, on one connection, is taken at once instead of in every order; and states
# that differ only in which of several like channels is which count as one. A test compares verdicts with and without them.

# %%
reduced = over_channels(lambda n: v2("v2", n), range(9))
plain = over_channels(lambda n: v2("v2", n), range(3), plain=True)
states_figure(reduced, plain, "v2, every order: states against channels")

# %% [markdown]
# All models of this page, a mark each: how much was searched, and where some order of events is a story above.

# %%
Markdown(
    "What is looked at in each state, or in those in which nothing more need happen:\n\n"
    + "\n".join(f"* {' '.join((p.check.__doc__ or '').split())}" for p in PROPERTIES)
)

# %%
figures.searched(searched({"v1": v1, "detection": probes, "v2": v2s}), "Models searched: every order of events")

# %%
broken = {
    name: sorted(n for n, line in some.items() if line.result.violations)
    for name, some in (("v1", v1), ("probes", probes), ("v2", v2s))
}
states = sum(line.result.states for line in v2s.values())

# %%
Markdown(
    f"**Today** some order of events breaks {len(broken['v1'])} of {len(v1)} models of v1; where nothing does, both sides "
    f"are set up alike, the destination peeks (8.0 and newer), and nobody else comes or TLS keeps them out. **Probing** "
    f"breaks in {len(broken['probes'])} of {len(probes)}.\n\n**A handshake** breaks in {len(broken['v2'])} of {len(v2s)} "
    f"({'; '.join(broken['v2'])}), both times because the manager's word was wrong. The others hold S1 to S10 and L1 to L4 "
    f"in all {states:,} states, and each of the {len(taken_away)} rules that was taken away was missed after at most "
    f"{taken_away.steps.max()} steps."
)
