"""1x1 products in two ways: as one fused kernel (``ours``), or as the library's product and separate passes.

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


def library_product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute W x + b with the library's product, which adds the bias. (B, K, H, W), (C, K), (C,) -> (B, C, H, W)"""
    return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def weight_and_bias(conv: Any) -> tuple[Tensor, Tensor]:
    """Return the weight, as a (C, K) view, and the bias, (C,), of a 1x1 convolution."""
    return conv.weight.flatten(1), conv.bias


def library_convolution(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution as the library's product. (B, K, H, W) -> (B, C, H, W)"""
    return library_product(x, *weight_and_bias(conv))


def product_gelu(x: Tensor, weight: Tensor, bias: Tensor, ours: bool) -> Tensor:
    """Compute gelu(W x + b). (B, K, H, W), (C, K), (C,) -> (B, C, H, W)"""
    return pointwise(x, weight, bias, gelu=True) if ours else F.gelu(library_product(x, weight, bias))


def product_squares(x: Tensor, weight: Tensor, bias: Tensor, ours: bool) -> tuple[Tensor, Tensor]:
    """Compute gelu(W x + b), and its squares summed over runs of pixels: (B, runs, C) in float32 or wider."""
    if ours:
        return pointwise_squares(x, weight, bias)
    y = F.gelu(library_product(x, weight, bias))
    return y, torch.linalg.vector_norm(y, dim=(2, 3), dtype=wide(y.dtype)).square()[:, None]


def product_residual(
    x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor, ours: bool
) -> Tensor:
    """Compute residual + gate (W (factor x) + b). residual: (B, C, H, W); factor: (B, K) or None."""
    if ours:
        return pointwise_residual(x, factor, weight, bias, gate, residual)
    if factor is not None:
        x = x * factor.to(x.dtype)[:, :, None, None]
    return torch.addcmul(residual, library_product(x, weight, bias), gate[:, :, None, None])
