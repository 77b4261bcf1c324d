"""Noise of each image, independent of batch size, world size and resume point."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

START = 2**32  # draws of an image: steps count from 0; the start and the class follow all of them
CLASS = START + 1


class PerImage:
    """Standard normal noise (B, C, H, W) of a set of images, called with the step. A ``sampler.Noise``.

    Each draw comes from a counter-based generator (Philox, Salmon et al. 2011) whose key is the seed and the number of
    the image and whose counter is the step, so draws are independent. They are made on the CPU, equal on every device.
    """

    def __init__(self, seed: int, images: Sequence[int], shape: tuple[int, ...], device: str = "cpu") -> None:
        """Prepare the noise of images, given by their numbers in the whole run; ``shape`` is (C, H, W) of one."""
        self.seed, self.images, self.shape, self.device = seed, images, shape, device

    def start(self) -> Tensor:
        """Draw the start of the images. -> (B, C, H, W) float32"""
        return self(START)

    def __call__(self, step: int) -> Tensor:
        drawn = [_generator(self.seed, image, step).standard_normal(self.shape, np.float32) for image in self.images]
        return torch.from_numpy(np.stack(drawn)).to(self.device)


def draw_classes(seed: int, images: Sequence[int], count: int) -> list[int]:
    """Draw a class for each image, uniform over ``count``, as the papers' sampling scripts do."""
    return [int(_generator(seed, image, CLASS).integers(count)) for image in images]


def _generator(seed: int, image: int, draw: int) -> np.random.Generator:
    # The draw is the third word of the counter, so streams of an image never overlap: each would need 2^128 numbers.
    return np.random.Generator(np.random.Philox(key=[seed, image], counter=[0, 0, draw, 0]))
