"""1x1 convolution with bias, or bias and exact GELU, as a matrix product over all pixels.

y = W x + b,  or gelu(W x + b)
"""

from torch import Tensor
from torch.nn import functional as F

from ..language import bound, input_precision, jit, on_device_of, tl, upcast_products
from ..language import gelu as gelu_of
from ..layout import cdiv, empty_nhwc, nhwc
from ..matrix_product import (
    check_product,
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
from ..product_tiles import ProductTile
from ..register import register
from ..schema import DICO_XL, Compilation, Kernel, products, u_shape


def reference(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """Compute the result in PyTorch, in float32 or wider up to its rounding.

    x: (N, K, H, W) in channels_last; weight: (C, K); bias: (C,). Returns (N, C, H, W) in channels_last.
    """
    y = product(x, weight, bias)
    return nhwc(F.gelu(y) if gelu else y, x.dtype)


def eager(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """Compute the same as the unfused block does, in the type of x. Shapes as in ``reference``."""
    y = F.conv2d(x, weight[:, :, None, None], bias)
    return F.gelu(y) if gelu else y


@jit
def pointwise_tile(  # type: ignore[no-untyped-def]
    tile, x, weight, bias, y, rows, C, K,
    ACTIVATION: tl.constexpr, DESCRIPTORS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """BM rows and BN columns. Columns run fastest, so that rows of x are read again from L2."""
    blocks = tl.cdiv(C, BN)
    top = tile // blocks * BM
    left = tile % blocks * BN
    row = tl.arange(0, BM)
    has_row = row < rows - top
    col = left + tl.arange(0, BN)
    has_col = col < C

    if DESCRIPTORS:
        total = multiply_described(x, top, weight, left, bias, K, False, BM, BN, BK, PRECISION, UPCAST)
    else:
        at = x + top.to(tl.int64) * K + row * K
        total = multiply(at, has_row, weight + col * K, has_col, bias, K, False, BM, BN, BK, PRECISION, UPCAST)
    total += tl.load(bias + col, mask=has_col, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == "gelu":
        total = gelu_of(total)
    if ACTIVATION == "sigmoid":
        total = tl.sigmoid(total)
    here = has_row[:, None] & has_col[None, :]
    out = y + top.to(tl.int64) * C + (row * C)[:, None] + col[None, :]
    tl.store(out, total.to(y.dtype.element_ty), mask=here)


@jit
def pointwise_kernel(  # type: ignore[no-untyped-def]
    x,  # (rows, K) contiguous, strides (K, 1); rows = N H W; or its descriptor
    weight,  # (C, K) contiguous, strides (K, 1); or its descriptor
    bias,  # (C,) contiguous
    y,  # (rows, C) contiguous, strides (C, 1)
    rows, C, K,
    ACTIVATION: tl.constexpr, DESCRIPTORS: tl.constexpr, PERSISTENT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One program: one tile, or every tile whose number is that of the program modulo the number of programs."""
    if PERSISTENT:
        tiles = tl.cdiv(rows, BM) * tl.cdiv(C, BN)
        for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
            pointwise_tile(tile, x, weight, bias, y, rows, C, K, ACTIVATION, DESCRIPTORS, BM, BN, BK, PRECISION, UPCAST)
    else:
        pointwise_tile(
            tl.program_id(0), x, weight, bias, y, rows, C, K, ACTIVATION, DESCRIPTORS, BM, BN, BK, PRECISION, UPCAST
        )


def launch_rows(
    x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, rows: int, activation: str, tile: ProductTile
) -> None:
    """Write activation(x W' + b) into y, on checked arguments.

    x: ``rows`` x K elements without gaps; weight: (C, K); bias: (C,); y: ``rows`` x C elements without gaps.
    """
    c, k = weight.shape
    grid = programs(tile, cdiv(rows, tile.rows), cdiv(c, tile.cols), x)
    with on_device_of(x):
        pointwise_kernel[grid](
            *operands(x, weight, tile), bias, y, rows, c, bound(k),
            ACTIVATION=activation, DESCRIPTORS=tile.descriptors, PERSISTENT=tile.persistent,
            BM=tile.rows, BN=tile.cols, BK=tile.inner, PRECISION=input_precision(), UPCAST=upcast_products(x.dtype),
            num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip


def launch(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """Run the kernel on checked arguments. Shapes as in ``reference``."""
    n, _, h, w = x.shape
    y = empty_nhwc(x, weight.shape[0])
    tile = product_tile("pointwise_gelu" if gelu else "pointwise", x, weight)
    launch_rows(x, weight, bias, y, n * h * w, "gelu" if gelu else "none", tile)
    return y


pointwise = register(
    "pointwise", reference, check_product, launch, empty=lambda x, weight, *_: empty_nhwc(x, weight.shape[0])
)


def _compilations(activation: str, dtype: str) -> tuple[Compilation, ...]:
    pointers = {name: f"*{dtype}" for name in ("x", "weight", "bias", "y")}
    return tuple(
        product_compilation(
            *(f"pointwise {activation}", pointwise_kernel, tile, gpus, pointers, ("rows", "C", "K")),
            {"ACTIVATION": activation},
        )
        for tile, gpus in shipped_tiles(dtype).items()
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
    ),
)
