"""Group norm, first of three kernels: mean and squared deviations of each channel over blocks of pixels.

One pass over memory. The blocks' moments are merged by ``group_norm_merge``.
"""

import torch
from torch import Tensor

from ..language import jit, on_device_of, tl
from ..layout import cdiv
from ..schema import Compilation

BLOCK_PIXELS = 128, 64  # pixels of a block, the second for maps that have no more: part of the sums' definition
CHANNELS, WARPS = 64, 4  # of a program


def block_pixels(pixels: int) -> int:
    """Pixels of one block. It depends on the map's size alone, so that a sample's result is the same in every batch."""
    long, short = BLOCK_PIXELS
    return long if pixels > short else short


@jit
def moments_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # (N, pixels, channels) contiguous, strides (pixels channels, channels, 1)
    mean_ptr,  # (N, blocks, channels) contiguous, strides (blocks channels, channels, 1), float32
    square_ptr,  # (N, blocks, channels) contiguous, strides (blocks channels, channels, 1), float32
    channels,
    pixels,
    blocks,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Mean of each channel and sum of its squared deviations, over one block of pixels; EVEN: no block is ragged."""
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    block = tl.program_id(1)
    row = block * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(2).to(tl.int64)  # a batch may hold more than 2^31 elements
    known = c < channels
    inside = known[None, :] & (row >= 0)[:, None]
    if not EVEN:
        inside &= (row < pixels)[:, None]

    at = n * pixels * channels + row[:, None] * channels + c[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / tl.minimum(pixels - block * ROWS, ROWS).to(tl.float32)
    away = x - mean[None, :]
    if not EVEN:
        away = tl.where(inside, away, 0.0)

    to = (n * blocks + block) * channels + c
    tl.store(mean_ptr + to, mean, mask=known)
    tl.store(square_ptr + to, tl.sum(away * away, axis=0), mask=known)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means and sums of squared deviations. x: (N, C, H, W) in channels_last -> two (N, blocks, C) in float32."""
    n, c, h, w = x.shape
    rows = block_pixels(h * w)
    blocks = cdiv(h * w, rows)
    mean, square = x.new_empty((2, n, blocks, c), dtype=torch.float32)
    with on_device_of(x):
        moments_kernel[cdiv(c, CHANNELS), blocks, n](
            x, mean, square, c, h * w, blocks,
            EVEN=h * w % rows == 0, ROWS=rows, COLUMNS=CHANNELS, num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return mean, square


def moments_compilation(precision: str) -> Compilation:
    """The compilation that DiC-XL launches at level 1 of 256 px: full blocks of 128 pixels."""
    moments = {"mean_ptr": "*fp32", "square_ptr": "*fp32"}
    return Compilation(
        label=f"moments {BLOCK_PIXELS[0]}x{CHANNELS}",
        function=moments_kernel,
        pointers={"x_ptr": f"*{precision}"} | moments,
        scalars=dict.fromkeys(("channels", "pixels", "blocks"), "i32"),
        constants={"EVEN": True, "ROWS": BLOCK_PIXELS[0], "COLUMNS": CHANNELS},
        aligned=("x_ptr", *moments, "channels", "pixels"),
        num_warps=WARPS,
        num_stages=1,
    )
