"""Verdicts on quality: the words on both sides of each margin, the intervals, and faults that must be "worse"."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import binom
from scripted import fid_files
from sklearn.datasets import load_digits
from torch import Tensor

from convbench.measure.engine import open_engine
from convbench.models.cuts import Cut
from convbench.sampling import caches, guidance, images, verdict
from convbench.sampling.classifier import classifier
from convbench.sampling.feature_network import FeatureNetwork
from convbench.sampling.images import Recipe, sampler_for
from convbench.sampling.judge import Judge
from convbench.sampling.method_names import CacheChoice
from convbench.sampling.verdict import QualityComparison, planned_images, share_difference, word
from convbench.tolerances import QUALITY_MARGINS

DIGITS = classifier("digits")


def compare(ours: Tensor, theirs: Tensor, classes: Tensor, by: Judge = DIGITS) -> QualityComparison:
    return verdict.compare(by.look(ours, classes), by.look(theirs, classes))


COUNT, STEPS = 200, 20


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.11, 0.3, "worse"),
        (0.09, 0.3, "inconclusive"),
        (0.02, 0.09, "same"),
        (-0.5, 0.09, "same"),
        (-0.05, 0.11, "inconclusive"),
        (-0.5, -0.11, "better"),
        (-0.5, -0.09, "same"),
        (0.0, math.inf, "inconclusive"),
        (math.inf, math.inf, "worse"),
    ],
)
def test_a_word_follows_from_the_interval_and_the_margin(low: float, high: float, expected: str) -> None:
    assert word(low, high, 0.1) == expected


def test_the_margins_are_those_that_are_stated() -> None:
    assert QUALITY_MARGINS == {"recognised": 0.03, "frechet": 0.10}


def test_the_interval_of_a_difference_covers_it() -> None:
    """Of 400 matched pairs of which 4 % and 2 % are discordant, over all outcomes that matter: 95 %."""
    count, ours, theirs = 400, 0.04, 0.02
    covered = total = 0.0
    for only_ours in range(40):
        for only_theirs in range(30):
            chance = binom.pmf(only_ours, count, ours) * binom.pmf(only_theirs, count - only_ours, theirs / (1 - ours))
            _, low, high = share_difference(only_ours, only_theirs, count)
            total += chance
            covered += chance * (low <= ours - theirs <= high)
    assert total > 0.999 and 0.945 < covered < 0.97


def test_no_discordant_pairs_leave_a_narrow_interval() -> None:
    difference, low, high = share_difference(0, 0, 620)
    assert difference == 0 and -low == high == pytest.approx(1.96 / 622, rel=1e-3)


def test_enough_images_are_planned_and_as_many_of_each_class() -> None:
    assert planned_images(DIGITS, 62) % 62 == 0
    smaller = {name: margin / 2 for name, margin in QUALITY_MARGINS.items()}
    assert planned_images(DIGITS, 1, smaller) == pytest.approx(4 * planned_images(DIGITS, 1), rel=0.01)


def real(start: int) -> tuple[Tensor, Tensor]:
    data = load_digits()
    kept = torch.cat([(torch.from_numpy(data.target) == digit).nonzero()[start::5][:30, 0] for digit in range(10)])
    pixels = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    return pixels[kept], torch.from_numpy(data.target)[kept]


def test_the_same_images_are_the_same_and_noise_is_worse() -> None:
    pixels, classes = real(0)
    found = compare(pixels, pixels, classes)
    assert (found.word, found.frechet_ratio, found.recognised_difference, found.drift) == ("same", 1, 0, 0)
    noisy = pixels + 1.5 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    assert compare(noisy, pixels, classes).word == "worse"
    assert compare(pixels, noisy, classes).word == "better"
    one_lost = noisy.where(torch.arange(300)[:, None, None, None] > 0, torch.nan)
    assert compare(one_lost, pixels, classes).word == "worse"


def test_few_images_are_inconclusive() -> None:
    pixels, classes = real(0)
    other = real(1)[0]
    chosen = torch.arange(0, 300, 10)
    assert compare(other[chosen], pixels[chosen], classes[chosen]).word == "inconclusive"


# ---- faults ----

Change = Callable[[Cut], Cut]


def sampled(
    sampler: str, steps: int, text: str | None = None, change: Change | None = None, swap: bool = False
) -> Tensor:
    """Digits of DiCo with a cache, or with a fault: in its cut, or in the halves of guidance."""
    recipe = Recipe("dico_digits", 8, None, sampler, steps, 1.5, None, 0, tuple(range(10)), "eager", "fp32", None)
    made = sampler_for(recipe.variant, sampler, steps)
    weights = str(recipe.variant.shipped_weights)
    with pytest.MonkeyPatch.context() as patched:
        if text:
            recipe = Recipe(**{**vars(recipe), "cache": CacheChoice.of_text(text)})
        if change:
            begin = caches.begin
            patched.setattr(caches, "begin", lambda choice, cut: begin(choice, change(cut)))
        if swap:
            combine = guidance.combine
            patched.setattr(guidance, "combine", lambda out, *rest: combine(torch.cat(out.chunk(2)[::-1]), *rest))
        with open_engine(recipe, COUNT, "cpu", weights) as step:
            (done,) = images.sample(recipe, step, made, range(COUNT), COUNT, "cpu", lambda finished, step: None)
    return done.samples.clone()


def of_another_image(cut: Cut) -> Cut:
    return Cut(cut.enter, lambda *entered: cut.inner(*entered).roll(1, 0), cut.leave)


def off_by_one_step(cut: Cut) -> Cut:
    """What the inner part returns is that of the full step before."""
    before: list[Tensor] = []

    def inner(*entered: Tensor) -> Tensor:
        before.append(cut.inner(*entered))
        return before[max(0, len(before) - 2)]

    return Cut(cut.enter, inner, cut.leave)


@pytest.fixture(scope="module")
def reference() -> Tensor:
    return sampled("iddpm", STEPS)


CLASSES = torch.arange(COUNT) % 10


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """A feature network, with statistics of real digits."""
    pixels = torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1
    return FeatureNetwork(*fid_files(tmp_path_factory.mktemp("fid"), pixels), 8, "cpu")


@pytest.mark.slow
def test_a_right_cache_is_not_worse(reference: Tensor) -> None:
    found = compare(sampled("iddpm", STEPS, "deep:every=2"), reference, CLASSES)
    assert found.word in ("same", "inconclusive", "better"), found.reason


@pytest.mark.slow
@pytest.mark.parametrize("change", [of_another_image, off_by_one_step])
def test_a_wrong_cache_is_worse(reference: Tensor, network: Judge, change: Change) -> None:
    """To the classifier, and by its FID alone."""
    wrong = sampled("iddpm", STEPS, "deep:every=2", change)
    for by in (DIGITS, network):
        found = compare(wrong, reference, CLASSES, by)
        assert found.word == "worse", found.reason


@pytest.mark.slow
def test_swapped_halves_of_guidance_are_worse(reference: Tensor) -> None:
    found = compare(sampled("iddpm", STEPS, swap=True), reference, CLASSES)
    assert found.word == "worse", found.reason
