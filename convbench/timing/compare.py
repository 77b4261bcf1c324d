"""Is B faster than A? Ratios with intervals, and one of four words.

In one run: blocks of A and B in turns (A B B A), a ratio for each pair, the median of the ratios. Between stored
runs: the ratio of the two medians, with both intervals. A difference is claimed only beyond the smallest one that
the machine can tell: never less than DELTA, and never less than what an A/A comparison of the same run showed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..schema import Second
from .intervals import ratio_interval

DELTA = {"cpu": 0.03, "cuda": 0.01}
"""22 A/A comparisons on a shared 2-core machine stayed within 3.2 %, and 3 of their 95 % intervals excluded 1."""

LEAST_PAIRS = 20


@dataclass(frozen=True)
class Comparison:
    """Speed of B over speed of A: above 1, B is faster."""

    ratio: float
    low: float  # 95 % interval
    high: float
    difference: str  # faster, slower, same or unclear


def decide(low: float, high: float, delta: float) -> str:
    """B is faster or slower only if the whole interval lies beyond delta, the same only if it lies inside."""
    if low > 1 + delta:
        return "faster"
    if high < 1 - delta:
        return "slower"
    return "same" if 1 - delta <= low and high <= 1 + delta else "unclear"


def compare_blocks(a: Sequence[Second], b: Sequence[Second], delta: float) -> Comparison:
    """From seconds of a step in blocks that were timed in turns."""
    ratio, low, high = ratio_interval(list(zip(a, b, strict=True)))
    return Comparison(ratio, low, high, decide(low, high, delta))


def compare_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> Comparison:
    """From two measurements of different runs. The relative half-widths of both intervals add in quadrature."""
    ratio = b["images_per_s"] / a["images_per_s"]
    half = math.hypot(*(math.log(row["images_per_s_high"] / row["images_per_s_low"]) / 2 for row in (a, b)))
    low, high = ratio * math.exp(-half), ratio * math.exp(half)
    delta = max(row.get("smallest_difference") or DELTA[row["device"]] for row in (a, b))
    return Comparison(ratio, low, high, decide(low, high, delta))


def smallest_difference(a_against_a: Comparison, device: str) -> float:
    """The smallest difference a run may claim, as a share: what its A/A comparison could not exclude."""
    return max(DELTA[device], a_against_a.high - 1, 1 - a_against_a.low)
