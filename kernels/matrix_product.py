"""The matrix product over all pixels that the 1x1 operations share: its loop on the device, its launch, its bounds.

Used by ``pointwise``, ``pointwise_squares``, ``pointwise_residual`` and ``channel_attention``. K is the inner length
(input channels), C the number of columns (output channels).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .language import jit, tl
from .layout import cdiv, require_nhwc, require_shape, wide
from .product_tiles import OTHER_GPUS, Product, ProductTile, candidates, generation, table, tile_of
from .schema import Compilation, Shape, feature_map, normal

INTERPRETED_PROGRAMS = 2  # of a persistent launch in the interpreter, which runs one after the other
COUNTED_INNER = 832  # inner length for which the instructions of a product are counted


def product_tile(
    kernel: str, x: Tensor, weight: Tensor, most_rows: int | None = None, described: bool = True
) -> ProductTile:
    """The configuration of a launch. x: (N, K, H, W) or (N, K), weight: (C, K).

    Args:
        kernel: Name in ``convbench kernels``.
        most_rows: Rows that a tile may have, where it holds pixels of one sample only.
        described: Whether the rows of every tile are adjacent, as descriptors need them.
    """
    c, k = weight.shape
    gpu = generation(torch.cuda.get_device_capability(x.device)) if x.is_cuda else None
    aligned = k * x.element_size() % 16 == x.data_ptr() % 16 == weight.data_ptr() % 16 == 0
    rows = x.numel() // k
    product = Product(
        kernel, gpu or OTHER_GPUS, x.element_size(), rows, k, c, most_rows, described and aligned and rows > 0
    )
    return tile_of(product)


def operands(x: Tensor, weight: Tensor, tile: ProductTile) -> tuple[Any, Any]:
    """The operands as the kernels take them: tensors, or descriptors of the matrices (rows, K) and (C, K)."""
    if not tile.descriptors:
        return x, weight
    from triton.tools.tensor_descriptor import TensorDescriptor

    c, k = weight.shape
    return (
        TensorDescriptor(x, [x.numel() // k, k], [k, 1], [tile.rows, tile.inner]),
        TensorDescriptor(weight, [c, k], [k, 1], [tile.cols, tile.inner]),
    )


def programs(tile: ProductTile, rows: int, cols: int, x: Tensor) -> tuple[int]:
    """The grid of a launch over that many rows and columns of tiles, on the GPU of x, (N, K, H, W) or (N, K)."""
    if not tile.persistent:
        return (rows * cols,)
    most = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else INTERPRETED_PROGRAMS
    return (min(rows * cols, most),)


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


@jit
def multiply_described(  # type: ignore[no-untyped-def]
    x,  # descriptor of a matrix with K columns
    top,
    weight,  # descriptor of a matrix with K columns
    left,
    factor,  # (K,) contiguous: scales of x; not read unless SCALED
    K,
    SCALED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Rows of x from ``top`` times rows of weight from ``left``: (BM, BN) in float32. Outside both there are zeros."""
    total = tl.zeros((BM, BN), tl.float32)
    for first in range(0, K, BK):
        a = x.load([top, first])
        w = weight.load([left, first]).T
        if SCALED:
            k = first + tl.arange(0, BK)
            s = tl.load(factor + k, mask=k < K, other=0.0).to(tl.float32)
            a = (a.to(tl.float32) * s[None, :]).to(x.dtype)
        if UPCAST:
            a = a.to(tl.float32)
            w = w.to(tl.float32)
        total = tl.dot(a, w, total, input_precision=PRECISION)
    return total


@jit
def halves(total, BM: tl.constexpr, BN: tl.constexpr):  # type: ignore[no-untyped-def]
    """The left and the right half of the columns, which a thread holds both: (BM, BN) -> two of (BM, BN / 2)"""
    return tl.split(tl.permute(tl.reshape(total, (BM, 2, BN // 2)), (0, 2, 1)))


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


def shipped_tiles(precision: str) -> dict[ProductTile, tuple[str, ...]]:
    """Every configuration that a product ships, and the generations of GPUs that it ships for."""
    found: dict[ProductTile, tuple[str, ...]] = {}
    for gpu in table()["rates"]:
        for tile in candidates(gpu, 4 if precision == "fp32" else 2):
            found[tile] = (*found.get(tile, ()), gpu)
    return found


def product_compilation(
    name: str,
    function: Any,
    tile: ProductTile,
    gpus: tuple[str, ...],
    pointers: dict[str, str],
    scalars: tuple[str, ...],
    constants: Mapping[str, int | str | bool],
) -> Compilation:
    """The ahead-of-time compilation of a product with one configuration; float32 without TF32."""
    shape: dict[str, int | float | str] = {
        "DESCRIPTORS": tile.descriptors,
        "PERSISTENT": tile.persistent,
        "BM": tile.rows,
        "BN": tile.cols,
        "BK": tile.inner,
        "PRECISION": "ieee",
        "UPCAST": False,
    }
    types = dict(pointers)
    if tile.descriptors:
        element = pointers["x"].removeprefix("*")
        types["x"] = f"tensordesc<{element}[{tile.rows},{tile.inner}]>"
        types["weight"] = f"tensordesc<{element}[{tile.cols},{tile.inner}]>"
    sizes = [name for name in scalars if name in ("C", "K", "pixels") or name.endswith("stride")]
    return Compilation(
        label=f"{name}, {tile.label}",
        function=function,
        pointers=types,
        scalars=dict.fromkeys(scalars, "i32"),
        constants={**constants, **shape},
        aligned=(*(name for name, kind in types.items() if kind.startswith("*")), *sizes),
        num_warps=tile.warps,
        num_stages=tile.stages,
        # The compiler makes one loop of a persistent program's two, with the end of a tile in a branch: not counted.
        work=() if tile.persistent else (tile.rows * tile.cols // (32 * tile.warps), cdiv(COUNTED_INNER, tile.inner)),
        gpus=gpus,
    )
