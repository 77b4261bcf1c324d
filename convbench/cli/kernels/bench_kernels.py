"""``convbench kernels bench``: times of the fused kernels, of eager and torch.compile, and the copy rate."""

from pathlib import Path
from statistics import median

import click

from ...errors import NothingMeasured, UsageError
from ...schema import KernelTiming
from .. import INTERRUPTED, options
from ..progress import StepProgress
from . import selection

KEYS = (
    *("kernel", "where", "batch", "precision", "cold_s", "copy_fraction", "roofline_fraction"),
    *("over_eager", "over_compile", "eager_s", "compile_s", "hot_s", "copy_fraction_hot"),
    *("error", "error_eager", "registers", "status"),
)
NOTE = (
    "cold: each launch on buffers that have left the level-2 cache; hot: on the same buffers. of copy: least memory "
    "traffic over time, as a share of the copy rate measured with it. of roofline: the time that the slower of copy "
    "and product rate allows, as a share of the time taken."
)


@click.command(
    "bench",
    short_help="time the kernels on this GPU",
    epilog="\b\nExamples:\n  convbench kernels bench --out kernels.jsonl\n"
    "  convbench kernels bench --kernel depthwise_7x7 --res 256 --batch 64",
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
    help="Time limit for the run; rows that would exceed it skip torch.compile, and no row starts after it.",
)
@options.form()
def bench_kernels(
    names: list[str] | None,
    precision: list[str],
    res: list[int],
    batch: list[int],
    out: Path | None,
    budget: float,
    form: str,
) -> int:
    """Time the kernels on this GPU at the shapes of the XL networks, against eager, torch.compile and the copy rate.

    Exits with 3 if nothing could be measured, with 1 if a result is wrong.
    """
    if any(n < 1 for n in (*res, *batch)):
        raise UsageError("--res and --batch must be at least 1")
    _require_gpu()
    from ...kernels.bench.plan import plan, summary
    from ...kernels.bench.stopwatch import Stopwatch
    from ...run.kernels import held_timings, kernel_timings

    kernels = selection.selected(names)
    works = plan(kernels, precision, batch, res)
    if not works:
        sides = sorted({shape.res for kernel in kernels for shape in kernel.shapes})
        raise UsageError(f"the kernels have no shapes for this --res; choose from {', '.join(map(str, sides))}")
    results = held_timings(out)
    left = [work for work in works if not results.find((work.id, None))]
    click.echo(summary(left, len(works) - len(left), budget), err=True)
    rows: list[KernelTiming] = []
    interrupted = False
    with StepProgress(len(left)) as progress:
        try:
            measure = Stopwatch().measure
            for row in kernel_timings(works, results, measure, budget, lambda work: progress.step(work.id)):
                rows.append(row)
        except KeyboardInterrupt:
            interrupted = True
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


def _require_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise NothingMeasured(
            "convbench kernels bench needs an NVIDIA GPU, and none is available; check and compile run without one"
        )
    selection.require_triton()
