"""Depthwise 3x3 or 5x5 convolution, bias and exact GELU, with the sums that channel attention averages (DiCo).

    y = gelu(conv(x) + b);  sums[n, tile, c] = the tile's sum of y as stored

One pass over memory instead of six: cuDNN's convolution 2, bias 2, GELU 2, pooling 1, of which 2 are left.
The sums are of the rounded values, so that the average is that of what the next op reads. They go to one row a
tile and are added in a fixed order by ``channel_gates``: no atomics, the same bits every time.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .depthwise import check, window_side
from .layout import cdiv, empty_nhwc, nhwc, wide

TILE = 4, 8  # rows and columns of pixels summed together: part of the op's meaning, so one for all sizes


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The same in PyTorch, in float32 or wider up to the rounding of y."""
    k, n, c = window_side(weight), x.shape[0], x.shape[1]
    inner = wide(x.dtype)
    taps = weight.to(inner).t().reshape(c, 1, k, k)
    y = nhwc(F.gelu(F.conv2d(x.to(inner), taps, bias.to(inner), padding=k // 2, groups=c)), x.dtype)
    (th, tw), (h, w) = TILE, x.shape[2:]
    padded = F.pad(y.to(inner), (0, -w % tw, 0, -h % th))
    sums = padded.unflatten(3, (-1, tw)).unflatten(2, (-1, th)).sum(dim=(3, 5))  # (N, C, tiles down, tiles across)
    return y, sums.flatten(2).transpose(1, 2).contiguous().reshape(n, -1, c)


@torch.library.custom_op("convbench::depthwise_gelu", mutates_args=(), device_types="cpu")
def depthwise_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """x: (N, C, H, W) in channels_last; weight: (K*K, C), K = 3 or 5, row by row; bias: (C,).

    Returns y like x, and sums (N, tiles, C) in float32 (float64 for float64), tiles of 4 x 8 pixels row by row.
    """
    check(x, weight, bias)
    return reference(x, weight, bias)


@depthwise_gelu.register_kernel("cuda")
def _(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    check(x, weight, bias)
    return launch(x, weight, bias)


@depthwise_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    tiles = cdiv(h, TILE[0]) * cdiv(w, TILE[1])
    return empty_nhwc(x), x.new_empty((n, tiles, c), dtype=wide(x.dtype))
