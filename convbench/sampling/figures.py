"""How good small digits are, as two figures: the share that a classifier recognises, and a Fréchet distance.

The classifier was trained on real digits (examples/train_digits_classifier.py). Its weights are part of the package,
with the mean and covariance of its features over the real digits, so that nothing has to be downloaded or installed.
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

from ..tolerances import FEATURE_SHIFT

WEIGHTS = Path(__file__).parents[1] / "weights" / "shipped" / "digits_classifier.safetensors"
FEATURES = 32
RESAMPLINGS = 400  # of the bootstrap
Z = 1.96  # of a 95 % interval


class DigitClassifier(nn.Module):
    """Digits of 8x8 pixels in [-1, 1] to the scores of ten classes. (B, 1, 8, 8) -> (B, 10)

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
        """What the last layer decides by. (B, 1, 8, 8) -> (B, 32)"""
        x = F.max_pool2d(F.gelu(self.conv1(x)), 2)
        x = F.max_pool2d(F.gelu(self.conv2(x)), 2)
        return self.linear1(x.flatten(1))

    def whitened(self, features: Tensor) -> Tensor:
        """Moved, turned and scaled so that those of the real digits have mean 0 and covariance 1. (B, 32) -> (B, 32)

        Without it the ten or so directions that tell classes apart outweigh all others, and with them how a digit
        is drawn.
        """
        values, vectors = torch.linalg.eigh(self.covariance.double())
        return (features.double() - self.mean) @ (vectors / values.sqrt())

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.features(x)))


@cache
def digit_classifier() -> DigitClassifier:
    """The trained one, in evaluation mode on the CPU."""
    from safetensors.torch import load_file

    classifier = DigitClassifier()
    classifier.load_state_dict(load_file(WEIGHTS))
    return classifier.eval().requires_grad_(False)


@dataclass(frozen=True)
class Figures:
    """Of some samples, each with its 95 % interval."""

    images: int
    recognised: float  # share whose class is the one that was asked for
    recognised_low: float  # Wilson's interval
    recognised_high: float
    frechet: float  # between the whitened features of the samples and of the real digits; 0 is best
    frechet_low: float  # bootstrap over the samples of each class
    frechet_high: float

    def differs(self, other: Figures) -> str | None:
        """Which figure lies so far from the other's that the intervals do not meet, in words; None if both meet."""
        found = []
        for name in ("recognised", "frechet"):
            low, high = (max if end == "low" else min for end in ("low", "high"))
            first = low(getattr(self, f"{name}_low"), getattr(other, f"{name}_low"))
            last = high(getattr(self, f"{name}_high"), getattr(other, f"{name}_high"))
            if first > last:
                found.append(f"{name} {getattr(self, name):.3g} against {getattr(other, name):.3g}")
        return ", ".join(found) or None


@torch.no_grad()
def judge(images: Tensor, classes: Tensor, seed: int = 0) -> Figures:
    """The figures of samples of digits.

    Args:
        images: (B, 1, 8, 8), real ones lie in [-1, 1]. Values outside are cut off, as in any picture of them.
        classes: (B,) what was asked for.
        seed: of the bootstrap.

    Images that are not finite are recognised as nothing and leave the distance infinite.
    """
    classifier = digit_classifier()
    images = images.detach().float().cpu()
    finite = images.isfinite().flatten(1).all(1)
    images = images.clamp(-1, 1)  # after the look at it: an infinite pixel would become white
    features = classifier.features(images).where(finite[:, None], torch.nan)
    right = (classifier(images).argmax(1) == classes.cpu()) & finite
    low, high = share_interval(int(right.sum()), len(images))
    distance = frechet_interval(classifier.whitened(features), classes.cpu(), seed)
    return Figures(len(images), right.float().mean().item(), low, high, *distance)


def compared(images: Mapping[tuple[str, str], Tensor], reference: Tensor, classes: Tensor) -> list[dict[str, Any]]:
    """A row of figures for each engine's images of the same noise; ``verdict`` is "ok" or, with a reason, "wrong".

    Wrong is an engine whose figures differ from the reference's, or whose ``shift`` is above what
    tolerances.FEATURE_SHIFT allows for its precision.

    Args:
        images: of each (backend, precision), (B, 1, 8, 8). reference: those of eager PyTorch in fp32.
        classes: (B,) what was asked for.
    """
    known = judge(reference, classes)
    rows = []
    for (backend, precision), own in images.items():
        figures, moved, limit = judge(own, classes), shift(own, reference), FEATURE_SHIFT[precision]
        reasons = [figures.differs(known), f"shift {moved:.1e}, at most {limit:.0e} allowed" if moved > limit else None]
        reason = "; ".join(filter(None, reasons))
        row = {"backend": backend, "precision": precision, **asdict(figures), "shift": moved, "shift_limit": limit}
        rows.append({**row, "verdict": "wrong" if reason else "ok", "reason": reason})
    return rows


@torch.no_grad()
def shift(images: Tensor, reference: Tensor) -> float:
    """How far the whitened features of images lie from those of a reference with the same noise, on average.

    The root mean square over the features of the mean difference over the images; 1 is a standard deviation of the
    real digits. Errors of rounding differ from image to image and mostly cancel; a formula that is not the same does
    not. Infinite where the images are not finite.

    Args:
        images, reference: (B, 1, 8, 8).
    """
    classifier = digit_classifier()
    ours, theirs = (classifier.whitened(classifier.features(x.float().cpu().clamp(-1, 1))) for x in (images, reference))
    moved = (ours - theirs).mean(0).square().mean().sqrt().item()
    return moved if math.isfinite(moved) and bool(images.isfinite().all()) else math.inf


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    share, square = hits / count, Z * Z / count
    middle = share + square / 2
    half = Z * math.sqrt((share * (1 - share) + square / 4) / count)
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def frechet(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """Squared Fréchet distance of two normal distributions (Dowson and Landau 1982; Heusel et al. 2017, eq. 6).

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
    """The distance of some features (B, F) from mean 0 and covariance 1, and its 95 % interval from a bootstrap.

    How many there are of each class (B,) was chosen, not drawn, so each is resampled for itself. A resample holds
    images twice and so lies further away than the sample itself: the mean of that excess is taken off.
    """
    features = features.double()
    mean, covariance = features.new_zeros(features.shape[1]), torch.eye(features.shape[1], dtype=torch.float64)

    def distance(chosen: Tensor) -> float:
        return frechet(chosen.mean(0), chosen.T.cov(), mean, covariance)

    found = distance(features)
    if not math.isfinite(found):
        return math.inf, math.inf, math.inf
    generator = torch.Generator().manual_seed(seed)
    groups = [(classes == label).nonzero()[:, 0] for label in classes.unique()]
    picks = [group[torch.randint(len(group), (RESAMPLINGS, len(group)), generator=generator)] for group in groups]
    resampled = torch.tensor([distance(features[chosen]) for chosen in torch.cat(picks, dim=1)], dtype=torch.float64)
    spread = resampled - resampled.mean()
    low, high = (found + spread.quantile(q).item() for q in (0.025, 0.975))
    return found, max(0.0, low), high
