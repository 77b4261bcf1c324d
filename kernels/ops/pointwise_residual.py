"""The end of a branch: 1x1 convolution of a map scaled per sample and channel, bias, gate and residual.

    out = residual + gate (W (factor x) + b)

``factor`` is DiCo's channel attention or FCDM's response norm, applied while the operand is loaded. Without it,
the end of DiCo's perceptron.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..language import bound, input_precision, jit, on_device_of, tl, upcast_products
from ..layout import cdiv, empty_nhwc, nhwc, require_nhwc, require_shape, require_vectors, wide
from ..schema import DICO_XL, FCDM_XL, Compilation, Kernel, Shape, feature_map, normal, products, u_shape
from .pointwise import SHIPPED, multiply, product, product_bytes, product_compilation, product_flops, product_inputs
from .pointwise import check as check_product
from .pointwise import tile_for as product_tile
from .pointwise import tiles as product_tiles
from .pointwise_squares import segment_pixels


def reference(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
    """The same in PyTorch, in float32 or wider; the scaled operand is rounded, as the product reads it."""
    inner = wide(x.dtype)
    if factor is not None:
        x = (x.to(inner) * factor.to(inner)[:, :, None, None]).to(x.dtype)
    y = gate.to(inner)[:, :, None, None] * product(x, weight, bias)
    return nhwc(residual.to(inner) + y, x.dtype)


def check(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> None:
    check_product(x, weight, bias)
    n, k, h, w = x.shape
    require_nhwc(residual=residual)
    require_shape((n, h, w, weight.shape[0]), x.dtype, residual=residual.permute(0, 2, 3, 1))
    require_vectors(n, weight.shape[0], gate=gate)
    if factor is not None:
        require_vectors(n, k, factor=factor)


@jit
def _pointwise_residual(  # type: ignore[no-untyped-def]
    x, factor, weight, bias, gate, residual, y, pixels, C, K, factor_stride, gate_stride,
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


def tile_for(inner: int, channels: int, pixels: int, itemsize: int) -> Any:
    """The product's tile, with no more rows than fit one sample."""
    tile = product_tile(inner, channels, itemsize)
    return replace(tile, rows=min(tile.rows, segment_pixels(pixels)))


def launch(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
    """Run the kernel. The arguments have been checked."""
    (n, k, h, w), c = x.shape, weight.shape[0]
    tile = tile_for(k, c, h * w, x.element_size())
    y = empty_nhwc(x, c)
    scales = x if factor is None else factor  # a pointer that is never read
    with on_device_of(x):
        _pointwise_residual[(n * cdiv(h * w, tile.rows) * cdiv(c, tile.cols),)](
            x, scales, weight, bias, gate, residual, y, h * w, c, bound(k), scales.stride(0), gate.stride(0),
            SCALED=factor is not None, BM=tile.rows, BN=tile.cols, BK=tile.inner,
            PRECISION=input_precision(), UPCAST=upcast_products(x.dtype),
            num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip
    return y


@torch.library.custom_op("convbench::pointwise_residual", mutates_args=(), device_types="cpu")
def pointwise_residual(
    x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor
) -> Tensor:
    """x: (N, K, H, W), residual: (N, C, H, W), both in channels_last; factor: (N, K) or none; weight: (C, K);
    bias: (C,); gate: (N, C). Rows of factor and gate may be slices of a wider matrix. Returns out like residual.
    """
    check(x, factor, weight, bias, gate, residual)
    return reference(x, factor, weight, bias, gate, residual)


@pointwise_residual.register_kernel("cuda")
def _on_gpu(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
    check(x, factor, weight, bias, gate, residual)
    return launch(x, factor, weight, bias, gate, residual)


@pointwise_residual.register_fake
def _fake(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
    return empty_nhwc(x, weight.shape[0])


def eager(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
    """What the unfused block runs, in the type of x (for FCDM without the passes inside its response norm)."""
    if factor is not None:
        x = x * factor.to(x.dtype)[:, :, None, None]
    return residual + gate[:, :, None, None] * torch.nn.functional.conv2d(x, weight[:, :, None, None], bias)


def _inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int, scaled: bool) -> tuple[Any, ...]:
    x, weight, bias = product_inputs(shape, batch, dtype, device, seed)
    k, c = shape.channels, shape.out_channels
    factor = normal(batch, k, dtype=torch.float32, device=device, seed=seed + 3, scale=0.3, shift=1.0)
    gate = normal(batch, c, dtype=dtype, device=device, seed=seed + 4)
    residual = feature_map(batch, c, shape, dtype, device, seed + 5)
    return x, factor if scaled else None, weight, bias, gate, residual


def _min_bytes(shape: Shape, batch: int, itemsize: int, scaled: bool) -> int:
    """The product's, one more map, the gates, and the factors in float32."""
    k, c = shape.channels, shape.out_channels
    more = batch * c * itemsize * (shape.pixels + 1) + (4 * batch * k if scaled else 0)
    return product_bytes(shape, batch, itemsize) + more


def _compilations(dtype: str, scaled: bool, name: str) -> tuple[Compilation, ...]:
    pointers = {name: f"*{dtype}" for name in ("x", "factor", "weight", "bias", "gate", "residual", "y")}
    if scaled:
        pointers["factor"] = "*fp32"
    scalars = ("pixels", "C", "K", "factor_stride", "gate_stride")
    return tuple(
        product_compilation(name, _pointwise_residual, replace(tile, rows=rows), pointers, scalars, {"SCALED": scaled})
        for index, tile in enumerate(product_tiles(dtype))
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
