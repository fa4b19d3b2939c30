"""A guest of 130 bytes that counts: its firmware fills memory, then writes its counter into page after page.

Each page holds the counter, and the counter xor the page's own address. The guest looks at what it is about to
overwrite and counts each page that is not as it left it; the memory itself shows the same for the rest afterwards: a
page that is missing, torn, from another place, or older than its neighbours.
"""

from __future__ import annotations

import struct

FIRMWARE_BYTES = 256 << 10  # as SeaBIOS's, so that the block pc.bios is as in the profiles
BASE = 1 << 20
PAGE = 4096
SURPRISES = 0x1000  # where it counts the pages that it found otherwise
LOOPS_PER_S = 300e6  # of the one instruction that it waits with, under TCG: only paces it

# Real mode, at F000:F000: a flat GDT, protected mode, on at F040.
_ENTRY = bytes.fromhex("fa 2e660f0116 00f1 0f20c0 0c01 0f22c0 66ea 40f00f00 0800")
_GDT = struct.pack("<HI10x", 23, 0xFF110) + struct.pack("<QQQ", 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF)
_RESET = bytes.fromhex("ea 00f0 00f0")  # at F000:FFF0, where the processor starts


def firmware(span_bytes: int, working_set_bytes: int = PAGE, pass_s: float = 0.01) -> bytes:
    """An image for -bios. It fills `span_bytes` from 1 MiB on once, then rewrites the first `working_set_bytes` of them
    about every `pass_s`."""
    code = bytes.fromhex("66b81000 8ed8 8ec0 8ed0 31db")  # segments; the counter is ebx
    code += _sweep(span_bytes)
    again = len(code)
    code += _sweep(working_set_bytes, _LOOK)
    code += b"\xb9" + struct.pack("<I", max(int(pass_s * LOOPS_PER_S), 1)) + b"\xe2\xfe"  # mov ecx; loop $
    code += b"\xeb" + struct.pack("<b", again - len(code) - 2)
    image = bytearray(FIRMWARE_BYTES)
    for at, part in ((0xF000, _ENTRY), (0xF040, code), (0xF100, _GDT), (0xFFF0, _RESET)):
        image[FIRMWARE_BYTES - 0x10000 + at : FIRMWARE_BYTES - 0x10000 + at + len(part)] = part
    return bytes(image)


# mov eax, [edi]; inc eax; cmp eax, ebx; jne wrong; dec eax; xor eax, edi; cmp eax, [edi+4]; je right;
# wrong: inc dword [SURPRISES]; right:
_LOOK = bytes.fromhex("8b07 40 39d8 7508 48 31f8 3b4704 7406 ff05") + struct.pack("<I", SURPRISES)


def _sweep(size_bytes: int, before: bytes = b"") -> bytes:
    """One more on the counter, and into every page."""
    code = b"\x43\xbf" + struct.pack("<I", BASE)  # inc ebx; mov edi, BASE
    loop = bytes.fromhex("89d8 8907 31f8 894704 81c7 00100000 81ff") + struct.pack("<I", BASE + size_bytes)
    loop = before + loop
    return code + loop + b"\x72" + struct.pack("<b", -len(loop) - 2)


def count(page: bytes) -> int:
    """What the guest has counted to there."""
    return int(struct.unpack_from("<I", page)[0])


def wrong_pages(memory: bytes, working_set_bytes: int) -> list[int]:
    """Numbers of the pages that can't be so, in memory taken from BASE on while the guest stood still."""
    pages = [struct.unpack_from("<II", memory, at) for at in range(0, len(memory), PAGE)]
    rewritten = max(working_set_bytes // PAGE, 1)
    now = pages[0][0]
    wrong, before = [], now
    for number, (counter, mark) in enumerate(pages):
        if number < rewritten:  # a sweep under way has come to some page: those behind it are one older
            stale = counter != before and (counter, before) != (now - 1, now)
            before = counter
        else:
            stale = counter != 1
        if stale or mark != counter ^ (BASE + number * PAGE):
            wrong.append(number)
    return wrong
