"""1x1 products two ways: as one fused kernel, or as the library's product and separate passes. dispatch.toml chooses.

x: (B, K, H, W) in channels_last; weight: (C, K); bias: (C,); gate: (B, C); results (B, C, H, W) in channels_last.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layout import wide
from ..ops.pointwise import pointwise
from ..ops.pointwise_residual import pointwise_residual
from ..ops.pointwise_squares import pointwise_squares


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The library's product, which adds the bias itself."""
    return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def matrix(conv: Any) -> tuple[Tensor, Tensor]:
    """Weight, as a (C, K) view, and bias of a 1x1 convolution."""
    return conv.weight.flatten(1), conv.bias


def convolved(conv: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution by the library's product."""
    return linear(x, *matrix(conv))


def product_gelu(x: Tensor, weight: Tensor, bias: Tensor, ours: bool) -> Tensor:
    """gelu(W x + b)."""
    return pointwise(x, weight, bias, gelu=True) if ours else F.gelu(linear(x, weight, bias))


def product_squares(x: Tensor, weight: Tensor, bias: Tensor, ours: bool) -> tuple[Tensor, Tensor]:
    """gelu(W x + b), and its squares summed over runs of pixels: (B, runs, C), at least float32."""
    if ours:
        return pointwise_squares(x, weight, bias)
    y = F.gelu(linear(x, weight, bias))
    return y, torch.linalg.vector_norm(y, dim=(2, 3), dtype=wide(y.dtype)).square()[:, None]


def product_residual(
    x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor, ours: bool
) -> Tensor:
    """residual + gate (W (factor x) + b); factor: (B, K)."""
    if ours:
        return pointwise_residual(x, factor, weight, bias, gate, residual)
    if factor is not None:
        x = x * factor.to(x.dtype)[:, :, None, None]
    return torch.addcmul(residual, linear(x, weight, bias), gate[:, :, None, None])
