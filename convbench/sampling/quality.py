"""Quality of sampled images in two figures: the share that a judge recognises, and a Fréchet distance.

The classifiers of small images (classifier.py) were trained on real images of the same set. They are part of the
package, with the mean and covariance of their features over the real images, so no download or installation is needed.
A feature network and reference statistics of the user (feature_network.py) tell the distance alone: an FID.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..timing.compare import quality_word
from ..tolerances import FEATURE_SHIFT
from .classifier import ImageClassifier
from .judge import Judge, JudgedImages

Z = 1.96  # standard deviations of a 95 % interval


@dataclass(frozen=True)
class ImageQuality:
    """Quality figures of samples, each with its 95 % interval."""

    images: int
    recognised: float | None  # share whose class is the requested one; None where the judge does not tell
    recognised_low: float | None  # Wilson interval
    recognised_high: float | None
    frechet: float  # between the features of the samples and of the real images; 0 is best
    frechet_low: float  # bootstrap over the samples
    frechet_high: float

    def difference(self, other: ImageQuality) -> str | None:
        """Describe the figures whose intervals do not overlap those of another quality; None if all overlap."""
        found = []
        for name in ("recognised", "frechet"):
            if getattr(self, name) is None:
                continue
            low, high = (max if end == "low" else min for end in ("low", "high"))
            first = low(getattr(self, f"{name}_low"), getattr(other, f"{name}_low"))
            last = high(getattr(self, f"{name}_high"), getattr(other, f"{name}_high"))
            if first > last:
                found.append(f"{name} {getattr(self, name):.3g} against {getattr(other, name):.3g}")
        return ", ".join(found) or None


def judge(by: Judge, images: Tensor, classes: Tensor) -> ImageQuality:
    """Compute the quality of sampled images (B, 1 or 3, H, W), asked for with the classes (B,).

    Images that are not finite count as not recognised and make the distance infinite.
    """
    return figures(by.look(images, classes))


def figures(seen: JudgedImages) -> ImageQuality:
    """Compute the quality of images that a judge has seen."""
    share, low, high = None, None, None
    if seen.recognised is not None:
        share = seen.recognised.float().mean().item()
        low, high = share_interval(int(seen.recognised.sum()), len(seen))
    return ImageQuality(len(seen), share, low, high, *frechet_interval(seen))


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
    expected = by.look(reference, classes)
    rows = []
    for (backend, precision), own in images.items():
        seen = by.look(own, classes)
        quality, shift, limit = figures(seen), feature_shift(seen, expected), FEATURE_SHIFT[precision]
        reasons = [
            quality.difference(figures(expected)),
            f"shift {shift:.1e}, at most {limit:.0e} allowed" if shift > limit else None,
        ]
        reason = "; ".join(filter(None, reasons))
        ratio, low, high = frechet_ratio(seen, expected)
        row = {"backend": backend, "precision": precision, **asdict(quality), "shift": shift, "shift_limit": limit}
        row |= {"frechet_ratio": ratio, "frechet_ratio_low": low, "frechet_ratio_high": high}
        row["frechet_difference"] = quality_word(low, high)
        rows.append({**row, "verdict": "wrong" if reason else "ok", "reason": reason})
    return rows


def feature_shift(ours: JudgedImages, theirs: JudgedImages) -> float:
    """Compute the mean shift of the features of images against those of a reference with the same noise.

    It is the root mean square over the features of the mean difference over the images; 1 is a standard deviation of
    the real images where features are whitened. Rounding errors differ from image to image and mostly cancel; the
    effect of a different formula does not. Infinite if the images are not finite.
    """
    shift = (ours.features.double() - theirs.features).mean(0).square().mean().sqrt().item()
    return shift if math.isfinite(shift) else math.inf


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """Compute the 95 % interval of a share (Wilson 1927)."""
    share, square = hits / count, Z * Z / count
    middle = share + square / 2
    half = Z * math.sqrt((share * (1 - share) + square / 4) / count)
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def frechet_interval(seen: JudgedImages) -> tuple[float, float, float]:
    """Compute the Fréchet distance of images from the real ones, and its 95 % bootstrap interval.

    A resample contains duplicates and therefore lies further away than the sample itself; the mean excess is
    subtracted.
    """
    if not math.isfinite(seen.distance):
        return math.inf, math.inf, math.inf
    low, high = (seen.distance + seen.resampled.quantile(q).item() for q in (0.025, 0.975))
    return seen.distance, max(0.0, low), high


def frechet_ratio(ours: JudgedImages, theirs: JudgedImages) -> tuple[float, float, float]:
    """Compute the ratio of the distances of two sets of as many images, and its 95 % bootstrap interval.

    Row by row both belong to the same class and noise, so the same rows of both are drawn: the interval is that of the
    difference, relative to their distance. Where a judge is biased by few images, both distances are what exceeds the
    floor, for that is all that a sampler can change.

    Infinite if a distance is, or theirs is not above 0; so is the lower end if ours is surely larger, else it is 0.
    """
    own, other = ours.distance - ours.floor, theirs.distance - theirs.floor
    if not math.isfinite(other):
        return math.inf, 0.0, math.inf
    if not math.isfinite(own):
        return math.inf, math.inf, math.inf
    low, high = ((ours.resampled - theirs.resampled).quantile(q).item() for q in (0.025, 0.975))
    if other <= 0:
        return math.inf, math.inf if own - other + low > 0 else 0.0, math.inf
    return own / other, (own + low) / other, (own + high) / other
