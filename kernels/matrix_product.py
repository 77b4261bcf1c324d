"""The matrix product over all pixels that the 1x1 operations share: its loop on the device, its tiles, its bounds.

Used by ``pointwise``, ``pointwise_squares``, ``pointwise_residual`` and ``channel_attention``. K is the inner length
(input channels), C the number of columns (output channels).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .language import jit, tl
from .layout import require_nhwc, require_shape, wide
from .schema import Compilation, Shape, feature_map, normal


@dataclass(frozen=True)
class ProductTile:
    """Rows (pixels), columns (output channels) and inner length of a program's step."""

    rows: int
    cols: int
    inner: int
    warps: int
    stages: int


# The tile of a product is the first whose columns and inner length divide it. 416 is 13 times 32, so there
# 64 columns leave 7 % of the work empty, 128 would leave 19 %.
SHIPPED = {  # bytes of an element -> tiles
    2: (ProductTile(128, 128, 64, 8, 3), ProductTile(128, 64, 64, 4, 3), ProductTile(128, 64, 32, 4, 4)),
    4: (ProductTile(64, 64, 32, 4, 3),),
}


def tile_for(inner: int, channels: int, itemsize: int) -> ProductTile:
    """The shipped tile of a product from ``inner`` to ``channels``, for elements of ``itemsize`` bytes."""
    tiles = SHIPPED[itemsize]
    return next((t for t in tiles if channels % t.cols == 0 and inner % t.inner == 0), tiles[-1])


def tiles_of(precision: str) -> tuple[ProductTile, ...]:
    """The shipped tiles of a precision."""
    return SHIPPED[4 if precision == "fp32" else 2]


@jit
def multiply(  # type: ignore[no-untyped-def]
    x,  # BM pointers to rows of K adjacent elements
    has_row,
    weight,  # BN pointers to rows of K adjacent elements
    has_col,
    factor,  # (K,) contiguous: scales of x; not read unless SCALED
    K,
    SCALED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Rows of x times rows of weight: (BM, BN) in float32."""
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


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute W x + b for each pixel in PyTorch, in float32 or wider and not rounded.

    x: (N, K, H, W); weight: (C, K); bias: (C,). Returns (N, C, H, W).
    """
    inner = wide(x.dtype)
    return F.conv2d(x.to(inner), weight.to(inner)[:, :, None, None], bias.to(inner))


def check_product(x: Tensor, weight: Tensor, bias: Tensor, *_: object) -> None:
    """Raise UsageError for a shape, type or layout that the products do not take. Shapes as in ``product``."""
    require_nhwc(x=x)
    require_shape((weight.shape[0], x.shape[1]), x.dtype, weight=weight)
    require_shape((weight.shape[0],), bias=bias)


def product_inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int) -> tuple[Tensor, ...]:
    """Draw random x in channels_last, weight and bias of a product. Shapes as in ``product``."""
    k, c = shape.channels, shape.out_channels
    x = feature_map(batch, k, shape, dtype, device, seed)
    weight = normal(c, k, dtype=dtype, device=device, seed=seed + 1, scale=k**-0.5)
    return x, weight, normal(c, dtype=dtype, device=device, seed=seed + 2)


def product_bytes(shape: Shape, batch: int, itemsize: int) -> int:
    """Bytes of x, y, the weights and the bias, each once."""
    k, c = shape.channels, shape.out_channels
    return itemsize * (batch * shape.pixels * (k + c) + c * k + c)


def product_flops(shape: Shape, batch: int) -> int:
    """FLOPs: 2 for each multiply-accumulate."""
    return 2 * batch * shape.pixels * shape.channels * shape.out_channels


def product_compilation(
    name: str,
    function: Any,
    tile: ProductTile,
    pointers: dict[str, str],
    scalars: tuple[str, ...],
    constants: Mapping[str, int | str | bool],
) -> Compilation:
    """The ahead-of-time compilation of a product with one tile; float32 without TF32."""
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
