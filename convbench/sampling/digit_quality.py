"""Quality of sampled digits in two figures: the share that a classifier recognises, and a Fréchet distance.

The classifier was trained on real digits (examples/train_digits_classifier.py). Its weights are part of the package,
with the mean and covariance of its features over the real digits, so no download or installation is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..timing.compare import quality_word
from ..tolerances import FEATURE_SHIFT

WEIGHTS = Path(__file__).parents[1] / "weights" / "shipped" / "digits_classifier.safetensors"
FEATURES = 32
RESAMPLINGS = 400  # bootstrap samples
Z = 1.96  # standard deviations of a 95 % interval


class DigitClassifier(nn.Module):
    """Classifier of digits of 8x8 pixels in [-1, 1] into ten classes. (B, 1, 8, 8) -> (B, 10)

    Also holds the ``mean`` (32,) and ``covariance`` (32, 32) of its features over the real digits.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.linear1 = nn.Linear(64 * 2 * 2, FEATURES)
        self.linear2 = nn.Linear(FEATURES, 10)
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("covariance", torch.eye(FEATURES))

    def features(self, x: Tensor) -> Tensor:
        """Compute the input of the last layer. (B, 1, 8, 8) -> (B, 32)"""
        x = F.max_pool2d(F.gelu(self.conv1(x)), 2)
        x = F.max_pool2d(F.gelu(self.conv2(x)), 2)
        return self.linear1(x.flatten(1))

    def whitened(self, features: Tensor) -> Tensor:
        """Transform features so that those of the real digits have mean 0 and covariance 1. (B, 32) -> (B, 32)

        Otherwise the roughly ten directions that separate the classes outweigh all others, which describe how a digit
        is drawn.
        """
        values, vectors = torch.linalg.eigh(self.covariance.double())
        return (features.double() - self.mean) @ (vectors / values.sqrt())

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.features(x)))


@cache
def digit_classifier() -> DigitClassifier:
    """Load the trained classifier in evaluation mode on the CPU."""
    from safetensors.torch import load_file

    classifier = DigitClassifier()
    classifier.load_state_dict(load_file(WEIGHTS))
    return classifier.eval().requires_grad_(False)


@dataclass(frozen=True)
class DigitQuality:
    """Quality figures of samples, each with its 95 % interval."""

    images: int
    recognised: float  # share whose class is the requested one
    recognised_low: float  # Wilson interval
    recognised_high: float
    frechet: float  # between the whitened features of the samples and of the real digits; 0 is best
    frechet_low: float  # bootstrap over the samples of each class
    frechet_high: float

    def difference(self, other: DigitQuality) -> str | None:
        """Describe the figures whose intervals do not overlap those of another quality; None if all overlap."""
        found = []
        for name in ("recognised", "frechet"):
            low, high = (max if end == "low" else min for end in ("low", "high"))
            first = low(getattr(self, f"{name}_low"), getattr(other, f"{name}_low"))
            last = high(getattr(self, f"{name}_high"), getattr(other, f"{name}_high"))
            if first > last:
                found.append(f"{name} {getattr(self, name):.3g} against {getattr(other, name):.3g}")
        return ", ".join(found) or None


@torch.no_grad()
def judge_digits(images: Tensor, classes: Tensor, seed: int = 0) -> DigitQuality:
    """Compute the quality of sampled digits.

    Args:
        images: (B, 1, 8, 8), clamped to [-1, 1], the range of real digits.
        classes: requested classes, (B,).
        seed: of the bootstrap.

    Images that are not finite count as not recognised and make the distance infinite.
    """
    images = images.detach().float().cpu()
    right = (digit_classifier()(images.clamp(-1, 1)).argmax(1) == classes.cpu()) & _finite(images)
    low, high = share_interval(int(right.sum()), len(images))
    distance = frechet_interval(_features(images), classes.cpu(), seed)
    return DigitQuality(len(images), right.float().mean().item(), low, high, *distance)


def _finite(images: Tensor) -> Tensor:
    return images.isfinite().flatten(1).all(1)


@torch.no_grad()
def _features(images: Tensor) -> Tensor:
    """Whitened features of images (B, 1, 8, 8) on the CPU, (B, F); not a number for an image that is not finite."""
    images = images.detach().float().cpu()
    classifier = digit_classifier()
    # Clamped after the test: an infinite pixel would become white.
    return classifier.whitened(classifier.features(images.clamp(-1, 1)).where(_finite(images)[:, None], torch.nan))


def compare_engines(
    images: Mapping[tuple[str, str], Tensor], reference: Tensor, classes: Tensor
) -> list[dict[str, Any]]:
    """Compare engines by their images of the same noise: one row each; ``verdict`` is "ok" or, with a reason, "wrong".

    An engine is wrong if its figures differ from those of the reference, or if its ``shift`` exceeds the limit in
    tolerances.FEATURE_SHIFT for its precision.

    Args:
        images: by (backend, precision), (B, 1, 8, 8) each.
        reference: images of eager PyTorch in fp32, (B, 1, 8, 8).
        classes: requested classes, (B,).
    """
    expected = judge_digits(reference, classes)
    rows = []
    for (backend, precision), own in images.items():
        quality, shift, limit = judge_digits(own, classes), feature_shift(own, reference), FEATURE_SHIFT[precision]
        reasons = [
            quality.difference(expected),
            f"shift {shift:.1e}, at most {limit:.0e} allowed" if shift > limit else None,
        ]
        reason = "; ".join(filter(None, reasons))
        ratio, low, high = frechet_ratio(_features(own), _features(reference), classes.cpu())
        row = {"backend": backend, "precision": precision, **asdict(quality), "shift": shift, "shift_limit": limit}
        row |= {"frechet_ratio": ratio, "frechet_ratio_low": low, "frechet_ratio_high": high}
        row["frechet_difference"] = quality_word(low, high)
        rows.append({**row, "verdict": "wrong" if reason else "ok", "reason": reason})
    return rows


@torch.no_grad()
def feature_shift(images: Tensor, reference: Tensor) -> float:
    """Compute the mean shift of the whitened features of images (B, 1, 8, 8) against a reference with the same noise.

    It is the root mean square over the features of the mean difference over the images; 1 is a standard deviation of
    the real digits. Rounding errors differ from image to image and mostly cancel; the effect of a different formula
    does not. Infinite if the images are not finite.
    """
    classifier = digit_classifier()
    ours, theirs = (classifier.whitened(classifier.features(x.float().cpu().clamp(-1, 1))) for x in (images, reference))
    shift = (ours - theirs).mean(0).square().mean().sqrt().item()
    return shift if math.isfinite(shift) and bool(images.isfinite().all()) else math.inf


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """Compute the 95 % interval of a share (Wilson 1927)."""
    share, square = hits / count, Z * Z / count
    middle = share + square / 2
    half = Z * math.sqrt((share * (1 - share) + square / 4) / count)
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def frechet(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """Squared Fréchet distance of two normal distributions, means (F,) and covariances (F, F).

    Sources: Dowson and Landau 1982; Heusel et al. 2017, eq. 6.

    ||m_a - m_b||^2 + tr(A + B - 2 (A B)^(1/2)); the trace of the root is that of (B^(1/2) A B^(1/2))^(1/2), which is
    symmetric. Computed in float64. Infinite for values that are not finite.
    """
    mean_a, covariance_a, mean_b, covariance_b = (v.double() for v in (mean_a, covariance_a, mean_b, covariance_b))
    if not (mean_a.isfinite().all() and covariance_a.isfinite().all()):
        return math.inf
    values, vectors = torch.linalg.eigh(covariance_b)
    root_b = vectors * values.clamp_min(0).sqrt() @ vectors.T
    root = torch.linalg.eigvalsh(root_b @ covariance_a @ root_b).clamp_min(0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * root
    return max(0.0, distance.item())


def frechet_interval(features: Tensor, classes: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """Compute the distance of features (B, F) from mean 0 and covariance 1, and its 95 % bootstrap interval.

    The number of images per class (B,) was chosen, not drawn, so each class is resampled separately. A resample
    contains duplicates and therefore lies further away than the sample itself; the mean excess is subtracted.
    """
    found, spread = _bootstrapped(features, classes, seed)
    if not math.isfinite(found):
        return math.inf, math.inf, math.inf
    low, high = (found + spread.quantile(q).item() for q in (0.025, 0.975))
    return found, max(0.0, low), high


def frechet_ratio(ours: Tensor, theirs: Tensor, classes: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """Compute the ratio of the distances of two sets of features (B, F), and its 95 % bootstrap interval.

    Row by row both belong to the same class and noise, so the same rows of both are drawn: the interval is that of the
    difference, relative to their distance. Infinite if a distance is, or theirs is 0.
    """
    (own, own_spread), (other, other_spread) = (_bootstrapped(each, classes, seed) for each in (ours, theirs))
    if not (math.isfinite(own) and math.isfinite(other) and other > 0):
        return math.inf, 0.0, math.inf
    low, high = ((own_spread - other_spread).quantile(q).item() / other for q in (0.025, 0.975))
    ratio = own / other
    return ratio, ratio + low, ratio + high


def _bootstrapped(features: Tensor, classes: Tensor, seed: int) -> tuple[float, Tensor]:
    """Distance of features (B, F) from mean 0 and covariance 1, and by how much that of each resample differs."""
    features = features.double()
    mean, covariance = features.new_zeros(features.shape[1]), torch.eye(features.shape[1], dtype=torch.float64)

    def distance(chosen: Tensor) -> float:
        return frechet(chosen.mean(0), chosen.T.cov(), mean, covariance)

    found = distance(features)
    if not math.isfinite(found):
        return math.inf, mean
    generator = torch.Generator().manual_seed(seed)
    groups = [(classes == label).nonzero()[:, 0] for label in classes.unique()]
    picks = [group[torch.randint(len(group), (RESAMPLINGS, len(group)), generator=generator)] for group in groups]
    resampled = torch.tensor([distance(features[chosen]) for chosen in torch.cat(picks, dim=1)], dtype=torch.float64)
    return found, resampled - resampled.mean()
