"""What a user of the lab may define, each in a few lines and outside the package; test_own.py uses all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import simlib as lab
from simlib.case.managers import Act, Answered, Command, Say, Spawn
from simlib.handshake.v2 import frames
from simlib.handshake.v2.destination import Destination
from simlib.handshake.v2.messages import Message, Offer
from simlib.handshake.v2.source import Source


# --- a protocol: v2 with one message more, which an older peer skips -------------------------------------------------
class IntroducingSource(Source):
    speaks = "v3"

    def _say(self, conn: int, message: Message, before: bytes = b"", note: str = "") -> bytes:
        if isinstance(message, Offer):
            before += frames.frame(0x71, b"rack 4, unit 12", flags=0)
            note = "and INTRODUCTION"
        return super()._say(conn, message, before, note)


class IntroducedDestination(Destination):
    speaks = "v3"


V3 = lab.protocol("v3", IntroducingSource, IntroducedDestination, "v3: v2 and an introduction")

# --- a timeout on one side: the source of a detection gives up, its destination waits -------------------------------
ONE_TIMEOUT = lab.Scenario(
    name="one_timeout", title="Only the source has a timer", protocols=("c",), versions=("10.0",)
).vary(source__detect_timeout_s=0.5, destination__detect_timeout_s=0.0, destination__knows_v2=False, guest__ram_mib=1)


# --- managers --------------------------------------------------------------------------------------------------------
@lab.manager
class FallsBack(lab.Manager):
    """Tries v2 and, where that is refused or fails, v1, with a new process at the destination."""

    name = "falls-back"

    def answered(self, answer: Answered) -> list[Act]:
        return self._once_more() if answer.error and self.protocol == "v2" else super().answered(answer)

    def reported(self, side: str, status: str) -> list[Act]:
        failed = side == "source" and status == "failed" and self.protocol == "v2"
        return self._once_more() if failed else super().reported(side, status)

    def _once_more(self) -> list[Act]:
        self.protocol = "v1"
        return [Say("falls back to v1"), Command("destination", "quit"), Spawn("destination"), *self.listen()]


@lab.manager
class KnowsNoDevice(lab.Manager):
    """From before the status `device` (QEMU 2.11): it cancels what it does not understand."""

    name = "knows-no-device"

    def reported(self, side: str, status: str) -> list[Act]:
        if side == "source" and status == "device":
            return [Say("the status 'device' is unknown"), Command("source", "migrate_cancel")]
        return super().reported(side, status)


# --- an intruder, a kind of fault, a property, a distribution of delays ----------------------------------------------
MAIL = lab.Intruder("mail", b"EHLO example.org\r\n", leaves_after_s=0.2)


@lab.fault
@dataclass(frozen=True)
class ResetOne(lab.Strike):
    """One connection is reset, and no other."""

    kind: str = "reset-one"
    connection: str = "main"

    def strike(self, breaks: Any) -> None:
        breaks.reset(self.connection)


def _nowhere(system: Any, state: Any, final: bool) -> str:
    return "the guest stands still on both sides" if state.guest_running == (False, False) else ""


NEVER_STOPS = lab.Property("U1 never stops", _nowhere)
TWO_PATHS = lab.Delay("two-paths", lambda link: lambda rng: rng.choice((1.0, 9.0)) * link.delay_ms / 1e3, uses=())
