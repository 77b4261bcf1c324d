"""Inputs of a network while images are sampled with it: to calibrate with, and to follow an artefact along."""

from collections.abc import Callable

import torch
from torch import Tensor

from convbench.sampling import sampler_names, samplers
from convbench.sampling.noise import PerImage, draw_classes
from convbench.sampling.sampler import Sampler

from .shapes import Shapes

CLIP, CLIP_PIXELS = 4.0, 1.0
"""Of the predicted data: no latent of a trained network leaves it, pixels lie in -1 .. 1."""
CLIP_RANDOM = (
    1.0  # what random weights predict is clipped everywhere: this leaves states of unit size, as trained ones are
)


def sampler(sizes: Shapes, steps: int, trained: bool) -> Sampler:
    """A deterministic one that suits what the network predicts. ``clip``: those that predict noise alone have one."""
    name = sampler_names.DETERMINISTIC[sampler_names.prediction(sizes.takes)]
    known = CLIP_PIXELS if sizes.takes.in_pixels else CLIP
    clip = known if trained else CLIP_RANDOM
    return samplers.create(name, steps, clip, noise=sizes.takes.noise)


def sample(
    model: Callable[[Tensor, Tensor, Tensor], Tensor],
    sizes: Shapes,
    steps: int,
    images: int,
    trained: bool,
    seen: Callable[[Tensor, Tensor, Tensor], None] = lambda x, t, y: None,
) -> Tensor:
    """Sample images from fixed noise, each with its class. -> (images, C, S, S)

    Args:
        model: called with x (B, C, S, S), t (B,) and y (B,) or (B, tokens, width).
        seen: called with the same inputs at every step.
    """
    takes = sizes.takes
    numbers = range(images)
    noise = PerImage(0, numbers, (takes.channels, sizes.side, sizes.side))
    y = sizes.inputs(images)[2] if takes.caption else torch.tensor(draw_classes(0, numbers, takes.classes))

    def watched(x: Tensor, t: Tensor) -> Tensor:
        t = t.contiguous()
        seen(x, t, y)
        return model(x, t, y)

    with torch.inference_mode():
        return sampler(sizes, steps, trained).sample(watched, noise.start(), noise)
