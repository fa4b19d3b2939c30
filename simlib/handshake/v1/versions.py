"""What differs between QEMU versions: one row a group of versions.

Sources: QEMU's trees of the named versions (migration/migration.c, multifd.c, channel.c, savevm.c, options.c) and
measurements with the binaries; facts that rest on measurement alone are marked so.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..stream import version_number


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one group of versions behaves."""

    since: tuple[int, int]
    identify: str  # first: the first connection is main; peek-multifd, peek: its first four bytes say; parked
    waits_for_channels: bool  # source connects all multifd channels before it writes the header
    waits_for_preempt: bool  # destination starts to read only when the preempt channel is there (measured)
    keeps_listening: bool  # 5.2 closes its listener once all channels are in
    sends_shut: bool  # destination says SHUT(1) on the return path before it goes (9.1)
    exits_on_channel_error: bool  # a bad multifd header ends the destination; 7.2 only prints
    says_device: bool  # status `device` while the last bytes go
    optional_exit: bool  # knows exit-on-error
    postcopy_multifd_crashes: bool  # an assertion at the end of the load (measured on 7.2)
    tells_manager: bool  # the source keeps errors of return path and completion for its manager (8.2), else prints them
    tells_tls_errno: bool  # and the one that met GnuTLS's pull function (crypto/tlssession.c)


BEHAVIOURS = (
    Behaviour((5, 2), "first", False, True, False, False, False, False, False, True, False, False),
    Behaviour((7, 2), "first", False, True, True, False, False, False, False, True, False, False),
    Behaviour((8, 0), "peek-multifd", True, False, True, False, True, True, False, False, False, False),
    Behaviour((8, 2), "peek-multifd", True, False, True, False, True, True, False, False, True, False),
    Behaviour((9, 1), "peek-multifd", True, False, True, True, True, True, True, False, True, True),
    Behaviour((10, 1), "peek", True, False, True, True, True, True, True, False, True, True),
    Behaviour((11, 2), "parked", True, False, True, True, True, True, True, False, True, True),
)


def behaviour(version: str) -> Behaviour:
    """The row for a version such as "10.0.13"; the oldest row for anything older."""
    number = version_number(version)
    return max((b for b in BEHAVIOURS if b.since <= number), default=BEHAVIOURS[0], key=lambda b: b.since)
