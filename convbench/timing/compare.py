"""Ratios of two speeds with intervals, each described by one of four words.

In one run: blocks of A and B interleaved (A B B A), a ratio for each pair, the median of the ratios. Between stored
runs: the ratio of the two medians, with both intervals. A difference is claimed only beyond the smallest one that
the run can tell: never less than DELTA, and never less than its A/A comparison could not exclude.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..schema import Second
from ..tolerances import FID_GAP
from .intervals import ratio_interval

DELTA = {"cpu": 0.03, "cuda": 0.01}
"""22 A/A comparisons on a shared 2-core machine stayed within 3.2 %, and 3 of their 95 % intervals excluded 1."""

LEAST_PAIRS = 20
LEAST_AA_PAIRS = 3


@dataclass(frozen=True)
class Comparison:
    """Speed of B over speed of A: above 1, B is faster."""

    ratio: float
    low: float  # 95 % interval
    high: float
    difference: str  # faster, slower, same or unclear


def decide(low: float, high: float, delta: float, same_within: float | None = None) -> str:
    """Choose the word for a ratio with that interval; the only rule by which convbench calls something faster.

    Faster or slower only if the whole interval lies beyond ``delta``; the same only if it lies within ``same_within``
    of 1, by default ``delta``; else unclear.
    """
    within = delta if same_within is None else min(delta, same_within)
    if low > 1 + delta:
        return "faster"
    if high < 1 - delta:
        return "slower"
    return "same" if 1 - within <= low and high <= 1 + within else "unclear"


def delta_of(device: str | None) -> float:
    """DELTA of the device of a stored row; the widest where the row does not say which."""
    return DELTA.get(device or "", max(DELTA.values()))


def difference_word(low: float, high: float, device: str | None, smallest_difference: float | None) -> str:
    """Choose the word for a ratio of a run whose A/A comparison could not exclude ``smallest_difference``, a share.

    Noise makes a run claim fewer differences, never more equalities: those stay within DELTA.
    """
    delta = delta_of(device)
    return decide(low, high, max(delta, smallest_difference or delta), delta)


def quality_word(low: float, high: float) -> str:
    """Choose same, different or inconclusive for a ratio of two FID or Fréchet values with that interval."""
    word = decide(low, high, FID_GAP)
    return {"faster": "different", "slower": "different", "unclear": "inconclusive"}.get(word, word)


def single_quality_word(value: float, other: float) -> str:
    """Choose different or, for a gap within FID_GAP, inconclusive for two FIDs that were measured once each.

    The interval of such a ratio is the value times 1 ± FID_GAP, so two single values are never the same.
    """
    return "different" if max(value, other) > (1 + FID_GAP) * min(value, other) else "inconclusive"


def compare_blocks(a: Sequence[Second], b: Sequence[Second], delta: float) -> Comparison:
    """Compare the seconds per step of blocks that were timed interleaved."""
    ratio, low, high = ratio_interval(list(zip(a, b, strict=True)))
    return Comparison(ratio, low, high, decide(low, high, delta))


def compare_rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> Comparison:
    """Compare two measurements of different runs. The relative half-widths of both intervals add in quadrature."""
    ratio = b["images_per_s"] / a["images_per_s"]
    half = math.hypot(*(math.log(row["images_per_s_high"] / row["images_per_s_low"]) / 2 for row in (a, b)))
    low, high = ratio * math.exp(-half), ratio * math.exp(half)
    noise = max(row.get("smallest_difference") or 0.0 for row in (a, b))
    return Comparison(ratio, low, high, difference_word(low, high, b["device"], noise))


def smallest_difference(a_against_a: Comparison, device: str) -> float:
    """Smallest difference, as a share, that a run may claim: the largest that its A/A comparison cannot exclude."""
    return max(DELTA[device], a_against_a.high - 1, 1 - a_against_a.low)


def noise(blocks: Sequence[Second], again: Sequence[Second] | None, device: str) -> float | None:
    """The smallest difference of a run, from blocks of a case and those of its repeat.

    Without a repeat the even blocks stand against the odd ones; None where those are too few.
    """
    if again is None:
        pairs = len(blocks) // 2
        blocks, again = blocks[0::2][:pairs], blocks[1::2][:pairs]
    return smallest_difference(compare_blocks(blocks, again, 0.0), device) if len(blocks) >= LEAST_AA_PAIRS else None
