"""The end of a branch: 1x1 convolution of a map scaled per sample and channel, bias, gate and residual.

    out = residual + gate (W (factor x) + b)

``factor`` is DiCo's channel attention or FCDM's response norm, applied while the operand is loaded. Without a factor,
this is the end of DiCo's perceptron.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..language import bound, input_precision, jit, on_device_of, tl, upcast_products
from ..layout import cdiv, empty_nhwc, nhwc, require_nhwc, require_shape, require_vectors, wide
from ..matrix_product import (
    check_product,
    halves,
    multiply,
    multiply_described,
    operands,
    product,
    product_bytes,
    product_compilation,
    product_flops,
    product_inputs,
    product_tile,
    programs,
    shipped_tiles,
)
from ..register import register
from ..schema import DICO_XL, FCDM_XL, Compilation, Kernel, Shape, feature_map, normal, products, u_shape
from .pointwise_squares import SEGMENTS, segment_pixels

ROWS = (256, *SEGMENTS)  # of a tile, all of one sample


def reference(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
    """Compute the result in PyTorch, in float32 or wider; the scaled operand is rounded, as the product reads it.

    x: (N, K, H, W), residual: (N, C, H, W), both in channels_last; factor: (N, K) or none; weight: (C, K);
    bias: (C,); gate: (N, C). Rows of factor and gate may be slices of a wider matrix. Returns out like residual.
    """
    inner = wide(x.dtype)
    if factor is not None:
        x = (x.to(inner) * factor.to(inner)[:, :, None, None]).to(x.dtype)
    y = gate.to(inner)[:, :, None, None] * product(x, weight, bias)
    return nhwc(residual.to(inner) + y, x.dtype)


def eager(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
    """Compute the same as the unfused block does, in the type of x (for FCDM without the passes inside its norm).

    Shapes as in ``reference``.
    """
    if factor is not None:
        x = x * factor.to(x.dtype)[:, :, None, None]
    return residual + gate[:, :, None, None] * torch.nn.functional.conv2d(x, weight[:, :, None, None], bias)


def check(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> None:
    """Raise UsageError for a shape, type or layout that the operation does not take. Shapes as in ``reference``."""
    check_product(x, weight, bias)
    n, k, h, w = x.shape
    require_nhwc(residual=residual)
    require_shape((n, h, w, weight.shape[0]), x.dtype, residual=residual.permute(0, 2, 3, 1))
    require_vectors(n, weight.shape[0], gate=gate)
    if factor is not None:
        require_vectors(n, k, factor=factor)


@jit
def pointwise_residual_tile(  # type: ignore[no-untyped-def]
    tile, x, factor, weight, bias, gate, residual, y, pixels, C, K, factor_stride, gate_stride,
    SCALED: tl.constexpr, DESCRIPTORS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """BM pixels of one sample, so that its factors and gates are vectors, and BN columns.

    Descriptors know no samples: a tile that ends after its sample computes rows of the next one, and stores none.
    """
    blocks = tl.cdiv(C, BN)
    down = tl.cdiv(pixels, BM)
    number = tile // blocks // down
    sample = number.to(tl.int64)
    top = tile // blocks % down * BM
    left = tile % blocks * BN
    row = top + tl.arange(0, BM)
    has_row = row < pixels
    col = left + tl.arange(0, BN)
    has_col = col < C

    scales = factor + sample * factor_stride
    if DESCRIPTORS:
        first = number * pixels + top
        total = multiply_described(x, first, weight, left, scales, K, SCALED, BM, BN, BK, PRECISION, UPCAST)
    else:
        at = x + sample * pixels * K + row * K
        total = multiply(at, has_row, weight + col * K, has_col, scales, K, SCALED, BM, BN, BK, PRECISION, UPCAST)
    gate += sample * gate_stride
    residual += sample * pixels * C
    y += sample * pixels * C
    if BM * BN > 128 * 128:  # in two halves, or sums and residual together exceed the registers
        first, second = halves(total, BM, BN)
        finish(first, row, has_row, left, bias, gate, residual, y, C, BN // 2)
        finish(second, row, has_row, left + BN // 2, bias, gate, residual, y, C, BN // 2)
    else:
        finish(total, row, has_row, left, bias, gate, residual, y, C, BN)


@jit
def finish(  # type: ignore[no-untyped-def]
    total, row, has_row, left, bias, gate, residual, y, C, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Add the bias, multiply by the gate, add the residual and store: columns from ``left``."""
    col = left + tl.arange(0, COLUMNS)
    has_col = col < C
    total += tl.load(bias + col, mask=has_col, other=0.0).to(tl.float32)[None, :]
    total *= tl.load(gate + col, mask=has_col, other=0.0).to(tl.float32)[None, :]
    here = has_row[:, None] & has_col[None, :]
    place = (row * C)[:, None] + col[None, :]
    total += tl.load(residual + place, mask=here, other=0.0).to(tl.float32)
    tl.store(y + place, total.to(y.dtype.element_ty), mask=here)


@jit
def pointwise_residual_kernel(  # type: ignore[no-untyped-def]
    x,  # (N, pixels, K) contiguous, strides (pixels K, K, 1); or the descriptor of its rows
    factor,  # (N, K), adjacent channels, strides (factor_stride, 1); not read unless SCALED
    weight,  # (C, K) contiguous, strides (K, 1); or its descriptor
    bias,  # (C,) contiguous
    gate,  # (N, C), adjacent channels, strides (gate_stride, 1)
    residual,  # (N, pixels, C) contiguous, strides (pixels C, C, 1)
    y,  # (N, pixels, C) contiguous, strides (pixels C, C, 1)
    samples, pixels, C, K, factor_stride, gate_stride,
    SCALED: tl.constexpr, DESCRIPTORS: tl.constexpr, PERSISTENT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: one tile, or every tile whose number is that of the program modulo the number of programs."""
    if PERSISTENT:
        tiles = samples * tl.cdiv(pixels, BM) * tl.cdiv(C, BN)
        for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
            pointwise_residual_tile(
                tile, x, factor, weight, bias, gate, residual, y, pixels, C, K, factor_stride, gate_stride,
                SCALED, DESCRIPTORS, BM, BN, BK, PRECISION, UPCAST,
            )  # fmt: skip
    else:
        pointwise_residual_tile(
            tl.program_id(0), x, factor, weight, bias, gate, residual, y, pixels, C, K, factor_stride, gate_stride,
            SCALED, DESCRIPTORS, BM, BN, BK, PRECISION, UPCAST,
        )  # fmt: skip


def launch(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
    """Run the kernel on checked arguments. Shapes as in ``reference``."""
    (n, k, h, w), c = x.shape, weight.shape[0]
    name = "pointwise_residual" if factor is None else "pointwise_scaled_residual"
    tile = product_tile(name, x, weight, most_rows=segment_pixels(h * w, ROWS))
    grid = programs(tile, n * cdiv(h * w, tile.rows), cdiv(c, tile.cols), x)
    y = empty_nhwc(x, c)
    scales = x if factor is None else factor  # a pointer that is never read
    a, b = operands(x, weight, tile)
    with on_device_of(x):
        pointwise_residual_kernel[grid](
            a, scales, b, bias, gate, residual, y, n, h * w, c, bound(k), scales.stride(0), gate.stride(0),
            SCALED=factor is not None, DESCRIPTORS=tile.descriptors, PERSISTENT=tile.persistent,
            BM=tile.rows, BN=tile.cols, BK=tile.inner, PRECISION=input_precision(), UPCAST=upcast_products(x.dtype),
            num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip
    return y


def _empty(x: Tensor, factor: Tensor | None, weight: Tensor, *_: object) -> Tensor:
    return empty_nhwc(x, weight.shape[0])


pointwise_residual = register("pointwise_residual", reference, check, launch, _empty)


def _inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int, scaled: bool) -> tuple[Any, ...]:
    x, weight, bias = product_inputs(shape, batch, dtype, device, seed)
    k, c = shape.channels, shape.out_channels
    factor = normal(batch, k, dtype=torch.float32, device=device, seed=seed + 3, scale=0.3, shift=1.0)
    gate = normal(batch, c, dtype=dtype, device=device, seed=seed + 4)
    residual = feature_map(batch, c, shape, dtype, device, seed + 5)
    return x, factor if scaled else None, weight, bias, gate, residual


def _min_bytes(shape: Shape, batch: int, itemsize: int, scaled: bool) -> int:
    """Bytes of the product, one more map, the gates, and the factors in float32."""
    k, c = shape.channels, shape.out_channels
    more = batch * c * itemsize * (shape.pixels + 1) + (4 * batch * k if scaled else 0)
    return product_bytes(shape, batch, itemsize) + more


def _compilations(dtype: str, scaled: bool, name: str) -> tuple[Compilation, ...]:
    pointers = {name: f"*{dtype}" for name in ("x", "factor", "weight", "bias", "gate", "residual", "y")}
    if scaled:
        pointers["factor"] = "*fp32"
    scalars = ("samples", "pixels", "C", "K", "factor_stride", "gate_stride")
    return tuple(
        product_compilation(name, pointwise_residual_kernel, tile, gpus, pointers, scalars, {"SCALED": scaled})
        for tile, gpus in shipped_tiles(dtype).items()
    )


def _kernel(name: str, summary: str, replaces: str, shapes: tuple[Shape, ...], scaled: bool) -> Kernel:
    return Kernel(
        name=name,
        summary=summary,
        replaces=replaces,
        op=pointwise_residual,
        reference=reference,
        eager=eager,
        shapes=shapes,
        inputs=partial(_inputs, scaled=scaled),
        min_bytes=partial(_min_bytes, scaled=scaled),
        flops=product_flops,
        compilations=lambda dtype: _compilations(dtype, scaled, name),
    )


_DICO, _FCDM = u_shape("dico_xl", DICO_XL), u_shape("fcdm_xl", FCDM_XL)

KERNELS = (
    _kernel(
        "pointwise_scaled_residual",
        "1x1 product of a map scaled on load, bias, gate, residual",
        "the end of DiCoBlock.ca and conv3; the end of FCDMBlock.grn and pwconv2; gate and residual of both",
        products(_DICO, 1, 1) + products(_FCDM, 3, 1),
        scaled=True,
    ),
    _kernel(
        "pointwise_residual",
        "1x1 product, bias, gate, residual",
        "DiCoBlock.conv5, gate and residual",
        products(_DICO, 2, 1),
        scaled=False,
    ),
)
