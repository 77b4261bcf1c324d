"""Medians, percentiles and 95 % intervals of timings. Plain Python: samples are few, and reports import this."""

import itertools
import math
from collections.abc import Sequence
from functools import cache
from statistics import fmean, median


def percentile(samples: Sequence[float], share: float, at_least: int = 1) -> float | None:
    """Smallest sample with ``share`` of the samples at or below it; None for fewer than ``at_least`` samples."""
    if len(samples) < at_least:
        return None
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def autocorrelation(samples: Sequence[float]) -> float:
    """Correlation of each sample with the next; 0 for fewer than 8 samples."""
    if len(samples) < 8:
        return 0.0
    mean = fmean(samples)
    spread = sum((s - mean) ** 2 for s in samples)
    return sum((a - mean) * (b - mean) for a, b in itertools.pairwise(samples)) / spread if spread else 0.0


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median from order statistics; no assumption on the shape of the noise.

    Correlated samples count for fewer: n shrinks by (1 - r) / (1 + r) if their lag-1 autocorrelation r exceeds 0.2.
    For fewer than six samples it is (min, max), which covers less than 95 %.
    """
    n = len(samples)
    r = autocorrelation(samples)
    effective = n * (1 - r) / (1 + r) if r > 0.2 else n
    count = max(1, math.floor(effective))
    rank = n * _samples_outside(count) // count
    ordered = sorted(samples)
    return ordered[rank], ordered[n - 1 - rank]


@cache
def _samples_outside(n: int) -> int:
    """Largest number of n samples that may lie outside on each side: 2 P(Binomial(n, 1/2) <= it) is at most 5 %."""
    outside, tail = 0, 1 + n
    while 40 * tail <= 2**n:
        outside += 1
        tail += math.comb(n, outside + 1)
    return outside


def ratio_interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Median of the ratios a / b of paired samples, and its 95 % interval."""
    ratios = [a / b for a, b in pairs]
    return median(ratios), *median_interval(ratios)
