"""Judges of sampled images: an interface with two implementations.

classifier.py        small grey images: a classifier that ships, with the statistics of its features over real images
feature_network.py   any images: a feature network and the statistics of its features, both files of the user
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .frechet import FeatureSet, Statistics


@dataclass(frozen=True, eq=False)
class JudgedImages:
    """Images as a judge sees them, and the Fréchet distance of their features.

    Features (N, F), not a number for an image that is not finite; groups (N,) of images that are resampled separately;
    whether each image shows the class asked for, (N,) bool, or None where the judge does not tell.
    """

    real: Statistics
    features: Tensor
    groups: Tensor
    recognised: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def first(self, count: int) -> JudgedImages:
        """Keep the first images."""
        if count == len(self):
            return self
        known = None if self.recognised is None else self.recognised[:count]
        return JudgedImages(self.real, self.features[:count], self.groups[:count], known)

    @cached_property
    def distance(self) -> float:
        """Fréchet distance from the real images; infinite if an image is not finite."""
        return FeatureSet(self.real, self.features).distance

    @cached_property
    def resampled(self) -> Tensor:
        """Differences of the distance of each bootstrap sample from their mean, (R,)."""
        return FeatureSet(self.real, self.features).resampled(self.groups)  # not kept: it is larger than the features

    @property
    def floor(self) -> float:
        """Part of the distance that comparisons take off: that of as many perfect images, or 0."""
        return self.real.floor(len(self))


def joined(parts: Sequence[JudgedImages]) -> JudgedImages:
    """Join several batches that one judge saw."""
    known = [part.recognised for part in parts if part.recognised is not None]
    features, groups = (torch.cat([getattr(part, name) for part in parts]) for name in ("features", "groups"))
    return JudgedImages(parts[0].real, features, groups, torch.cat(known) if known else None)


class Judge(Protocol):
    """Interface of what looks at images: its name, and the SHA-256 of the files that it consists of."""

    name: str
    recognises: bool  # whether it tells if an image shows the class asked for

    @property
    def real(self) -> Statistics:
        """Statistics of the features of the real images."""
        ...

    def look(self, images: Tensor, classes: Tensor) -> JudgedImages:
        """Look at images (B, 1 or 3, H, W) in about [-1, 1], asked for with the classes (B,)."""
        ...

    def origin(self) -> dict[str, str]:
        """The SHA-256 of files of the user, by the key of a row."""
        ...
