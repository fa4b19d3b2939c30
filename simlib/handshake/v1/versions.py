"""What differs between QEMU versions: each group of them, and in what it differs from the one before.

Sources: QEMU's trees at the tags from v5.2.0 to v10.2.0 (migration/migration.c, multifd.c, channel.c, socket.c,
savevm.c, postcopy-ram.c), its list's patches for 11.0, and measurements with the binaries of 5.2, 7.2, 10.0 and 11.1;
facts that rest on measurement alone are marked so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..machine import version_number

DESCRIPTION = b'{"page_size": 4096, "devices": []}'  # at the stream's end, for people (vmdesc, savevm.c)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one group of versions behaves."""

    since: tuple[int, int]
    identify: str  # first: the first connection is main; peek-multifd, peek: its first four bytes say; parked
    ram_section: int = 2  # the number of RAM's section; block migration stood before it until 9.1
    preempt_at_start: bool = False  # its channel is made at once, and the destination reads only when it is there
    waits_for_channels: bool = False  # source connects all multifd channels before it writes the header
    keeps_listening: bool = False  # 6.0 closes its listener once all channels are in
    checks_number: bool = False  # a multifd channel's number must be below their count; before 11.1, at most that
    sends_shut: bool = False  # destination says SHUT(1) on the return path before it goes
    exits_on_channel_error: bool = False  # a connection that makes no sense ends the destination; 9.2 only prints
    says_device: bool = False  # status `device` while the last bytes go, without pause-before-switchover too
    loads_first: bool = False  # until a postcopy's package is loaded there, a failure gives the guest back
    keeps_postcopy: bool = False  # `migrate_cancel` is refused once a postcopy has begun
    says_failing: bool = False  # status `failing` before `failed`
    optional_exit: bool = False  # knows exit-on-error
    postcopy_multifd_crashes: bool = False  # an assertion at the end of the load (measured on 7.2)
    tls_multifd_crashes: bool = False  # when main's TLS fails: SIGSEGV in multifd_recv_all_channels_created
    tells_manager: bool = False  # the source keeps errors of return path and completion, else prints them
    tells_tls_errno: bool = False  # and the one that met GnuTLS's pull function (crypto/tlssession.c)
    corks_tls: bool = False  # and no longer the one that met its push function (measured on 11.1)

    @property
    def by_position(self) -> bool:
        """Whatever is neither main nor has a magic is multifd, if there is any (migration_ioc_process_incoming)."""
        return self.identify in ("first", "peek-multifd")


_5_2 = Behaviour((5, 2), "first", preempt_at_start=True, postcopy_multifd_crashes=True, tls_multifd_crashes=True)
_6_1 = replace(_5_2, since=(6, 1), keeps_listening=True, tls_multifd_crashes=False)
_8_0 = replace(_6_1, since=(8, 0), identify="peek-multifd", preempt_at_start=False)
_8_2 = replace(_8_0, since=(8, 2), tells_manager=True)
_9_0 = replace(_8_2, since=(9, 0), waits_for_channels=True)
_9_1 = replace(_9_0, since=(9, 1), ram_section=1, sends_shut=True, optional_exit=True, tells_tls_errno=True)
_10_0 = replace(_9_1, since=(10, 0), exits_on_channel_error=True, says_device=True, keeps_postcopy=True)
_10_1 = replace(_10_0, since=(10, 1), identify="peek", postcopy_multifd_crashes=False)
_10_2 = replace(_10_1, since=(10, 2), loads_first=True)
_11_0 = replace(_10_2, since=(11, 0), says_failing=True)
_11_1 = replace(_11_0, since=(11, 1), checks_number=True, corks_tls=True)
_11_2 = replace(_11_1, since=(11, 2), identify="parked")
BEHAVIOURS = (_5_2, _6_1, _8_0, _8_2, _9_0, _9_1, _10_0, _10_1, _10_2, _11_0, _11_1, _11_2)


def behaviour(version: str) -> Behaviour:
    """Of a version such as "10.0.13"; the oldest for anything older."""
    number = version_number(version)
    return max((b for b in BEHAVIOURS if b.since <= number), default=BEHAVIOURS[0], key=lambda b: b.since)
