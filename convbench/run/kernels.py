"""Kernel timings as jobs: kept in a file, resumed from it, near a budget of time; of a launcher, each kernel a job."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import NothingMeasured
from ..kernels import language
from ..kernels.bench.plan import COMPILE_S, ROW_S, Work, plan
from ..kernels.bench.rows import unmeasured_row
from ..kernels.registry import all_kernels
from ..schema import KernelTiming, Second
from ..store import Results
from . import fleet
from .jobs import USED_UP, Allowance, Job, Limits, Report, open_results, run_jobs
from .launchers.job import Order

Measure = Callable[[Work], KernelTiming]


def require_gpu() -> None:
    """Raise unless this machine can run the kernels: NothingMeasured without a GPU, UsageError without Triton."""
    if not torch.cuda.is_available():
        raise NothingMeasured(
            "kernels bench needs an NVIDIA GPU, and none is available; check and compile run without one"
        )
    language.require_triton()


def held_timings(out: Path | None, launcher: str | None = None) -> Results:
    """The file of a run, without the rows of kernels that failed: these are measured again."""
    results = open_results(out, anywhere=fleet.is_elsewhere(launcher))
    results.rows = [row for row in results.rows if isinstance(row, KernelTiming) and row.status == "ok"]
    return results


def kernel_timings(
    works: Sequence[Work],
    results: Results,
    measure: Measure,
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


def launched_timings(
    works: Sequence[Work], results: Results, launcher: str, budget_s: Second, report: Report, say: fleet.Say
) -> Iterator[KernelTiming]:
    """Yield the rows that the file holds, then the others as they come; each kernel and kind of node is a job.

    Args:
        budget_s: of each job, as in ``kernel_timings``.
        say: gets a line on each job that is lost.
    """
    jobs: dict[tuple[str, str | None], list[Work]] = {}
    for work in works:
        if row := results.find((work.id, None)):
            assert isinstance(row, KernelTiming)
            yield row
        else:
            jobs.setdefault((work.kernel.name, work.on), []).append(work)
    tasks = [_task(missing, works, budget_s) for missing in jobs.values()]
    for row in fleet.launched(launcher, tasks, results, Limits(), report, say):
        assert isinstance(row, KernelTiming)
        if row.reason != USED_UP:
            yield row


def _task(missing: Sequence[Work], works: Sequence[Work], budget_s: Second) -> fleet.Task:
    asked = {
        "kernel": missing[0].kernel.name,
        "precisions": list(dict.fromkeys(work.precision for work in works)),
        "batches": list(dict.fromkeys(work.batch for work in works)),
        "resolutions": list(dict.fromkeys(work.shape.res for work in works)),
        "on": missing[0].on,
        "ids": [work.id for work in missing],
        "budget_s": budget_s,
    }
    content = {"kernels": asked, "stage": None, "cores": 0}
    order = Order("", content, 0, True, missing[0].on, budget_s + fleet.START_S)

    def without(status: str, reason: str) -> list[KernelTiming]:
        return [unmeasured_row(work, status, reason) for work in missing]

    return fleet.Task(tuple((work.id, None) for work in missing), order, without, kind=KernelTiming)


def rows_of_order(asked: Mapping[str, Any], measure: Measure | None = None) -> list[KernelTiming]:
    """The rows of one kernel on its node; those that the budget did not reach are skipped ones, which are not stored.

    Raises NothingMeasured or UsageError where the node cannot run it.
    """
    if measure is None:
        require_gpu()
        from ..kernels.bench.stopwatch import Stopwatch

        measure = Stopwatch().measure
    kernels = [kernel for kernel in all_kernels() if kernel.name == asked["kernel"]]
    planned = plan(kernels, asked["precisions"], asked["batches"], asked["resolutions"])
    works = [work for each in planned if (work := replace(each, on=asked["on"])).id in asked["ids"]]
    found = {row.case: row for row in kernel_timings(works, Results(None), measure, asked["budget_s"])}
    return [found.get(work.id) or unmeasured_row(work, "skipped", USED_UP) for work in works]
