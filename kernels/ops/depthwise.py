"""Depthwise convolution of side 3, 5 or 7 and bias (FCDM's 7x7, DiG's 3x3).

A 7x7 window is bound by arithmetic and by reading L1, not by memory: 49 loads an output would cost more than 49
multiplications. So each program accumulates several output rows and adds every input row that it loads to all of them:
(rows + 6) 7 / rows loads an output, 12 with 8 rows.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UsageError
from ..language import jit, on_device_of, tl
from ..layout import cdiv, empty_nhwc, nhwc, require_nhwc, require_shape, wide
from ..register import register
from ..schema import FCDM_XL, Compilation, Kernel, Shape, feature_map, normal, u_shape


@dataclass(frozen=True)
class WindowTile:
    """Pixels and channels of one program of a depthwise convolution."""

    rows: int  # pixels
    cols: int  # pixels
    block: int  # channels
    warps: int
    unroll: int  # columns of the window at once


# Side of the window -> tile. With two warps a thread has 8 channels: 16-byte loads, a quarter fewer instructions.
SHIPPED = {3: WindowTile(4, 8, 64, 2, 3), 5: WindowTile(8, 8, 64, 2, 1), 7: WindowTile(8, 8, 64, 2, 1)}

SIDES = {9: 3, 25: 5, 49: 7}  # number of taps -> side of the window


def window_side(weight: Tensor) -> int:
    """Return K of a window whose weights are (K*K, C). Raises UsageError for another number of taps."""
    if weight.shape[0] not in SIDES:
        raise UsageError(f"weight must be (K*K, C) with K = 3, 5 or 7, got {tuple(weight.shape)}")
    return SIDES[weight.shape[0]]


def window_rows(weight: Tensor) -> Tensor:
    """Lay out the weights of a depthwise nn.Conv2d as the operations need. (C, 1, K, K) -> (K*K, C), row by row."""
    return weight.flatten(1).t().contiguous()


def reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute the result in PyTorch, in float32 or wider up to its rounding.

    x: (N, C, H, W) in channels_last; weight: (K*K, C), K = 3, 5 or 7, row by row; bias: (C,). Returns y like x.
    """
    inner, k, c = wide(x.dtype), window_side(weight), x.shape[1]
    taps = weight.to(inner).t().reshape(c, 1, k, k)
    return nhwc(F.conv2d(x.to(inner), taps, bias.to(inner), padding=k // 2, groups=c), x.dtype)


def eager(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute the same as the unfused block does, in the type of x. Shapes as in ``reference``."""
    k, c = window_side(weight), x.shape[1]
    return F.conv2d(x, weight.t().reshape(c, 1, k, k), bias, padding=k // 2, groups=c)


def check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Raise UsageError for a shape, type or layout that no depthwise operation takes. Shapes as in ``reference``."""
    require_nhwc(x=x)
    require_shape((window_side(weight) ** 2, x.shape[1]), x.dtype, weight=weight)
    require_shape((x.shape[1],), bias=bias)


@jit
def depthwise_kernel(  # type: ignore[no-untyped-def]
    x,  # (N, H, W, C) contiguous, strides (H W C, W C, C, 1)
    weight,  # (K K, C) contiguous, strides (C, 1); the taps of the window row by row
    bias,  # (C,) contiguous
    y,  # (N, H, W, C) contiguous, strides (H W C, W C, C, 1)
    C, H, W, tiles, across,
    K: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """One program: ROWS x COLS pixels of one sample, BLOCK channels; channels run fastest over the programs."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(C, BLOCK)
    tile = pid // blocks % tiles
    image = (pid // blocks // tiles).to(tl.int64) * H * W * C
    c = pid % blocks * BLOCK + tl.arange(0, BLOCK)
    has_c = c < C
    top = tile // across * ROWS
    col = tile % across * COLS + tl.arange(0, COLS)

    start = tl.load(bias + c, mask=has_c, other=0.0).to(tl.float32)[None, :] + tl.zeros((COLS, BLOCK), tl.float32)
    totals = ()  # grown by +, as Triton has no unpacking
    for _ in tl.static_range(ROWS):
        totals = totals + (start,)  # type: ignore[assignment]  # noqa: RUF005

    # Column by column, so that only K taps are held at a time; a 7x7 window all unrolled takes 255 registers.
    for dx in tl.range(0, K, loop_unroll_factor=UNROLL):
        q = col + (dx - K // 2)
        for down in tl.static_range(ROWS + K - 1):
            # A vector, as the interpreter of Triton 3.9 refuses a mask of a scalar and a vector.
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

    for out in tl.static_range(ROWS):
        r = tl.zeros((COLS,), tl.int32) + (top + out)
        here = ((r < H) & (col < W))[:, None] & has_c[None, :]
        at = ((r * W + col) * C)[:, None] + c[None, :]
        tl.store(y + image + at, totals[out].to(y.dtype.element_ty), mask=here)


def launch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Run the kernel on checked arguments. Shapes as in ``reference``."""
    (n, c, h, w), side = x.shape, window_side(weight)
    tile = SHIPPED[side]
    across = cdiv(w, tile.cols)
    tiles = cdiv(h, tile.rows) * across
    y = empty_nhwc(x)
    with on_device_of(x):
        depthwise_kernel[(n * tiles * cdiv(c, tile.block),)](
            x, weight, bias, y, c, h, w, tiles, across,
            K=side, ROWS=tile.rows, COLS=tile.cols, BLOCK=tile.block, UNROLL=tile.unroll,
            num_warps=tile.warps, enable_fp_fusion=True,
        )  # fmt: skip
    return y


depthwise = register("depthwise", reference, check, launch, empty=lambda x, *_: empty_nhwc(x))


def window_inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int) -> tuple[Any, ...]:
    """Random arguments of a depthwise operation: x, weight, bias, with the shapes of ``reference``."""
    c, taps = shape.channels, shape.kernel**2
    x = feature_map(batch, c, shape, dtype, device, seed)
    weight = normal(taps, c, dtype=dtype, device=device, seed=seed + 1, scale=taps**-0.5)
    return x, weight, normal(c, dtype=dtype, device=device, seed=seed + 2)


def window_flops(shape: Shape, batch: int) -> int:
    """FLOPs: 2 K K for each output element, at the border too."""
    return 2 * batch * shape.pixels * shape.channels * shape.kernel**2


def _min_bytes(shape: Shape, batch: int, itemsize: int) -> int:
    """Two passes over the map and the weights."""
    return shape.channels * itemsize * (2 * batch * shape.pixels + shape.kernel**2 + 1)


def _compilations(dtype: str) -> tuple[Compilation, ...]:
    pointers = {name: f"*{dtype}" for name in ("x", "weight", "bias", "y")}
    return tuple(
        Compilation(
            label=f"depthwise {side}x{side}, {tile.rows}x{tile.cols} pixels, {tile.block} channels",
            function=depthwise_kernel,
            pointers=pointers,
            scalars=dict.fromkeys(("C", "H", "W", "tiles", "across"), "i32"),
            constants={"K": side, "ROWS": tile.rows, "COLS": tile.cols, "BLOCK": tile.block, "UNROLL": tile.unroll},
            aligned=(*pointers, "C"),
            num_warps=tile.warps,
            num_stages=1,
        )
        for side, tile in SHIPPED.items()
        if side != 5  # no network has one; launched, it is compiled on the spot
    )


def _kernel(name: str, replaces: str, shapes: tuple[Shape, ...]) -> Kernel:
    return Kernel(
        name=name,
        summary=f"depthwise {name[-3:]} and bias, each loaded row used for several output rows",
        replaces=replaces,
        op=depthwise,
        reference=reference,
        eager=eager,
        shapes=shapes,
        inputs=window_inputs,
        min_bytes=_min_bytes,
        flops=window_flops,
        compilations=lambda dtype: tuple(c for c in _compilations(dtype) if name[-3:] in c.label),
        shipped=SHIPPED,
    )


DIG_XL = tuple(Shape("dig_xl_2", res, 1, 1152, res // 16, res // 16, kernel=3) for res in (256, 512))

KERNELS = (
    _kernel("depthwise_7x7", "FCDMBlock.dwconv", u_shape("fcdm_xl", FCDM_XL, kernel=7)),
    _kernel("depthwise_3x3", "DiGBlock.dw_conv", DIG_XL),
)
