"""1x1 convolution with bias, or bias and exact GELU, as a matrix product over all pixels.

y = W x + b,  or gelu(W x + b)
"""

from torch import Tensor
from torch.nn import functional as F

from ..language import bound, input_precision, jit, on_device_of, tl, upcast_products
from ..language import gelu as gelu_of
from ..layout import cdiv, empty_nhwc, nhwc
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
    tile_for,
    tiles_of,
)
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
def pointwise_kernel(  # type: ignore[no-untyped-def]
    x,  # (rows, K) contiguous, strides (K, 1); rows = N H W
    weight,  # (C, K) contiguous, strides (K, 1)
    bias,  # (C,) contiguous
    y,  # (rows, C) contiguous, strides (C, 1)
    rows, C, K,
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


def launch_rows(
    x: Tensor, weight: Tensor, bias: Tensor, y: Tensor, rows: int, activation: str, tile: ProductTile
) -> None:
    """Write activation(x W' + b) into y, on checked arguments.

    x: ``rows`` x K elements without gaps; weight: (C, K); bias: (C,); y: ``rows`` x C elements without gaps.
    """
    c, k = weight.shape
    with on_device_of(x):
        pointwise_kernel[(cdiv(rows, tile.rows) * cdiv(c, tile.cols),)](
            x, weight, bias, y, rows, c, bound(k),
            ACTIVATION=activation, BM=tile.rows, BN=tile.cols, BK=tile.inner,
            PRECISION=input_precision(), UPCAST=upcast_products(x.dtype),
            num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
        )  # fmt: skip


def launch(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """Run the kernel on checked arguments. Shapes as in ``reference``."""
    n, k, h, w = x.shape
    y = empty_nhwc(x, weight.shape[0])
    tile = tile_for(k, weight.shape[0], x.element_size())
    launch_rows(x, weight, bias, y, n * h * w, "gelu" if gelu else "none", tile)
    return y


pointwise = register(
    "pointwise", reference, check_product, launch, empty=lambda x, weight, *_: empty_nhwc(x, weight.shape[0])
)


def _compilations(activation: str, dtype: str) -> tuple[Compilation, ...]:
    pointers = {name: f"*{dtype}" for name in ("x", "weight", "bias", "y")}
    return tuple(
        product_compilation(
            f"pointwise {activation}", pointwise_kernel, tile, pointers, ("rows", "C", "K"), {"ACTIVATION": activation}
        )
        for tile in tiles_of(dtype)
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
