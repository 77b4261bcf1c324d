"""Ratios of two speeds with intervals, and one of four words for each.

In one run: blocks of A and B interleaved (A B B A), a ratio for each pair, the median of the ratios. Between stored
runs: the ratio of the two medians, with both intervals. A difference is claimed only beyond the smallest one that
the run can tell: never less than DELTA, and never less than its A/A comparison could not exclude.
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


def decide(low: float, high: float, delta: float, same_within: float | None = None) -> str:
    """The word for a ratio with that interval: the one rule, wherever convbench says that something is faster.

    Faster or slower only if the whole interval lies beyond ``delta``; the same only if it lies within ``same_within``
    of 1, by default ``delta``; else unclear.
    """
    within = delta if same_within is None else min(delta, same_within)
    if low > 1 + delta:
        return "faster"
    if high < 1 - delta:
        return "slower"
    return "same" if 1 - within <= low and high <= 1 + within else "unclear"


def word(low: float, high: float, device: str, smallest_difference: float | None) -> str:
    """The word for a ratio of a run whose A/A comparison could not exclude ``smallest_difference``, as a share.

    Noise makes a run claim fewer differences, never more equalities: those stay within DELTA.
    """
    return decide(low, high, max(DELTA[device], smallest_difference or 0.0), DELTA[device])


def compare_blocks(a: Sequence[Second], b: Sequence[Second], delta: float) -> Comparison:
    """From seconds of a step in blocks that were timed in turns."""
    ratio, low, high = ratio_interval(list(zip(a, b, strict=True)))
    return Comparison(ratio, low, high, decide(low, high, delta))


def compare_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> Comparison:
    """From two measurements of different runs. The relative half-widths of both intervals add in quadrature."""
    ratio = b["images_per_s"] / a["images_per_s"]
    half = math.hypot(*(math.log(row["images_per_s_high"] / row["images_per_s_low"]) / 2 for row in (a, b)))
    low, high = ratio * math.exp(-half), ratio * math.exp(half)
    noise = max(row.get("smallest_difference") or 0.0 for row in (a, b))
    return Comparison(ratio, low, high, word(low, high, b["device"], noise))


def smallest_difference(a_against_a: Comparison, device: str) -> float:
    """The smallest difference a run may claim, as a share: what its A/A comparison could not exclude."""
    return max(DELTA[device], a_against_a.high - 1, 1 - a_against_a.low)
