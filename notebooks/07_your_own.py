# %% [markdown]
# # How do I try my own protocol, manager, fault or machine?
#
# The lab answers questions about v1 and v2. This notebook asks it about something that it has never heard of: a third protocol,
# a manager with a fallback, an uninvited peer, a fault, a property, a path. Each is a few lines of Python, defined in a cell,
# and works in the simulated world, on real sockets, in the search over every order of events, in sweeps and beside v1 and v2.

# %%
from dataclasses import dataclass

import pandas
from IPython.display import Markdown

import simlib as lab

# %% [markdown]
# ## The engine alone
#
# A protocol is two endpoints. An endpoint is a value with one method: it takes one input and returns what it asks for. Nothing in
# it waits, opens a socket or reads a clock; whoever runs it does. `lab.pump` is the smallest runner: it delivers at once and in order.
# %%
from simlib.case.endpoints import Case

setup = Case(lab.scenario("matched"), "v2", "10.0")
source, destination = setup.source(), setup.destination()
for heard in lab.pump(source, destination)[:12]:
    print(f"{heard.side:12} {type(heard.input).__name__:13} -> {[type(o).__name__ for o in heard.outputs]}")
source.status, destination.status

# %% [markdown]
# ## A third protocol
#
# v3 is v2 with one message more: the source introduces itself before it makes its offer. The frame is not critical, so an endpoint that
# does not know it skips it (SPEC section 2). `speaks` is what rows report.

# %%
from simlib.handshake.v2 import frames
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.messages import Offer
from simlib.handshake.v2.source import Source


class IntroducingSource(Source):
    speaks = "v3"

    def _say(self, conn, message, before=b"", note=""):
        if isinstance(message, Offer):
            before += frames.frame(0x71, b"rack 4, unit 12", flags=0)
            note = "and INTRODUCTION"
        return super()._say(conn, message, before, note)


# %%
class IntroducedDestination(Destination):
    speaks = "v3"


v3 = lab.protocol("v3", IntroducingSource, IntroducedDestination, "v3: v2 and an introduction")
lab.run("matched_multifd", v3, version="10.0")

# %% [markdown]
# Beside v1 and v2, where the machines differ: it refuses as v2 does.

# %%
lab.compare("device_only_at_source", protocols=["v1", "v2", v3], version="10.0").table[
    ["protocol", "manager", "outcome", "error_codes", "guest_at", "spoken", "spoken_right"]
]

# %% [markdown]
# On real sockets of this machine, and in every order of events in which all connections may be reset once, at any moment:

# %%
print(lab.run("matched", v3, version="10.0", on="sockets").outcome)
lab.search("matched", v3, version="10.0", cuts=1)

# %% [markdown]
# ## A timeout on one side only
#
# In variant (c) the destination greets at once and the source waits for that. Here the source waits half a second and the destination
# for ever; the destination is an old binary, so that the source gives up.

# %%
one_timeout = lab.scenario("detect_new_source").vary(source__detect_timeout_s=0.5, destination__detect_timeout_s=0.0)
row = lab.run(one_timeout, "c", version="7.2").row
row.outcome, row.spoken, row.time_to_outcome_s

# %% [markdown]
# ## Two managers
#
# A manager is a value as well: an event comes in (an answer, a status, an exit, its own clock) and commands go out, as in QMP. The
# first tries v2 and, where that is refused or fails, v1 with a new process at the destination.

# %%
from simlib.case.managers import Command, Say, Spawn


# %%
@lab.manager
class FallsBack(lab.Manager):
    name = "falls-back"

    def answered(self, answer):
        return self.once_more() if answer.error and self.protocol == "v2" else super().answered(answer)

    def reported(self, side, status):
        failed = side == "source" and status == "failed" and self.protocol == "v2"
        return self.once_more() if failed else super().reported(side, status)

    def once_more(self):
        self.protocol = "v1"
        return [Say("falls back to v1"), Command("destination", "quit"), Spawn("destination"), *self.listen()]


# %%
old = lab.scenario("matched").vary(destination__knows_v2=False)
mismatch = lab.scenario("device_only_at_source")
for scenario in (old, mismatch):
    row = lab.run(scenario, "v2", version="7.2", manager=FallsBack).row
    print(f"{row.scenario}: {row.outcome}, spoken {row.spoken}, which is {'right' if row.spoken_right else 'wrong'}")

# %% [markdown]
# With the old binary that is what one wants. With a real mismatch it throws away the reason that v2 gave, and loses the guest as v1 does: a
# manager should fall back where v2 was refused as a command, and never where v2 has refused the guest.
#
# The second manager is older than the status `device` (QEMU 2.11) and cancels what it does not understand.


# %%
@lab.manager
class KnowsNoDevice(lab.Manager):
    name = "knows-no-device"

    def reported(self, side, status):
        if side == "source" and status == "device":
            return [Say("the status 'device' is unknown"), Command("source", "migrate_cancel")]
        return super().reported(side, status)


row = lab.run("matched", "v1", version="11.1", manager=KnowsNoDevice).row
row.outcome, row.source_status, row.guest_at

# %% [markdown]
# ## An uninvited peer, a fault, a path
#
# A mail server's client connects to the destination's port and leaves after a while; one connection is reset, and no other; and packets
# take one of two paths.

# %%
mail = lab.Intruder("mail", b"EHLO example.org\r\n", leaves_after_s=0.2)


@lab.fault
@dataclass(frozen=True)
class ResetOne(lab.Strike):
    kind: str = "reset-one"
    connection: str = "main"

    def strike(self, breaks):
        breaks.reset(self.connection)


# %%
two_paths = lab.Delay("two-paths", lambda link: lambda rng: rng.choice((1.0, 9.0)) * link.delay_ms / 1e3, uses=())

situations = {
    "a mail client comes first": lab.scenario("matched").vary(faults=(lab.Fault("intruder", payload=mail, at_s=0.0),)),
    "main is reset after 20 ms": lab.scenario("matched_multifd").vary(faults=(ResetOne(at_s=0.02),)),
    "two paths, 2 and 18 ms": lab.scenario("matched_multifd").vary(link__delay_law=two_paths, link__delay_ms=2.0),
}
ends = {name: {p: lab.run(s, p, version="10.0").outcome for p in ("v1", "v2", "v3")} for name, s in situations.items()}
pandas.DataFrame(ends).T

# %% [markdown]
# ## A property
#
# A property is checked in every state of a search, or in those in which nothing more need happen. This one says that the guest never
# stands still on both sides. It must, at the moment of the switchover, and the search shows the shortest way there.

# %%
never_stops = lab.Property(
    "U1 never stops",
    lambda system, state, final: (
        "the guest stands still on both sides" if state.guest_running == (False, False) else ""
    ),
)
result = lab.search("matched", "v2", version="10.0", properties=[never_stops], intruders=[mail], faults=[ResetOne()])
result

# %%
result.story("U1")

# %% [markdown]
# ## A machine of your own
#
# `simlib qemu profile` writes a machine down as real QEMU has it, with every device and its state; a scenario takes the file. Here it is one
# that the lab has committed.

# %%
q35 = "../data/profiles/qemu-10.0.json#pc-q35-7.2"
lab.run(lab.scenario("matched").vary(source__machine=q35, destination__machine=q35), v3, version="10.0").outcome

# %% [markdown]
# ## A sweep
#
# What was defined in the cells above travels to the worker processes by value, here and on a Dask cluster.

# %%
table = lab.sweep(
    "matched", {"link.delay-ms": [1, 10, 100], "guest.ram-mib": [1]}, protocols=["v1", "v2", v3], versions=["10.0"]
)
table.pivot(index="link.delay-ms", columns="protocol", values="time_to_outcome_s").round(3)

# %% [markdown]
# ## The answer
#
# None of these needed a change to the lab. What works where is a table in `simlib/case/README.md`, and a test runs every cell of it that
# says yes. In a module instead of a cell, the same objects are named on the command line:
# `simlib run matched --protocol mine:v3 --manager mine:FallsBack`.

# %%
Markdown(
    f"**{len(table)} runs** of a sweep, {(table.spoken == 'v3').sum()} of them in a protocol that the lab had never heard of; it ended as v2 did in "
    f"{sum(by['v3'] == by['v2'] for by in ends.values())} of {len(ends)} situations, and **{result.states:,} states** were searched for a property of one's own, which "
    f"{'no' if not result.violations else 'some'} order of events breaks."
)
