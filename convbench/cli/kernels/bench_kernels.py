"""``convbench kernels bench``: times of the fused kernels, of eager and torch.compile, and the copy rate."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from ...errors import NothingMeasured, UsageError
from ...schema import KernelTiming
from .. import INTERRUPTED, options
from ..progress import CaseProgress, StepProgress
from . import selection

if TYPE_CHECKING:
    from ...kernels.bench.plan import Work
    from ...store import Results

KEYS = (
    *("kernel", "where", "batch", "precision", "cold_s", "copy_fraction", "roofline_fraction"),
    *("over_eager", "over_compile", "eager_s", "compile_s", "hot_s", "copy_fraction_hot"),
    *("error", "error_eager", "registers", "status"),
)
PLAN_KEYS = ("kernel", "where", "batch", "precision", "on", "total_s")
NOTE = (
    "cold: each launch on buffers that have left the level-2 cache; hot: on the same buffers. of copy: least memory "
    "traffic over time, as a share of the copy rate measured with it. of roofline: the time that the slower of copy "
    "and product rate allows, as a share of the time taken."
)


@click.command(
    "bench",
    short_help="time the kernels on this GPU",
    epilog="\b\nExamples:\n  convbench kernels bench --out kernels.jsonl\n"
    "  convbench kernels bench --on h100,a100 --launcher slurm --out kernels.jsonl --dry-run",
)
@selection.kernel()
@selection.precision(default="bf16")
@click.option(
    "--res",
    type=options.CommaList(int),
    default="256,512",
    show_default=True,
    metavar="PX[,PX…]",
    help="Sides of the decoded image in pixels.",
)
@click.option(
    "--batch", type=options.CommaList(int), default="32,64", show_default=True, metavar="N[,N…]", help="Batch sizes."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append rows to this file; rows that it already holds are not measured again.",
)
@click.option(
    "--budget",
    type=options.Duration(),
    default="7m",
    show_default=True,
    help="Time limit for the run; rows that would exceed it skip torch.compile, and no row starts after it. With "
    "--launcher, of each job.",
)
@options.launcher("kernel")
@click.option("--dry-run", is_flag=True, help="Print the rows to measure with their assumed time, and exit.")
@options.form()
def bench_kernels(
    names: list[str] | None,
    precision: list[str],
    res: list[int],
    batch: list[int],
    out: Path | None,
    budget: float,
    launcher: str | None,
    on: list[str] | None,
    dry_run: bool,
    form: str,
) -> int:
    """Time the kernels on a GPU at the shapes of the XL networks, against eager, torch.compile and the copy rate.

    Exits with 3 if nothing could be measured, with 1 if a result is wrong.
    """
    if any(n < 1 for n in (*res, *batch)):
        raise UsageError("--res and --batch must be at least 1")
    from ...kernels.bench.plan import plan, summary
    from ...run import fleet
    from ...run.kernels import held_timings, require_gpu

    fleet.require_launchable(launcher, out, on)
    if not launcher and not dry_run:
        require_gpu()
    kernels = selection.selected(names)
    kinds: list[str | None] = [*dict.fromkeys(on)] if on else [None]
    works = [replace(work, on=kind) for kind in kinds for work in plan(kernels, precision, batch, res)]
    if not works:
        sides = sorted({shape.res for kernel in kernels for shape in kernel.shapes})
        raise UsageError(f"the kernels have no shapes for this --res; choose from {', '.join(map(str, sides))}")
    results = held_timings(out, launcher)
    left = [work for work in works if not results.find((work.id, None))]
    if dry_run:
        options.show([_planned_row(work) for work in left], [key for key in PLAN_KEYS if key != "on" or on], form)
    click.echo(summary(left, len(works) - len(left), math.inf if launcher else budget), err=True)
    if dry_run:
        return 0
    rows: list[KernelTiming] = []
    interrupted = False
    with _timed(works, left, results, budget, launcher) as timed:
        try:
            for row in timed:
                rows.append(row)
        except KeyboardInterrupt:
            interrupted = True
    places = {work.id: place for place, work in enumerate(works)}
    rows.sort(key=lambda row: places[row.case])  # a launcher gives them as they come
    late = len(works) - len(rows)
    unreached = (
        [f"{late} rows were not reached: the budget was used up (--budget)."] if late and not interrupted else []
    )
    bad = [f"{row.case}: {row.status}, {row.reason}" for row in rows if row.status != "ok"]
    options.show([row.to_json() for row in rows], KEYS, form, [NOTE, *_launches(rows), *unreached, *bad])
    if interrupted:
        return INTERRUPTED
    if not any(row.status == "ok" for row in rows):
        raise NothingMeasured("no kernel could be measured; see the reasons below the table")
    return 1 if any(row.status == "wrong" for row in rows) else 0


def _launches(rows: list[KernelTiming]) -> list[str]:
    """Say what a launch takes, which bounds kernels of a few microseconds whatever they do."""
    taken = [row.launch_s for row in rows if row.launch_s]
    if not taken:
        return []
    short = sum(row.cold_s is not None and row.launch_s is not None and row.cold_s < 5 * row.launch_s for row in rows)
    return [
        f"The smallest kernel takes {1e6 * median(taken):.1f} µs of a graph. It is a part of every time and is not "
        f"subtracted: {short} of {len(rows)} rows took less than five times as long, so their shares are too low."
    ]


@contextmanager
def _timed(
    works: "Sequence[Work]", left: "Sequence[Work]", results: "Results", budget: float, launcher: str | None
) -> "Iterator[Iterator[KernelTiming]]":
    """The rows as they come, while a bar shows which of those that are left is measured."""
    from ...run.kernels import kernel_timings, launched_timings

    if launcher is None:
        from ...kernels.bench.stopwatch import Stopwatch

        with StepProgress(len(left)) as steps:
            yield kernel_timings(works, results, Stopwatch().measure, budget, lambda work: steps.step(work.id))
        return
    with CaseProgress({work.id: work.expected_s for work in left}, len(left)) as progress:
        rows = launched_timings(works, results, launcher, budget, progress.update, progress.tell)
        yield (_told(row, progress) for row in rows)


def _told(row: KernelTiming, progress: CaseProgress) -> KernelTiming:
    if row.case in progress.expected_s:  # it was not in the file
        progress.finished(row.case, row.status)
    return row


def _planned_row(work: "Work") -> dict[str, Any]:
    facts = {"kernel": work.kernel.name, "where": work.shape.label, "batch": work.batch, "precision": work.precision}
    return facts | {"on": work.on, "total_s": work.expected_s}
