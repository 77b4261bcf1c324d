"""1x1 convolution, bias and exact GELU, with the sums of squares that FCDM's response norm needs.

    y = gelu(W x + b);  squares[n, segment, c] = the segment's sum of y^2 as stored

A segment is a run of pixels of one sample; ``response_factors`` adds the segments in a fixed order.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .layout import cdiv, empty_nhwc, wide
from .pointwise import check
from .pointwise import reference as pointwise_reference


def segment_pixels(pixels: int) -> int:
    """Pixels summed together: the longest of 128, 64, 32, 16 that leaves at most an eighth of the rows empty."""
    return next((long for long in (128, 64, 32) if 8 * cdiv(pixels, long) * long <= 9 * pixels), 16)


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The same in PyTorch, in float32 or wider up to the rounding of y."""
    y = pointwise_reference(x, weight, bias, gelu=True)
    rows = y.permute(0, 2, 3, 1).flatten(1, 2).to(wide(x.dtype))  # (N, pixels, C)
    long = segment_pixels(rows.shape[1])
    return y, F.pad(rows, (0, 0, 0, -rows.shape[1] % long)).unflatten(1, (-1, long)).square().sum(dim=2)


@torch.library.custom_op("convbench::pointwise_squares", mutates_args=(), device_types="cpu")
def pointwise_squares(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """x: (N, K, H, W) in channels_last; weight: (C, K); bias: (C,).

    Returns y, (N, C, H, W) in channels_last, and squares, (N, segments, C) in float32 (float64 for float64).
    """
    check(x, weight, bias)
    return reference(x, weight, bias)


@pointwise_squares.register_kernel("cuda")
def _on_gpu(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    check(x, weight, bias)
    return launch(x, weight, bias)


@pointwise_squares.register_fake
def _fake(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    n, _, h, w = x.shape
    segments = cdiv(h * w, segment_pixels(h * w))
    return empty_nhwc(x, weight.shape[0]), x.new_empty((n, segments, weight.shape[0]), dtype=wide(x.dtype))
