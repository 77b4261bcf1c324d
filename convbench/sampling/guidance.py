"""Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598), once for every family and runtime."""

import math

from torch import Tensor, cat, full_like, where

from ..schema import Step
from .diffusion import STEPS
from .sampler import Model

PAPER_CHANNELS = 3
"""Number of channels of the prediction that the published code of DiT and its descendants guides."""


def guided(
    step: Step,
    y: Tensor,
    null: int | Tensor,
    scale: float = 1.0,
    channels: int | None = None,
    interval: tuple[float, float] | None = None,
    power: float | None = None,
) -> Model:
    """Combine a network with its classes and guidance: one forward pass of twice the batch, with and without class.

    Args:
        step: a network or a backend's step: x (2B, C, H, W), t (2B,), y (2B,) -> output. At scale 1 it is called
            with the batch only, because guidance has no effect.
        y: (B,) classes, or (B, tokens, width) captions.
        null: value of y for no class.
        channels: as in ``combine``.
        interval: of t, exclusive; outside it the scale is 1 (Kynkäänniemi et al. 2024, arXiv:2404.07724). The batch is
            doubled there as well, as in the code of JiT.
        power: as in ``power_cosine_scale``.

    Returns a function of x (B, C, H, W) and t (B,) -> (B, C or 2C, H, W); the variance is that with the class.
    """
    if scale == 1:
        return lambda x, t: step(x, t, y)
    both = cat([y, full_like(y, null) if isinstance(null, int) else null.expand_as(y)])

    def model(x: Tensor, t: Tensor) -> Tensor:
        current: float | Tensor = scale if power is None else power_cosine_scale(t, scale, power)
        if interval:
            current = where((t > interval[0]) & (t < interval[1]), current, 1.0)
        current = current.reshape(-1, 1, 1, 1) if isinstance(current, Tensor) else current
        return combine(step(cat([x, x]), cat([t, t]), both), x.shape[1], current, channels)

    return model


def power_cosine_scale(t: Tensor, scale: float, power: float) -> Tensor:
    """Scale by the power-cosine schedule of MDTv2: from 1 at t = 1000 (noise) to ``scale`` at t = 0 (data).

    1 + (scale - 1) (1 - cos(pi (1 - t / 1000)^power)) / 2 (Gao et al. 2023, arXiv:2303.14389). A larger power delays
    the increase. (B,) -> (B,)
    """
    return 1 + (scale - 1) * (1 - (math.pi * (1 - t / STEPS) ** power).cos()) / 2


def combine(output: Tensor, in_channels: int, scale: float | Tensor, channels: int | None = None) -> Tensor:
    """Compute the guided output from that of twice the batch, first half with the class. (2B, C, H, W) -> (B, C, H, W)

    without + scale (with - without) in the first ``channels`` channels of the prediction; the others are those with the
    class.

    Args:
        channels: None as in the papers: three of four or more channels, all of fewer.
    """
    if channels is None:
        channels = min(PAPER_CHANNELS, in_channels)
    channels = min(channels, in_channels)
    with_class, without = output.float().chunk(2)
    moved = without[:, :channels] + scale * (with_class[:, :channels] - without[:, :channels])
    return cat([moved, with_class[:, channels:]], dim=1)
