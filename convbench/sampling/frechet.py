"""Fréchet distance of the features of images from those of real images, and how it varies from sample to sample.

Sources: Dowson and Landau 1982; Heusel et al. 2017 (arXiv:1706.08500), eq. 6. With the mean m and covariance C of the
features of N images, and those of the real images, r and R = B B^T:

    |m - r|^2 + tr(C + R - 2 (C R)^(1/2)),   tr (C R)^(1/2) = sum of the singular values of X B / sqrt(N - 1)

with X (N, F) the features less their mean, as C = X^T X / (N - 1) and (C R)^(1/2) has the eigenvalues of
(B^T C B)^(1/2). They are the roots of the eigenvalues of the smaller of two matrices, of side N or F: with fewer images
than features nothing of side F is decomposed but R, once. All in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

RESAMPLINGS = 400  # bootstrap samples
EXACT_SIDE = 256  # images or features, whichever is fewer: up to here each resample is decomposed
DRAWN = 4096  # rows of features, at least, that the floor is estimated from


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean (F,) and covariance (F, F) of features over real images, float64."""

    mean: Tensor
    covariance: Tensor
    biased: bool = False  # whether comparisons take off what N perfect images measure: ``floor``
    floors: dict[int, float] = field(default_factory=dict)  # those that are known, by the number of images

    @cached_property
    def _decomposed(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.covariance)
        return values, vectors

    @property
    def smallest(self) -> float:
        """The smallest eigenvalue of the covariance."""
        return self._decomposed[0][0].item()

    @cached_property
    def root(self) -> Tensor:
        """A root B of the covariance, B B^T, (F, F)."""
        values, vectors = self._decomposed
        return vectors * values.clamp_min(0).sqrt()

    def floor(self, count: int) -> float:
        """Compute the distance that ``count`` images of the real distribution measure on average; 0 unless ``biased``.

        Few images have too small a covariance in some directions and too large a one in others, which makes their
        distance larger (Chong and Forsyth 2020, arXiv:1911.07023). Estimated from normal features.
        """
        if self.biased and count not in self.floors:
            generator = torch.Generator().manual_seed(0)
            shape = count, len(self.mean)
            draws = max(4, math.ceil(DRAWN / min(shape)))
            found = 0.0
            for _ in range(draws):
                normal = torch.randn(shape, generator=generator, dtype=torch.float64)
                found += FeatureSet(self, self.mean + normal @ self.root.T).distance / draws
            self.floors[count] = found
        return self.floors.get(count, 0.0)


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features (N, F) of images, beside those of real images."""

    real: Statistics
    features: Tensor

    @cached_property
    def deviations(self) -> Tensor:
        """Features less the mean of the real ones, (N, F) float64."""
        return self.features.double() - self.real.mean

    @cached_property
    def projected(self) -> Tensor:
        """Deviations times the root of the real covariance, (N, F)."""
        return self.deviations @ self.real.root

    @cached_property
    def distance(self) -> float:
        """The Fréchet distance; infinite for features that are not finite."""
        return self.distance_of(torch.ones(len(self.features), dtype=torch.float64))

    def distance_of(self, counts: Tensor) -> float:
        """Compute the distance with each image as often as ``counts`` (N,) says."""
        if not self.deviations.isfinite().all():
            return math.inf
        kept = counts > 0
        counts, total = counts[kept, None], counts.sum()
        mean = (counts * self.deviations[kept]).sum(0) / total
        scale = (counts / (total - 1)).sqrt()  # of rows whose products add up to the covariance
        kept_rows = (own[kept] for own in (self.deviations, self.projected))
        rows, scaled = ((own - (counts * own).sum(0) / total) * scale for own in kept_rows)
        values = torch.linalg.eigvalsh(_smaller_gram(scaled))
        distance = mean.square().sum() + rows.square().sum() + self.real.covariance.trace()
        return max(0.0, (distance - 2 * values.clamp_min(0).sqrt().sum()).item())

    @cached_property
    def influence(self) -> Tensor:
        """Derivatives of the distance by the weight of each image, at equal weights, (N,).

        With N images of the weights p the derivatives of the mean and of the covariance towards image i are x_i and
        c x_i x_i^T - C, c = N / (N - 1). With the singular values s and left vectors U of X B / sqrt(N - 1):
        2 m x_i + c |x_i|^2 - tr C - c (N - 1) sum_k U_ik^2 s_k + sum_k s_k.
        """
        count = len(self.features)
        mean = self.deviations.mean(0)
        rows, scaled = (own - own.mean(0) for own in (self.deviations, self.projected))
        scaled = scaled / math.sqrt(count - 1)
        squares, vectors = torch.linalg.eigh(_smaller_gram(scaled))
        values = squares.clamp_min(0).sqrt()
        if len(vectors) == count:
            spectral = vectors.square() @ values
        else:  # U s = X B V: where s is 0, so is their product
            spectral = (scaled @ vectors).square() @ (1 / values.clamp_min(1e-9 * values.max().item() or 1.0))
        lengths = rows.square().sum(1)
        trace = lengths.sum() / (count - 1)
        return 2 * rows @ mean + lengths * count / (count - 1) - trace - count * spectral + values.sum()

    def resampled(self, groups: Tensor) -> Tensor:
        """Return how much the distance of each bootstrap sample differs from their mean, (RESAMPLINGS,).

        With many images and features each decomposition takes seconds: then the linear part of the difference is
        returned, by the influence of the images.

        Args:
            groups: of the images (N,); each is resampled separately.
        """
        generator = torch.Generator().manual_seed(0)
        parts = [(groups == label).nonzero()[:, 0] for label in groups.unique()]
        picks = [part[torch.randint(len(part), (RESAMPLINGS, len(part)), generator=generator)] for part in parts]
        chosen = torch.cat(picks, dim=1)
        counts = torch.zeros(chosen.shape, dtype=torch.float64).scatter_add_(
            1, chosen, torch.ones_like(chosen).double()
        )
        if min(self.features.shape) <= EXACT_SIDE:
            found = torch.tensor([self.distance_of(count) for count in counts], dtype=torch.float64)
        else:
            found = counts @ self.influence / len(self.features)
        return found - found.mean()


def _smaller_gram(rows: Tensor) -> Tensor:
    """The products of the rows or of the columns (A, B) with each other, whichever are fewer."""
    return rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
