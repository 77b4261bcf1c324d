"""The bench of the fused kernels: what to measure, in which order, and what a row says. Timing itself: stopwatch.py.

The figure of merit is the least traffic that the op needs, by its own byte count, over the time it took, beside the
copy rate measured in the same minute: what of the memory's speed arrives.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from ... import store
from ...errors import UsageError
from ...schema import KernelTiming, Measurement, Second
from ..schema import DTYPES, Kernel, Shape

BATCHES = 32, 64
RESOLUTIONS = 256, 512
ON_CORES = ("depthwise_gelu", "depthwise_7x7", "depthwise_3x3")  # their arithmetic runs on the FP32 units
BUDGET: Second = 420

OF_BOTH = ("case", "model", "res", "batch", "precision", "status", "reason", "flops_per_s", "peak_flops_per_s")

ROW_S: Second = 0.9  # of an op and its eager form, two graphs each; assumed until a GPU has been measured
COMPILE_S: Second = 4.0  # of torch.compile on one shape; assumed

Row = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """One row: an op at one shape, batch and precision."""

    kernel: Kernel
    shape: Shape
    batch: int
    precision: str
    compiled: bool  # whether torch.compile is measured beside it

    @property
    def id(self) -> str:
        shape = self.shape
        out = f"-{shape.out_channels}" if shape.out_channels else ""
        side = f"k{shape.kernel}" if shape.kernel else ""
        where = f"{shape.model}/{shape.res}px/level{shape.level}/{shape.channels}{out}{side}"
        return f"{self.kernel.name}/{where}/b{self.batch}/{self.precision}"

    @property
    def expected_s(self) -> Second:
        return ROW_S + (COMPILE_S if self.compiled else 0)

    @property
    def min_bytes(self) -> int:
        return self.kernel.min_bytes(self.shape, self.batch, DTYPES[self.precision].itemsize)

    @property
    def flops(self) -> int:
        return self.kernel.flops(self.shape, self.batch)


@dataclass(frozen=True)
class Timing:
    """Seconds of one launch: median, 20 % and 80 % quantile of graph replays."""

    p50: Second
    p20: Second
    p80: Second


@dataclass(frozen=True)
class Measured:
    """What a GPU gave for one piece of work. None: not measured, with the reason."""

    cold: Timing  # each launch on buffers that the level-2 cache cannot hold any more
    hot: Timing  # each launch on the same buffers
    eager: Timing  # cold, as a graph of what the unfused network runs
    compiled: Timing | None  # cold, the same through torch.compile
    why_not_compiled: str
    copy_bytes_per_s: float
    peak_flops_per_s: float  # of the units that the op's products run on
    error: float
    error_eager: float


def plan(
    kernels: Sequence[Kernel], precisions: Sequence[str], batches: Sequence[int], resolutions: Sequence[int]
) -> list[Work]:
    """All rows, those first that matter most should time run out: full resolution, the larger batch, smaller images.

    torch.compile is measured at the largest batch alone: a compilation takes longer than all the rest of a row.
    """
    works = [
        Work(kernel, shape, batch, precision, compiled=batch == max(batches))
        for precision in precisions
        for res in resolutions
        for batch in sorted(batches, reverse=True)
        for kernel in kernels
        for shape in kernel.shapes
        if shape.res == res
    ]
    return sorted(works, key=lambda work: (precisions.index(work.precision), work.shape.level, work.shape.res))


def summary(works: Sequence[Work], held: int, budget: Second) -> str:
    """One line before the first measurement."""
    seconds = sum(work.expected_s for work in works)
    about = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    parts = [f"{len(works)} rows to measure, about {about}", f"{held} already in the file" if held else ""]
    if seconds > budget:
        parts.append(f"torch.compile is left out of the last rows to stay near {budget:.0f} s")
    return "; ".join(filter(None, parts)) + "."


def held_rows(out: Path | None) -> dict[str, Row]:
    """Rows that the file holds already, by their id. Failed ones are measured again."""
    if out is None:
        return {}
    store.require_writable(out)
    if not out.exists():
        return {}
    rows = store.read(out)
    if any("kernel" not in row for row in rows):
        raise UsageError(f"{out} holds measurements of networks, not of kernels: give another file")
    foreign = set(Measurement.keys()) - set(OF_BOTH)  # what the store fills in for measurements of networks
    return {
        row["case"]: {key: value for key, value in row.items() if key not in foreign}
        for row in rows
        if row["status"] == "ok"
    }


def row_of(work: Work, measured: Measured, facts: Row) -> Row:
    """Everything about one measured piece of work, in base units. ``facts``: of the machine and the build."""
    cold, copy, peak = measured.cold.p50, measured.copy_bytes_per_s, measured.peak_flops_per_s
    least = max(work.min_bytes / copy, work.flops / peak)
    beside = {"eager": measured.eager, "compile": measured.compiled}
    wrong = None if isfinite(measured.error) else "the output is not finite, or has another shape than the reference"
    return {
        **_named(work),
        "status": "ok" if wrong is None else "wrong",
        "reason": wrong or measured.why_not_compiled,
        "cold_s": cold,
        "cold_s_p20": measured.cold.p20,
        "cold_s_p80": measured.cold.p80,
        "hot_s": measured.hot.p50,
        **{f"{name}_s": timing and timing.p50 for name, timing in beside.items()},
        **{f"over_{name}": timing and timing.p50 / cold for name, timing in beside.items()},
        "bytes_per_s": work.min_bytes / cold,
        "copy_bytes_per_s": copy,
        "copy_fraction": work.min_bytes / cold / copy,
        "copy_fraction_hot": work.min_bytes / measured.hot.p50 / copy,
        "flops_per_s": work.flops / cold,
        "peak_flops_per_s": peak,
        "roofline_fraction": least / cold,
        "error": measured.error if wrong is None else None,
        "error_eager": measured.error_eager,
        **facts,
    }


def failed_row(work: Work, status: str, reason: str, facts: Row) -> Row:
    return {**_named(work), "status": status, "reason": reason, **facts}


def _named(work: Work) -> Row:
    shape = work.shape
    return {
        "case": work.id,
        "kernel": work.kernel.name,
        "where": shape.label,
        "model": shape.model,
        "res": shape.res,
        "level": shape.level,
        "channels": shape.channels,
        "out_channels": shape.out_channels or None,
        "height": shape.height,
        "width": shape.width,
        "batch": work.batch,
        "precision": work.precision,
        "min_bytes": work.min_bytes,
        "flops": work.flops,
    }


Measure = Callable[[Work, bool], Measured]


def run(
    works: Sequence[Work],
    out: Path | None,
    measure: Measure,
    facts: Callable[[Work], Row],
    clock: Callable[[], Second],
    budget: Second = BUDGET,
    report: Callable[[int, Work], None] = lambda done, work: None,
) -> Iterator[Row]:
    """Rows in the order of the works, those of the file among them; each is appended to the file once it is there.

    Past the point where the rows left would not fit into the budget with torch.compile, they go without.
    ``measure`` may raise Unmeasured; anything else ends the run, with what is measured in the file.
    """
    held = held_rows(out)
    start = clock()
    for done, work in enumerate(works):
        report(done, work)
        if work.id in held:
            yield held[work.id]
            continue
        behind = sum(ROW_S for later in works[done:] if later.id not in held)
        affordable = clock() - start + behind + COMPILE_S <= budget
        try:
            row = row_of(work, measure(work, work.compiled and affordable), facts(work))
            if work.compiled and not affordable:
                row["reason"] = f"torch.compile left out: the run would have outlasted {budget:.0f} s"
        except Unmeasured as error:
            row = failed_row(work, error.status, str(error), facts(work))
        if out is not None:
            store.append(out, KernelTiming.from_json(row))
        yield row


class Unmeasured(Exception):
    """One row could not be measured; the others can."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status  # one of schema.STATUSES
