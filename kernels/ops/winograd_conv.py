"""Dense 3x3 convolution by Winograd's F(2x2, 3x3): 16 products for 4 outputs where the direct form takes 36 (DiC).

    Y = A' [(G g G') * (B' d B)] A                Lavin and Gray, arXiv 1509.09308, equation 8

d is a tile of 4 x 4 inputs, g the window, Y the tile of 2 x 2 outputs; * multiplies each of the 16 points, summed over
the input channels. Three steps: a kernel transforms the tiles, 16 matrix products run as one batch, and a kernel
transforms back. The steps between hold float32 whatever the type of x, so the products are those of float32 or, with
the switch of ``convbench.precision``, of TF32.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..executed import Products
from ..language import bound, input_precision, jit, on_device_of, tl
from ..layout import cdiv, empty_nhwc, nhwc, require_nhwc, require_shape, wide
from ..matrix_product import multiply
from ..product_tiles import ProductTile
from ..register import register
from ..schema import Compilation, Kernel, Shape, feature_map, normal, products, u_shape

POINTS = 16  # of a transformed tile
G = (1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class TransformTile:
    """Tiles of the map and channels of one program of a transform."""

    tiles: int
    block: int  # channels
    warps: int


TRANSFORM = TransformTile(4, 128, 4)
PRODUCT = ProductTile(128, 64, 16, 8, 3)

executed = Products()
"""What the launches of this process stood for and executed. The reference on a CPU saves nothing and is not counted."""


def winograd_weight(weight: Tensor) -> Tensor:
    """Transform the weights of a 3x3 convolution in float64. (C, K, 3, 3) -> (16, C, K) in float32 or wider"""
    g = torch.tensor(G, dtype=torch.float64, device=weight.device)
    points = torch.einsum("ia,ckab,jb->ijck", g, weight.double(), g)
    return points.flatten(0, 1).to(wide(weight.dtype)).contiguous()


def reference(x: Tensor, weight: Tensor, transformed: Tensor, ours: bool = False) -> Tensor:
    """Compute the convolution directly in PyTorch, in float32 or wider up to the rounding of y.

    x: (N, K, H, W) in channels_last; weight: (C, K, 3, 3); transformed: ``winograd_weight(weight)``, not read here;
    ours: whether the kernel's products are ours, not the library's. Returns y, (N, C, H, W) in channels_last.
    """
    inner = wide(x.dtype)
    return nhwc(F.conv2d(x.to(inner), weight.to(inner), padding=1), x.dtype)


def eager(x: Tensor, weight: Tensor, transformed: Tensor, ours: bool = False) -> Tensor:
    """Compute the same as the unfused block does, in the type of x. Shapes as in ``reference``."""
    return F.conv2d(x, weight, padding=1)


def check(x: Tensor, weight: Tensor, transformed: Tensor, ours: bool = False) -> None:
    """Raise UsageError for a shape, type or layout that the operation does not take. Shapes as in ``reference``."""
    k, c = x.shape[1], weight.shape[0]
    require_nhwc(x=x)
    require_nhwc(weight=weight)
    require_shape((c, 3, 3, k), x.dtype, weight=weight.permute(0, 2, 3, 1))
    require_shape((POINTS, c, k), wide(x.dtype), transformed=transformed)


@jit
def winograd_input_tiles(  # type: ignore[no-untyped-def]
    x,  # (N, H, W, C) contiguous, strides (H W C, W C, C, 1)
    points,  # (16, tiles, C) contiguous, strides (tiles C, C, 1), float32
    tiles, H, W, C, down, across,
    TILES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: B' d B of TILES tiles, BLOCK channels. Tiles of a sample run row by row, ``down`` x ``across``."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(C, BLOCK)
    tile = pid // blocks * TILES + tl.arange(0, TILES)[:, None]
    c = pid % blocks * BLOCK + tl.arange(0, BLOCK)[None, :]
    has = (tile < tiles) & (c < C)
    row = tile // across % down * 2 - 1
    col = tile % across * 2 - 1
    sample = (tile // (down * across)).to(tl.int64)
    at = x + (sample * H * W + row * W + col) * C + c
    out = points + tile.to(tl.int64) * C + c

    half = ()  # B' d, column by column; grown by +, as Triton has no unpacking
    for j in tl.static_range(4):
        across_map = has & (col + j >= 0) & (col + j < W)
        d0 = tl.load(at + j * C, mask=across_map & (row >= 0), other=0.0).to(tl.float32)
        d1 = tl.load(at + (W + j) * C, mask=across_map, other=0.0).to(tl.float32)
        d2 = tl.load(at + (2 * W + j) * C, mask=across_map & (row + 2 < H), other=0.0).to(tl.float32)
        d3 = tl.load(at + (3 * W + j) * C, mask=across_map & (row + 3 < H), other=0.0).to(tl.float32)
        half = half + (d0 - d2, d1 + d2, d2 - d1, d1 - d3)  # type: ignore[assignment]  # noqa: RUF005
    stride = tl.zeros((TILES, BLOCK), tl.int64) + tiles
    stride = stride * C
    for i in tl.static_range(4):
        tl.store(out, half[i] - half[8 + i], mask=has)
        tl.store(out + stride, half[4 + i] + half[8 + i], mask=has)
        tl.store(out + 2 * stride, half[8 + i] - half[4 + i], mask=has)
        tl.store(out + 3 * stride, half[4 + i] - half[12 + i], mask=has)
        out += 4 * stride


@jit
def points_product_kernel(  # type: ignore[no-untyped-def]
    points,  # (16, rows, K) contiguous, strides (rows K, K, 1), float32; a row is a tile
    weight,  # (16, C, K) contiguous, strides (C K, K, 1), float32
    y,  # (16, rows, C) contiguous, strides (rows C, C, 1), float32
    rows, C, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BM rows and BN columns of one point. Columns run fastest, so that rows are read again from L2."""
    pid = tl.program_id(0)
    point = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(C, BN)
    top = pid // blocks * BM
    row = tl.arange(0, BM)
    has_row = row < rows - top
    col = pid % blocks * BN + tl.arange(0, BN)
    has_col = col < C

    points += (point * rows + top) * K
    weight += point * C * K
    total = multiply(
        points + row * K, has_row, weight + col * K, has_col, points, K, False, BM, BN, BK, PRECISION, False
    )
    y += (point * rows + top) * C
    tl.store(y + (row * C)[:, None] + col[None, :], total, mask=has_row[:, None] & has_col[None, :])


@jit
def winograd_output_tiles(  # type: ignore[no-untyped-def]
    points,  # (16, tiles, C) contiguous, strides (tiles C, C, 1), float32
    y,  # (N, H, W, C) contiguous, strides (H W C, W C, C, 1)
    tiles, H, W, C, down, across,
    TILES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: A' m A of TILES tiles, BLOCK channels, m the points of a tile."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(C, BLOCK)
    tile = pid // blocks * TILES + tl.arange(0, TILES)[:, None]
    c = pid % blocks * BLOCK + tl.arange(0, BLOCK)[None, :]
    has = (tile < tiles) & (c < C)
    row = tile // across % down * 2
    col = tile % across * 2
    sample = (tile // (down * across)).to(tl.int64)
    at = points + tile.to(tl.int64) * C + c
    stride = tl.zeros((TILES, BLOCK), tl.int64) + tiles
    stride = stride * C

    upper = ()  # the rows of A' m, column by column; grown by +, as Triton has no unpacking
    lower = ()
    for _ in tl.static_range(4):
        m0 = tl.load(at, mask=has, other=0.0)
        m1 = tl.load(at + 4 * stride, mask=has, other=0.0)
        m2 = tl.load(at + 8 * stride, mask=has, other=0.0)
        m3 = tl.load(at + 12 * stride, mask=has, other=0.0)
        upper = upper + (m0 + m1 + m2,)  # type: ignore[assignment]  # noqa: RUF005
        lower = lower + (m1 - m2 - m3,)  # type: ignore[assignment]  # noqa: RUF005
        at += stride
    out = y + (sample * H * W + row * W + col) * C + c
    for i in tl.static_range(2):
        m = upper if i == 0 else lower
        below = has & (row + i < H)
        tl.store(out + i * W * C, (m[0] + m[1] + m[2]).to(y.dtype.element_ty), mask=below)  # type: ignore[misc]
        beside = below & (col + 1 < W)
        tl.store(out + (i * W + 1) * C, (m[1] - m[2] - m[3]).to(y.dtype.element_ty), mask=beside)  # type: ignore[misc]


def tile_count(height: int, width: int) -> int:
    """Number of tiles of 2 x 2 outputs that cover a map of that many pixels."""
    return cdiv(height, 2) * cdiv(width, 2)


def launch(x: Tensor, weight: Tensor, transformed: Tensor, ours: bool = False) -> Tensor:
    """Run the kernels on checked arguments. Shapes as in ``reference``.

    Between them it holds 4 float32 for each element of x, and 4 for each of y.
    """
    (n, k, h, w), c = x.shape, weight.shape[0]
    tiles, y = n * tile_count(h, w), empty_nhwc(x, c)
    executed.counted += 9 * n * h * w * k * c
    executed.executed += POINTS * tiles * k * c
    points = x.new_empty((POINTS, tiles, k), dtype=torch.float32)
    with on_device_of(x):
        _transform(winograd_input_tiles, x, points, tiles, (h, w), k)
        multiplied = _product(points, transformed) if ours else torch.bmm(points, transformed.transpose(1, 2))
        _transform(winograd_output_tiles, multiplied, y, tiles, (h, w), c)
    return y


def _transform(kernel: Any, source: Tensor, target: Tensor, tiles: int, side: tuple[int, int], channels: int) -> None:
    """Write the transform of all tiles, from a map (N, C, H, W) to points (16, tiles, C) or back."""
    (h, w), tile = side, TRANSFORM
    kernel[(cdiv(tiles, tile.tiles) * cdiv(channels, tile.block),)](
        source, target, tiles, h, w, channels, cdiv(h, 2), cdiv(w, 2),
        TILES=tile.tiles, BLOCK=tile.block, num_warps=tile.warps, enable_fp_fusion=True,
    )  # fmt: skip


def _product(points: Tensor, transformed: Tensor) -> Tensor:
    """Multiply the points with our kernel. (16, rows, K), (16, C, K) -> (16, rows, C)"""
    (_, rows, k), c, tile = points.shape, transformed.shape[1], PRODUCT
    y = points.new_empty((POINTS, rows, c))
    points_product_kernel[cdiv(rows, tile.rows) * cdiv(c, tile.cols), POINTS](
        points, transformed, y, rows, c, bound(k),
        BM=tile.rows, BN=tile.cols, BK=tile.inner, PRECISION=input_precision(),
        num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
    )  # fmt: skip
    return y


winograd_conv = register(
    "winograd_conv", reference, check, launch, empty=lambda x, weight, *_: empty_nhwc(x, weight.shape[0])
)


def _inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int) -> tuple[Any, ...]:
    """Random arguments as a block of DiC has them, with the shapes of ``reference``."""
    k, c = shape.channels, shape.out_channels
    x = feature_map(batch, k, shape, dtype, device, seed)
    weight = normal(c, 3, 3, k, dtype=dtype, device=device, seed=seed + 1, scale=(9 * k) ** -0.5).permute(0, 3, 1, 2)
    return x, weight, winograd_weight(weight)


def executed_flops(shape: Shape, batch: int) -> int:
    """FLOPs of the 16 products that are executed for each tile: 4/9 of the direct form's on an even map."""
    return 2 * POINTS * batch * tile_count(shape.height, shape.width) * shape.channels * shape.out_channels


def _min_bytes(shape: Shape, batch: int, itemsize: int) -> int:
    """Bytes of x in, y out and the transformed weights; 16 passes in float32 lie between, if no cache holds them."""
    k, c = shape.channels, shape.out_channels
    return itemsize * batch * shape.pixels * (k + c) + 4 * POINTS * k * c


def _compilations(precision: str) -> tuple[Compilation, ...]:
    """The ahead-of-time compilations of both transforms, and of the product with and without TF32."""
    transform = {"TILES": TRANSFORM.tiles, "BLOCK": TRANSFORM.block}
    product = {"BM": PRODUCT.rows, "BN": PRODUCT.cols, "BK": PRODUCT.inner}
    sizes = ("H", "W", "C", "down", "across")

    def of(label: str, function: Any, pointers: dict[str, str], constants: dict[str, Any]) -> Compilation:
        tiled = function is not points_product_kernel
        return Compilation(
            label=f"winograd_conv {label}",
            function=function,
            pointers=pointers,
            scalars=dict.fromkeys(("tiles", *sizes) if tiled else ("rows", "C", "K"), "i32"),
            constants=constants,
            aligned=(*pointers, *(("C",) if tiled else ("C", "K"))),
            num_warps=TRANSFORM.warps if tiled else PRODUCT.warps,
            num_stages=1 if tiled else PRODUCT.stages,
        )

    floats = dict.fromkeys(("points", "weight", "y"), "*fp32")
    return (
        of("input", winograd_input_tiles, {"x": f"*{precision}", "points": "*fp32"}, transform),
        of("output", winograd_output_tiles, {"points": "*fp32", "y": f"*{precision}"}, transform),
        *(
            of(f"product, {mode}", points_product_kernel, floats, {**product, "PRECISION": mode})
            for mode in ("ieee", "tf32")
            if precision == "bf16"  # all in float32, whatever the map's type: compiled once
        ),
    )


KERNELS = (
    Kernel(
        name="winograd_conv",
        summary="dense 3x3 by Winograd's F(2x2, 3x3), for float32 and TF32: 4/9 of the products",
        replaces="conv0 and conv1 of ModulatedConvs",
        op=winograd_conv,
        reference=reference,
        eager=eager,
        shapes=products(u_shape("dic_xl", {1: (384,), 2: (768,), 3: (1536,)}), 1, 1),
        inputs=_inputs,
        min_bytes=_min_bytes,
        flops=executed_flops,
        compilations=_compilations,
        shipped=(TRANSFORM, PRODUCT),
        # Transformed values are sums, larger than what cancels of them: emulated for 384 channels, the error is 1.9
        # times that of the direct form in float32, and 1.6 times in TF32.
        amplification=2.0,
        timed=("fp32",),
    ),
)
