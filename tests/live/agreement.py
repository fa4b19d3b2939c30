"""Every test of test_same_story again and again, many at a time, since most of each is waiting: `make agreement`."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice

from simlib.record.compare import Job
from tests.live.test_same_story import SECURED, live_jobs, named, quick, same, secured

AT_ONCE = 24


def one(job: Job, tls: bool) -> str:
    """What the real run told where no simulated one does; empty if one did."""
    try:
        same(job, secured(quick(job.scenario)) if tls else quick(job.scenario))
    except AssertionError as error:
        return f"{named(job)}{', TLS' if tls else ''}: {error}"
    return ""


def main(times: int) -> int:
    work = [partial(one, j, False) for j in live_jobs()] + [partial(one, j, True) for j in SECURED]
    with ProcessPoolExecutor(AT_ONCE) as pool:
        results = pool.map(_call, work * times)
        for number in range(times):
            missed = [m for m in islice(results, len(work)) if m]
            print(
                f"pass {number + 1} of {times}: {len(work)} runs, {len(missed)} unheard of",
                *missed,
                sep="\n",
                flush=True,
            )
            if missed:
                pool.shutdown(cancel_futures=True)
                return 1
    return 0


def _call(work: partial[str]) -> str:
    return work()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
