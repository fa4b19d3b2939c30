"""The simulated guest of one side: how its memory is collected, and what its host answers."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..handshake import interface as i

MIB = 1 << 20


@dataclass(slots=True)
class Guest:
    """The guest of one side: its memory at the source, its loading at the destination."""

    running: bool = False
    ram_bytes: int = 0  # to move in the first pass
    dirty_bytes_s: float = 0.0
    working_set_bytes: int = 0
    downtime_bytes: int = 32 << 20  # what fits the downtime limit
    step_bytes: int = 1 << 62  # of a pass, at most so much at once: a switch to postcopy comes between two steps
    left_bytes: int = 0  # of the pass
    load_s: float = 0.001
    post_load_error: str = ""
    apply_error: str = ""
    apply_code: str = "apply-failed"
    answers_ms: tuple[float, ...] = ()  # when each answer comes, where that is given
    jitter_s: float = 0.0  # each answer may come so much later
    rng: random.Random | None = None  # draws the delay; without it, no answer is late
    passes: int = 0
    collected_bytes: int = 0
    collected_s: float = 0.0
    stopped_s: float | None = None
    started_s: float | None = None

    def late_s(self) -> float:
        """How much later one answer comes, in seconds."""
        return self.rng.random() * self.jitter_s if self.rng else 0.0

    def collect(self, now_s: float, last: bool) -> i.RamCollected:
        """The pages dirtied since the last pass, or the next step of that; the first pass is everything.

        Args:
            now_s: seconds since the start of the run.
            last: the guest is stopped: collect all that is left.
        """
        size = self.left_bytes
        if last or not size:
            dirty = min(self.working_set_bytes, int(self.dirty_bytes_s * (now_s - self.collected_s))) & ~4095
            size = min(size + dirty, max(self.ram_bytes, dirty)) if self.passes else self.ram_bytes
            if not last and self.passes and size <= self.downtime_bytes:
                return i.RamCollected(0, True)
            self.passes += 1
            self.collected_s = now_s
        step = size if last else min(size, self.step_bytes)
        self.left_bytes = size - step
        self.collected_bytes += step
        return i.RamCollected(step, last)
