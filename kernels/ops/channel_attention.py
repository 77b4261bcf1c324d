"""The gates of DiCo's compact channel attention, from the sums of ``depthwise_gelu``.

    gates = sigmoid(W mean + b),  mean[n] = sum over tiles of sums[n] / pixels

``pointwise_residual`` applies the gates while it loads its operand.
"""

from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ..language import jit, on_device_of, tl
from ..layout import cdiv, require_shape, wide
from ..matrix_product import product_compilation
from ..product_tiles import ProductTile
from ..register import register
from ..schema import DICO_XL, Compilation, Kernel, Shape, normal, u_shape
from .depthwise_gelu import tile_count
from .pointwise import launch_rows, pointwise_kernel

MEAN = (16, 64, 4)  # tiles added at once, channels, warps
SHIPPED = {2: ProductTile(64, 32, 64, 4, 3), 4: ProductTile(32, 32, 32, 4, 3)}  # bytes of an element -> tile


def reference(sums: Tensor, weight: Tensor, bias: Tensor, pixels: int) -> Tensor:
    """Compute the gates in PyTorch; the mean is rounded to the type of the weights, as the product reads it.

    sums: (N, tiles, C) in float32; weight: (C, C); bias: (C,); pixels = H W.
    Returns (N, C) in float32 (float64 for float64).
    """
    inner = wide(weight.dtype)
    mean = (sums.to(inner).sum(dim=1) / pixels).to(weight.dtype).to(inner)
    return torch.addmm(bias.to(inner), mean, weight.to(inner).t()).sigmoid()


def eager(sums: Tensor, weight: Tensor, bias: Tensor, pixels: int) -> Tensor:
    """Compute the same as the unfused block does after its pooling, in the type of the weights.

    Shapes as in ``reference``.
    """
    mean = sums.sum(dim=1).div(pixels).to(weight.dtype)[:, :, None, None]
    return torch.nn.functional.conv2d(mean, weight[:, :, None, None], bias).sigmoid().flatten(1)


def check(sums: Tensor, weight: Tensor, bias: Tensor, *_: object) -> None:
    """Raise UsageError for a shape, type or layout that the operation does not take. Shapes as in ``reference``."""
    if sums.dim() != 3 or sums.dtype != wide(weight.dtype):
        raise UsageError(f"sums must be (N, tiles, C) in {wide(weight.dtype)}, got {tuple(sums.shape)} in {sums.dtype}")
    require_shape(tuple(sums.shape), sums=sums)
    require_shape((weight.shape[0], sums.shape[2]), weight=weight)
    require_shape((weight.shape[0],), bias=bias)


@jit
def mean_kernel(  # type: ignore[no-untyped-def]
    sums,  # (N, TILES, C) contiguous, strides (TILES C, C, 1), float32
    mean,  # (N, C) contiguous, strides (C, 1)
    pixels, C, TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK channels of one sample, all tiles in order."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(C, BLOCK)
    sample = (pid // blocks).to(tl.int64)
    c = pid % blocks * BLOCK + tl.arange(0, BLOCK)
    has_c = c < C
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, TILES, ROWS):
        tile = first + tl.arange(0, ROWS)
        at = sample * TILES * C + (tile * C)[:, None] + c[None, :]
        total += tl.sum(tl.load(sums + at, mask=(tile < TILES)[:, None] & has_c[None, :], other=0.0), axis=0)
    tl.store(mean + sample * C + c, (total / pixels).to(mean.dtype.element_ty), mask=has_c)


def launch(sums: Tensor, weight: Tensor, bias: Tensor, pixels: int) -> Tensor:
    """Run the kernel of the mean, then a small product with a sigmoid, on checked arguments.

    Shapes as in ``reference``.
    """
    n, tiles, c = sums.shape
    rows, block, warps = MEAN
    mean = weight.new_empty((n, c))
    with on_device_of(sums):
        mean_kernel[(n * cdiv(c, block),)](
            sums, mean, pixels, c, TILES=tiles, ROWS=rows, BLOCK=block, num_warps=warps, enable_fp_fusion=True
        )
    gates = sums.new_empty((n, weight.shape[0]))
    tile = SHIPPED[weight.element_size()]
    launch_rows(mean, weight, bias, gates, n, "sigmoid", tile)
    return gates


def _empty(sums: Tensor, weight: Tensor, *_: object) -> Tensor:
    return sums.new_empty((sums.shape[0], weight.shape[0]))


channel_gates = register("channel_gates", reference, check, launch, _empty)


def _inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int) -> tuple[Any, ...]:
    c, tiles = shape.channels, tile_count(shape.height, shape.width)
    sums = normal(batch, tiles, c, dtype=torch.float32, device=device, seed=seed, scale=8.0)
    weight = normal(c, c, dtype=dtype, device=device, seed=seed + 1, scale=2 * c**-0.5)
    return sums, weight, normal(c, dtype=dtype, device=device, seed=seed + 2), shape.pixels


def _min_bytes(shape: Shape, batch: int, itemsize: int) -> int:
    """The sums and the gates in float32, the weights and the bias."""
    c, tiles = shape.channels, tile_count(shape.height, shape.width)
    return 4 * batch * c * (tiles + 1) + itemsize * c * (c + 1)


def _compilations(dtype: str) -> tuple[Compilation, ...]:
    rows, block, warps = MEAN
    means = tuple(
        Compilation(
            label=f"channel_gates mean of {tiles} tiles",
            function=mean_kernel,
            pointers={"sums": "*fp32", "mean": f"*{dtype}"},
            scalars={"pixels": "i32", "C": "i32"},
            constants={"TILES": tiles, "ROWS": rows, "BLOCK": block},
            aligned=("sums", "mean", "pixels", "C"),
            num_warps=warps,
            num_stages=1,
        )
        for tiles in (2, 32)
    )
    tile = SHIPPED[4 if dtype == "fp32" else 2]
    pointers = {name: f"*{dtype}" for name in ("x", "weight", "bias")} | {"y": "*fp32"}
    constants = {"ACTIVATION": "sigmoid"}
    product = product_compilation(
        "channel_gates product", pointwise_kernel, tile, (), pointers, ("rows", "C", "K"), constants
    )
    return (*means, product)


KERNELS = (
    Kernel(
        name="channel_gates",
        summary="sums to the sigmoid gates of the channel attention",
        replaces="DiCoBlock.ca",
        op=channel_gates,
        reference=reference,
        eager=eager,
        shapes=u_shape("dico_xl", DICO_XL),
        inputs=_inputs,
        min_bytes=_min_bytes,
        flops=lambda shape, batch: 2 * batch * shape.channels**2,
        compilations=_compilations,
        shipped=SHIPPED,
    ),
)
