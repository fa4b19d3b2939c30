"""The commands `simlib sweep` and `simlib claims`."""

from __future__ import annotations

import json
import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping

from ..record.compare import Runner
from ..study.compute import computed
from ..study.design import load
from ..world import run as in_world


def _on_sockets() -> Runner:
    from ..live import run

    return run


def _on_real_qemu() -> Runner:
    from ..real_qemu.run import runner

    return runner()


RUNNERS: Mapping[str, Callable[[], Runner]] = {
    "world": lambda: in_world,
    "live": _on_sockets,
    "real-qemu": _on_real_qemu,
}


def sweep(options: Namespace) -> int:
    """Raises ValueError for wrong options, StoreError for what could not be done."""
    design = load(options.sweep)
    run = RUNNERS[design.runner]()
    command = shlex.join(["simlib", "sweep", str(options.sweep), "--out", str(options.out)])
    count = computed(run, design, options.out, command, workers=options.workers, cluster=options.cluster)
    if count is None:
        print(f"{options.out}: {design.runs:,} rows are there already")
    else:
        print(f"{options.out}: {count:,} rows of {len(design.points):,} points (seed {design.seed})")
    return 0


def claims(options: Namespace) -> int:
    """Raises ValueError for wrong options."""
    from ..study import claims as verdicts
    from ..study.registry import CLAIMS

    unknown = [name for name in options.claim if name not in CLAIMS]
    if unknown:
        raise ValueError(f"there is no claim {unknown[0]!r}; choose among {', '.join(CLAIMS)}")
    if options.claim and (options.readme or options.out):
        raise ValueError("--readme and --out take all claims at once; name none")
    chosen = {name: CLAIMS[name] for name in options.claim or CLAIMS}
    decided = []
    for claim, verdict in verdicts.decide(in_world, chosen, options.full):
        decided.append((claim, verdict))
        if not options.json:
            print("\n".join(verdicts.as_text(claim, verdict)), flush=True)
    if options.json:
        json.dump([verdicts.as_dict(c, f) for c, f in decided], sys.stdout, indent=1, ensure_ascii=False)
        print()
    if options.out:
        options.out.write_text(verdicts.as_page(decided), encoding="utf-8")
    if options.readme:
        page = options.readme.read_text(encoding="utf-8")
        options.readme.write_text(verdicts.with_summary(page, verdicts.as_summary(decided)), encoding="utf-8")
    return 0
