"""Drift of a series and its chance, against values worked out by hand."""

import math
import random

import pytest

from convbench.timing import trend


def test_a_steady_drift_is_its_slope_times_the_samples() -> None:
    assert trend.total_change([1.05 ** (i / 10) for i in range(10)]) == pytest.approx(0.05)
    assert trend.total_change([0.95 ** (i / 10) for i in range(10)]) == pytest.approx(-0.05)


def test_a_late_jump_is_that_of_the_last_third() -> None:
    assert trend.total_change([1.0] * 8 + [1.05] * 4) == pytest.approx(0.05)


def test_five_samples_show_no_drift() -> None:
    assert trend.total_change([1.0, 2.0, 3.0, 4.0, 5.0]) == 0


def test_chance_of_six_rising_samples() -> None:
    """Score 15, variance 6 * 5 * 17 / 18: z = 14 / sqrt(28.33)."""
    assert trend.chance([1, 2, 3, 4, 5, 6]) == pytest.approx(math.erfc(14 / math.sqrt(2 * 6 * 5 * 17 / 18)))


def test_equal_samples_have_no_trend() -> None:
    assert trend.chance([1.0] * 10) == 1.0


def test_ties_shrink_the_variance() -> None:
    """Score 9 of two groups of three; variance (510 - 2 * 3 * 2 * 11) / 18 = 21."""
    assert trend.chance([1, 1, 1, 2, 2, 2]) == pytest.approx(math.erfc(8 / math.sqrt(2 * 21)))


def test_trendless_noise_is_rejected_as_often_as_asked() -> None:
    """Of 1,000 series of white noise, about a fifth lie below p = 0.2, and a twentieth below 0.05."""
    rng = random.Random(0)
    found = [trend.chance([rng.gauss(1, 0.02) for _ in range(20)]) for _ in range(1000)]
    assert 0.13 < sum(p <= 0.2 for p in found) / 1000 < 0.23
    assert 0.02 < sum(p <= 0.05 for p in found) / 1000 < 0.06


def test_autocorrelated_noise_is_no_trend() -> None:
    """A random walk of short memory: without the correction over a third would lie below p = 0.2."""
    rng = random.Random(0)
    below = 0
    for _ in range(500):
        level, samples = 0.0, []
        for _ in range(30):
            level = 0.6 * level + rng.gauss(0, 0.01)
            samples.append(1 + level)
        below += trend.chance(samples) <= 0.2
    assert below / 500 < 0.3
