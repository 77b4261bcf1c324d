"""The Fréchet distance in the span of few images, against scipy's formula; its influences, resamples and floor."""

import math

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from convbench.sampling import frechet
from convbench.sampling.frechet import FeatureSet, Statistics


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(features: int, seed: int = 0, biased: bool = False) -> Statistics:
    """Statistics whose standard deviations span two orders of magnitude, as those of Inception's features do."""
    mixed = drawn(seed, features, features) / math.sqrt(features)
    covariance = mixed @ torch.logspace(-2, 0, features, dtype=torch.float64).diag() @ mixed.T
    return Statistics(drawn(seed + 1, features), (covariance + covariance.T) / 2, biased)


def plain(real: Statistics, features: Tensor) -> float:
    """The published formula, with the root of the product by scipy."""
    mean, covariance = features.mean(0), features.T.cov()
    root = sqrtm((covariance @ real.covariance).numpy()).real.trace()
    return ((mean - real.mean).square().sum() + (covariance + real.covariance).trace()).item() - 2 * float(root)


def of(real: Statistics, count: int, seed: int = 9) -> Tensor:
    """Features of images that differ a little from the real ones."""
    return real.mean + 0.1 + 1.1 * drawn(seed, count, len(real.mean)) @ real.root.T


@pytest.mark.parametrize("count", [5, 16, 17, 90])
def test_the_distance_in_the_span_of_few_images_is_that_of_the_formula(count: int) -> None:
    """With fewer, as many and more images than features; scipy's root of a singular product is good to its root."""
    real = correlated(16)
    features = of(real, count)
    found = FeatureSet(real, features).distance
    assert found == pytest.approx(plain(real, features), rel=1e-9 if count > 16 else 1e-6)
    # The same by the singular values of X B, where no matrix is squared.
    values = torch.linalg.svdvals((features - features.mean(0)) @ real.root) / math.sqrt(count - 1)
    trace = features.T.cov().trace() + real.covariance.trace()
    expected = (features.mean(0) - real.mean).square().sum() + trace - 2 * values.sum()
    assert found == pytest.approx(expected.item(), rel=1e-9)


def test_distance_by_hand() -> None:
    """The sum of (m1 - m2)^2 + (s1 - s2)^2 over two independent dimensions."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    features = torch.tensor([0.0, 1.0]) + math.sqrt(3 / 4) * corners * torch.tensor([2.0, 3.0])
    real = Statistics(torch.tensor([3.0, 1.0]).double(), torch.tensor([1.0, 25.0]).double().diag())
    assert FeatureSet(real, features).distance == pytest.approx(9 + (2 - 1) ** 2 + (3 - 5) ** 2, rel=1e-12)


def test_distance_to_itself_is_zero_even_for_constant_features() -> None:
    features = drawn(0, 40, 3) @ drawn(1, 3, 8)  # of rank 3
    real = Statistics(features.mean(0), features.T.cov())
    assert FeatureSet(real, features).distance == pytest.approx(0, abs=1e-6 * real.covariance.trace().item())


def test_distance_of_infinite_values_is_infinite() -> None:
    for value in (math.nan, math.inf):
        features = drawn(0, 9, 2)
        features[4, 1] = value
        assert FeatureSet(Statistics(drawn(1, 2), torch.eye(2).double()), features).distance == math.inf


def test_counts_are_repeated_images() -> None:
    real = correlated(6)
    features = of(real, 5)
    counts = torch.tensor([2.0, 0, 1, 3, 1], dtype=torch.float64)
    repeated = features.repeat_interleave(counts.long(), dim=0)
    assert FeatureSet(real, features).distance_of(counts) == pytest.approx(plain(real, repeated), rel=1e-6)


@pytest.mark.parametrize("count", [6, 12, 60])
def test_the_influence_of_an_image_is_the_derivative_by_its_weight(count: int) -> None:
    real = correlated(12)
    images = FeatureSet(real, of(real, count))
    step = 1e-4
    for image in range(4):
        towards = torch.zeros(count, dtype=torch.float64)
        towards[image] = count
        ends = [images.distance_of((1 - sign) * torch.ones(count).double() + sign * towards) for sign in (step, -step)]
        assert images.influence[image].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-2, abs=1e-3)
    assert images.influence.sum().item() == pytest.approx(0, abs=1e-6)


def test_the_linear_part_of_resamples_varies_as_other_samples_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spread of the difference of two samples of the same noise, over 60 pairs, is what one pair says."""
    real, count = correlated(24), 40
    groups = torch.zeros(count)
    pairs = []
    for seed in range(60):
        ours = of(real, count, seed)
        theirs = ours + 0.2 * drawn(1000 + seed, count, 24) @ real.root.T
        pairs.append((FeatureSet(real, ours), FeatureSet(real, theirs)))
    spread = torch.tensor([ours.distance - theirs.distance for ours, theirs in pairs]).std().item()
    exact = (pairs[0][0].resampled(groups) - pairs[0][1].resampled(groups)).std().item()
    monkeypatch.setattr(frechet, "EXACT_SIDE", 0)
    linear = (pairs[0][0].resampled(groups) - pairs[0][1].resampled(groups)).std().item()
    assert 0.8 * spread < linear < 2 * spread  # rather too wide than too narrow
    assert 0.8 * spread < exact < 3 * spread


def test_resamples_take_each_group_apart_and_the_same_images_of_two_samples() -> None:
    real = correlated(4)
    one = FeatureSet(real, of(real, 6))
    assert one.resampled(torch.arange(6)).abs().max() == pytest.approx(0, abs=1e-12)  # of one image each
    assert one.resampled(torch.zeros(6)).std() > 0
    assert torch.equal(one.resampled(torch.zeros(6)), FeatureSet(real, of(real, 6)).resampled(torch.zeros(6)))


def test_the_floor_is_what_as_many_images_of_the_reference_measure() -> None:
    real = correlated(16, biased=True)
    found = [FeatureSet(real, real.mean + drawn(seed, 20, 16) @ real.root.T).distance for seed in range(100)]
    assert real.floor(20) == pytest.approx(sum(found) / len(found), rel=0.05)
    assert real.floor(20) > 2 * real.floor(80) > 4 * real.floor(400) > 0
    assert correlated(16).floor(20) == 0  # of a judge that does not ask for it


def test_what_exceeds_the_floor_depends_less_on_the_number_of_images() -> None:
    """Of 20 images and of 400: the floor is most of the distance of the few."""
    real = correlated(16, biased=True)

    def mean_of(count: int) -> float:
        return sum(FeatureSet(real, of(real, count, seed)).distance for seed in range(40)) / 40

    few, many = mean_of(20), mean_of(400)
    assert few > 2 * many
    assert few - real.floor(20) == pytest.approx(many - real.floor(400), rel=0.6)
