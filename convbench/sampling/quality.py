"""Quality of sampled images in two figures: the share that a classifier recognises, and a Fréchet distance.

The classifier (classifier.py) was trained on real images of the same set. It is part of the package, with the mean and
covariance of its features over the real images, so no download or installation is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..timing.compare import quality_word
from ..tolerances import FEATURE_SHIFT
from .classifier import ImageClassifier

RESAMPLINGS = 400  # bootstrap samples
Z = 1.96  # standard deviations of a 95 % interval


@dataclass(frozen=True)
class ImageQuality:
    """Quality figures of samples, each with its 95 % interval."""

    images: int
    recognised: float  # share whose class is the requested one
    recognised_low: float  # Wilson interval
    recognised_high: float
    frechet: float  # between the whitened features of the samples and of the real images; 0 is best
    frechet_low: float  # bootstrap over the samples of each class
    frechet_high: float

    def difference(self, other: ImageQuality) -> str | None:
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
def judge(by: ImageClassifier, images: Tensor, classes: Tensor, seed: int = 0) -> ImageQuality:
    """Compute the quality of sampled images.

    Args:
        by: the classifier of their set.
        images: (B, 1, S, S), clamped to [-1, 1], the range of real images.
        classes: requested classes, (B,).
        seed: of the bootstrap.

    Images that are not finite count as not recognised and make the distance infinite.
    """
    right = recognised(by, images, classes)
    low, high = share_interval(int(right.sum()), len(images))
    distance = frechet_interval(whitened_features(by, images), classes.cpu(), seed)
    return ImageQuality(len(images), right.float().mean().item(), low, high, *distance)


@torch.no_grad()
def recognised(by: ImageClassifier, images: Tensor, classes: Tensor) -> Tensor:
    """Tell which images (B, 1, S, S) show the class (B,) that was asked for; none that is not finite. -> (B,) bool"""
    images = images.detach().float().cpu()
    return (by(images.clamp(-1, 1)).argmax(1) == classes.cpu()) & _finite(images)


def _finite(images: Tensor) -> Tensor:
    return images.isfinite().flatten(1).all(1)


@torch.no_grad()
def whitened_features(by: ImageClassifier, images: Tensor) -> Tensor:
    """Compute features of images (B, 1, S, S) on the CPU, (B, F); not a number for an image that is not finite."""
    images = images.detach().float().cpu()
    # Clamped after the test: an infinite pixel would become white.
    return by.whitened(by.features(images.clamp(-1, 1)).where(_finite(images)[:, None], torch.nan))


def compare_engines(
    by: ImageClassifier, images: Mapping[tuple[str, str], Tensor], reference: Tensor, classes: Tensor
) -> list[dict[str, Any]]:
    """Compare engines by their images of the same noise: one row each; ``verdict`` is "ok" or, with a reason, "wrong".

    An engine is wrong if its figures differ from those of the reference, or if its ``shift`` exceeds the limit in
    tolerances.FEATURE_SHIFT for its precision.

    Args:
        by: the classifier of their set.
        images: by (backend, precision), (B, 1, S, S) each.
        reference: images of eager PyTorch in fp32, (B, 1, S, S).
        classes: requested classes, (B,).
    """
    expected = judge(by, reference, classes)
    rows = []
    for (backend, precision), own in images.items():
        quality, shift, limit = judge(by, own, classes), feature_shift(by, own, reference), FEATURE_SHIFT[precision]
        reasons = [
            quality.difference(expected),
            f"shift {shift:.1e}, at most {limit:.0e} allowed" if shift > limit else None,
        ]
        reason = "; ".join(filter(None, reasons))
        ratio, low, high = frechet_ratio(whitened_features(by, own), whitened_features(by, reference), classes.cpu())
        row = {"backend": backend, "precision": precision, **asdict(quality), "shift": shift, "shift_limit": limit}
        row |= {"frechet_ratio": ratio, "frechet_ratio_low": low, "frechet_ratio_high": high}
        row["frechet_difference"] = quality_word(low, high)
        rows.append({**row, "verdict": "wrong" if reason else "ok", "reason": reason})
    return rows


@torch.no_grad()
def feature_shift(by: ImageClassifier, images: Tensor, reference: Tensor) -> float:
    """Compute the mean shift of the whitened features of images (B, 1, S, S) against a reference with the same noise.

    It is the root mean square over the features of the mean difference over the images; 1 is a standard deviation of
    the real images. Rounding errors differ from image to image and mostly cancel; the effect of a different formula
    does not. Infinite if the images are not finite.
    """
    ours, theirs = (whitened_features(by, each) for each in (images, reference))
    shift = (ours - theirs).mean(0).square().mean().sqrt().item()
    return shift if math.isfinite(shift) else math.inf


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
