"""Depthwise 3x3 or 5x5 convolution, bias and exact GELU, with the sums that channel attention averages (DiCo).

    y = gelu(conv(x) + b);  sums[n, tile, c] = the tile's sum of y as stored

One pass over memory instead of six: cuDNN's convolution 2, bias 2, GELU 2, pooling 1, of which 2 are left.
The sums are of the rounded values, so that the average is that of what the next op reads. They go to one row a
tile and are added in a fixed order by ``channel_gates``: no atomics, the same bits every time.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..language import gelu, jit, on_device_of, tl
from ..layout import cdiv, empty_nhwc, nhwc, wide
from ..schema import DICO_XL, Compilation, Kernel, Shape, u_shape
from .depthwise import check, window_flops, window_inputs, window_side

SHIPPED = {64: 2, 32: 1}  # channels of a program -> warps, so that a thread loads 8 channels at once
TILE = 4, 8  # rows and columns of pixels summed together: part of the op's meaning, so one for all sizes


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The same in PyTorch, in float32 or wider up to the rounding of y."""
    k, c = window_side(weight), x.shape[1]
    inner = wide(x.dtype)
    taps = weight.to(inner).t().reshape(c, 1, k, k)
    y = nhwc(F.gelu(F.conv2d(x.to(inner), taps, bias.to(inner), padding=k // 2, groups=c)), x.dtype)
    return y, sums_of(y)


def sums_of(y: Tensor) -> Tensor:
    """The sums of each tile in float32 or wider, tiles row by row. (N, C, H, W) -> (N, tiles, C)"""
    (rows, cols), (h, w) = TILE, y.shape[2:]
    padded = F.pad(y.to(wide(y.dtype)), (0, -w % cols, 0, -h % rows))
    sums = padded.unflatten(3, (-1, cols)).unflatten(2, (-1, rows)).sum(dim=(3, 5))  # (N, C, tiles down, across)
    return sums.flatten(2).transpose(1, 2).contiguous()


@jit
def _depthwise_gelu(  # type: ignore[no-untyped-def]
    x, weight, bias, y, sums, C, H, W, tiles, across,
    K: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: ROWS x COLS pixels of one sample, BLOCK channels; channels run fastest over the programs."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(C, BLOCK)
    tile = pid // blocks % tiles
    sample = (pid // blocks // tiles).to(tl.int64)
    c = pid % blocks * BLOCK + tl.arange(0, BLOCK)
    has_c = c < C
    top = tile // across * ROWS
    col = tile % across * COLS + tl.arange(0, COLS)
    image = sample * H * W * C

    start = tl.load(bias + c, mask=has_c, other=0.0).to(tl.float32)[None, :] + tl.zeros((COLS, BLOCK), tl.float32)
    totals = ()  # grown by +, as Triton has no unpacking
    for _ in tl.static_range(ROWS):
        totals = totals + (start,)  # type: ignore[assignment]  # noqa: RUF005

    # Each row is loaded and widened once a column of the window and serves K rows of the result, as in ``_depthwise``.
    for dx in tl.static_range(K):
        q = col + (dx - K // 2)
        for down in tl.static_range(ROWS + K - 1):
            r = tl.zeros((COLS,), tl.int32) + (top + (down - K // 2))
            inside = (r >= 0) & (r < H) & (q >= 0) & (q < W)
            at = ((r * W + q) * C)[:, None] + c[None, :]
            v = tl.load(x + image + at, mask=inside[:, None] & has_c[None, :], other=0.0).to(tl.float32)
            updated = ()
            for out in tl.static_range(ROWS):
                if (down - out >= 0) and (down - out < K):
                    tap = tl.load(weight + ((down - out) * K + dx) * C + c, mask=has_c, other=0.0).to(tl.float32)
                    updated = updated + (totals[out] + v * tap[None, :],)  # type: ignore[assignment]  # noqa: RUF005
                else:
                    updated = updated + (totals[out],)  # type: ignore[assignment]  # noqa: RUF005
            totals = updated

    kept = tl.zeros((COLS, BLOCK), tl.float32)
    for out in tl.static_range(ROWS):
        row = tl.zeros((COLS,), tl.int32) + (top + out)
        here = ((row < H) & (col < W))[:, None] & has_c[None, :]
        stored = gelu(totals[out]).to(y.dtype.element_ty)
        tl.store(y + image + ((row * W + col) * C)[:, None] + c[None, :], stored, mask=here)
        kept += tl.where(here, stored.to(tl.float32), 0.0)
    tl.store(sums + (sample * tiles + tile) * C + c, tl.sum(kept, axis=0), mask=has_c)


def block_for(channels: int) -> int:
    """Channels of a program: the widest shipped that divides them; 416 is 13 times 32."""
    return next((block for block in SHIPPED if channels % block == 0), 64 if channels > 32 else 32)


def launch(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Run the kernel. The arguments have been checked."""
    (n, c, h, w), (rows, cols), block = x.shape, TILE, block_for(x.shape[1])
    across = cdiv(w, cols)
    tiles = cdiv(h, rows) * across
    y, sums = empty_nhwc(x), x.new_empty((n, tiles, c), dtype=torch.float32)
    with on_device_of(x):
        _depthwise_gelu[(n * tiles * cdiv(c, block),)](
            x, weight, bias, y, sums, c, h, w, tiles, across,
            K=window_side(weight), ROWS=rows, COLS=cols, BLOCK=block, num_warps=SHIPPED[block], enable_fp_fusion=True,
        )  # fmt: skip
    return y, sums


@torch.library.custom_op("convbench::depthwise_gelu", mutates_args=(), device_types="cpu")
def depthwise_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """x: (N, C, H, W) in channels_last; weight: (K*K, C), K = 3 or 5, row by row; bias: (C,).

    Returns y like x, and sums (N, tiles, C) in float32 (float64 for float64), tiles of 4 x 8 pixels row by row.
    """
    check(x, weight, bias)
    return reference(x, weight, bias)


@depthwise_gelu.register_kernel("cuda")
def _on_gpu(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    check(x, weight, bias)
    return launch(x, weight, bias)


@depthwise_gelu.register_fake
def _fake(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    tiles = cdiv(h, TILE[0]) * cdiv(w, TILE[1])
    return empty_nhwc(x), x.new_empty((n, tiles, c), dtype=wide(x.dtype))


def eager(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """What the unfused block runs up to the pooling, in the type of x."""
    k, c = window_side(weight), x.shape[1]
    y = F.gelu(F.conv2d(x, weight.t().reshape(c, 1, k, k), bias, padding=k // 2, groups=c))
    return y, F.adaptive_avg_pool2d(y, 1)


def _min_bytes(shape: Shape, batch: int, itemsize: int) -> int:
    """2 U, the weights, and the sums in float32."""
    tiles = cdiv(shape.height, TILE[0]) * cdiv(shape.width, TILE[1])
    per_channel = 2 * batch * shape.pixels * itemsize + (shape.kernel**2 + 1) * itemsize + 4 * batch * tiles
    return shape.channels * per_channel


def _compilations(dtype: str) -> tuple[Compilation, ...]:
    half = {name: f"*{dtype}" for name in ("x", "weight", "bias", "y")}
    return tuple(
        Compilation(
            label=f"depthwise_gelu {side}x{side}, {TILE[0]}x{TILE[1]} pixels, {block} channels",
            function=_depthwise_gelu,
            pointers={**half, "sums": "*fp32"},
            scalars=dict.fromkeys(("C", "H", "W", "tiles", "across"), "i32"),
            constants={"K": side, "ROWS": TILE[0], "COLS": TILE[1], "BLOCK": block},
            aligned=(*half, "sums", "C"),
            num_warps=warps,
            num_stages=1,
        )
        for side in (3,)  # no network has 5x5; launched, it is compiled on the spot
        for block, warps in SHIPPED.items()
    )


KERNELS = (
    Kernel(
        name="depthwise_gelu",
        summary="depthwise 3x3 or 5x5, bias, exact GELU, and sums for the pooling",
        replaces="DiCoBlock.conv2, F.gelu and the pooling of DiCoBlock.ca",
        op=depthwise_gelu,
        reference=reference,
        eager=eager,
        shapes=u_shape("dico_xl", DICO_XL, kernel=3),
        inputs=window_inputs,
        min_bytes=_min_bytes,
        flops=window_flops,
        compilations=_compilations,
        shipped=SHIPPED,
    ),
)
