"""Steps that the forward passes of the fused networks share."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .modules import Vectors


def embed_times(embedders: Any, t: Tensor) -> list[Tensor]:
    """Embed the timesteps at every width, from one sinusoidal code. t: (B,) -> one (B, C) for each embedder."""
    code = embedders[0].code(t)
    return [embedder.mlp(code.to(embedder.mlp[0].weight.dtype)) for embedder in embedders]


def stem(convolution: nn.Module, x: Tensor) -> Tensor:
    """Apply the first layer, and return its result in channels_last. (B, C_in, H, W) -> (B, C, H, W)

    A map of one channel, such as gray pixels, has no layout that the convolution could follow.
    """
    y = convolution(x.contiguous(memory_format=torch.channels_last))
    return y.contiguous(memory_format=torch.channels_last)


def run_blocks(blocks: Any, x: Tensor, modulations: Iterator[Vectors]) -> Tensor:
    """Apply each block with the next vectors. (B, C, H, W) -> (B, C, H, W)"""
    for block in blocks:
        x = block(x, next(modulations))
    return x
