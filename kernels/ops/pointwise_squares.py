"""1x1 convolution, bias and exact GELU, with the sums of squares that FCDM's response norm needs.

    y = gelu(W x + b);  squares[n, segment, c] = the segment's sum of y^2 as stored

A segment is a run of pixels of one sample. ``response_factors`` adds the segments in a fixed order.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..language import bound, gelu, input_precision, jit, on_device_of, tl, upcast_products
from ..layout import cdiv, empty_nhwc, wide
from ..matrix_product import (
    check_product,
    halves,
    multiply,
    multiply_described,
    operands,
    product_bytes,
    product_compilation,
    product_flops,
    product_inputs,
    product_tile,
    programs,
    shipped_tiles,
)
from ..register import register
from ..schema import FCDM_XL, Compilation, Kernel, Shape, products, u_shape
from .pointwise import eager as pointwise_eager
from .pointwise import reference as pointwise_reference

SEGMENTS = 128, 64, 32, 16  # pixels


def segment_pixels(pixels: int, lengths: tuple[int, ...] = SEGMENTS) -> int:
    """Pixels summed together: the longest of ``lengths`` that leaves at most an eighth of the rows empty."""
    most = max(9 * pixels // 8, cdiv(pixels, lengths[-1]) * lengths[-1])
    return next(long for long in lengths if cdiv(pixels, long) * long <= most)


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the result in PyTorch, in float32 or wider up to the rounding of y.

    x: (N, K, H, W) in channels_last; weight: (C, K); bias: (C,).
    Returns y, (N, C, H, W) in channels_last, and squares, (N, segments, C) in float32 (float64 for float64).
    """
    y = pointwise_reference(x, weight, bias, gelu=True)
    return y, squares_of(y)


def squares_of(y: Tensor) -> Tensor:
    """Sum the squares of each segment in float32 or wider. (N, C, H, W) -> (N, segments, C)"""
    rows = y.permute(0, 2, 3, 1).flatten(1, 2).to(wide(y.dtype))  # (N, pixels, C)
    long = segment_pixels(rows.shape[1])
    return F.pad(rows, (0, 0, 0, -rows.shape[1] % long)).unflatten(1, (-1, long)).square().sum(dim=2)


def eager(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the same as the unfused block does up to the response, in the type of x. Shapes as in ``reference``.

    The second result is the norm over the map, (N, C, 1, 1).
    """
    y = pointwise_eager(x, weight, bias, gelu=True)
    return y, torch.linalg.vector_norm(y, dim=(2, 3), keepdim=True, dtype=wide(y.dtype))


@jit
def pointwise_squares_tile(  # type: ignore[no-untyped-def]
    tile, x, weight, bias, y, squares, samples, pixels, segments, C, K,
    SEGMENT: tl.constexpr, DESCRIPTORS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """BM / SEGMENT segments and BN columns. A segment's rows are of one sample; its last may have fewer.

    With descriptors no segment may have fewer: the rows of a tile are then adjacent.
    """
    PARTS: tl.constexpr = BM // SEGMENT
    blocks = tl.cdiv(C, BN)
    start = tile // blocks * PARTS
    left = tile % blocks * BN
    segment = start + tl.arange(0, BM) // SEGMENT
    sample = segment // segments
    pixel = segment % segments * SEGMENT + tl.arange(0, BM) % SEGMENT
    has_row = (pixel < pixels) & (sample < samples)
    row = (sample - start // segments) * pixels + pixel  # from the first sample of the tile
    base = (start // segments).to(tl.int64) * pixels
    col = left + tl.arange(0, BN)
    has_col = col < C

    if DESCRIPTORS:
        top = start * SEGMENT
        total = multiply_described(x, top, weight, left, bias, K, False, BM, BN, BK, PRECISION, UPCAST)
    else:
        at = x + base * K + row * K
        total = multiply(at, has_row, weight + col * K, has_col, bias, K, False, BM, BN, BK, PRECISION, UPCAST)
    y += base * C
    ends = samples * segments
    if BM * BN > 128 * 128:  # in two halves, or sums and their squares together exceed the registers
        first, second = halves(total, BM, BN)
        finish(first, row, has_row, left, bias, y, squares, start, ends, C, SEGMENT, PARTS, BN // 2)
        finish(second, row, has_row, left + BN // 2, bias, y, squares, start, ends, C, SEGMENT, PARTS, BN // 2)
    else:
        finish(total, row, has_row, left, bias, y, squares, start, ends, C, SEGMENT, PARTS, BN)


@jit
def finish(  # type: ignore[no-untyped-def]
    total, row, has_row, left, bias, y, squares, start, ends, C,
    SEGMENT: tl.constexpr, PARTS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add the bias, apply GELU, store, and sum the squares of what is stored: columns from ``left``."""
    col = left + tl.arange(0, COLUMNS)
    has_col = col < C
    total += tl.load(bias + col, mask=has_col, other=0.0).to(tl.float32)[None, :]
    stored = gelu(total).to(y.dtype.element_ty)
    here = has_row[:, None] & has_col[None, :]
    tl.store(y + (row * C)[:, None] + col[None, :], stored, mask=here)

    wide = tl.where(here, stored.to(tl.float32), 0.0)
    parts = tl.sum(tl.reshape(wide * wide, (PARTS, SEGMENT, COLUMNS)), axis=1)
    part = start + tl.arange(0, PARTS)
    has_part = (part < ends)[:, None] & has_col[None, :]
    tl.store(squares + part.to(tl.int64)[:, None] * C + col[None, :], parts, mask=has_part)


@jit
def pointwise_squares_kernel(  # type: ignore[no-untyped-def]
    x,  # (samples, pixels, K) contiguous, strides (pixels K, K, 1); or the descriptor of its rows
    weight,  # (C, K) contiguous, strides (K, 1); or its descriptor
    bias,  # (C,) contiguous
    y,  # (samples, pixels, C) contiguous, strides (pixels C, C, 1)
    squares,  # (samples, segments, C) contiguous, strides (segments C, C, 1), float32
    samples, pixels, segments, C, K,
    SEGMENT: tl.constexpr, DESCRIPTORS: tl.constexpr, PERSISTENT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: one tile, or every tile whose number is that of the program modulo the number of programs."""
    if PERSISTENT:
        tiles = tl.cdiv(samples * segments, BM // SEGMENT) * tl.cdiv(C, BN)
        for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
            pointwise_squares_tile(
                tile, x, weight, bias, y, squares, samples, pixels, segments, C, K,
                SEGMENT, DESCRIPTORS, BM, BN, BK, PRECISION, UPCAST,
            )  # fmt: skip
    else:
        pointwise_squares_tile(
            tl.program_id(0), x, weight, bias, y, squares, samples, pixels, segments, C, K,
            SEGMENT, DESCRIPTORS, BM, BN, BK, PRECISION, UPCAST,
        )  # fmt: skip


def launch(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Run the kernel on checked arguments. Shapes as in ``reference``."""
    (n, k, h, w), c = x.shape, weight.shape[0]
    segment = segment_pixels(h * w)
    segments = cdiv(h * w, segment)
    found = product_tile("pointwise_squares", x, weight, described=h * w % segment == 0)
    tile = replace(found, rows=max(found.rows, segment))
    grid = programs(tile, cdiv(n * segments * segment, tile.rows), cdiv(c, tile.cols), x)
    y, squares = empty_nhwc(x, c), x.new_empty((n, segments, c), dtype=torch.float32)
    with on_device_of(x):
        pointwise_squares_kernel[grid](
            *operands(x, weight, tile), bias, y, squares, n, h * w, segments, c, bound(k),
            SEGMENT=segment, DESCRIPTORS=tile.descriptors, PERSISTENT=tile.persistent,
            BM=tile.rows, BN=tile.cols, BK=tile.inner, PRECISION=input_precision(), UPCAST=upcast_products(x.dtype),
            num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip
    return y, squares


def _empty(x: Tensor, weight: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    n, (h, w) = x.shape[0], x.shape[2:]
    segments = cdiv(h * w, segment_pixels(h * w))
    return empty_nhwc(x, weight.shape[0]), x.new_empty((n, segments, weight.shape[0]), dtype=wide(x.dtype))


pointwise_squares = register("pointwise_squares", reference, check_product, launch, _empty)


def _min_bytes(shape: Shape, batch: int, itemsize: int) -> int:
    """Bytes of the product (four passes over the block's map in FCDM), and of the sums in float32."""
    segments = cdiv(shape.pixels, segment_pixels(shape.pixels))
    return product_bytes(shape, batch, itemsize) + 4 * batch * segments * shape.out_channels


def _compilations(dtype: str) -> tuple[Compilation, ...]:
    pointers = {name: f"*{dtype}" for name in ("x", "weight", "bias", "y")} | {"squares": "*fp32"}
    scalars = ("samples", "pixels", "segments", "C", "K")
    return tuple(
        product_compilation(
            f"pointwise_squares by {segment} pixels",
            pointwise_squares_kernel,
            tile,
            gpus,
            pointers,
            scalars,
            {"SEGMENT": segment},
        )
        for tile, gpus in shipped_tiles(dtype).items()
        for segment in SEGMENTS[:2]  # of the XL networks: 64 pixels at 8x8, 128 everywhere else
        if segment <= tile.rows
    )


KERNELS = (
    Kernel(
        name="pointwise_squares",
        summary="1x1 product, bias, exact GELU, and sums of squares for the response norm",
        replaces="FCDMBlock.pwconv1, F.gelu and the norm inside FCDMBlock.grn",
        op=pointwise_squares,
        reference=reference,
        eager=eager,
        shapes=products(u_shape("fcdm_xl", FCDM_XL), 1, 3),
        inputs=product_inputs,
        min_bytes=_min_bytes,
        flops=product_flops,
        compilations=_compilations,
    ),
)
