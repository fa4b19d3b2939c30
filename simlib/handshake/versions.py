"""What differs between QEMU versions: each group of them, and in what it differs from the one before. Which capability
exists in which version is in capabilities.py; nothing else here asks for a version's number.

A version is a release, as "9.2", which means the newest of its series, or a point release, as "9.2.0".

Sources: QEMU's trees at the tags from v5.2.0 to v10.2.0 (migration/migration.c, multifd.c, channel.c, socket.c,
savevm.c, postcopy-ram.c), its list's patches for 11.0, and measurements with the binaries of 5.2, 7.2, 10.0 and 11.1;
facts that rest on measurement alone are marked so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

Version = tuple[int, ...]  # compared from its first number on: (9, 2) is not after (9, 2, 0)
NEWEST_OF_SERIES = 99


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one group of versions behaves."""

    since: Version
    identify: str  # first: the first connection is main; peek-multifd, peek: its first four bytes say; parked
    ram_section: int = 2  # the number of RAM's section; block migration stood before it until 9.1
    preempt_at_start: bool = False  # its channel is made at once, and the destination reads only when it is there
    waits_for_channels: bool = False  # source connects all multifd channels before it writes the header
    keeps_listening: bool = False  # 6.0 closes its listener once all channels are in
    checks_number: bool = False  # a multifd channel's number must be below their count; before 11.1, at most that
    sends_shut: bool = False  # destination sends SHUT(1) on the return path before it exits
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
    compressions: tuple[str, ...] = ("none", "zlib", "zstd")  # of multifd
    multifd_excludes_postcopy: bool = False  # a destination reads multifd's connections by position then (channel.c)
    file_transport: bool = False  # file:PATH
    needs_sockets_for_channels: bool = False  # refuses several channels over exec:, fd: and file: at `migrate`
    validates_mapped_ram: bool = False  # the stream declares it, and the destination compares
    sends_cpu_hotplug: bool = False  # always, since the older interface went (hw/acpi/cpu.c; measured on 11.1)

    @property
    def by_position(self) -> bool:
        """Whatever is neither main nor has a magic is multifd, if there is any (migration_ioc_process_incoming)."""
        return self.identify in ("first", "peek-multifd")


_5_2 = Behaviour((5, 2), "first", preempt_at_start=True, postcopy_multifd_crashes=True, tls_multifd_crashes=True)
_6_1 = replace(_5_2, since=(6, 1), keeps_listening=True, tls_multifd_crashes=False)
_8_0 = replace(
    _6_1,
    since=(8, 0),
    identify="peek-multifd",
    preempt_at_start=False,
    multifd_excludes_postcopy=True,
    needs_sockets_for_channels=True,
)
_8_2 = replace(_8_0, since=(8, 2), tells_manager=True, file_transport=True)
_9_0 = replace(_8_2, since=(9, 0), waits_for_channels=True, validates_mapped_ram=True)
_9_1 = replace(
    _9_0,
    since=(9, 1),
    ram_section=1,
    sends_shut=True,
    optional_exit=True,
    tells_tls_errno=True,
    compressions=(*_9_0.compressions, "qpl", "uadk"),
)
_9_2 = replace(_9_1, since=(9, 2), compressions=(*_9_1.compressions, "qatzip"))
_10_0 = replace(_9_2, since=(10, 0), exits_on_channel_error=True, says_device=True, keeps_postcopy=True)
_10_1 = replace(_10_0, since=(10, 1), identify="peek", postcopy_multifd_crashes=False, multifd_excludes_postcopy=False)
_10_2 = replace(_10_1, since=(10, 2), loads_first=True)
_11_0 = replace(_10_2, since=(11, 0), says_failing=True, sends_cpu_hotplug=True)
_11_1 = replace(_11_0, since=(11, 1), checks_number=True, corks_tls=True)
_11_2 = replace(_11_1, since=(11, 2), identify="parked")
BEHAVIOURS = (_5_2, _6_1, _8_0, _8_2, _9_0, _9_1, _9_2, _10_0, _10_1, _10_2, _11_0, _11_1, _11_2)
RELEASES = tuple(
    f"{major}.{minor}" for major in range(5, 12) for minor in range(3) if (5, 2) <= (major, minor) <= (11, 2)
)


@cache
def version_number(text: str) -> Version:
    """The numbers of a version.

    Raises:
        ValueError: for a text that is none.

    >>> version_number("9.2.0") < version_number("9.2")
    True
    """
    numbers = re.fullmatch(r"(\d+)(?:\.(\d+)(?:\.(\d+)?.*)?)?", text)  # a packager's words may follow
    if numbers is None:
        raise ValueError(f"{text!r} is no version of QEMU; write 10.0, or 10.0>7.2 for two")
    major, minor, micro = numbers.groups()
    return int(major), int(minor or 0), NEWEST_OF_SERIES if micro is None else int(micro)


def is_modelled(version: str) -> bool:
    """Whether a release such as "10.0", or a point release such as "10.0.13", is one whose behaviour is known here."""
    return ".".join(version.split(".")[:2]) in RELEASES


def not_modelled(version: str) -> str:
    """A sentence about a version that is none."""
    return f"QEMU {version} is not modelled; known are the releases from {RELEASES[0]} to {RELEASES[-1]}"


@cache
def behaviour(version: str) -> Behaviour:
    """How a version behaves; the oldest for anything older."""
    number = version_number(version)
    return max((b for b in BEHAVIOURS if b.since <= number), default=BEHAVIOURS[0], key=lambda b: b.since)


def flushes_by_command(machine_version: tuple[int, int]) -> bool:
    """Machine types from 8.1 on say in main when channels synchronise; for older ones every end of section does
    (multifd-flush-after-each-section, hw/core/machine.c)."""
    return machine_version > (8, 0)


def opens_preempt_early(machine_version: tuple[int, int]) -> bool:
    """Machine types up to 7.2 have the preempt channel made at once (x-preempt-pre-7-2, hw/core/machine.c)."""
    return machine_version <= (7, 2)
