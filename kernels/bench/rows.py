"""The rows of the bench: what was measured of one piece of work, and everything that follows from it by arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any

from ...schema import KernelTiming, Second
from .plan import Work


@dataclass(frozen=True)
class Timing:
    """Seconds of one launch: median, 20 % and 80 % quantile of graph replays."""

    p50: Second
    p20: Second
    p80: Second


@dataclass(frozen=True)
class Measured:
    """The measurements of one piece of work."""

    cold: Timing  # each launch on buffers that have left the level-2 cache
    hot: Timing  # each launch on the same buffers
    eager: Timing  # cold, a graph of what the unfused network runs
    compiled: Timing | None  # cold, the same through torch.compile; None: not measured
    why_not_compiled: str
    launch_s: Second  # of the smallest kernel in a graph: a part of every time above
    copy_bytes_per_s: float
    peak_flops_per_s: float  # of the units that compute the operation's products
    error: float
    error_eager: float


class Unmeasured(Exception):
    """One row could not be measured; the others can."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status  # one of schema.STATUSES


def row_for(work: Work, time: Callable[[Work], Measured], facts: Callable[[Work], dict[str, Any]]) -> KernelTiming:
    """Measure one piece of work and return its row, one with a reason if ``time`` raises Unmeasured.

    Args:
        time: Measures the work.
        facts: Describes the machine and the build; called after the measurement.
    """
    try:
        return measured_row(work, time(work), facts(work))
    except Unmeasured as error:
        return unmeasured_row(work, error.status, str(error), **facts(work))


def unmeasured_row(work: Work, status: str, reason: str, **facts: Any) -> KernelTiming:
    """Return the row of work that was not measured."""
    return KernelTiming(**_identity(work), status=status, reason=reason, **facts)


def measured_row(work: Work, measured: Measured, facts: dict[str, Any]) -> KernelTiming:
    """Compute the row of measured work, in base units."""
    cold, copy, peak = measured.cold.p50, measured.copy_bytes_per_s, measured.peak_flops_per_s
    compiled = measured.compiled.p50 if measured.compiled else None
    least = max(work.min_bytes / copy, work.flops / peak)
    wrong = None if isfinite(measured.error) else "the output is not finite, or its shape differs from the reference's"
    return KernelTiming(
        **_identity(work),
        status="ok" if wrong is None else "wrong",
        reason=wrong or measured.why_not_compiled,
        cold_s=cold,
        cold_s_p20=measured.cold.p20,
        cold_s_p80=measured.cold.p80,
        hot_s=measured.hot.p50,
        eager_s=measured.eager.p50,
        compile_s=compiled,
        over_eager=measured.eager.p50 / cold,
        over_compile=compiled and compiled / cold,
        bytes_per_s=work.min_bytes / cold,
        launch_s=measured.launch_s,
        copy_bytes_per_s=copy,
        copy_fraction=work.min_bytes / cold / copy,
        copy_fraction_hot=work.min_bytes / measured.hot.p50 / copy,
        flops_per_s=work.flops / cold,
        peak_flops_per_s=peak,
        roofline_fraction=least / cold,
        error=measured.error if wrong is None else None,
        error_eager=measured.error_eager,
        **facts,
    )


def _identity(work: Work) -> dict[str, Any]:
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
        "on": work.on,
        "min_bytes": work.min_bytes,
        "flops": work.flops,
    }
