"""Random weights that leave nothing at zero.

The official constructors start gates, modulations and heads at zero, so an untrained network returns zero
whatever its inner layers do, and every comparison of two implementations passes. These weights keep the
activations near unit size through the whole depth instead.
"""

import zlib

import torch
from torch import Tensor, nn


def fill(model: nn.Module, seed: int = 0) -> None:
    """Overwrite every parameter in place. Each depends on the seed and its own name and shape only.

    Drawn on the CPU, so that a seed gives the same weights on every device.
    """
    for name, parameter in model.named_parameters():
        if name.rsplit(".", 1)[-1] == "pos_embed":
            continue  # a fixed table, not a weight
        parameter.data.copy_(_draw(name, parameter.shape, seed))


def _draw(name: str, shape: torch.Size, seed: int) -> Tensor:
    # The seed is where the checksum starts: a CPU generator reads the lower 32 bits of its own seed only.
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode(), seed))
    w = torch.empty(shape).normal_(generator=generator)
    if "embedding_table" in name:
        return w.mul_(0.02)
    if len(shape) == 4 and shape[0] == shape[2] == shape[3] == 1:  # gamma and beta of the response norm
        return w.mul_(0.1)
    if len(shape) > 1:
        return w.mul_(w[0].numel() ** -0.5)  # keeps the variance of a product
    if name.endswith("bias"):
        return w.mul_(0.02)
    return w.mul_(0.1).add_(1)
