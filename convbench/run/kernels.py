"""Kernel timings as jobs: kept in a file, resumed from it, near a budget of time."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..kernels.bench.plan import COMPILE_S, ROW_S, Work
from ..schema import KernelTiming, Second
from ..store import Results
from .jobs import Allowance, Job, Limits, open_results, run_jobs


def held_timings(out: Path | None) -> Results:
    """The file of a run, without the rows of kernels that failed: these are measured again."""
    results = open_results(out)
    results.rows = [row for row in results.rows if isinstance(row, KernelTiming) and row.status == "ok"]
    return results


def kernel_timings(
    works: Sequence[Work],
    results: Results,
    measure: Callable[[Work], KernelTiming],
    budget_s: Second,
    report: Callable[[Work], None] = lambda work: None,
    clock: Callable[[], Second] = time.monotonic,
) -> Iterator[KernelTiming]:
    """Yield rows in the order of the works, those of the file included; each new one is first appended to the file.

    Once the remaining rows would not fit the budget with torch.compile, they are measured without it. Rows that the
    budget does not reach are left out.
    """
    start = clock()
    missing = [work.id for work in works if not results.find((work.id, None))]
    skipped = f"torch.compile skipped: the run would exceed {budget_s:.0f} s"

    def job_of(work: Work) -> Job:
        def measured(allowance: Allowance) -> list[KernelTiming]:
            if clock() - start >= budget_s:
                raise TimeoutError  # the next run measures it
            report(work)
            rest_s = ROW_S * (len(missing) - missing.index(work.id))
            late = not work.without_compile and clock() - start + rest_s + COMPILE_S > budget_s
            return [measure(replace(work, without_compile=skipped) if late else work)]

        return Job(((work.id, None),), measured, skip=lambda reason: ())

    for row in run_jobs([job_of(work) for work in works], results, Limits()):
        assert isinstance(row, KernelTiming)
        yield row
