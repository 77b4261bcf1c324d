"""The end of a branch: 1x1 convolution of a map scaled per sample and channel, bias, gate and residual.

    out = residual + gate (W (factor x) + b)

``factor`` is DiCo's channel attention or FCDM's response norm, applied while the operand is loaded. Without a factor,
this is the end of DiCo's perceptron.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..language import bound, input_precision, jit, on_device_of, tl, upcast_products
from ..layout import cdiv, empty_nhwc, nhwc, require_nhwc, require_shape, require_vectors, wide
from ..matrix_product import (
    SHIPPED,
    ProductTile,
    check_product,
    multiply,
    product,
    product_bytes,
    product_compilation,
    product_flops,
    product_inputs,
    tiles_of,
)
from ..matrix_product import tile_for as product_tile
from ..register import register
from ..schema import DICO_XL, FCDM_XL, Compilation, Kernel, Shape, feature_map, normal, products, u_shape
from .pointwise_squares import segment_pixels


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
def pointwise_residual_kernel(  # type: ignore[no-untyped-def]
    x,  # (N, pixels, K) contiguous, strides (pixels K, K, 1)
    factor,  # (N, K), adjacent channels, strides (factor_stride, 1); not read unless SCALED
    weight,  # (C, K) contiguous, strides (K, 1)
    bias,  # (C,) contiguous
    gate,  # (N, C), adjacent channels, strides (gate_stride, 1)
    residual,  # (N, pixels, C) contiguous, strides (pixels C, C, 1)
    y,  # (N, pixels, C) contiguous, strides (pixels C, C, 1)
    pixels, C, K, factor_stride, gate_stride,
    SCALED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: BM pixels of one sample, so that its factors and gates are vectors, and BN columns."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(C, BN)
    tiles = tl.cdiv(pixels, BM)
    sample = (pid // blocks // tiles).to(tl.int64)
    row = pid // blocks % tiles * BM + tl.arange(0, BM)
    has_row = row < pixels
    col = pid % blocks * BN + tl.arange(0, BN)
    has_col = col < C

    x += sample * pixels * K
    factor += sample * factor_stride
    total = multiply(x + row * K, has_row, weight + col * K, has_col, factor, K, SCALED, BM, BN, BK, PRECISION, UPCAST)
    total += tl.load(bias + col, mask=has_col, other=0.0).to(tl.float32)[None, :]
    total *= tl.load(gate + sample * gate_stride + col, mask=has_col, other=0.0).to(tl.float32)[None, :]
    here = has_row[:, None] & has_col[None, :]
    at = sample * pixels * C + (row * C)[:, None] + col[None, :]
    total += tl.load(residual + at, mask=here, other=0.0).to(tl.float32)
    tl.store(y + at, total.to(y.dtype.element_ty), mask=here)


def tile_for(inner: int, channels: int, pixels: int, itemsize: int) -> ProductTile:
    """Return the product's tile, with no more rows than one sample fills."""
    tile = product_tile(inner, channels, itemsize)
    return replace(tile, rows=min(tile.rows, segment_pixels(pixels)))


def launch(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
    """Run the kernel on checked arguments. Shapes as in ``reference``."""
    (n, k, h, w), c = x.shape, weight.shape[0]
    tile = tile_for(k, c, h * w, x.element_size())
    y = empty_nhwc(x, c)
    scales = x if factor is None else factor  # a pointer that is never read
    with on_device_of(x):
        pointwise_residual_kernel[(n * cdiv(h * w, tile.rows) * cdiv(c, tile.cols),)](
            x, scales, weight, bias, gate, residual, y, h * w, c, bound(k), scales.stride(0), gate.stride(0),
            SCALED=factor is not None, BM=tile.rows, BN=tile.cols, BK=tile.inner,
            PRECISION=input_precision(), UPCAST=upcast_products(x.dtype),
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
    scalars = ("pixels", "C", "K", "factor_stride", "gate_stride")
    return tuple(
        product_compilation(
            name, pointwise_residual_kernel, replace(tile, rows=rows), pointers, scalars, {"SCALED": scaled}
        )
        for index, tile in enumerate(tiles_of(dtype))
        for rows in sorted({tile.rows} if index else {tile.rows, 64})  # 64 at 8x8 pixels, where 128 divides the widths
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
        shipped=SHIPPED,
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
