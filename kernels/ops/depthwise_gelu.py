"""Depthwise 3x3 or 5x5 convolution, bias and exact GELU, with the sums that channel attention averages (DiCo).

    y = gelu(conv(x) + b);  sums[n, tile, c] = the tile's sum of y as stored

Two passes over memory instead of seven (convolution 2, bias 2, GELU 2, pooling 1). The sums are those of the rounded
values, so that the average is that of what the next operation reads. Each tile writes its own row of sums, and
``channel_gates`` adds the rows in a fixed order: no atomics, the same bits every time.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..depthwise_window import StripTile, launch_window, window_compilation
from ..layout import cdiv, empty_nhwc, nhwc, wide
from ..register import register
from ..schema import DICO_XL, Compilation, Kernel, Shape, u_shape
from .depthwise import check, window_flops, window_inputs, window_side

SHIPPED = {3: StripTile(4, 4), 5: StripTile(4, 2)}  # side of the window -> tile
TILE = 8, 4  # rows and columns of pixels summed together: part of the result's shape, so one for all sizes


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the result in PyTorch, in float32 or wider up to the rounding of y.

    x: (N, C, H, W) in channels_last; weight: (K*K, C), K = 3 or 5, row by row; bias: (C,).
    Returns y like x, and sums (N, tiles, C) in float32 (float64 for float64), tiles of 8 x 4 pixels row by row.
    """
    k, c = window_side(weight), x.shape[1]
    inner = wide(x.dtype)
    taps = weight.to(inner).t().reshape(c, 1, k, k)
    y = nhwc(F.gelu(F.conv2d(x.to(inner), taps, bias.to(inner), padding=k // 2, groups=c)), x.dtype)
    return y, sums_of(y)


def sums_of(y: Tensor) -> Tensor:
    """Sum each tile in float32 or wider, tiles row by row. (N, C, H, W) -> (N, tiles, C)"""
    (rows, cols), (h, w) = TILE, y.shape[2:]
    padded = F.pad(y.to(wide(y.dtype)), (0, -w % cols, 0, -h % rows))
    sums = padded.unflatten(3, (-1, cols)).unflatten(2, (-1, rows)).sum(dim=(3, 5))  # (N, C, tiles down, across)
    return sums.flatten(2).transpose(1, 2).contiguous()


def tile_count(height: int, width: int) -> int:
    """Number of tiles that cover a map of that many pixels."""
    return cdiv(height, TILE[0]) * cdiv(width, TILE[1])


def eager(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the same as the unfused block does up to the pooling, in the type of x. Shapes as in ``reference``.

    The second result is the average over the map, (N, C, 1, 1).
    """
    k, c = window_side(weight), x.shape[1]
    y = F.gelu(F.conv2d(x, weight.t().reshape(c, 1, k, k), bias, padding=k // 2, groups=c))
    return y, F.adaptive_avg_pool2d(y, 1)


def launch(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Run the kernel on checked arguments. Shapes as in ``reference``."""
    n, c, h, w = x.shape
    y, sums = empty_nhwc(x), x.new_empty((n, tile_count(h, w), c), dtype=torch.float32)
    side = window_side(weight)
    launch_window(x, weight, bias, y, side, SHIPPED[side], sums, rows=TILE[0])
    return y, sums


def _empty(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    return empty_nhwc(x), x.new_empty((n, tile_count(h, w), c), dtype=wide(x.dtype))


depthwise_gelu = register("depthwise_gelu", reference, check, launch, _empty)


def _min_bytes(shape: Shape, batch: int, itemsize: int) -> int:
    """Two passes over the map, the weights, and the sums in float32."""
    sums = 4 * batch * tile_count(shape.height, shape.width)
    per_channel = 2 * batch * shape.pixels * itemsize + (shape.kernel**2 + 1) * itemsize + sums
    return shape.channels * per_channel


def _compilations(precision: str) -> tuple[Compilation, ...]:
    return tuple(
        window_compilation("depthwise_gelu", precision, 3, SHIPPED[3], channels, TILE[0], gelu=True)
        for channels in (416, 832)  # blocks of 32 and 64 channels; no network has 5x5, which is compiled on the spot
    )


KERNELS = (
    Kernel(
        name="depthwise_gelu",
        summary="depthwise 3x3 or 5x5, bias, exact GELU, and sums for the pooling",
        replaces="DiCoBlock.conv2, F.gelu and the pooling of DiCoBlock.ca",
        op=depthwise_gelu,
        reference=reference,
        eager=eager,
        shapes=u_shape("dico_xl", DICO_XL, kernel=3),
        inputs=window_inputs,
        min_bytes=_min_bytes,
        flops=window_flops,
        compilations=_compilations,
        shipped=SHIPPED,
    ),
)
