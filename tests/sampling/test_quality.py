"""Quality of sampled digits: the intervals of both figures, the classifier."""

import hashlib
import json
import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from convbench.sampling.classifier import classifier, weights
from convbench.sampling.frechet import Statistics
from convbench.sampling.judge import JudgedImages
from convbench.sampling.quality import ImageQuality, frechet_interval, frechet_ratio, judge, share_interval

DIGITS = classifier("digits")


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen(features: Tensor, classes: Tensor) -> JudgedImages:
    """Features beside a standard normal distribution."""
    count = features.shape[1]
    return JudgedImages(Statistics(torch.zeros(count).double(), torch.eye(count).double()), features, classes)


@pytest.fixture(scope="module")
def real() -> tuple[Tensor, Tensor]:
    """Load the digits that the classifier was trained on: images (1797, 1, 8, 8) in [-1, 1], classes."""
    data = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 8 - 1, torch.from_numpy(data.target)


# ---- the intervals ----


def test_interval_of_the_distance_covers_other_samples() -> None:
    """The intervals of 40 samples of 60 must cover the mean distance of such samples in about 95 % of cases."""
    classes = torch.arange(60) % 3  # each class has a different mean
    samples = [0.5 * classes[:, None] + 1.2 * drawn(seed, 60, 4) for seed in range(40)]
    found = [frechet_interval(seen(sample, classes)) for sample in samples]
    expected = sum(distance for distance, _, _ in found) / len(found)
    held = sum(low <= expected <= high for _, low, high in found)
    assert 35 <= held <= 40
    not_finite = torch.full((9, 2), math.inf)
    assert frechet_interval(seen(not_finite, torch.zeros(9))) == (math.inf, math.inf, math.inf)
    assert all(low <= distance <= high for distance, low, high in found)
    assert frechet_interval(seen(samples[0], classes)) == found[0]  # the same seed


def test_interval_of_a_share_is_the_wilson_interval() -> None:
    """The Wilson interval of 90 in 100, as in tables, and at the ends, where a symmetric interval would be empty."""
    assert share_interval(90, 100) == pytest.approx((0.8256, 0.9448), abs=5e-5)
    assert share_interval(10, 10)[0] == pytest.approx(0.7225, abs=5e-5)
    assert share_interval(0, 10) == pytest.approx((0, 0.2775), abs=5e-5)


def test_figures_differ_if_their_intervals_do_not_overlap() -> None:
    one = ImageQuality(100, 0.95, 0.90, 0.98, 2.0, 1.5, 2.5)
    assert one.difference(one) is None
    assert one.difference(ImageQuality(100, 0.93, 0.86, 0.97, 2.6, 2.4, 3.0)) is None
    assert one.difference(ImageQuality(100, 0.70, 0.60, 0.79, 2.0, 1.5, 2.5)) == "recognised 0.95 against 0.7"
    assert ImageQuality(100, 0.95, 0.90, 0.98, 3.0, 2.6, 3.5).difference(one) == "frechet 3 against 2"


def test_a_ratio_of_distances_has_the_interval_of_the_same_resamples() -> None:
    """Features of the same noise move together: their ratio is known better than either distance."""
    theirs, classes = 0.5 * drawn(5, 200, 8) + 0.3, torch.arange(200) % 10
    other = seen(theirs, classes)
    assert frechet_ratio(other, other) == (1.0, 1.0, 1.0)
    own = seen(1.01 * theirs, classes)
    ratio, low, high = frechet_ratio(own, other)
    (distance, first, last), (from_real, lowest, highest) = frechet_interval(own), frechet_interval(other)
    assert ratio == pytest.approx(distance / from_real) and low < ratio < high
    assert high - low < 0.5 * (last - first) / from_real
    assert first < highest and lowest < last  # apart they say nothing
    unrelated = frechet_ratio(seen(0.5 * drawn(6, 200, 8) + 0.3, classes), other)
    assert unrelated[2] - unrelated[1] > 5 * (high - low)
    lost = seen(theirs * math.inf, classes)
    assert frechet_ratio(lost, other) == (math.inf, math.inf, math.inf)
    assert frechet_ratio(other, lost) == frechet_ratio(lost, lost) == (math.inf, 0.0, math.inf)


def test_without_a_distance_to_compare_with_only_what_is_surely_larger_is_worse() -> None:
    """A floor above the reference's distance leaves nothing for a ratio."""
    real = Statistics(torch.zeros(2).double(), torch.eye(2).double(), biased=True, floors={40: 5.0})
    near, further = (JudgedImages(real, drawn(7, 40, 2) + shift, torch.zeros(40)) for shift in (0, 9))
    assert near.distance < near.floor == 5
    assert frechet_ratio(further, near) == (math.inf, math.inf, math.inf)
    assert frechet_ratio(near, near) == (math.inf, 0.0, math.inf)


# ---- the classifier ----


def test_the_record_matches_the_shipped_classifier(real: tuple[Tensor, Tensor]) -> None:
    record = json.loads(weights("digits").with_suffix(".json").read_text("utf-8"))
    assert record["sha256"] == hashlib.sha256(weights("digits").read_bytes()).hexdigest()
    images, classes = real
    held_out = torch.arange(len(images)) % 5 == 4
    right = (DIGITS(images).argmax(1) == classes).float()
    assert right[held_out].mean().item() == pytest.approx(record["held_out_accuracy"], abs=1e-6)
    assert right[held_out].mean().item() >= 0.98


def test_real_digits_are_recognised_at_zero_distance(real: tuple[Tensor, Tensor]) -> None:
    images, classes = real
    whole = judge(DIGITS, images, classes)
    assert whole.recognised >= 0.99
    assert whole.frechet == pytest.approx(0, abs=1e-3)
    part = judge(DIGITS, images[::9], classes[::9])  # 200 digits, as many as are sampled
    assert part.images == 200
    assert part.recognised_low <= whole.recognised <= part.recognised_high
    assert 0 < part.frechet_low <= part.frechet <= part.frechet_high


def test_noise_wrong_classes_and_low_variety_are_detected(real: tuple[Tensor, Tensor]) -> None:
    images, classes = (v[::9] for v in real)
    good = judge(DIGITS, images, classes)
    noise = judge(DIGITS, drawn(3, 200, 1, 8, 8), classes)
    assert noise.recognised_high < 0.3
    assert noise.frechet_low > 5 * good.frechet_high
    shifted = judge(DIGITS, images, (classes + 1) % 10)  # the same images with wrong requested classes
    assert shifted.recognised_high < 0.05
    assert shifted.frechet == good.frechet
    only_ones = judge(DIGITS, images[classes == 1], classes[classes == 1])  # all correct, but no variety
    assert only_ones.recognised_low > 0.7
    assert only_ones.frechet_low > 5 * good.frechet_high


def test_images_that_are_not_finite_are_not_recognised(real: tuple[Tensor, Tensor]) -> None:
    images, classes = real[0][:20].clone(), real[1][:20]
    images[3, 0, 4, 4] = math.nan
    images[7, 0, 0, 0] = math.inf
    found = judge(DIGITS, images, classes)
    assert found.recognised <= 18 / 20
    assert found.frechet == math.inf
