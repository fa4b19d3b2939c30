"""What differs between QEMU versions: each group of them, and in what it differs from the one before.

Sources: QEMU's trees of the named versions (migration/migration.c, multifd.c, channel.c, savevm.c, options.c) and
measurements with the binaries; facts that rest on measurement alone are marked so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..machine import version_number


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one group of versions behaves."""

    since: tuple[int, int]
    identify: str  # first: the first connection is main; peek-multifd, peek: its first four bytes say; parked
    waits_for_channels: bool = False  # source connects all multifd channels before it writes the header
    waits_for_preempt: bool = False  # destination starts to read only when the preempt channel is there (measured)
    keeps_listening: bool = False  # 5.2 closes its listener once all channels are in
    sends_shut: bool = False  # destination says SHUT(1) on the return path before it goes (9.1)
    exits_on_channel_error: bool = False  # a bad multifd header ends the destination; 7.2 only prints
    says_device: bool = False  # status `device` while the last bytes go
    optional_exit: bool = False  # knows exit-on-error
    postcopy_multifd_crashes: bool = False  # an assertion at the end of the load (measured on 7.2)
    tls_multifd_crashes: bool = False  # when somebody fails in TLS (measured on 5.2: SIGSEGV)
    tells_manager: bool = False  # the source keeps errors of return path and completion (8.2), else prints them
    tells_tls_errno: bool = False  # and the one that met GnuTLS's pull function (crypto/tlssession.c)
    corks_tls: bool = False  # and no longer the one that met its push function (measured on 11.1)


_5_2 = Behaviour((5, 2), "first", waits_for_preempt=True, postcopy_multifd_crashes=True, tls_multifd_crashes=True)
_7_2 = replace(_5_2, since=(7, 2), keeps_listening=True, tls_multifd_crashes=False)
_8_0 = replace(
    _7_2, since=(8, 0), identify="peek-multifd", waits_for_channels=True, waits_for_preempt=False,
    exits_on_channel_error=True, says_device=True, postcopy_multifd_crashes=False,
)  # fmt: skip
_8_2 = replace(_8_0, since=(8, 2), tells_manager=True)
_9_1 = replace(_8_2, since=(9, 1), sends_shut=True, optional_exit=True, tells_tls_errno=True)
_10_1 = replace(_9_1, since=(10, 1), identify="peek")
_11_0 = replace(_10_1, since=(11, 0), corks_tls=True)
_11_2 = replace(_11_0, since=(11, 2), identify="parked")
BEHAVIOURS = (_5_2, _7_2, _8_0, _8_2, _9_1, _10_1, _11_0, _11_2)


def behaviour(version: str) -> Behaviour:
    """Of a version such as "10.0.13"; the oldest for anything older."""
    number = version_number(version)
    return max((b for b in BEHAVIOURS if b.since <= number), default=BEHAVIOURS[0], key=lambda b: b.since)
