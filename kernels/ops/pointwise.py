"""1x1 convolution with bias, or bias and exact GELU, as a matrix product over all pixels.

The loop over the inner dimension and the choice of tiles are shared with ``pointwise_squares``,
``pointwise_residual`` and ``channel_gates``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..language import bound, input_precision, jit, on_device_of, tl, upcast_products
from ..language import gelu as gelu_of
from ..layout import cdiv, empty_nhwc, nhwc, require_nhwc, require_shape, wide
from ..schema import DICO_XL, Compilation, Kernel, Shape, feature_map, normal, products, u_shape


@dataclass(frozen=True)
class Tile:
    """Rows (pixels), columns (output channels) and inner length of a program's step."""

    rows: int
    cols: int
    inner: int
    warps: int
    stages: int


# Which tile for which product: the first whose columns and inner length divide it. 416 is 13 times 32, so there
# 64 columns leave 7 % of the work empty, 128 would leave 19 %.
SHIPPED = {
    2: (Tile(128, 128, 64, 8, 3), Tile(128, 64, 64, 4, 3), Tile(128, 64, 32, 4, 4)),  # bytes of an element -> tiles
    4: (Tile(64, 64, 32, 4, 3),),
}


def tile_for(inner: int, channels: int, itemsize: int) -> Tile:
    """The shipped tile of a product from ``inner`` to ``channels``."""
    tiles = SHIPPED[itemsize]
    return next((t for t in tiles if channels % t.cols == 0 and inner % t.inner == 0), tiles[-1])


@jit
def multiply(  # type: ignore[no-untyped-def]
    x, has_row, weight, has_col, factor, K,
    SCALED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Rows of x times rows of weight. x: BM pointers, weight: BN pointers, factor: K scales of x or anything."""
    total = tl.zeros((BM, BN), tl.float32)
    for first in range(0, K, BK):
        k = first + tl.arange(0, BK)
        has_k = k < K
        a = tl.load(x[:, None] + k[None, :], mask=has_row[:, None] & has_k[None, :], other=0.0)
        w = tl.load(weight[None, :] + k[:, None], mask=has_k[:, None] & has_col[None, :], other=0.0)
        if SCALED:
            s = tl.load(factor + k, mask=has_k, other=0.0).to(tl.float32)
            a = (a.to(tl.float32) * s[None, :]).to(x.dtype.element_ty)
        if UPCAST:
            a = a.to(tl.float32)
            w = w.to(tl.float32)
        total = tl.dot(a, w, total, input_precision=PRECISION)
    return total


@jit
def _pointwise(  # type: ignore[no-untyped-def]
    x, weight, bias, y, rows, C, K,
    ACTIVATION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: BM rows, BN columns. Columns run fastest, so that rows of x are read again from L2."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(C, BN)
    top = pid // blocks * BM
    row = tl.arange(0, BM)
    has_row = row < rows - top
    col = pid % blocks * BN + tl.arange(0, BN)
    has_col = col < C

    x += top.to(tl.int64) * K
    total = multiply(x + row * K, has_row, weight + col * K, has_col, x, K, False, BM, BN, BK, PRECISION, UPCAST)
    total += tl.load(bias + col, mask=has_col, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == "gelu":
        total = gelu_of(total)
    if ACTIVATION == "sigmoid":
        total = tl.sigmoid(total)
    y += top.to(tl.int64) * C
    here = has_row[:, None] & has_col[None, :]
    tl.store(y + (row * C)[:, None] + col[None, :], total.to(y.dtype.element_ty), mask=here)


def launch_rows(x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, rows: int, activation: str, tile: Tile) -> None:
    """Write activation(x W' + b) into y; both lie as ``rows`` rows without gaps."""
    c, k = weight.shape
    with on_device_of(x):
        _pointwise[(cdiv(rows, tile.rows) * cdiv(c, tile.cols),)](
            x, weight, bias, y, rows, c, bound(k),
            ACTIVATION=activation, BM=tile.rows, BN=tile.cols, BK=tile.inner,
            PRECISION=input_precision(), UPCAST=upcast_products(x.dtype),
            num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip


def launch(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """Run the kernel. The arguments have been checked."""
    n, k, h, w = x.shape
    y = empty_nhwc(x, weight.shape[0])
    tile = tile_for(k, weight.shape[0], x.element_size())
    launch_rows(x, weight, bias, y, n * h * w, "gelu" if gelu else "none", tile)
    return y


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W x + b for each pixel, in float32 or wider and not rounded. (N, K, H, W) -> (N, C, H, W)"""
    inner = wide(x.dtype)
    return F.conv2d(x.to(inner), weight.to(inner)[:, :, None, None], bias.to(inner))


def reference(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """The same in PyTorch, in float32 or wider up to the rounding of the result."""
    y = product(x, weight, bias)
    return nhwc(F.gelu(y) if gelu else y, x.dtype)


def check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Raise a UsageError on a layout, shape or type that the products do not take."""
    require_nhwc(x=x)
    require_shape((weight.shape[0], x.shape[1]), x.dtype, weight=weight)
    require_shape((weight.shape[0],), bias=bias)


@torch.library.custom_op("convbench::pointwise", mutates_args=(), device_types="cpu")
def pointwise(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """x: (N, K, H, W) in channels_last; weight: (C, K); bias: (C,). Returns (N, C, H, W) in channels_last."""
    check(x, weight, bias)
    return reference(x, weight, bias, gelu)


@pointwise.register_kernel("cuda")
def _on_gpu(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    check(x, weight, bias)
    return launch(x, weight, bias, gelu)


@pointwise.register_fake
def _fake(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    return empty_nhwc(x, weight.shape[0])


def eager(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """What the unfused block runs, in the type of x."""
    y = F.conv2d(x, weight[:, :, None, None], bias)
    return F.gelu(y) if gelu else y


def product_inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int) -> tuple[Tensor, ...]:
    """Random x, weight and bias of a product."""
    k, c = shape.channels, shape.out_channels
    x = feature_map(batch, k, shape, dtype, device, seed)
    weight = normal(c, k, dtype=dtype, device=device, seed=seed + 1, scale=k**-0.5)
    return x, weight, normal(c, dtype=dtype, device=device, seed=seed + 2)


def product_bytes(shape: Shape, batch: int, itemsize: int) -> int:
    """x, y, the weights and the bias, each once."""
    k, c = shape.channels, shape.out_channels
    return itemsize * (batch * shape.pixels * (k + c) + c * k + c)


def product_flops(shape: Shape, batch: int) -> int:
    """2 a multiply-accumulate."""
    return 2 * batch * shape.pixels * shape.channels * shape.out_channels


def tiles(dtype: str) -> tuple[Tile, ...]:
    """The shipped tiles of a precision."""
    return SHIPPED[4 if dtype == "fp32" else 2]


def product_compilation(
    name: str,
    function: Any,
    tile: Tile,
    pointers: dict[str, str],
    scalars: tuple[str, ...],
    constants: Mapping[str, int | str | bool],
) -> Compilation:
    """What ships of a product; float32 without TF32."""
    shape: dict[str, int | float | str] = {
        "BM": tile.rows,
        "BN": tile.cols,
        "BK": tile.inner,
        "PRECISION": "ieee",
        "UPCAST": False,
    }
    return Compilation(
        label=f"{name}, {tile.rows}x{tile.cols}x{tile.inner}",
        function=function,
        pointers=pointers,
        scalars=dict.fromkeys(scalars, "i32"),
        constants={**constants, **shape},
        aligned=(*pointers, *(name for name in scalars if name in ("C", "K", "pixels") or name.endswith("stride"))),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def _compilations(activation: str, dtype: str) -> tuple[Compilation, ...]:
    pointers = {name: f"*{dtype}" for name in ("x", "weight", "bias", "y")}
    return tuple(
        product_compilation(
            f"pointwise {activation}", _pointwise, tile, pointers, ("rows", "C", "K"), {"ACTIVATION": activation}
        )
        for tile in tiles(dtype)
    )


_SHAPES = u_shape("dico_xl", DICO_XL)

KERNELS = (
    Kernel(
        name="pointwise",
        summary="1x1 product and bias",
        replaces="DiCoBlock.conv1",
        op=pointwise,
        reference=reference,
        eager=eager,
        shapes=products(_SHAPES, 1, 1),
        inputs=product_inputs,
        min_bytes=product_bytes,
        flops=product_flops,
        compilations=lambda dtype: _compilations("none", dtype),
        shipped=SHIPPED,
    ),
    Kernel(
        name="pointwise_gelu",
        summary="1x1 product, bias, exact GELU",
        replaces="DiCoBlock.conv4 and F.gelu",
        op=pointwise,
        reference=reference,
        eager=eager,
        shapes=products(_SHAPES, 1, 2),
        inputs=lambda *of: (*product_inputs(*of), True),
        min_bytes=product_bytes,
        flops=product_flops,
        compilations=lambda dtype: _compilations("gelu", dtype),
        shipped=SHIPPED,
    ),
)
