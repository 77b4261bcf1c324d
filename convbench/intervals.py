"""Medians, percentiles and 95 % intervals of timings. Plain Python: samples are few and reports import this."""

import itertools
import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, median

Z = NormalDist().inv_cdf(0.975)


def percentile(samples: Sequence[float], share: float, at_least: int = 1) -> float | None:
    """The smallest sample with ``share`` of the samples at or below it; None for fewer than ``at_least`` samples."""
    if len(samples) < at_least:
        return None
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def autocorrelation(samples: Sequence[float]) -> float:
    """Correlation of each sample with the next one; 0 where there are too few to tell."""
    if len(samples) < 8:
        return 0.0
    mean = fmean(samples)
    spread = sum((s - mean) ** 2 for s in samples)
    return sum((a - mean) * (b - mean) for a, b in itertools.pairwise(samples)) / spread if spread else 0.0


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the median from order statistics; no assumption on the shape of the noise.

    Samples that follow each other are worth fewer: n shrinks by (1 - r) / (1 + r) where their lag-1
    autocorrelation r exceeds 0.2. Under six samples it is (min, max), which is less than 95 %.
    """
    n = len(samples)
    r = autocorrelation(samples)
    effective = n * (1 - r) / (1 + r) if r > 0.2 else n
    rank = math.floor((n - Z * n / math.sqrt(effective)) / 2) if effective > 0 else 0
    ordered = sorted(samples)
    rank = max(0, rank)
    return ordered[rank], ordered[n - 1 - rank]


def ratio_interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Median of the ratios a / b of paired samples, and its 95 % interval."""
    ratios = [a / b for a, b in pairs]
    return median(ratios), *median_interval(ratios)
