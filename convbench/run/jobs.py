"""Jobs under a budget, with a result file that is resumed: the loop under every command that measures.

A job gives rows that are measured together. A row that the file holds is not measured again; each new row is on the
disk before the next job starts, so a kill at any moment loses at most the job that runs.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import store
from ..errors import UsageError
from ..schema import Row, Second
from . import survey

Report = Callable[[str, str, float], None]
"""Called with the id of the job that runs, the phase it is in and the share of its timing that is done."""

USED_UP = "the budget was used up (--budget)"
OVERHEAD = 2.0  # of a budget's share, about half goes to loading and proving


@dataclass(frozen=True)
class Allowance:
    """The time a job may take."""

    cap_s: Second | None  # of timing one case; None for the default of its clock
    ends: Second  # of the whole job, by time.monotonic()
    by_budget: bool = False  # the budget ends before the time limit of the job

    @property
    def timeout_s(self) -> Second:
        """Seconds that are left."""
        return max(0.0, self.ends - time.monotonic())


@dataclass(frozen=True)
class Job:
    """Rows that are measured together, in one go."""

    keys: tuple[store.Key, ...]  # of its rows, in their order
    measure: Callable[[Allowance], Sequence[Row]]  # raises TimeoutError where the budget ended it
    skip: Callable[[str], Sequence[Row]]  # its rows where it is not measured, with the reason
    timings: int = 1  # how many times a cap is spent: cases, and processes for each


@dataclass(frozen=True)
class Limits:
    """Time limits of a run. None: without limit."""

    cap_s: Second | None = None  # of timing one case
    timeout_s: Second = 3600.0  # of one job
    budget_s: Second | None = None  # of the whole run


def run_jobs(jobs: Sequence[Job], results: store.Results, limits: Limits) -> Iterator[Row]:
    """The rows of all jobs in their order: those that the file holds, and the others as they are measured.

    With a budget, the time that steady cases leave is shared among those that follow; jobs that the budget does not
    reach are skipped and not stored, so that the next run measures them.
    """
    left = [job for job in jobs if not all(map(results.find, job.keys))]
    ends = time.monotonic() + (math.inf if limits.budget_s is None else limits.budget_s)
    for job in jobs:
        if not left or job is not left[0]:
            yield from filter(None, map(results.find, job.keys))
            continue
        allowance = _allowance(limits, ends - time.monotonic(), left)
        left.pop(0)
        if allowance is None:
            yield from job.skip(USED_UP)
            continue
        try:
            measured = job.measure(allowance)
        except TimeoutError:  # not to be stored where the budget ended it: the next run measures it
            yield from job.skip(USED_UP)
            continue
        for row in measured:
            yield results.find((row.case, getattr(row, "compared_with", None))) or results.add(row)


def _allowance(limits: Limits, remaining_s: Second, left: Sequence[Job]) -> Allowance | None:
    """The share of the first job of those left; None where the budget is used up."""
    now = time.monotonic()
    if limits.budget_s is None:
        return Allowance(limits.cap_s, now + limits.timeout_s)
    if remaining_s <= 0:
        return None
    share = remaining_s / len(left) / left[0].timings / OVERHEAD
    by_budget = remaining_s < limits.timeout_s
    return Allowance(
        min(limits.cap_s or math.inf, share), now + (remaining_s if by_budget else limits.timeout_s), by_budget
    )


def open_results(out: Path | None, anywhere: bool = False) -> store.Results:
    """The result file of a run, or results kept only in memory.

    Args:
        anywhere: the rows come from other machines, which need not be like this one.

    Raises UsageError for a file that cannot be written or was measured under other conditions.
    """
    results = store.Results(out)
    if anywhere:
        return results
    here = survey.conditions() if results.rows else {}
    for row in results.rows:
        if row.environment and (changes := store.changed_conditions(_as_seen_from_here(row, here), here)):
            raise UsageError(f"{out} was measured under different conditions ({changes[0]}): choose another --out")
    return results


def _as_seen_from_here(row: Row, here: Mapping[str, Any]) -> Mapping[str, Any]:
    """The environment of a row; that of a job as this machine, of which it saw only its own cores and GPU."""
    there = dict(row.environment)
    if row.place:
        there["cores"] = here.get("cores")
        if all(gpu in (here.get("gpus") or []) for gpu in there.get("gpus") or []):
            there["gpus"] = here.get("gpus")
    return there
