"""Who may say what, when. Whatever decides a transition stands here, and nowhere else.

A message that a state does not list is the peer's mistake: `bad-state`. PING, PONG and INFO never change a state.
"""

from __future__ import annotations

from . import frames as f

SOURCE, DESTINATION = "source", "destination"
ANY_TIME = (f.PING, f.PONG, f.INFO)

TRANSITIONS: dict[str, dict[str, dict[int, str]]] = {
    SOURCE: {
        "connecting": {},
        "offered": {f.HELLO: "greeted", f.REJECT: "failed", f.ABORT: "failed"},
        "greeted": {f.ACCEPT: "agreed", f.REJECT: "failed", f.ABORT: "failed"},
        "agreed": {f.READY: "ready", f.REJECT: "failed", f.ABORT: "failed"},
        "ready": {f.LOADED: "loaded", f.ERROR: "failed", f.ABORT: "failed"},  # the data flows
        "loaded": {f.RUNNING: "completed", f.ERROR: "failed", f.ABORT: "failed"},  # GO was said
        "package-sent": {f.LOADED: "package-loaded", f.ERROR: "failed", f.ABORT: "failed"},  # postcopy, from here on
        "package-loaded": {f.RUNNING: "postcopy", f.ERROR: "failed", f.ABORT: "failed"},  # GO was said
        "postcopy": {f.LOADED: "completed"},  # the guest runs there: whatever else comes leaves us uncertain
        # a channel was lost and ABORT said so: the destination's own reason, if it has one, is still on its way
        "closing": {f.REJECT: "failed", f.ERROR: "failed", f.ABORT: "failed", f.READY: "closing", f.LOADED: "closing"},
        "completed": {},
        "failed": {},
    },
    DESTINATION: {
        "listening": {f.HELLO: "greeted"},
        "greeted": {f.OFFER: "accepted", f.ABORT: "listening"},
        "accepted": {f.START: "started", f.ABORT: "listening"},
        "started": {f.ABORT: "listening"},  # until every planned channel is bound
        "ready": {f.DATA: "ready", f.ABORT: "failed", f.ERROR: "failed"},
        "loading": {f.ABORT: "failed", f.ERROR: "failed", f.DATA: "loading"},
        "loaded": {f.GO: "going", f.ABORT: "failed", f.ERROR: "failed", f.DATA: "loaded"},
        "going": {f.DATA: "going"},
        "completed": {},
        "failed": {},
    },
}


def next_state(role: str, state: str, message: int) -> str | None:
    """The state after `message`, or None where it is not legal."""
    return state if message in ANY_TIME else TRANSITIONS[role][state].get(message)
