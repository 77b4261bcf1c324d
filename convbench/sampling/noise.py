"""Noise that belongs to an image, not to a batch: the same image at any batch size, world size and resume point."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

START = 2**32  # draws of an image: its steps count from 0, the start and the class stand behind any of them
CLASS = START + 1


class PerImage:
    """Standard normal noise of some images; called with a step, it gives that step's. A ``sampler.Noise``.

    Each draw comes from a counter-based generator (Philox, Salmon et al. 2011) keyed by the seed and the number of
    the image and set to the step, so none depends on another. Drawn on the CPU: every device gets the same.
    """

    def __init__(self, seed: int, images: Sequence[int], shape: tuple[int, ...], device: str = "cpu") -> None:
        """Args: images: their numbers in the whole run. shape: (C, H, W) of one."""
        self.seed, self.images, self.shape, self.device = seed, images, shape, device

    def start(self) -> Tensor:
        """Where the images begin. -> (B, C, H, W) float32"""
        return self(START)

    def __call__(self, step: int) -> Tensor:
        drawn = [_generator(self.seed, image, step).standard_normal(self.shape, np.float32) for image in self.images]
        return torch.from_numpy(np.stack(drawn)).to(self.device)


def classes(seed: int, images: Sequence[int], count: int) -> list[int]:
    """A class of each image, uniform over ``count``: what the papers' sampling scripts draw."""
    return [int(_generator(seed, image, CLASS).integers(count)) for image in images]


def _generator(seed: int, image: int, draw: int) -> np.random.Generator:
    # The draw counts in the third word, so streams of one image never meet: each would need 2^128 numbers.
    return np.random.Generator(np.random.Philox(key=[seed, image], counter=[0, 0, draw, 0]))
