"""The words for a difference, on both sides of every threshold, and whose noise a comparison has to exceed."""

import math
from typing import Any

import pytest

from convbench.timing import compare
from convbench.timing.compare import (
    Comparison,
    compare_blocks,
    compare_rows,
    decide,
    difference_word,
    quality_word,
    single_quality_word,
    smallest_difference,
)
from convbench.tolerances import FID_GAP

DELTA = {"cpu": 0.03, "cuda": 0.01}


def test_the_least_differences_are_those_of_the_protocol() -> None:
    assert (compare.DELTA, compare.LEAST_PAIRS) == (DELTA, 20)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.031, 1.05, "faster"),
        (1.03, 1.05, "unclear"),  # not beyond
        (1.029, 1.031, "unclear"),
        (0.95, 0.969, "slower"),
        (0.95, 0.97, "unclear"),
        (0.969, 0.971, "unclear"),
        (0.97, 1.03, "same"),
        (0.9699, 1.0, "unclear"),
        (1.0, 1.0301, "unclear"),
        (0.9, 1.1, "unclear"),
    ],
)
def test_a_difference_is_claimed_only_beyond_delta(low: float, high: float, expected: str) -> None:
    assert decide(low, high, 0.03) == expected


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.31, 1.4, "faster"),
        (1.2, 1.29, "unclear"),
        (0.6, 0.69, "slower"),
        (0.71, 0.8, "unclear"),
        (0.98, 1.02, "same"),
        (0.96, 1.02, "unclear"),  # within the noise of the run, and still not the same
        (0.98, 1.04, "unclear"),
    ],
)
def test_noise_hides_differences_on_both_sides_and_makes_nothing_the_same(
    low: float, high: float, expected: str
) -> None:
    assert difference_word(low, high, "cpu", 0.3) == expected
    assert decide(low, high, 0.3, 0.03) == expected


@pytest.mark.parametrize("device", DELTA)
@pytest.mark.parametrize("noise", [None, 0.0, 0.001])
def test_no_run_claims_less_than_its_device_allows(device: str, noise: float | None) -> None:
    delta = DELTA[device]
    assert difference_word(1 + delta + 1e-6, 2.0, device, noise) == "faster"
    assert difference_word(1 + delta - 1e-6, 2.0, device, noise) == "unclear"
    assert difference_word(0.5, 1 - delta - 1e-6, device, noise) == "slower"
    assert difference_word(0.5, 1 - delta + 1e-6, device, noise) == "unclear"
    assert difference_word(1 - delta + 1e-6, 1 + delta - 1e-6, device, noise) == "same"


def test_a_ratio_above_1_says_that_b_is_faster() -> None:
    a, b = [0.2, 0.22, 0.21, 0.2, 0.22, 0.2], [0.1, 0.11, 0.105, 0.1, 0.11, 0.1]
    assert compare_blocks(a, b, 0.03) == Comparison(
        pytest.approx(2.0), pytest.approx(2.0), pytest.approx(2.0), "faster"
    )
    assert compare_blocks(b, a, 0.03).difference == "slower"
    assert compare_blocks(a, a, 0.03) == Comparison(1.0, 1.0, 1.0, "same")


def row(speed: float, half: float = 0.0, **other: Any) -> dict[str, Any]:
    """A measurement whose interval is ``half`` of its speed to either side, on a logarithmic scale."""
    bounds = {"images_per_s_low": speed * math.exp(-half), "images_per_s_high": speed * math.exp(half)}
    return {"images_per_s": speed, **bounds, "device": "cpu", "smallest_difference": None} | other


def test_half_widths_of_two_runs_add_in_quadrature() -> None:
    found = compare_rows(row(10.0, 0.03), row(12.0, 0.04))
    assert (found.ratio, found.difference) == (1.2, "faster")
    assert (found.low, found.high) == pytest.approx((1.2 * math.exp(-0.05), 1.2 * math.exp(0.05)), rel=1e-12)


@pytest.mark.parametrize("noisy", ["a", "b"])
@pytest.mark.parametrize(
    ("speed", "noise", "expected"),
    [
        (12.0, 0.19, "faster"),
        (12.0, 0.21, "unclear"),
        (8.0, 0.19, "slower"),
        (8.0, 0.21, "unclear"),
        (10.0, 0.21, "same"),
    ],
)
def test_the_noise_of_either_run_counts(noisy: str, speed: float, noise: float, expected: str) -> None:
    rows = {"a": row(10.0), "b": row(speed)}
    rows[noisy]["smallest_difference"] = noise
    assert compare_rows(rows["a"], rows["b"]).difference == expected


@pytest.mark.parametrize("device", DELTA)
def test_runs_without_an_aa_comparison_are_told_apart_beyond_the_delta_of_the_device(device: str) -> None:
    beyond, within = 1 + 1.1 * DELTA[device], 1 + 0.9 * DELTA[device]
    one = row(10.0, device=device)
    assert compare_rows(one, row(10.0 * beyond, device=device)).difference == "faster"
    assert compare_rows(one, row(10.0 * within, device=device)).difference == "same"
    assert compare_rows(one, row(10.0 / beyond**1.2, device=device)).difference == "slower"
    assert compare_rows(one, row(10.0 / within, device=device)).difference == "same"


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.99, 1.01, 0.03), (0.9, 1.01, 0.1), (0.99, 1.2, 0.2), (0.8, 1.1, 0.2)]
)
def test_the_smallest_difference_is_the_farther_end_of_the_aa_comparison(
    low: float, high: float, expected: float
) -> None:
    assert smallest_difference(Comparison(1.0, low, high, ""), "cpu") == pytest.approx(expected, abs=1e-12)
    assert smallest_difference(Comparison(1.0, 0.995, 1.005, ""), "cuda") == 0.01


# ---- words for a difference in quality ----


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.0, 1.0, "same"),
        (0.988, 1.012, "same"),
        (0.986, 1.012, "inconclusive"),
        (0.988, 1.014, "inconclusive"),
        (0.5, 2.0, "inconclusive"),
        (1.012, 1.2, "inconclusive"),
        (1.014, 1.2, "different"),
        (0.8, 0.986, "different"),
        (0.8, 0.988, "inconclusive"),
        (0.0, math.inf, "inconclusive"),
    ],
)
def test_the_word_for_two_frechet_distances_follows_from_their_interval(low: float, high: float, expected: str) -> None:
    assert quality_word(low, high) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (2.0, 2.0, "inconclusive"),
        (2.0, 2.025, "inconclusive"),
        (2.025, 2.0, "inconclusive"),
        (2.0, 2.027, "different"),
        (2.027, 2.0, "different"),
        (62.3, 9.62, "different"),
    ],
)
def test_single_fids_are_never_the_same(a: float, b: float, expected: str) -> None:
    """A gap within 1.3 % is what another training seed makes."""
    assert FID_GAP == 0.013
    assert single_quality_word(a, b) == expected


def test_the_noise_of_a_run_is_that_of_its_repeat_or_of_its_own_halves() -> None:
    blocks = [1.0, 2.0] * 3
    apart = compare.noise(blocks, None, "cpu")  # even blocks against odd ones
    halves = compare_blocks([1.0] * 3, [2.0] * 3, 0.0)
    assert apart == compare.smallest_difference(halves, "cpu") >= 0.5
    assert compare.noise([*blocks, 9.0], None, "cpu") == apart  # of an odd number the last has no partner
    assert compare.noise(blocks, blocks, "cpu") == compare.DELTA["cpu"]
    assert compare.noise(blocks[:4], None, "cpu") is None and compare.noise(blocks[:2], blocks[:2], "cpu") is None
    assert compare.noise(blocks[:3], blocks[:3], "cpu") is not None  # three pairs are enough


def test_single_fids_exactly_the_gap_apart_are_inconclusive() -> None:
    assert single_quality_word(1.0, 1 + FID_GAP) == single_quality_word(1 + FID_GAP, 1.0) == "inconclusive"
    assert single_quality_word(1.0, math.nextafter(1 + FID_GAP, 2)) == "different"


def test_unpaired_blocks_are_not_compared() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare_blocks([1.0] * 6, [1.0] * 7, 0.03)


@pytest.mark.parametrize("noise", [0.0, None])
def test_a_run_without_noise_claims_what_its_device_allows_exactly(noise: float | None) -> None:
    assert difference_word(1.03, 2.0, "cpu", noise) == "unclear"
    assert difference_word(math.nextafter(1.03, 2), 2.0, "cpu", noise) == "faster"
    assert difference_word(0.5, 0.97, "cpu", noise) == "unclear"
    assert difference_word(0.5, math.nextafter(0.97, 0), "cpu", noise) == "slower"
    assert difference_word(0.97, 1.03, "cpu", noise) == "same"
