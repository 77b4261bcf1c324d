"""Random weights without zeros.

The official constructors initialise gates, modulations and heads with zeros, so an untrained network returns zero
independent of its inner layers, and every comparison of two implementations passes. These weights keep the activations
near unit size through the whole depth instead.
"""

import math
import zlib

import torch
from torch import Tensor, nn

from ..weights.fixed_tables import fixed_tables


def fill(model: nn.Module, seed: int = 0) -> None:
    """Overwrite every weight in place, including buffers of the state dict. Each depends only on seed, name and shape.

    The weights are drawn on the CPU, so that a seed gives the same weights on every device.
    """
    fixed = fixed_tables(model)
    for name, value in model.state_dict().items():
        if name not in fixed:
            value.copy_(_draw(name, value.shape, seed))


def replace_zeros(model: nn.Module, seed: int = 0) -> None:
    """Overwrite parameters that are entirely zero and keep all others, which may be trained."""
    for name, parameter in model.named_parameters():
        if not parameter.any():
            parameter.data.copy_(_draw(name, parameter.shape, seed))


def _draw(name: str, shape: torch.Size, seed: int) -> Tensor:
    # The checksum starts from the seed: a CPU generator only reads the lower 32 bits of its own seed.
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), seed))
    w = torch.empty(shape).normal_(generator=generator)
    if "embedding_table" in name or name.endswith(("pos_embed", "additional_embed", "in_context_posemb")):
        return w.mul_(0.02)
    if name.endswith(("A_log", "A_b_log")):  # decays of a selective scan: 1, 2, 3, ... per unit of the step
        return w.mul_(0.1).add_(torch.arange(1, shape[1] + 1).log())
    if name.endswith(("dt_proj.bias", "dt_proj_b.bias")):  # steps of about exp(-4), so that some tokens are remembered
        return w.mul_(0.5).sub_(4)
    if name.endswith("logit_scale"):  # of cosine attention: a factor of 10, as before training
        return w.mul_(0.1).add_(math.log(10))
    if name.endswith("deformables_scale"):  # windows of 1.5 tokens: samples avoid -1 and -2, where their values jump
        return w.mul_(0.1).sub_(math.log(3))
    if name.endswith(("qk_deformables.weight", "qk_scales.weight")):  # full-size values make the network chaotic
        return w.mul_(0.05 * w[0].numel() ** -0.5)
    if name.endswith((".freqs", ".phases")):  # of Fourier features: angles in the full circle
        return w.mul_(2 * math.pi)
    if len(shape) == 4 and shape[0] == shape[2] == shape[3] == 1:  # gamma and beta of the response norm
        return w.mul_(0.1)
    if len(shape) > 1:
        return w.mul_(w[0].numel() ** -0.5)  # keeps the variance of a product
    if name.endswith("bias"):
        return w.mul_(0.02)
    return w.mul_(0.1).add_(1)
