"""What faults do to the data of one direction of a link, in the simulated network and in the proxy before real sockets.

It knows bytes and no time: the runner reports what has passed, and decides when things happen.
"""

from __future__ import annotations

from collections.abc import Callable

from ..case.faults import LinkEffect
from ..case.registry import require

NEVER = float("inf")


class Shaper:
    """One direction; bytes are counted over all connections.

    Attributes:
        after: of each effect, the bytes after which it begins.
        passed: bytes that have gone through.
        calls: what is to be called, each after so many bytes, once.
        idle: no fault of this direction is set.
        lost_timeout_s: until TCP gives up on what is lost (tcp_retries2 = 15).
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As if nothing had been set and nothing had passed."""
        self.after = dict.fromkeys(LinkEffect, NEVER)
        self.calls: list[tuple[int, Callable[[], object]]] = []
        self.passed = 0
        self.idle = True
        self.lost_timeout_s = 924.6

    def begin(self, effect: LinkEffect, after_bytes: float | None) -> None:
        """Let an effect begin after so many bytes; None: with the next one. Raises ScenarioError for what is none."""
        require("effect on a link", effect, tuple(LinkEffect))
        self.after[effect] = self.passed if after_bytes is None else after_bytes
        self.idle = False

    def has_begun(self, effect: LinkEffect) -> bool:
        return self.passed >= self.after[effect]

    def room(self, size: int) -> int:
        """How much of `size` may pass as one piece: up to where something begins to happen."""
        for limit in (*self.after.values(), *(after for after, _ in self.calls)):
            if self.passed < limit < self.passed + size:
                size = int(limit - self.passed)
        return size
