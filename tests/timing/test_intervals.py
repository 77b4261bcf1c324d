"""Intervals compared with the exact binomial distribution, simulations with a fixed seed, and numpy."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from convbench.timing.intervals import autocorrelation, median_interval, percentile, ratio_interval

COVERED = 0.93  # of 95 %: 2,000 draws leave a standard error of half a percent
DRAWS = 2000


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal(shape)


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.lognormal(0, 1, shape) - 1  # a median of 0, and a long tail like that of timings


def share_outside(n: int, outside: int) -> float:
    """Probability that the median lies below the sample with ``outside`` ones below it, or above its counterpart."""
    return 2 * sum(math.comb(n, k) for k in range(outside + 1)) / 2**n


def alternating(n: int) -> list[float]:
    """List 0 … n-1 from the ends inwards, so that neighbours differ and their correlation is negative."""
    return [float(i // 2 if i % 2 == 0 else n - 1 - i // 2) for i in range(n)]


@pytest.mark.parametrize("n", range(6, 61))
def test_median_interval_is_the_narrowest_of_95_percent(n: int) -> None:
    low, high = median_interval(alternating(n))
    outside = int(low)
    assert high == n - 1 - outside
    assert share_outside(n, outside) <= 0.05
    assert share_outside(n, outside + 1) > 0.05


@pytest.mark.parametrize("draw", [normal, skewed])
def test_median_interval_covers_the_median(draw: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(20260726)
    covered = {}
    for n in (6, 7, 8, 9, 11, 14, 15, 16, 20, 21, 26, 31, 43, 60):
        intervals = [median_interval(samples) for samples in draw(rng, (DRAWS, n)).tolist()]
        covered[n] = sum(low <= 0 <= high for low, high in intervals) / DRAWS
    assert {n: share for n, share in covered.items() if share < COVERED} == {}


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_interval_of_fewer_than_six_samples_is_their_range(n: int) -> None:
    samples = [float(7 * i % 5) for i in range(n)]
    assert median_interval(samples) == (min(samples), max(samples))


def ar1(rng: np.random.Generator, rho: float, n: int) -> np.ndarray:
    noise = rng.standard_normal(n + 100)
    series = np.zeros_like(noise)
    for i in range(1, len(noise)):
        series[i] = rho * series[i - 1] + noise[i]
    return series[100:]


@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.3, 0.9])
def test_autocorrelation_equals_numpy(rho: float) -> None:
    series = ar1(np.random.default_rng(3), rho, 400)
    centred = series - series.mean()
    expected = np.correlate(centred, centred, "full")[len(series)] / np.dot(centred, centred)
    assert autocorrelation(series.tolist()) == pytest.approx(expected, abs=1e-12)
    assert expected == pytest.approx(rho, abs=0.12)


def test_autocorrelation_of_too_few_or_equal_samples_is_zero() -> None:
    assert autocorrelation([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == 0.0
    assert autocorrelation([2.5] * 20) == 0.0


def test_correlated_samples_widen_the_interval() -> None:
    """A slow wave of 60 samples has r near 1, so it counts as a few samples; shuffled, its values count in full."""
    wave = [math.sin(2 * math.pi * i / 60) for i in range(60)]
    shuffled = np.random.default_rng(1).permutation(wave).tolist()
    assert autocorrelation(wave) > 0.9
    assert abs(autocorrelation(shuffled)) < 0.2
    assert median_interval(wave) == (min(wave), max(wave))
    low, high = median_interval(shuffled)
    assert (low, high) == (sorted(wave)[21], sorted(wave)[38])  # 2 P(Binomial(60, 1/2) <= 21) = 2.7 %


def test_the_widened_interval_covers_the_median_of_correlated_samples() -> None:
    """AR(1) with 0.6: 40 samples count as 10. Plain order statistics cover the median in about 76 % of cases."""
    rng, plain, widened = np.random.default_rng(5), 0, 0
    for _ in range(1000):
        samples = ar1(rng, 0.6, 40).tolist()
        low, high = median_interval(samples)
        widened += low <= 0 <= high
        plain += sorted(samples)[13] <= 0 <= sorted(samples)[26]  # 2 P(Binomial(40, 1/2) <= 13) = 3.8 %
    assert plain / 1000 < 0.85
    assert widened / 1000 > COVERED


@pytest.mark.parametrize(
    ("samples", "share", "at_least", "expected"),
    [
        ([7.0], 0.9, 1, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 1, 2.0),
        ([4.0, 1.0, 2.0, 3.0], 0.5, 1, 2.0),  # the lower of the two in the middle
        ([float(i) for i in range(1, 11)], 0.9, 10, 9.0),
        ([float(i) for i in range(1, 10)], 0.9, 10, None),
        ([float(i) for i in range(100, 0, -1)], 0.99, 100, 99.0),
        ([float(i) for i in range(100)], 1.0, 100, 99.0),
        ([5.0], 0.0, 1, 5.0),
        ([], 0.5, 1, None),
    ],
)
def test_percentile(samples: list[float], share: float, at_least: int, expected: float | None) -> None:
    assert percentile(samples, share, at_least) == expected


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9, 0.99])
def test_percentile_equals_the_inverted_cdf_of_numpy(share: float) -> None:
    samples = np.random.default_rng(0).lognormal(size=137)
    expected = np.quantile(samples, share, method="inverted_cdf")
    assert percentile(samples.tolist(), share) == expected


def test_ratio_interval_of_known_pairs() -> None:
    """Seven pairs give the median of the ratios and their range, as P(Binomial(7, 1/2) <= 1) exceeds 2.5 %."""
    pairs = [(2.0, 1.0), (3.0, 1.0), (9.0, 3.0), (4.0, 1.0), (1.0, 1.0), (10.0, 2.0), (6.0, 2.0)]
    assert ratio_interval(pairs) == (3.0, 1.0, 5.0)


def test_ratio_interval_cancels_common_drift() -> None:
    """Drift by a factor of five changes both samples of a pair, not their ratio."""
    pairs = [(1.1 * drift, drift) for drift in np.linspace(1, 5, 20).tolist()]
    ratio, low, high = ratio_interval(pairs)
    assert (ratio, low, high) == pytest.approx((1.1, 1.1, 1.1), rel=1e-12)


def test_one_sample_is_every_percentile_unless_more_are_asked_for() -> None:
    assert (percentile([7.0], 0.5), percentile([7.0], 0.5, 2), percentile([], 0.5)) == (7.0, None, None)
