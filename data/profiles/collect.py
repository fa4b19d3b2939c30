"""What a QEMU binary says of itself: capabilities, machine types, and the devices of a few machines.

    python data/profiles/collect.py --binary qemu-system-x86_64 --out data/profiles/qemu-7.2.json
    python data/profiles/collect.py --binary qemu-system-x86_64 --vmstate pc-q35-7.2 --out raw.json.xz

How it is found out, and of which machines, is in simlib/real_qemu/profile.py.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from simlib.case.profiles import ProfileError
from simlib.real_qemu.profile import Binary, collected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="a qemu-system-x86_64: path, or name to look up")
    parser.add_argument("-L", dest="data_dirs", action="append", default=[], metavar="DIR", help="passed to QEMU")
    parser.add_argument("--vmstate", metavar="MACHINE", help="write the raw -dump-vmstate of this machine type instead")
    parser.add_argument("--out", required=True, type=Path, help=".json, or .json.xz with --vmstate")
    options = parser.parse_args()
    out = options.out.name if options.out.is_absolute() else options.out
    command = f"python data/profiles/collect.py --binary {Path(options.binary).name} --out {out}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            binary = Binary(options.binary, options.data_dirs, Path(folder))
            if options.vmstate:
                content = lzma.compress(binary.dump_vmstate(options.vmstate), preset=9)
            else:
                content = (json.dumps(collected(binary, command), indent=1, sort_keys=True) + "\n").encode()
    except ProfileError as error:
        raise SystemExit(f"collect: {error}") from None
    options.out.write_bytes(content)
    print(f"{options.out}: {len(content)} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
