"""Group norm, adaptive affine and exact GELU of DiC, the bias of the convolution before it taken along.

    y = gelu(group_norm(x + bias) (1 + scale) + shift)

Three kernels: the mean and squared deviations of each channel over blocks of pixels (one pass over memory); these
merged to one factor and one offset a sample and channel (next to nothing); y = gelu(x factor + offset) (two passes).
Eager takes nine: bias 2, norm 3, affine 2, GELU 2. The 3x3 convolutions stay with cuDNN, which gets no bias.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UsageError
from ..language import gelu, jit, on_device_of, tl
from ..layout import cdiv, empty_nhwc, nhwc, power_of_two, require_nhwc, require_shape, require_vectors, wide
from ..schema import DTYPES, Compilation, Kernel, Shape, feature_map, normal, u_shape


def reference(
    x: Tensor,
    weight: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """The same in PyTorch, in float32 or wider up to the rounding of y."""
    inner = wide(x.dtype)
    y = x.to(inner) if bias is None else x.to(inner) + bias.to(inner)[:, None, None]
    y = F.group_norm(y, groups, weight.to(inner), beta.to(inner), eps)
    if scale is not None and shift is not None:
        y = y * (1 + scale.to(inner)[:, :, None, None]) + shift.to(inner)[:, :, None, None]
    return nhwc(F.gelu(y), x.dtype)


def eager(
    x: Tensor,
    weight: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """As ``ModulatedConvs`` has it; PyTorch adds a convolution's bias in a pass of its own."""
    y = F.group_norm(x if bias is None else x + bias[:, None, None], groups, weight, beta, eps)
    if scale is not None and shift is not None:
        y = torch.addcmul(shift[:, :, None, None], y, 1 + scale[:, :, None, None])
    return F.gelu(y)


def check(
    x: Tensor,
    weight: Tensor,
    beta: Tensor,
    groups: int,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
) -> None:
    require_nhwc(x=x)
    n, c = x.shape[:2]
    if groups < 1 or c % groups:
        raise UsageError(f"{c} channels do not divide into {groups} groups")
    require_shape((c,), weight=weight, beta=beta)
    if bias is not None:
        require_shape((c,), bias=bias)
    if (scale is None) != (shift is None):
        raise UsageError("scale and shift must be given together")
    if scale is not None and shift is not None:
        require_vectors(n, c, scale=scale, shift=shift)


@torch.library.custom_op("convbench::group_norm_gelu", mutates_args=(), device_types="cpu")
def group_norm_gelu(
    x: Tensor,
    weight: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """x: (N, C, H, W) in channels_last; weight, beta, bias: (C,); scale, shift: (N, C), both or neither.

    Returns y like x. Raises UsageError on another layout.
    """
    check(x, weight, beta, groups, bias, scale, shift)
    return reference(x, weight, beta, groups, eps, bias, scale, shift)


@group_norm_gelu.register_kernel("cuda")
def _on_gpu(
    x: Tensor,
    weight: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    check(x, weight, beta, groups, bias, scale, shift)
    return launch(x, weight, beta, groups, eps, bias, scale, shift)


@group_norm_gelu.register_fake
def _fake(
    x: Tensor,
    weight: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    return empty_nhwc(x)


@dataclass(frozen=True)
class Tile:
    """Pixels by channels of one program."""

    rows: int
    columns: int
    num_warps: int


MOMENT_ROWS = 128, 64  # pixels summed together, the second for maps that have no more: part of the op's meaning
MOMENT_COLUMNS, MOMENT_WARPS = 64, 4
AFFINE_WARPS = 1
SHIPPED = {torch.float32: Tile(16, 128, 4), torch.float16: Tile(32, 128, 4), torch.bfloat16: Tile(32, 128, 4)}


@jit
def moments_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    mean_ptr,
    square_ptr,
    channels,
    pixels,
    blocks,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Mean of each channel and sum of its squared deviations, over one block of pixels; EVEN: no block is ragged."""
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    block = tl.program_id(1)
    row = block * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(2).to(tl.int64)  # a batch may hold more than 2^31 elements
    known = c < channels
    inside = known[None, :] & (row >= 0)[:, None]
    if not EVEN:
        inside &= (row < pixels)[:, None]

    at = n * pixels * channels + row[:, None] * channels + c[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / tl.minimum(pixels - block * ROWS, ROWS).to(tl.float32)
    away = x - mean[None, :]
    if not EVEN:
        away = tl.where(inside, away, 0.0)

    to = (n * blocks + block) * channels + c
    tl.store(mean_ptr + to, mean, mask=known)
    tl.store(square_ptr + to, tl.sum(away * away, axis=0), mask=known)


@jit
def affine_kernel(  # type: ignore[no-untyped-def]
    mean_ptr,
    square_ptr,
    weight_ptr,
    beta_ptr,
    bias_ptr,
    scale_ptr,
    shift_ptr,
    factor_ptr,
    offset_ptr,
    channels,
    pixels,
    blocks,
    members,
    scale_stride,
    shift_stride,
    eps,
    HAS_BIAS: tl.constexpr,
    MODULATED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
    MEMBERS: tl.constexpr,
):
    """Merge the moments of a group's channels (Chan et al. 1983) and fold everything affine into x factor + offset."""
    n = tl.program_id(1).to(tl.int64)
    member = tl.arange(0, MEMBERS)
    c = tl.program_id(0) * members + member
    block = tl.arange(0, BLOCKS)
    known = member < members
    inside = (block < blocks)[:, None] & known[None, :]

    bias = tl.zeros((MEMBERS,), tl.float32)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + c, mask=known, other=0.0).to(tl.float32)
    at = (n * blocks + block[:, None]) * channels + c[None, :]
    means = tl.load(mean_ptr + at, mask=inside, other=0.0) + bias[None, :]
    squares = tl.load(square_ptr + at, mask=inside, other=0.0)

    count = tl.minimum(pixels - block * ROWS, ROWS).to(tl.float32)[:, None]
    total = (pixels * members).to(tl.float32)
    mean = tl.sum(tl.sum(tl.where(inside, count * means, 0.0), axis=0), axis=0) / total
    away = means - mean
    squares = tl.where(inside, squares + count * away * away, 0.0)
    variance = tl.sum(tl.sum(squares, axis=0), axis=0) / total

    weight = tl.load(weight_ptr + c, mask=known, other=0.0).to(tl.float32)
    factor = weight / tl.sqrt_rn(variance + eps)
    offset = (bias - mean) * factor + tl.load(beta_ptr + c, mask=known, other=0.0).to(tl.float32)
    if MODULATED:
        scale = 1.0 + tl.load(scale_ptr + n * scale_stride + c, mask=known, other=0.0).to(tl.float32)
        factor *= scale
        offset = offset * scale + tl.load(shift_ptr + n * shift_stride + c, mask=known, other=0.0).to(tl.float32)
    tl.store(factor_ptr + n * channels + c, factor, mask=known)
    tl.store(offset_ptr + n * channels + c, offset, mask=known)


@jit
def affine_gelu_kernel(  # type: ignore[no-untyped-def]
    x_ptr, factor_ptr, offset_ptr, y_ptr, channels, pixels, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(2).to(tl.int64)
    known = c < channels
    inside = (row < pixels)[:, None] & known[None, :]

    factor = tl.load(factor_ptr + n * channels + c, mask=known, other=0.0)
    offset = tl.load(offset_ptr + n * channels + c, mask=known, other=0.0)
    at = n * pixels * channels + row[:, None] * channels + c[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    y = gelu(x * factor[None, :] + offset[None, :])
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


def moment_rows(pixels: int) -> int:
    """Pixels of a partial mean: of the map's size alone, so that a sample's result does not depend on its batch."""
    long, short = MOMENT_ROWS
    return long if pixels > short else short


def launch(
    x: Tensor,
    weight: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Run the three kernels: on a GPU, or on a CPU in Triton's interpreter."""
    n, c, h, w = x.shape
    pixels, members = h * w, c // groups
    rows = moment_rows(pixels)
    blocks = cdiv(pixels, rows)
    mean, square = x.new_empty((2, n, blocks, c), dtype=torch.float32)
    factor, offset = x.new_empty((2, n, c), dtype=torch.float32)
    y, tile = empty_nhwc(x), SHIPPED[x.dtype]

    with on_device_of(x):
        moments_kernel[cdiv(c, MOMENT_COLUMNS), blocks, n](
            x,
            mean,
            square,
            c,
            pixels,
            blocks,
            EVEN=pixels % rows == 0,
            ROWS=rows,
            COLUMNS=MOMENT_COLUMNS,
            num_warps=MOMENT_WARPS,
            enable_fp_fusion=True,
        )
        affine_kernel[groups, n](
            mean,
            square,
            weight,
            beta,
            beta if bias is None else bias,
            beta if scale is None else scale,
            beta if shift is None else shift,
            factor,
            offset,
            c,
            pixels,
            blocks,
            members,
            0 if scale is None else scale.stride(0),
            0 if shift is None else shift.stride(0),
            eps,
            HAS_BIAS=bias is not None,
            MODULATED=scale is not None,
            ROWS=rows,
            BLOCKS=power_of_two(blocks),
            MEMBERS=power_of_two(members),
            num_warps=AFFINE_WARPS,
            enable_fp_fusion=True,
        )
        affine_gelu_kernel[cdiv(c, tile.columns), cdiv(pixels, tile.rows), n](
            x,
            factor,
            offset,
            y,
            c,
            pixels,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            num_warps=tile.num_warps,
            enable_fp_fusion=True,
        )
    return y


def inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int) -> tuple[Any, ...]:
    """Arguments as the second norm of a block has them; scale and shift are slices of the adaptive projection."""
    c = shape.channels
    x = feature_map(batch, c, shape, dtype, device, seed)
    weight = normal(c, dtype=dtype, device=device, seed=seed + 1, shift=1.0, scale=0.1)
    beta = normal(c, dtype=dtype, device=device, seed=seed + 2, scale=0.1)
    bias = normal(c, dtype=dtype, device=device, seed=seed + 3, scale=0.3)
    _, scale, shift = normal(batch, 3 * c, dtype=dtype, device=device, seed=seed + 4, scale=0.3).chunk(3, dim=1)
    return x, weight, beta, min(32, c // 4), 1e-5, bias, scale, shift


def min_bytes(shape: Shape, batch: int, element: int) -> int:
    """x in twice, as no output can be known before the last input, and y out."""
    return (3 * batch * shape.pixels + 2 * batch + 3) * shape.channels * element


def compilations(precision: str) -> tuple[Compilation, ...]:
    """What DiC-XL launches at level 1 of 256 px: 32 groups of 12 channels, 8 blocks of 128 pixels."""
    tile, kind = SHIPPED[DTYPES[precision]], f"*{precision}"
    sums = {"mean_ptr": "*fp32", "square_ptr": "*fp32"}
    vectors = {"factor_ptr": "*fp32", "offset_ptr": "*fp32"}
    wholes = {"channels": "i32", "pixels": "i32"}
    strides = {"scale_stride": "i32", "shift_stride": "i32"}
    arguments = dict.fromkeys(("weight_ptr", "beta_ptr", "bias_ptr", "scale_ptr", "shift_ptr"), kind)
    rows = MOMENT_ROWS[0]
    return (
        Compilation(
            label=f"moments {rows}x{MOMENT_COLUMNS}",
            function=moments_kernel,
            pointers={"x_ptr": kind} | sums,
            scalars=wholes | {"blocks": "i32"},
            constants={"EVEN": True, "ROWS": rows, "COLUMNS": MOMENT_COLUMNS},
            aligned=("x_ptr", *sums, *wholes),
            num_warps=MOMENT_WARPS,
            num_stages=1,
        ),
        Compilation(
            label="affine 8x16",
            function=affine_kernel,
            pointers=sums | arguments | vectors,
            scalars=wholes | strides | {"blocks": "i32", "members": "i32", "eps": "fp32"},
            constants={"HAS_BIAS": True, "MODULATED": True, "ROWS": rows, "BLOCKS": 8, "MEMBERS": 16},
            aligned=(*sums, *arguments, *vectors, *wholes, *strides),
            num_warps=AFFINE_WARPS,
            num_stages=1,
        ),
        Compilation(
            label=f"affine_gelu {tile.rows}x{tile.columns}",
            function=affine_gelu_kernel,
            pointers={"x_ptr": kind, "y_ptr": kind} | vectors,
            scalars=wholes,
            constants={"ROWS": tile.rows, "COLUMNS": tile.columns},
            aligned=("x_ptr", "y_ptr", *vectors, *wholes),
            num_warps=tile.num_warps,
            num_stages=1,
        ),
    )


KERNELS = (
    Kernel(
        name="group_norm_gelu",
        summary="group norm, adaptive affine and GELU, the convolution's bias taken along",
        replaces="norm0 and norm1 of ModulatedConvs, its affine and F.gelu, and the bias of conv0",
        op=group_norm_gelu,
        reference=reference,
        eager=eager,
        shapes=u_shape("dic_xl", {1: (384,), 2: (768,), 3: (1536,)}),
        inputs=inputs,
        min_bytes=min_bytes,
        flops=lambda shape, batch: 0,
        compilations=compilations,
        shipped=SHIPPED,
    ),
)
