"""Verdicts on the quality of one way of sampling beside another: non-inferiority on images of the same noise.

Two figures are compared image by image: the share that a judge recognises, by the difference of the two shares, where
it tells one, and the Fréchet distance, by the ratio of the two distances. Each has a margin
(tolerances.QUALITY_MARGINS) and a 95 % interval, and gets the word

    worse         the whole interval lies beyond the margin on the bad side
    better        the whole interval lies beyond the margin on the good side
    same          the whole interval lies on the good side of the bad margin: not worse by more than the margin
    inconclusive  otherwise: the interval contains the bad margin, so there are too few images to tell.

Both figures together are worse if one is, else inconclusive if one is, else better if one is, else the same. As both
have to be non-inferior, the error of "same" is that of one test (intersection-union, Berger 1982): 2.5 %. A judge that
tells no share decides by the distance alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..tolerances import QUALITY_MARGINS
from . import quality
from .judge import Judge, JudgedImages

WORDS = ("better", "same", "worse", "inconclusive")
POWER_Z = 0.84  # of a power of 80 %
# Seen with the glyph models at a guidance of 3, for samplers with other noise: the share of images that only one of two
# gets right, and the standard deviation of the ratio of their Fréchet distances times the root of the number of images.
DISCORDANT, RATIO_SPREAD = 0.08, 0.7


@dataclass(frozen=True)
class QualityComparison:
    """Images of one way of sampling against those of another with the same noise."""

    images: int
    recognised_difference: float | None  # None where the judge does not tell
    recognised_difference_low: float | None
    recognised_difference_high: float | None
    frechet_ratio: float
    frechet_ratio_low: float
    frechet_ratio_high: float
    shift: float  # of the mean features, root mean square; not judged
    drift: float  # of the features of each image, root mean square; not judged: other noise gives other images
    word: str  # one of WORDS
    reason: str  # which figure decided, and by how much


def compare(
    ours: JudgedImages, theirs: JudgedImages, margins: Mapping[str, float] = QUALITY_MARGINS
) -> QualityComparison:
    """Compare images with a reference of the same noise and classes, as one judge saw them."""
    words, figures = {}, {}
    shares: tuple[float | None, float | None, float | None] = (None, None, None)
    if ours.recognised is not None and theirs.recognised is not None:
        right, expected = ours.recognised, theirs.recognised
        shares = share = share_difference(int((right & ~expected).sum()), int((expected & ~right).sum()), len(ours))
        words["recognised"] = word(-share[2], -share[1], margins["recognised"])
        figures["recognised"] = f"recognised {_signed(share)} points, margin {100 * margins['recognised']:g}"
    ratio = quality.frechet_ratio(ours, theirs)
    words["frechet"] = word(ratio[1] - 1, ratio[2] - 1, margins["frechet"])
    figures["frechet"] = (
        f"Fréchet {ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f}) times, margin {margins['frechet']:.0%}"
    )
    apart = ours.features.double() - theirs.features
    shift, drift = apart.mean(0).square().mean().sqrt().item(), apart.square().mean().sqrt().item()
    found = next((each for each in ("worse", "inconclusive", "better") if each in words.values()), "same")
    reason = "; ".join(figures[name] for name, each in words.items() if each == found)
    return QualityComparison(len(ours), *shares, *ratio, _finite(shift), _finite(drift), found, reason)


def word(low: float, high: float, margin: float) -> str:
    """Choose the word for a figure that is worse by ``low`` to ``high``; below zero it is better."""
    if low > margin:
        return "worse"
    if high < -margin:
        return "better"
    return "same" if high < margin else "inconclusive"


def share_difference(only_ours: int, only_theirs: int, count: int) -> tuple[float, float, float]:
    """Difference of two shares of the same images, and its 95 % interval.

    Wald's interval of matched pairs after adding half a pair to each of the four cells (Agresti and Min 2005).

    Args:
        only_ours: images that have the property in the first set alone.
        only_theirs: in the second alone.
    """
    total = count + 2
    difference = (only_ours - only_theirs) / total
    half = quality.Z * math.sqrt((only_ours + only_theirs + 1) / total - difference**2) / math.sqrt(total)
    return (only_ours - only_theirs) / count, difference - half, difference + half


def planned_images(by: Judge, classes: int, margins: Mapping[str, float] = QUALITY_MARGINS) -> int:
    """Number of images, as many of each class, that shows non-inferiority of an equal with a power of 80 %.

    n = ((z_0.975 + z_0.8) s / margin)^2 for each figure, s being the standard deviation of what one image says of it;
    that of the shares is the root of the discordant pairs. A judge that few images bias gets more of them than it has
    features, without which their covariance has no full rank; what its distances spread by is not known beforehand.
    """
    z = quality.Z + POWER_Z
    spreads = {"frechet": RATIO_SPREAD} | ({"recognised": math.sqrt(DISCORDANT)} if by.recognises else {})
    count = max((z * spread / margins[name]) ** 2 for name, spread in spreads.items())
    if by.real.biased:
        count = max(count, len(by.real.mean) + 1)
    return math.ceil(count / classes) * classes


def _signed(share: tuple[float, float, float]) -> str:
    value, low, high = (100 * each for each in share)
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
