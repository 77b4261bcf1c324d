"""Classifiers of small grey images, which judge what was sampled. They ship with convbench, with their records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..catalogue import Variant
from .frechet import Statistics
from .judge import JudgedImages

SHIPPED = Path(__file__).parents[1] / "weights" / "shipped"
SETS = {  # what images a classifier is of: their side, its widths, features and classes
    "digits": (8, (32, 64), 32, 10),
    "glyphs": (32, (16, 32, 64), 32, 62),
}


class ImageClassifier(nn.Module):
    """Classifier of grey images in [-1, 1], which judges them. (B, 1, S, S) -> (B, classes)

    A 3x3 convolution for each of the ``widths``, each followed by a pooling, then two linear layers. Also holds the
    ``mean`` (F,) and ``covariance`` (F, F) of its features over real images.
    """

    mean: Tensor
    covariance: Tensor
    recognises = True

    def __init__(self, side: int, widths: Sequence[int], features: int, classes: int, name: str = "") -> None:
        super().__init__()
        self.name = name
        self.side, self.classes, self.levels = side, classes, len(widths)
        for level, (before, width) in enumerate(zip((1, *widths), widths, strict=False), start=1):
            self.add_module(f"conv{level}", nn.Conv2d(before, width, 3, padding=1))
        self.linear1 = nn.Linear(widths[-1] * (side >> len(widths)) ** 2, features)
        self.linear2 = nn.Linear(features, classes)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("covariance", torch.eye(features))

    def features(self, x: Tensor) -> Tensor:
        """Compute the input of the last layer. (B, 1, S, S) -> (B, F)"""
        for level in range(1, self.levels + 1):
            x = F.max_pool2d(F.gelu(self.get_submodule(f"conv{level}")(x)), 2)
        return self.linear1(x.flatten(1))

    def whitened(self, features: Tensor) -> Tensor:
        """Transform features so that those of the real images have mean 0 and covariance 1. (B, F) -> (B, F)

        Otherwise the few directions that separate the classes outweigh all others, which describe how a character is
        drawn.
        """
        values, vectors = torch.linalg.eigh(self.covariance.double())
        return (features.double() - self.mean) @ (vectors / values.sqrt())

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.features(x)))

    @cached_property
    def real(self) -> Statistics:
        """Statistics of the whitened features of the real images."""
        count = len(self.mean)
        return Statistics(torch.zeros(count, dtype=torch.float64), torch.eye(count, dtype=torch.float64))

    @torch.no_grad()
    def look(self, images: Tensor, classes: Tensor) -> JudgedImages:
        """Look at images (B, 1, S, S), clamped to [-1, 1], the range of the real ones; classes (B,).

        The number of images per class was chosen, not drawn, so each class is a group. An image that is not finite is
        not recognised and has no features.
        """
        images, classes = images.detach().float().cpu(), classes.cpu()
        finite = images.isfinite().flatten(1).all(1)
        pixels = images.clamp(-1, 1)  # after the test: an infinite pixel would become white
        features = self.whitened(self.features(pixels).where(finite[:, None], torch.nan))
        return JudgedImages(self.real, features, classes, (self(pixels).argmax(1) == classes) & finite)

    def origin(self) -> dict[str, str]:
        """Nothing: it ships with convbench."""
        return {}


@cache
def classifier(name: str) -> ImageClassifier:
    """Load the trained classifier of one of ``SETS`` in evaluation mode on the CPU."""
    from safetensors.torch import load_file

    found = ImageClassifier(*SETS[name], name)
    found.load_state_dict(load_file(weights(name)))
    return found.eval().requires_grad_(False)


def weights(name: str) -> Path:
    """Path of the weights of a classifier."""
    return SHIPPED / f"{name}_classifier.safetensors"


def set_of(variant: Variant, res: int) -> str | None:
    """Name of the set that a network draws images of, one of ``SETS``; None where there is no classifier of it."""
    takes = variant.signature
    if takes.channels != takes.factor**2:  # grey pixels, folded or not
        return None
    return next((name for name, (side, *_, classes) in SETS.items() if (res, takes.classes) == (side, classes)), None)
