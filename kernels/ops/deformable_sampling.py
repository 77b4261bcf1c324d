"""FlowDCN's deformable sampling: each token sums, in each group of channels, values at places between the tokens.

Bound by reading the values at four corners of each of K places: 4 K rows of a group's channels for one that is written.
Neighbouring tokens read nearly the same ones, so most come out of the caches. The corners come from truncation, not
from floor: see ``models/deformable.py``.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ...models.deformable import sample_and_sum
from ..language import jit, on_device_of, tl
from ..layout import cdiv, empty_nhwc, nhwc, power_of_two, require_nhwc, require_shape, wide
from ..register import register
from ..schema import DTYPES, Compilation, Kernel, Shape, feature_map, normal

SAMPLES = 9  # of a token in FlowDCN
DEPTH = 72  # channels of a group in FlowDCN-XL; 64 in the smaller ones


def reference(x: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Compute the result in PyTorch, in float32 or wider up to the rounding of y.

    x: (N, C, H, W) in channels_last, the channels of a group beside each other; places: (N, H, W, G, K, 2), x before y
    in tokens from the token itself, in float32 or wider; weights: (N, H, W, G, K). Returns y like x.
    """
    inner = wide(x.dtype)
    return nhwc(_sampled(x.to(inner), places, weights.to(inner)), x.dtype)


def eager(x: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Compute the same as the unfused block does, in the type of x. Shapes as in ``reference``."""
    return _sampled(x, places, weights)


def _sampled(x: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    values = x.permute(0, 2, 3, 1).unflatten(3, (weights.shape[3], -1))  # (N, H, W, G, C/G)
    return sample_and_sum(values, places, weights).flatten(3).permute(0, 3, 1, 2)


def check(x: Tensor, places: Tensor, weights: Tensor) -> None:
    """Raise UsageError for a shape, type or layout that the operation does not take. Shapes as in ``reference``."""
    require_nhwc(x=x)
    n, c, h, w = x.shape
    if weights.dim() != 5 or c % max(1, weights.shape[3]):
        raise UsageError(f"weights must be (N, H, W, G, K) with G a divisor of {c}, got {tuple(weights.shape)}")
    require_shape((n, h, w, *weights.shape[3:]), x.dtype, weights=weights)
    require_shape((n, h, w, *weights.shape[3:], 2), wide(x.dtype), places=places)


@dataclass(frozen=True)
class SamplingTile:
    """Pairs of a token and a group in one program, each with all channels of the group."""

    rows: int
    num_warps: int


SHIPPED = {
    torch.float32: SamplingTile(8, 4),
    torch.float16: SamplingTile(16, 4),
    torch.bfloat16: SamplingTile(16, 4),
}


@jit
def deformable_sampling_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # (N, pixels, groups, DEPTH) contiguous, strides (pixels groups DEPTH, groups DEPTH, DEPTH, 1)
    places_ptr,  # (N, pixels groups, SAMPLES, 2), float32, strides (pixels groups SAMPLES 2, SAMPLES 2, 2, 1)
    weights_ptr,  # (N, pixels groups, SAMPLES) contiguous, strides (pixels groups SAMPLES, SAMPLES, 1)
    y_ptr,  # (N, pixels, groups, DEPTH) contiguous, strides (pixels groups DEPTH, groups DEPTH, DEPTH, 1)
    height,
    width,
    groups,
    SAMPLES: tl.constexpr,
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,  # DEPTH, rounded up to a power of two
):
    """One program: ROWS pairs of a token and a group of one sample, all channels of the group."""
    rows = height * width * groups
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1).to(tl.int64) * rows  # a batch may hold more than 2^31 elements
    d = tl.arange(0, BLOCK)
    known, has_d = row < rows, d < DEPTH
    token, group = row // groups, row % groups
    i, j = token // width, token % width

    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for k in range(SAMPLES):
        at = (first + row) * SAMPLES + k
        weight = tl.load(weights_ptr + at, mask=known, other=0.0).to(tl.float32)
        x = tl.load(places_ptr + 2 * at, mask=known, other=0.0) + j
        y = tl.load(places_ptr + 2 * at + 1, mask=known, other=0.0) + i
        # Nothing is sampled from further away, and an integer holds what is left.
        x, y = tl.minimum(tl.maximum(x, -3.0), width + 1.0), tl.minimum(tl.maximum(y, -3.0), height + 1.0)
        left, top = x.to(tl.int32), y.to(tl.int32)  # towards zero
        x, y = x - left, y - top
        for down in tl.static_range(2):
            for right in tl.static_range(2):
                r, q = top + down, left + right
                share = weight * ((1 - y) if down == 0 else y) * ((1 - x) if right == 0 else x)
                inside = known & (r >= 0) & (r < height) & (q >= 0) & (q < width)
                source = (first + (r * width + q) * groups + group) * DEPTH
                mask = inside[:, None] & has_d[None, :]
                v = tl.load(x_ptr + source[:, None] + d[None, :], mask=mask, other=0.0).to(tl.float32)
                total += share[:, None] * v
    out = y_ptr + ((first + row) * DEPTH)[:, None] + d[None, :]
    tl.store(out, total.to(y_ptr.dtype.element_ty), mask=known[:, None] & has_d[None, :])


def launch(x: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """Run the kernel on checked arguments. Shapes as in ``reference``."""
    (n, c, h, w), (groups, samples) = x.shape, weights.shape[3:]
    tile, depth = SHIPPED[x.dtype], c // groups
    y = empty_nhwc(x)
    with on_device_of(x):
        deformable_sampling_kernel[cdiv(h * w * groups, tile.rows), n](
            x, places, weights, y, h, w, groups,
            SAMPLES=samples, DEPTH=depth, ROWS=tile.rows, BLOCK=power_of_two(depth),
            num_warps=tile.num_warps, enable_fp_fusion=True,
        )  # fmt: skip
    return y


deformable_sampling = register("deformable_sampling", reference, check, launch, empty=lambda x, *_: empty_nhwc(x))


def inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int) -> tuple[Any, ...]:
    """Random arguments as a block of FlowDCN has them: places about two tokens away, some of them off the map.

    Places are multiples of 1/1024: a value jumps at -1 and -2, and these lie on one side of it in every precision.
    """
    groups = max(1, shape.channels // DEPTH)
    grid = (batch, shape.height, shape.width, groups, SAMPLES)
    places = normal(*grid, 2, dtype=torch.float32, device=device, seed=seed + 1, scale=2.0)
    weights = normal(*grid, dtype=dtype, device=device, seed=seed + 2)
    return feature_map(batch, shape.channels, shape, dtype, device, seed), (1024 * places).round() / 1024, weights


def min_bytes(shape: Shape, batch: int, element: int) -> int:
    """Bytes of x in and y out, and of each place, two numbers of float32, with its weight."""
    places = max(1, shape.channels // DEPTH) * SAMPLES
    return batch * shape.pixels * (2 * shape.channels * element + places * (8 + element))


def flops(shape: Shape, batch: int) -> int:
    """2 for each corner of each place and channel, those off the map included."""
    return 2 * 4 * SAMPLES * shape.channels * shape.pixels * batch


def compilations(precision: str) -> tuple[Compilation, ...]:
    """The ahead-of-time compilations for the two depths of a group in FlowDCN."""
    tile, kind = SHIPPED[DTYPES[precision]], f"*{precision}"
    pointers = {"x_ptr": kind, "places_ptr": "*fp32", "weights_ptr": kind, "y_ptr": kind}
    return tuple(
        Compilation(
            label=f"deformable_sampling {tile.rows} rows of {depth} channels",
            function=deformable_sampling_kernel,
            pointers=pointers,
            scalars=dict.fromkeys(("height", "width", "groups"), "i32"),
            constants={"SAMPLES": SAMPLES, "DEPTH": depth, "ROWS": tile.rows, "BLOCK": power_of_two(depth)},
            aligned=tuple(pointers),
            num_warps=tile.num_warps,
            num_stages=1,
        )
        for depth in (DEPTH, 64)
    )


KERNELS = (
    Kernel(
        name="deformable_sampling",
        summary="weighted sum of values at nine places between the tokens",
        replaces="DeformableSampling of FlowDCN: four gathers and products",
        op=deformable_sampling,
        reference=reference,
        eager=eager,
        shapes=tuple(Shape("flowdcn_xl_2", res, 1, 1152, res // 16, res // 16) for res in (256, 512)),
        inputs=inputs,
        min_bytes=min_bytes,
        flops=flops,
        compilations=compilations,
        shipped=SHIPPED,
    ),
)
