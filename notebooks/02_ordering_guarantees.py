# %% [markdown]
# # What holds in every order of events, whoever connects and whatever is cut?
#
# A simulation shows some runs. “We'll trivially ensure ordering” and “I don't think it's possible without timeouts” are claims
# about all of them. Here the very endpoints that the simulated world runs are searched exhaustively: every order of
# deliveries, accepts and timers, and a cut, a stranger or a cancel at any moment. What breaks is shown by its shortest story.

# %%
from simlib.explore import Faults, search
from simlib.explore.models import cases, v1_cases, v1_mismatches, v2, variant_cases
from simlib.explore.report import Line
from simlib.explore.story import Story
from simlib.study.order import histories, models, over_channels, rules, states_figure

named = {case.name: case.model for case in cases()}

# %% [markdown]
# ## Today: the first connection is main, until it is not
#
# QEMU 7.2 with one multifd channel, both sides configured alike, nobody else on the network, nothing lost. Two steps
# are enough: the multifd connection is accepted before main's.

# %%
model = named["v1 7.2, 1 multifd"]
found = search(model)
Story(model, found.violations["S4 no loss"])

# %% [markdown]
# From 8.0 on the destination peeks at the first bytes, and among friends every order is well. One stranger who knows
# multifd's first packet is enough again, since nothing in it says whose it is.

# %%
model = named["v1 10.0, 1 multifd, stranger"]
Story(model, search(model).violations["S6 same channels"])

# %%
models(Line(case, search(case.model)) for case in (*v1_cases(), *v1_mismatches()))

# %% [markdown]
# ## Detection by probing: each way to ask has an order in which it hurts
#
# (a) the destination probes; (b) a version bump; (c) the destination greets; (d) PING on v1, (d') answered in a way that an old
# peer can't. The prior art's table, found again on running code; `timer` lets it ring at any moment.

# %%
models(Line(case, search(case.model)) for case in variant_cases())

# %%
model = named["(a) new and new, timer"]
Story(model, search(model).violations["S2 protocols apart"])

# %% [markdown]
# ## Why the source must be told
#
# On a pipe that returns nothing, and on a path whose answer is late, the source hears the same. Whatever it decides from that is
# wrong on one of them; without a timer it never decides. (d') works where the path is known to return, at the price of a round
# trip and of a machine type that must match first.

# %%
histories()

# %% [markdown]
# ## v2: nothing breaks
#
# With a stranger, a copied CHANNEL_OPEN and a cut, each at any moment, the source ends in one of three ways, and where it is
# `uncertain` it says so and keeps its guest paused.

# %%
search(v2("v2", 2, Faults(cuts=1, strangers=("garbage", "replay")))).endings

# %% [markdown]
# ## What each rule is for
#
# Take one rule out of the real engine, and search again.

# %%
rules()

# %% [markdown]
# ## How many states that takes
#
# Nothing that one side alone knows of one connection multiplies the rest, and like channels are exchangeable. A test
# compares verdicts with and without these two reductions.

# %%
states_figure(over_channels(lambda n: v2("v2", n), range(9)), over_channels(lambda n: v2("v2", n), range(3), plain=True),
              "v2, every order: states against channels")  # fmt: skip

# %% [markdown]
# **Answer.** v1 orders its channels only among friends and only since 8.0; it never tells a stranger's connection from its
# own. No probe is safe in every order. v2 keeps S1 to S10 and L1 to L4 in every order that was searched, with 0 to 8 multifd
# channels; every one of its rules is needed. `simlib explore SCENARIO` searches yours.
