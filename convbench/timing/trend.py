"""Drift of a series of timings, and the chance that noise alone looks like it."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from statistics import median

from .intervals import autocorrelation


def total_change(samples: Sequence[float]) -> float:
    """Change from the first sample to the last, as a share: of a steady drift, or of a late jump if that is larger.

    The drift is the median of the slopes between all pairs, times their number (Theil 1950, Sen 1968); the jump is
    the median of the last third over that of the first. Both of logarithms; 0 for fewer than six samples.
    """
    third = len(samples) // 3
    if third < 2:
        return 0.0
    logs = [math.log(sample) for sample in samples]
    slope = median((later - earlier) / (j - i) for (i, earlier), (j, later) in combinations(enumerate(logs), 2))
    jump = median(logs[-third:]) - median(logs[:third])
    return math.expm1(max(len(samples) * slope, jump, key=abs))


def chance(samples: Sequence[float]) -> float:
    """Two-sided p of no trend (Mann 1945, Kendall 1975), ties and the normal approximation included.

    As in ``intervals.median_interval``, the variance grows by (1 + r) / (1 - r) where the lag-1 autocorrelation r,
    here of the samples without their drift, exceeds 0.2.
    """
    n = len(samples)
    score = sum((later > earlier) - (later < earlier) for earlier, later in combinations(samples, 2))
    ties = sum(t * (t - 1) * (2 * t + 5) for t in Counter(samples).values())
    variance = (n * (n - 1) * (2 * n + 5) - ties) / 18
    if variance <= 0:
        return 1.0
    drift = total_change(samples)
    r = autocorrelation([sample / (1 + drift * i / n) for i, sample in enumerate(samples)])
    if r > 0.2:
        variance *= (1 + r) / (1 - r)
    return math.erfc(max(0, abs(score) - 1) / math.sqrt(2 * variance))
