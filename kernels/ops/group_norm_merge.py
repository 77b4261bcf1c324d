"""Group norm, second of three kernels: the moments of blocks and channels become one factor and offset per channel.

The merge follows Chan, Golub and LeVeque (1983), in a fixed order. It reads vectors only, no map.
"""

from torch import Tensor

from ..language import jit, on_device_of, tl
from ..layout import power_of_two
from ..schema import Compilation
from .group_norm_moments import BLOCK_PIXELS, block_pixels

WARPS = 1


@jit
def merge_kernel(  # type: ignore[no-untyped-def]
    mean_ptr,  # (N, blocks, channels) contiguous, strides (blocks channels, channels, 1), float32
    square_ptr,  # (N, blocks, channels) contiguous, strides (blocks channels, channels, 1), float32
    weight_ptr,  # (channels,) contiguous
    beta_ptr,  # (channels,) contiguous
    bias_ptr,  # (channels,) contiguous; not read unless HAS_BIAS
    scale_ptr,  # (N, channels), adjacent channels, strides (scale_stride, 1); not read unless MODULATED
    shift_ptr,  # (N, channels), adjacent channels, strides (shift_stride, 1); not read unless MODULATED
    factor_ptr,  # (N, channels) contiguous, strides (channels, 1), float32
    offset_ptr,  # (N, channels) contiguous, strides (channels, 1), float32
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
    """One program: one group of one sample. Everything affine is folded into x factor + offset."""
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


def merge(
    mean: Tensor,
    square: Tensor,
    pixels: int,
    weight: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return factor and offset, each (N, C) in float32, with norm(x + bias) (1 + scale) + shift = x factor + offset.

    mean, square: (N, blocks, C) in float32, as ``moments`` gives them for ``pixels`` pixels; weight, beta, bias: (C,);
    scale, shift: (N, C), both or neither.
    """
    n, blocks, c = mean.shape
    members = c // groups
    factor, offset = mean.new_empty((2, n, c))
    with on_device_of(mean):
        merge_kernel[groups, n](
            mean, square, weight, beta,
            beta if bias is None else bias,
            beta if scale is None else scale,
            beta if shift is None else shift,
            factor, offset, c, pixels, blocks, members,
            0 if scale is None else scale.stride(0),
            0 if shift is None else shift.stride(0),
            eps,
            HAS_BIAS=bias is not None, MODULATED=scale is not None, ROWS=block_pixels(pixels),
            BLOCKS=power_of_two(blocks), MEMBERS=power_of_two(members), num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return factor, offset


def merge_compilation(precision: str) -> Compilation:
    """The compilation that DiC-XL launches at level 1 of 256 px: groups of 12 channels, 8 blocks of 128 pixels."""
    moments = dict.fromkeys(("mean_ptr", "square_ptr"), "*fp32")
    arguments = dict.fromkeys(("weight_ptr", "beta_ptr", "bias_ptr", "scale_ptr", "shift_ptr"), f"*{precision}")
    vectors = dict.fromkeys(("factor_ptr", "offset_ptr"), "*fp32")
    wholes = dict.fromkeys(("channels", "pixels"), "i32")
    strides = dict.fromkeys(("scale_stride", "shift_stride"), "i32")
    return Compilation(
        label="affine 8x16",
        function=merge_kernel,
        pointers=moments | arguments | vectors,
        scalars=wholes | strides | {"blocks": "i32", "members": "i32", "eps": "fp32"},
        constants={"HAS_BIAS": True, "MODULATED": True, "ROWS": BLOCK_PIXELS[0], "BLOCKS": 8, "MEMBERS": 16},
        aligned=(*moments, *arguments, *vectors, *wholes, *strides),
        num_warps=WARPS,
        num_stages=1,
    )
