"""Merging the rows of several fresh processes that measured the same case."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any, TypeVar

from ..schema import VERDICTS, CaseRow, Measurement, SamplingMeasurement
from . import derived
from .compare import difference_word

RowType = TypeVar("RowType", bound=CaseRow)


def merge(rows: Sequence[RowType]) -> RowType:
    """Merge the rows of one case into one, by the median of all blocks; a row without a number is returned as it is.

    The interval is that of the blocks or the range of the processes' medians, whichever is wider: allocation and
    library tuning differ from process to process. A ratio is the median of the processes' ratios, its interval the
    range of theirs, so that a difference is claimed only if each process shows it.
    """
    worst = max(rows, key=lambda row: (row.status != "ok", VERDICTS.index(row.verdict or "INVALID")))
    if len(rows) == 1 or worst.status != "ok":
        return worst
    merged = replace(
        worst,
        processes=len(rows),
        reason="; ".join(dict.fromkeys(row.reason for row in rows if row.reason)),
    )
    numbers: dict[str, Any] = {}
    if isinstance(merged, Measurement):
        numbers = _merged_throughput(merged, [row for row in rows if isinstance(row, Measurement)])
    elif isinstance(merged, SamplingMeasurement):
        numbers = _merged_sampling(merged, [row for row in rows if isinstance(row, SamplingMeasurement)])
    if found := _merged_ratio(rows):
        numbers |= found
    return replace(merged, **numbers)


def _merged_throughput(merged: Measurement, rows: Sequence[Measurement]) -> dict[str, Any]:
    samples = [sample for row in rows for sample in row.block_s]
    medians = [median(row.block_s) for row in rows]
    speed, low, high = derived.speeds(merged.batch * merged.world, samples, medians)
    assert merged.images_per_s
    scale = speed / merged.images_per_s
    return {
        "process_s": medians,
        "block_s": samples,
        "blocks": len(samples),
        "images_per_s": speed,
        "images_per_s_low": low,
        "images_per_s_high": high,
        **{key: scale * value for key in ("flops_per_s", "mfu", "limit_fraction") if (value := getattr(merged, key))},
    }


def _merged_sampling(merged: SamplingMeasurement, rows: Sequence[SamplingMeasurement]) -> dict[str, Any]:
    blocks = {name: [sample for row in rows for sample in row.blocks[name]] for name in merged.blocks}
    guided = merged.guidance_s is not None
    numbers = derived.sampling_numbers(merged.batch, merged.evaluations or merged.steps, merged.decode, guided, blocks)
    speeds = [row.finished_images_per_s or 0.0 for row in rows]
    low, high = numbers["finished_images_per_s_low"] or 0.0, numbers["finished_images_per_s_high"] or 0.0
    wide = {"finished_images_per_s_low": min(low, *speeds), "finished_images_per_s_high": max(high, *speeds)}
    return {"blocks": blocks, **numbers, **wide}


def _merged_ratio(rows: Sequence[CaseRow]) -> dict[str, Any]:
    found = [
        (row.ratio, row.ratio_low, row.ratio_high) for row in rows if row.ratio and row.ratio_low and row.ratio_high
    ]
    if len(found) < len(rows):
        return {}
    low, high = min(low for _, low, _ in found), max(high for _, _, high in found)
    difference = difference_word(low, high, rows[0].device, rows[0].smallest_difference)
    numbers = {"ratio": median(ratio for ratio, _, _ in found), "ratio_low": low, "ratio_high": high}
    return {**numbers, "difference": difference}
