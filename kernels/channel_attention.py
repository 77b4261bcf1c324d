"""The gates of DiCo's compact channel attention, from the sums of ``depthwise_gelu``.

    gates = sigmoid(W mean + b),  mean[n] = sum over tiles of sums[n] / pixels

The gates are applied by ``pointwise_residual`` while it loads its operand.
"""

import torch
from torch import Tensor

from ..errors import UsageError
from .layout import require_shape, wide


def reference(sums: Tensor, weight: Tensor, bias: Tensor, pixels: int) -> Tensor:
    """The same in PyTorch; the mean is rounded to the type of the weights, as the product reads it."""
    inner = wide(weight.dtype)
    mean = (sums.to(inner).sum(dim=1) / pixels).to(weight.dtype).to(inner)
    return torch.addmm(bias.to(inner), mean, weight.to(inner).t()).sigmoid()


def check(sums: Tensor, weight: Tensor, bias: Tensor) -> None:
    if sums.dim() != 3 or sums.dtype != wide(weight.dtype):
        raise UsageError(f"sums must be (N, tiles, C) in {wide(weight.dtype)}, got {tuple(sums.shape)} in {sums.dtype}")
    require_shape(tuple(sums.shape), sums=sums)
    require_shape((weight.shape[0], sums.shape[2]), weight=weight)
    require_shape((weight.shape[0],), bias=bias)


@torch.library.custom_op("convbench::channel_gates", mutates_args=(), device_types="cpu")
def channel_gates(sums: Tensor, weight: Tensor, bias: Tensor, pixels: int) -> Tensor:
    """sums: (N, tiles, C) in float32; weight: (C, C); bias: (C,); pixels = H W.

    Returns the gates, (N, C) in float32 (float64 for float64).
    """
    check(sums, weight, bias)
    return reference(sums, weight, bias, pixels)


@channel_gates.register_kernel("cuda")
def _on_gpu(sums: Tensor, weight: Tensor, bias: Tensor, pixels: int) -> Tensor:
    check(sums, weight, bias)
    return launch(sums, weight, bias, pixels)


@channel_gates.register_fake
def _fake(sums: Tensor, weight: Tensor, bias: Tensor, pixels: int) -> Tensor:
    return sums.new_empty((sums.shape[0], weight.shape[0]))
