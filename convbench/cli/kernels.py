"""``convbench kernels``: the fused kernels: what they replace, whether they are right, what they take, their speed."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import NothingMeasured, UsageError
from . import INTERRUPTED, options

if TYPE_CHECKING:
    from ..kernels.schema import Kernel

PRECISIONS = ("fp32", "fp16", "bf16")
LIST_KEYS = ("kernel", "families", "replaces", "min_bytes", "min_flops", "summary")
CHECK_KEYS = ("kernel", "where", "precision", "device", "path", "error", "error_eager", "error_limit", "status")
COMPILE_KEYS = (
    "kernel",
    "configuration",
    "precision",
    "target",
    "registers",
    "stack",
    "spills",
    "shared",
    "loads_128",
    "loads",
    "mma",
    "seconds",
)
BENCH_KEYS = (
    "kernel",
    "where",
    "batch",
    "precision",
    "cold_s",
    "copy_fraction",
    "roofline_fraction",
    "over_eager",
    "over_compile",
    "eager_s",
    "compile_s",
    "hot_s",
    "copy_fraction_hot",
    "error",
    "error_eager",
    "registers",
    "status",
)
BENCH_NOTES = (
    "cold: each launch on buffers that left the level-2 cache; hot: on the same ones. of copy: least traffic of the op "
    "over its time, beside the copy rate measured with it. of roofline: beside the slower of copy and product rate.",
)


@click.command(
    "kernels",
    short_help="list, check, compile and time the fused kernels",
    epilog="\b\nExamples:\n  convbench kernels --check\n  convbench kernels --compile sm_80,sm_90 --precision bf16",
)
@click.option("--check", is_flag=True, help="Each op against its float64 reference, on the device at hand.")
@click.option(
    "--compile",
    "targets",
    type=options.CommaList(known=lambda: ("sm_80", "sm_90", "sm_100")),
    metavar="SM[,SM…]",
    help="Compile ahead of time for these GPUs, without one: registers, stack, spills, shared memory, vector loads.",
)
@click.option("--bench", is_flag=True, help="Time the kernels of the XL networks on this GPU.")
@click.option("--kernel", "names", type=options.CommaList(), metavar="K[,K…]", help="Only these [default: all].")
@click.option(
    "--precision",
    type=options.CommaList(known=lambda: PRECISIONS),
    metavar="P[,P…]",
    help="fp32, fp16, bf16 [default: bf16; all three for --check].",
)
@click.option("--res", type=options.CommaList(int), metavar="PX[,PX…]", help="For --bench [default: 256,512].")
@click.option("--batch", type=options.CommaList(int), metavar="N[,N…]", help="For --bench [default: 32,64].")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append the rows of --bench here; what the file holds is not measured again.",
)
@click.option(
    "--budget", type=options.Duration(), default="7m", show_default=True, help="Of --bench; past it, no torch.compile."
)
@options.form()
def command(
    check: bool,
    targets: list[str] | None,
    bench: bool,
    names: list[str] | None,
    precision: list[str] | None,
    res: list[int] | None,
    batch: list[int] | None,
    out: Path | None,
    budget: float,
    form: str,
) -> int:
    """List the fused Triton kernels, one operation each, with the parts of a network that they replace.

    On a CPU the operations run their PyTorch reference. Nothing here loads weights or builds a network.
    """
    if check + bench + (targets is not None) > 1:
        raise UsageError("--check, --compile and --bench are three commands: give one of them")
    if not bench and (res or batch or out):
        raise UsageError("--res, --batch and --out belong to --bench")
    for each in precision or ():
        if each not in PRECISIONS:
            raise UsageError(f"unknown precision '{each}' of a kernel: there are {', '.join(PRECISIONS)}")
    if any(n < 1 for n in [*(res or ()), *(batch or ())]):
        raise UsageError("--res and --batch take whole numbers from 1 on")
    if bench:
        _require_gpu()
    kernels = _chosen(names)
    if check:
        return _check(kernels, precision or list(PRECISIONS), form)
    if targets is not None:
        return _compile(kernels, targets, precision or ["bf16"], form)
    if bench:
        return _bench(kernels, precision or ["bf16"], res, batch, out, budget, form)
    return _list(kernels, form)


def _chosen(names: list[str] | None) -> "list[Kernel]":
    from ..kernels import all_kernels

    known = {kernel.name: kernel for kernel in all_kernels()}
    for name in names or ():
        if name not in known:
            raise UsageError(f"unknown kernel '{name}': there are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names or known)]


def _list(kernels: "Sequence[Kernel]", form: str) -> int:
    from .. import catalogue

    rows = []
    for kernel in kernels:
        shape = kernel.shapes[0]
        families = dict.fromkeys(catalogue.find(shape.model).family.name for shape in kernel.shapes)
        rows.append(
            {
                "kernel": kernel.name,
                "families": ", ".join(families),
                "replaces": kernel.replaces,
                "summary": kernel.summary,
                "where": shape.label,
                "batch": 1,
                "min_bytes": kernel.min_bytes(shape, 1, 2),
                "min_flops": kernel.flops(shape, 1),
            }
        )
    note = "least MB, MFLOPs: traffic and products of one image in half precision at the first level of the XL network"
    options.show(rows, LIST_KEYS, form, [f"{note}, 256 px."])
    return 0


def _check(kernels: "Sequence[Kernel]", precisions: list[str], form: str) -> int:
    from ..environment import default_device
    from ..kernels.check import check

    device = default_device()
    if device == "cuda":
        _require_triton()
        where = [(kernel, shape) for kernel in kernels for shape in kernel.shapes]
    else:
        # What the levels differ in is how a GPU is used; the last one is the smallest.
        where = [(kernel, min(kernel.shapes, key=lambda shape: shape.pixels * shape.channels)) for kernel in kernels]
    rows = []
    with _progress(len(where) * len(precisions)) as done:
        for kernel, shape in where:
            for precision in precisions:
                done(f"{kernel.name} {precision}")
                rows.append(check(kernel, shape, precision, device))
    notes = ["Relative L2 errors against float64. allowed: eager's own in that precision, or that of rounding."]
    if device == "cpu":
        notes.append(
            "No GPU here: the ops ran their PyTorch references, so this checks those and not the Triton kernels. Those "
            "are held to the same references by Triton's interpreter in the tests."
        )
    options.show(rows, CHECK_KEYS, form, notes)
    return 0 if all(row["status"] == "ok" for row in rows) else 1


def _compile(kernels: "Sequence[Kernel]", targets: list[str], precisions: list[str], form: str) -> int:
    from ..kernels import aot

    targets = aot.targets(targets)
    _require_triton()
    names = [kernel.name for kernel in kernels]
    rows: list[dict[str, Any]] = []
    with _progress(len(targets) * sum(len(k.compilations(p)) for k in kernels for p in precisions)) as done:
        for target in targets:
            for row in aot.compile_for(target, precisions, kernels=names):
                done(f"{target} {row['configuration']} {row['precision']}")
                rows.append(row)
    notes = [f"Triton {rows[0]['triton']}. 16-byte loads beside all loads; stack and shared memory in bytes."]
    if any(row.get("cached") for row in rows):
        notes.append(f"Compiled earlier and kept in {aot.cache_folder()}: the seconds are those of then.")
    failed = [row for row in rows if row["error"]]
    notes += [f"{aot.identity(row)} does not compile: {row['error']}" for row in failed]
    options.show([{**row, "error": None} for row in rows] if form == "table" else rows, COMPILE_KEYS, form, notes)
    return 1 if failed else 0


def _bench(
    kernels: "Sequence[Kernel]",
    precisions: list[str],
    res: list[int] | None,
    batch: list[int] | None,
    out: Path | None,
    budget: float,
    form: str,
) -> int:
    from ..kernels.bench import bench
    from ..kernels.bench.stopwatch import Stopwatch, facts

    works = bench.plan(kernels, precisions, batch or bench.BATCHES, res or bench.RESOLUTIONS)
    if not works:
        sides = sorted({shape.res for kernel in kernels for shape in kernel.shapes})
        raise UsageError(
            f"the kernels' shapes are those of {', '.join(map(str, sides))} px: give one of these as --res"
        )
    held = bench.held_rows(out)
    click.echo(bench.summary([work for work in works if work.id not in held], len(works), budget), err=True)
    rows: list[dict[str, Any]] = []
    interrupted = False
    with _progress(len(works)) as done:
        try:
            measure = Stopwatch().measure
            for row in bench.run(works, out, measure, facts, time.monotonic, budget, lambda _, work: done(work.id)):
                rows.append(row)
        except KeyboardInterrupt:
            interrupted = True
    notes = [
        *BENCH_NOTES,
        *(f"{row['case']}: {row['status']}, {row['reason']}" for row in rows if row["status"] != "ok"),
    ]
    options.show(rows, BENCH_KEYS, form, notes)
    if interrupted:
        return INTERRUPTED
    if not any(row["status"] == "ok" for row in rows):
        raise NothingMeasured("no kernel could be measured: the reasons stand under the table")
    return 1 if any(row["status"] == "wrong" for row in rows) else 0


def _require_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise NothingMeasured(
            "convbench kernels --bench needs an NVIDIA GPU, and there is none here; --compile and --check need none"
        )
    _require_triton()


def _require_triton() -> None:
    from ..kernels import language

    if not language.HAS_TRITON:
        raise UsageError(language.missing_triton())


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """A bar with the time left on a terminal, a line for each step elsewhere; both on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    task = bar.add_task("starting", total=total)
    count = 0

    def done(what: str) -> None:
        nonlocal count
        bar.update(task, description=what, completed=count)
        count += 1
        if not sys.stderr.isatty():
            click.echo(f"[{count}/{total}] {what}", err=True)

    with bar:
        yield done
