"""Depthwise 3x3 or 5x5 convolution, bias and exact GELU, with the sums that channel attention averages (DiCo).

    y = gelu(conv(x) + b);  sums[n, tile, c] = the tile's sum of y as stored

Two passes over memory instead of seven (convolution 2, bias 2, GELU 2, pooling 1). The sums are those of the rounded
values, so that the average is that of what the next operation reads. Each tile writes its own row of sums, and
``channel_gates`` adds the rows in a fixed order: no atomics, the same bits every time.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..language import gelu, jit, on_device_of, tl
from ..layout import cdiv, empty_nhwc, nhwc, wide
from ..register import register
from ..schema import DICO_XL, Compilation, Kernel, Shape, u_shape
from .depthwise import check, window_flops, window_inputs, window_side

SHIPPED = {64: 2, 32: 1}  # channels of a program -> warps, so that a thread loads 8 channels at once
TILE = 4, 8  # rows and columns of pixels summed together: part of the result's shape, so one for all sizes


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the result in PyTorch, in float32 or wider up to the rounding of y.

    x: (N, C, H, W) in channels_last; weight: (K*K, C), K = 3 or 5, row by row; bias: (C,).
    Returns y like x, and sums (N, tiles, C) in float32 (float64 for float64), tiles of 4 x 8 pixels row by row.
    """
    k, c = window_side(weight), x.shape[1]
    inner = wide(x.dtype)
    taps = weight.to(inner).t().reshape(c, 1, k, k)
    y = nhwc(F.gelu(F.conv2d(x.to(inner), taps, bias.to(inner), padding=k // 2, groups=c)), x.dtype)
    return y, sums_of(y)


def sums_of(y: Tensor) -> Tensor:
    """Sum each tile in float32 or wider, tiles row by row. (N, C, H, W) -> (N, tiles, C)"""
    (rows, cols), (h, w) = TILE, y.shape[2:]
    padded = F.pad(y.to(wide(y.dtype)), (0, -w % cols, 0, -h % rows))
    sums = padded.unflatten(3, (-1, cols)).unflatten(2, (-1, rows)).sum(dim=(3, 5))  # (N, C, tiles down, across)
    return sums.flatten(2).transpose(1, 2).contiguous()


def tile_count(height: int, width: int) -> int:
    """Number of tiles that cover a map of that many pixels."""
    return cdiv(height, TILE[0]) * cdiv(width, TILE[1])


def eager(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the same as the unfused block does up to the pooling, in the type of x. Shapes as in ``reference``.

    The second result is the average over the map, (N, C, 1, 1).
    """
    k, c = window_side(weight), x.shape[1]
    y = F.gelu(F.conv2d(x, weight.t().reshape(c, 1, k, k), bias, padding=k // 2, groups=c))
    return y, F.adaptive_avg_pool2d(y, 1)


@jit
def depthwise_gelu_kernel(  # type: ignore[no-untyped-def]
    x,  # (N, H, W, C) contiguous, strides (H W C, W C, C, 1)
    weight,  # (K K, C) contiguous, strides (C, 1); the taps of the window row by row
    bias,  # (C,) contiguous
    y,  # (N, H, W, C) contiguous, strides (H W C, W C, C, 1)
    sums,  # (N, tiles, C) contiguous, strides (tiles C, C, 1), float32
    C, H, W, tiles, across,
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

    # As in ``depthwise_kernel``, each row is loaded and widened once a column of the window and serves K output rows.
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
    """Channels of a program: the widest shipped block that divides them; 416 is 13 times 32."""
    return next((block for block in SHIPPED if channels % block == 0), 64 if channels > 32 else 32)


def launch(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Run the kernel on checked arguments. Shapes as in ``reference``."""
    (n, c, h, w), (rows, cols), block = x.shape, TILE, block_for(x.shape[1])
    tiles = tile_count(h, w)
    y, sums = empty_nhwc(x), x.new_empty((n, tiles, c), dtype=torch.float32)
    with on_device_of(x):
        depthwise_gelu_kernel[(n * tiles * cdiv(c, block),)](
            x, weight, bias, y, sums, c, h, w, tiles, cdiv(w, cols),
            K=window_side(weight), ROWS=rows, COLS=cols, BLOCK=block, num_warps=SHIPPED[block], enable_fp_fusion=True,
        )  # fmt: skip
    return y, sums


def _empty(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    return empty_nhwc(x), x.new_empty((n, tile_count(h, w), c), dtype=wide(x.dtype))


depthwise_gelu = register("depthwise_gelu", reference, check, launch, _empty)


def _min_bytes(shape: Shape, batch: int, itemsize: int) -> int:
    """Two passes over the map, the weights, and the sums in float32."""
    sums = 4 * batch * tile_count(shape.height, shape.width)
    per_channel = 2 * batch * shape.pixels * itemsize + (shape.kernel**2 + 1) * itemsize + sums
    return shape.channels * per_channel


def _compilations(dtype: str) -> tuple[Compilation, ...]:
    half = {name: f"*{dtype}" for name in ("x", "weight", "bias", "y")}
    return tuple(
        Compilation(
            label=f"depthwise_gelu {side}x{side}, {TILE[0]}x{TILE[1]} pixels, {block} channels",
            function=depthwise_gelu_kernel,
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
