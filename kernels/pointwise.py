"""1x1 convolution with bias, or bias and exact GELU, as a matrix product over all pixels."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .layout import empty_nhwc, nhwc, require_nhwc, require_shape, wide


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W x + b for each pixel, in float32 or wider and not rounded. (N, K, H, W) -> (N, C, H, W)"""
    inner = wide(x.dtype)
    return F.conv2d(x.to(inner), weight.to(inner)[:, :, None, None], bias.to(inner))


def reference(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """The same in PyTorch, in float32 or wider up to the rounding of the result."""
    y = product(x, weight, bias)
    return nhwc(F.gelu(y) if gelu else y, x.dtype)


def check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Raise a UsageError on a layout, shape or type that the products do not take."""
    require_nhwc(x=x)
    require_shape((weight.shape[0], x.shape[1]), x.dtype, weight=weight)
    require_shape((weight.shape[0],), bias=bias)


@torch.library.custom_op("convbench::pointwise", mutates_args=(), device_types="cpu")
def pointwise(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """x: (N, K, H, W) in channels_last; weight: (C, K); bias: (C,). Returns (N, C, H, W) in channels_last."""
    check(x, weight, bias)
    return reference(x, weight, bias, gelu)


@pointwise.register_kernel("cuda")
def _on_gpu(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    check(x, weight, bias)
    return launch(x, weight, bias, gelu)


@pointwise.register_fake
def _fake(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    return empty_nhwc(x, weight.shape[0])
