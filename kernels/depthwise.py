"""Depthwise convolution of side 3, 5 or 7 and bias (FCDM's 7x7, DiG's 3x3)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError
from .layout import empty_nhwc, nhwc, require_nhwc, require_shape, wide

SIDES = {9: 3, 25: 5, 49: 7}  # number of taps -> side of the window


def window_side(weight: Tensor) -> int:
    """K of a window whose weights are (K*K, C). Raises a UsageError on another number of taps."""
    if weight.shape[0] not in SIDES:
        raise UsageError(f"weight must be (K*K, C) with K = 3, 5 or 7, got {tuple(weight.shape)}")
    return SIDES[weight.shape[0]]


def window_rows(weight: Tensor) -> Tensor:
    """The weights of a depthwise nn.Conv2d as the ops take them. (C, 1, K, K) -> (K*K, C), row by row."""
    return weight.flatten(1).t().contiguous()


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same in PyTorch, in float32 or wider up to the rounding of the result."""
    inner, k, c = wide(x.dtype), window_side(weight), x.shape[1]
    taps = weight.to(inner).t().reshape(c, 1, k, k)
    return nhwc(F.conv2d(x.to(inner), taps, bias.to(inner), padding=k // 2, groups=c), x.dtype)


def check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Raise a UsageError on a layout, shape or type that the depthwise ops do not take."""
    require_nhwc(x=x)
    require_shape((window_side(weight) ** 2, x.shape[1]), x.dtype, weight=weight)
    require_shape((x.shape[1],), bias=bias)


@torch.library.custom_op("convbench::depthwise", mutates_args=(), device_types="cpu")
def depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x: (N, C, H, W) in channels_last; weight: (K*K, C), K = 3, 5 or 7, row by row; bias: (C,). Returns y like x."""
    check(x, weight, bias)
    return reference(x, weight, bias)


@depthwise.register_kernel("cuda")
def _on_gpu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    check(x, weight, bias)
    return launch(x, weight, bias)


@depthwise.register_fake
def _fake(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return empty_nhwc(x)
