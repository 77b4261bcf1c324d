"""Group norm, third of three kernels: y = gelu(x factor + offset). Two passes over memory."""

import torch
from torch import Tensor

from ..language import gelu, jit, on_device_of, tl
from ..layout import cdiv, empty_nhwc
from ..schema import DTYPES, Compilation, MapTile

SHIPPED = {torch.float32: MapTile(16, 128, 4), torch.float16: MapTile(32, 128, 4), torch.bfloat16: MapTile(32, 128, 4)}


@jit
def apply_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # (N, pixels, channels) contiguous, strides (pixels channels, channels, 1)
    factor_ptr,  # (N, channels) contiguous, strides (channels, 1), float32
    offset_ptr,  # (N, channels) contiguous, strides (channels, 1), float32
    y_ptr,  # (N, pixels, channels) contiguous, strides (pixels channels, channels, 1)
    channels,
    pixels,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS pixels of one sample, COLUMNS channels."""
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(2).to(tl.int64)
    known = c < channels
    inside = (row < pixels)[:, None] & known[None, :]

    factor = tl.load(factor_ptr + n * channels + c, mask=known, other=0.0)
    offset = tl.load(offset_ptr + n * channels + c, mask=known, other=0.0)
    at = n * pixels * channels + row[:, None] * channels + c[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    y = gelu(x * factor[None, :] + offset[None, :])
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


def apply(x: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    """Return gelu(x factor + offset). x: (N, C, H, W) in channels_last; factor, offset: (N, C) in float32. Like x."""
    n, c, h, w = x.shape
    y, tile = empty_nhwc(x), SHIPPED[x.dtype]
    with on_device_of(x):
        apply_kernel[cdiv(c, tile.columns), cdiv(h * w, tile.rows), n](
            x, factor, offset, y, c, h * w,
            ROWS=tile.rows, COLUMNS=tile.columns, num_warps=tile.num_warps, enable_fp_fusion=True,
        )  # fmt: skip
    return y


def apply_compilation(precision: str) -> Compilation:
    """The compilation that DiC-XL launches at level 1 of 256 px."""
    tile, kind = SHIPPED[DTYPES[precision]], f"*{precision}"
    vectors = {"factor_ptr": "*fp32", "offset_ptr": "*fp32"}
    return Compilation(
        label=f"affine_gelu {tile.rows}x{tile.columns}",
        function=apply_kernel,
        pointers={"x_ptr": kind, "y_ptr": kind} | vectors,
        scalars={"channels": "i32", "pixels": "i32"},
        constants={"ROWS": tile.rows, "COLUMNS": tile.columns},
        aligned=("x_ptr", "y_ptr", *vectors, "channels", "pixels"),
        num_warps=tile.num_warps,
        num_stages=1,
    )
