"""The kernels of DiCo, FCDM, DiG and Winograd's convolution in Triton's interpreter against references in float64.

Not collected by itself: ``test_interpreter.py`` runs it in a process with TRITON_INTERPRET=1. Inputs lie
between NaN, so that a wrong mask is seen, and outputs are full of NaN before a launch. Time goes with the number of
programs, so shapes are tiny: 9 x 13 pixels and ragged channels, which no tile divides, and maps smaller than a tile.

What needs a GPU and is reasoned here only: offsets past 2^31. Every kernel takes the offset of the sample (of the
tile, in flat products) in 64 bits, and what remains inside one sample is H W C < 2^31.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch
import triton.language as tl
from mutated_kernels import mutated
from torch import Tensor

from convbench.kernels import depthwise_window, language, layout, matrix_product, product_tiles
from convbench.kernels.depthwise_window import add_row, depthwise_window_kernel, load_row, store_row
from convbench.kernels.matrix_product import halves, multiply, multiply_described
from convbench.kernels.ops import (
    channel_attention,
    deformable_sampling,
    depthwise,
    depthwise_gelu,
    layer_norm,
    pointwise,
    pointwise_residual,
    pointwise_squares,
    response_norm,
    winograd_conv,
)
from convbench.kernels.ops.channel_attention import mean_kernel
from convbench.kernels.ops.deformable_sampling import deformable_sampling_kernel
from convbench.kernels.ops.layer_norm import layer_norm_modulate_kernel
from convbench.kernels.ops.pointwise import pointwise_kernel, pointwise_tile
from convbench.kernels.ops.pointwise_residual import pointwise_residual_kernel, pointwise_residual_tile
from convbench.kernels.ops.pointwise_squares import pointwise_squares_kernel, pointwise_squares_tile
from convbench.kernels.ops.response_norm import response_factors_kernel
from convbench.kernels.ops.winograd_conv import points_product_kernel, winograd_input_tiles, winograd_output_tiles

MODULES = (
    channel_attention,
    deformable_sampling,
    depthwise,
    depthwise_gelu,
    depthwise_window,
    language,
    layer_norm,
    matrix_product,
    pointwise,
    pointwise_residual,
    pointwise_squares,
    response_norm,
    winograd_conv,
)
MARGIN = 1234.0
TILES = {tile.label: tile for gpu in product_tiles.table()["rates"] for tile in product_tiles.candidates(gpu, 2)}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Close:
    """|found - exact| <= relative |exact| + absolute rms(exact)."""

    relative: float
    absolute: float


# One unit in the last place: fp16 is rounded, bf16 is cut off, as the interpreter does it.
CLOSE = {"fp32": Close(2e-6, 2e-6), "fp16": Close(2**-10, 2**-10), "bf16": Close(2**-7, 2**-7)}

assert language.INTERPRETED, "run through test_interpreter.py: the kernels were not made for the interpreter"


def within(x: Tensor, margin: float) -> Tensor:
    """The same values and strides inside a larger piece of memory full of ``margin``."""
    size, room = x.untyped_storage().nbytes() // x.element_size(), max(1 << 15, x.numel())
    memory = torch.full((size + 2 * room,), margin, dtype=x.dtype)
    return memory.as_strided(x.shape, x.stride(), room).copy_(x)


@contextmanager
def guarded_outputs() -> Iterator[None]:
    """New tensors are full of NaN, and a launch has to leave the memory around them as it is."""
    made = []

    def guarded(x: Tensor) -> Tensor:
        if x.numel() == 0:  # the interpreter's own
            return x
        made.append(within(x.fill_(math.nan), MARGIN))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        new_empty = torch.Tensor.new_empty
        patch.setattr(torch.Tensor, "new_empty", lambda x, *of, **more: guarded(new_empty(x, *of, **more)))
        for module in MODULES:
            if module is not layout and hasattr(module, "empty_nhwc"):
                patch.setattr(module, "empty_nhwc", lambda *of: guarded(layout.empty_nhwc(*of)))
        yield
    for x in made:
        memory = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
        outside = memory.numel() - x.numel() - (memory == MARGIN).sum()
        assert outside == 0, f"off by {outside} numbers: written outside the tensor"


def draw(dtype: torch.dtype) -> Callable[..., Tensor]:
    """Random normal values, the next of one seed, between NaN."""
    generator = torch.Generator().manual_seed(0)

    def next_of(*shape: int, scale: float = 1.0, shift: float = 0.0, dtype: torch.dtype = dtype) -> Tensor:
        return within((scale * torch.randn(shape, generator=generator) + shift).to(dtype), math.nan)

    return next_of


def nhwc(x: Tensor) -> Tensor:
    """(N, H, W, C) in memory, seen as (N, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def double(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.double() if isinstance(a, Tensor) else a for a in arguments)


Case = tuple[ModuleType, Callable[[Callable[..., Tensor]], tuple[Any, ...]]]


def window(module: ModuleType, k: int, n: int, c: int, h: int, w: int) -> Case:
    return module, lambda new: (nhwc(new(n, h, w, c)), new(k * k, c, scale=1 / k), new(c))


def norm(n: int, c: int, h: int, w: int, scale: float = 1.0) -> Case:
    def arguments(new: Callable[..., Tensor]) -> tuple[Any, ...]:
        vectors = new(n, 2 * c + 3)  # slices of a wider matrix
        return nhwc(new(n, h, w, c, scale=scale, shift=scale)), vectors[:, 3 : c + 3], vectors[:, c + 3 :]

    return layer_norm, arguments


def product(module: ModuleType, n: int, k: int, c: int, h: int, w: int, *more: Any) -> Case:
    return module, lambda new: (nhwc(new(n, h, w, k)), new(c, k, scale=k**-0.5), new(c), *more)


def residual(n: int, k: int, c: int, h: int, w: int, scaled: bool) -> Case:
    def arguments(new: Callable[..., Tensor]) -> tuple[Any, ...]:
        factor = new(n, k + 5, scale=0.3, shift=1.0, dtype=torch.float32)[:, :k] if scaled else None
        x, weight, bias = nhwc(new(n, h, w, k)), new(c, k, scale=k**-0.5), new(c)
        return x, factor, weight, bias, new(n, 3 * c)[:, c : 2 * c], nhwc(new(n, h, w, c))

    return pointwise_residual, arguments


def gates(n: int, tiles: int, c: int) -> Case:
    return channel_attention, lambda new: (
        new(n, tiles, c, scale=9.0, dtype=torch.float32), new(c, c, scale=c**-0.5), new(c), 30 * tiles
    )  # fmt: skip


def factors(n: int, segments: int, c: int) -> Case:
    return response_norm, lambda new: (new(n, segments, c, dtype=torch.float32).square(), new(c, scale=0.5))


def samples(n: int, groups: int, depth: int, h: int, w: int, reach: float) -> Case:
    """Places are multiples of 1/64: values jump at -1 and -2, and no rounding may decide on which side one lies."""

    def arguments(new: Callable[..., Tensor]) -> tuple[Any, ...]:
        places = new(n, h, w, groups, 9, 2, scale=reach, dtype=torch.float32)
        return nhwc(new(n, h, w, groups * depth)), places.mul_(64).round_().div_(64), new(n, h, w, groups, 9)

    return deformable_sampling, arguments


def dense(n: int, k: int, c: int, h: int, w: int, ours: bool) -> Case:
    def arguments(new: Callable[..., Tensor]) -> tuple[Any, ...]:
        weight = nhwc(new(c, 3, 3, k, scale=k**-0.5 / 3))
        return nhwc(new(n, h, w, k)), weight, within(winograd_conv.winograd_weight(weight), math.nan), ours

    return winograd_conv, arguments


CASES: dict[str, Case] = {
    "depthwise_gelu 3x3, ragged": window(depthwise_gelu, 3, 1, 24, 9, 13),
    "depthwise_gelu 3x3, smaller than a tile": window(depthwise_gelu, 3, 2, 16, 3, 5),
    "depthwise_gelu 3x3, full strips, two bands": window(depthwise_gelu, 3, 2, 32, 10, 8),
    "depthwise_gelu 5x5": window(depthwise_gelu, 5, 1, 32, 5, 9),
    "depthwise 7x7, ragged": window(depthwise, 7, 1, 24, 9, 13),
    "depthwise 7x7, smaller than a window": window(depthwise, 7, 2, 16, 2, 3),
    "depthwise 3x3, two blocks of channels": window(depthwise, 3, 1, 72, 5, 9),
    "depthwise 5x5": window(depthwise, 5, 1, 16, 4, 8),
    "winograd_conv, ragged, our products": dense(2, 24, 40, 5, 7, ours=True),
    "winograd_conv, the library's products": dense(1, 40, 24, 4, 6, ours=False),
    "layer_norm, ragged": norm(2, 40, 9, 13),
    "layer_norm, small values, where eps counts": norm(1, 40, 3, 5, scale=1e-3),
    "layer_norm, one channel block of 512": norm(1, 416, 3, 3),
    "pointwise, ragged": product(pointwise, 2, 40, 72, 9, 13),
    "pointwise gelu, fewer rows than a tile": product(pointwise, 1, 24, 40, 3, 3, True),
    "pointwise gelu, several tiles both ways": product(pointwise, 2, 72, 264, 10, 15, True),
    "pointwise_squares, a ragged segment": product(pointwise_squares, 2, 40, 24, 9, 13),
    "pointwise_squares, two segments a sample": product(pointwise_squares, 1, 24, 24, 15, 17),
    "pointwise_squares, samples share a tile": product(pointwise_squares, 3, 24, 40, 4, 4),
    "pointwise_squares, several tiles both ways": product(pointwise_squares, 3, 72, 264, 8, 16),
    "pointwise_residual scaled, several tiles both ways": residual(2, 72, 264, 15, 16, scaled=True),
    "pointwise_residual scaled, ragged": residual(2, 40, 72, 9, 13, scaled=True),
    "pointwise_residual scaled, 8x8": residual(2, 64, 24, 8, 8, scaled=True),
    "pointwise_residual": residual(1, 72, 24, 9, 13, scaled=False),
    "channel_gates": gates(2, 18, 72),
    "response_factors": factors(2, 9, 40),
    "deformable_sampling, ragged": samples(2, 3, 24, 3, 5, 2.0),
    "deformable_sampling, far off the map": samples(1, 1, 16, 2, 3, 40.0),
}


def run(case: str, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """What the kernel gives and what its reference gives in float64, for each result."""
    module, arguments = CASES[case]
    values = arguments(draw(dtype))
    with guarded_outputs():
        found = module.launch(*values)
    return list(
        zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected(module, values, found))), strict=True)
    )


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 to ``dtype`` as the interpreter does it: it cuts off the last bits of a bf16."""
    return (x.contiguous().view(torch.int32) & -65536).view(torch.float32) if dtype == torch.bfloat16 else x.to(dtype)


def expected(module: ModuleType, values: tuple[Any, ...], found: Any) -> Any:
    """The reference in float64; sums are of the values as stored, so of those the kernel stored."""
    if module is pointwise_residual and values[1] is not None:  # the scaled operand is rounded before the product
        x, factor, *rest = values
        values = cast((x.float() * factor[:, :, None, None]), x.dtype), None, *rest
    exact = module.reference(*double(values))
    if module is depthwise_gelu:
        return exact[0], depthwise_gelu.sums_of(found[0].double())
    if module is pointwise_squares:
        return exact[0], pointwise_squares.squares_of(found[0].double())
    return exact


def check(case: str, precision: str) -> None:
    for index, (found, exact) in enumerate(run(case, DTYPES[precision])):
        assert found.shape == exact.shape
        assert found.dim() < 4 or found.is_contiguous(memory_format=torch.channels_last)
        # Results after the first are float32 in every precision, and sums of rounded values are exact sums.
        limit = CLOSE[precision if index == 0 and found.dtype != torch.float32 else "fp32"]
        if case.startswith(("channel_gates",)):
            limit = CLOSE[precision]  # a float32 result of a rounded mean
        off = (found.double() - exact).abs()
        allowed = limit.relative * exact.abs() + limit.absolute * exact.square().mean().sqrt()
        assert (off <= allowed).all(), (
            f"{case}, {precision}, result {index}: off by {(off / allowed).max():.3g} x the allowed"
        )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", DTYPES)
def test_against_the_reference(case: str, precision: str) -> None:
    check(case, precision)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("pointwise")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tile", TILES)
def test_every_configuration_of_a_product(tile: str, precision: str, case: str) -> None:
    """With descriptors wherever the rows of a tile are adjacent, and persistent programs with several tiles each."""
    with product_tiles.using(TILES[tile]) as launched:
        check(case, precision)
    (used,) = launched
    assert used.persistent == TILES[tile].persistent
    ragged = case in ("pointwise_squares, a ragged segment", "pointwise_squares, two segments a sample")
    assert used.descriptors == (TILES[tile].descriptors and not ragged)


@dataclass(frozen=True)
class Mutation:
    """A mistake, as a change of the text of one device function, and the case that has to see it."""

    what: str
    function: Any
    old: str
    new: str
    case: str
    precision: str = "fp32"
    tile: str = ""  # configuration of a product; the model's choice if empty


TANH_GELU = "x * tl.sigmoid(1.5957691216 * (x + 0.044715 * x * x * x))"
RAGGED_3X3, RAGGED_7X7 = "depthwise_gelu 3x3, ragged", "depthwise 7x7, ragged"
FULL_3X3 = "depthwise_gelu 3x3, full strips, two bands"
DENSE = "winograd_conv, ragged, our products"
SAMPLED = "deformable_sampling, ragged"
LARGE = "256x128x64, 8w3s, descriptors, persistent"
RESIDUALS = "pointwise_residual scaled, several tiles both ways"
SCALED, SHARED = "pointwise_residual scaled, ragged", "pointwise_squares, samples share a tile"

MUTATIONS = (
    Mutation("dropped taps", add_row, "for dx in tl.static_range(K)", "for dx in tl.static_range(1, K)", RAGGED_3X3),
    Mutation("window on its side", add_row, "(K - 1 - out) * K + dx", "dx * K + (K - 1 - out)", RAGGED_7X7),
    Mutation("window upside down", add_row, "(K - 1 - out) * K", "out * K", RAGGED_3X3),
    Mutation("no left border", load_row, "(col + (u - K // 2) >= 0) & ", "", RAGGED_3X3),
    Mutation("no right border", load_row, "& (col + (u - K // 2) < W)", "", RAGGED_3X3),
    Mutation("no left border of full strips", load_row, "(u >= K // 2) and", "", FULL_3X3),
    Mutation("no right border of full strips", load_row, "and (u < STRIP + K // 2)", "", FULL_3X3),
    Mutation("no upper border", depthwise_window_kernel, "tl.maximum(top - HALF, 0)", "top - HALF", FULL_3X3),
    Mutation("no lower border", depthwise_window_kernel, "tl.minimum(bottom + HALF, H)", "bottom + HALF", FULL_3X3),
    Mutation("last row not stored", depthwise_window_kernel, "tl.range(end, bottom + HALF)",
             "tl.range(end, bottom + HALF - 1)", FULL_3X3),
    Mutation("a low map's rows", depthwise_window_kernel, "here & in_band", "here",
             "depthwise 7x7, smaller than a window"),
    Mutation("swapped stride", depthwise_window_kernel, "x + i * (W * C)", "x + i * (H * C)", RAGGED_3X3),
    Mutation("swapped output stride", depthwise_window_kernel, "y + (i - HALF) * (W * C)",
             "y + (i - HALF) * (H * C)", RAGGED_3X3),
    Mutation("no bias", depthwise_window_kernel, "widen(tl.load(bias + c, mask=has_c, other=0.0))",
             "tl.zeros((P, BLOCK), tl.float32)", RAGGED_3X3),
    Mutation("channels past the end", depthwise_window_kernel, "has_c = c < C", "has_c = c < C + 1", RAGGED_7X7),
    Mutation("tanh for erf", language.gelu, "tl.maximum(x, 0.0) - a * tl.exp2(p)", TANH_GELU, RAGGED_3X3),
    Mutation("a wrong digit", language.gelu, "0.45911", "0.45921", RAGGED_3X3),
    Mutation("bits of bf16 lost", language.widen, "tl.int32) << 16", "tl.int32) << 16 & -1048576", FULL_3X3, "bf16"),
    Mutation("sums past the border", store_row, "tl.where(inside, widen(stored), 0.0)", "widen(stored)", RAGGED_3X3),
    Mutation("sums before rounding", store_row, "tl.where(inside, widen(stored), 0.0)",
             "tl.where(inside, gelu(sums[column]), 0.0)", RAGGED_3X3, "fp16"),
    Mutation("sums in another tile", depthwise_window_kernel, "band) * across + strip % across",
             "band) * across + across - 1 - strip % across", RAGGED_3X3),
    Mutation("a point's sign", winograd_input_tiles, "half[8 + i] - half[4 + i]", "half[4 + i] - half[8 + i]", DENSE),
    Mutation("a row's sign", winograd_input_tiles, "d2 - d1, ", "d1 - d2, ", DENSE),
    Mutation("no upper border", winograd_input_tiles, " & (row >= 0)", "", DENSE),
    Mutation("no lower border", winograd_input_tiles, " & (row + 2 < H)", "", DENSE),
    Mutation("no left border", winograd_input_tiles, "(col + j >= 0) & ", "", DENSE),
    Mutation("tiles a pixel apart", winograd_input_tiles, "tile % across * 2 - 1", "tile % across * 2", DENSE),
    Mutation("the first point's weights", points_product_kernel, "weight += point * C", "weight += 0 * C", DENSE),
    Mutation("a sign of the output", winograd_output_tiles, "m[1] - m[2] - m[3]", "m[1] - m[2] + m[3]", DENSE),
    Mutation("written past the right border", winograd_output_tiles, "below & (col + 1 < W)", "below", DENSE),
    Mutation("another eps", layer_norm_modulate_kernel, "+ eps", "+ 10 * eps",
             "layer_norm, small values, where eps counts"),
    Mutation("variance over the block", layer_norm_modulate_kernel, "axis=1) / C + eps", "axis=1) / BLOCK + eps",
             "layer_norm, ragged"),
    Mutation("mean over the block", layer_norm_modulate_kernel, "mean = tl.sum(v, axis=1) / C",
             "mean = tl.sum(v, axis=1) / BLOCK", "layer_norm, ragged"),
    Mutation("scale without 1", layer_norm_modulate_kernel, "1.0 + tl.load", "tl.load", "layer_norm, ragged"),
    Mutation("swapped stride of the condition", layer_norm_modulate_kernel, "sample * shift_stride",
             "sample * C", "layer_norm, ragged"),
    Mutation("inner length cut", multiply, "range(0, K, BK)", "range(0, K // BK * BK, BK)",
             "pointwise, ragged"),
    Mutation("no mask of the inner length", multiply, "has_row[:, None] & has_k[None, :]",
             "has_row[:, None]", "pointwise, ragged"),
    Mutation("operand not scaled", multiply, "* s[None, :]", "", SCALED),
    Mutation("swapped stride of the weights", pointwise_tile, "weight + col * K", "weight + col * C",
             "pointwise, ragged"),
    Mutation("no bias", pointwise_tile, "total += tl.load(bias", "tl.load(bias", "pointwise, ragged"),
    Mutation("no GELU", pointwise_tile, '== "gelu"', '== "GELU"', "pointwise gelu, fewer rows than a tile"),
    Mutation("no segment boundary", pointwise_squares_tile, "(pixel < pixels) & ", "",
             "pointwise_squares, a ragged segment"),
    Mutation("no end of the batch", pointwise_squares_tile, " & (sample < samples)", "", SHARED),
    Mutation("samples run together", pointwise_squares.finish,
             "tl.reshape(wide * wide, (PARTS, SEGMENT, COLUMNS)), axis=1",
             "tl.reshape(wide * wide, (SEGMENT, PARTS, COLUMNS)), axis=0", SHARED),
    Mutation("sums, not squares", pointwise_squares.finish, "wide * wide", "wide", SHARED),
    Mutation("no gate", pointwise_residual.finish, "total *= tl.load(gate", "tl.load(gate", SCALED),
    Mutation("no residual", pointwise_residual.finish, "total += tl.load(residual",
             "tl.load(residual", SCALED),
    Mutation("the first sample's gate", pointwise_residual_tile, "gate += sample * gate_stride", "gate += 0", SCALED),
    Mutation("the first sample's factor", pointwise_residual_tile, "factor + sample * factor_stride",
             "factor + 0", SCALED),
    Mutation("the last tile of a persistent program left out", pointwise_kernel, "tl.program_id(0), tiles, ",
             "tl.program_id(0), tiles - 1, ", "pointwise gelu, several tiles both ways", tile=LARGE),
    Mutation("the last tile of squares left out", pointwise_squares_kernel, "tl.program_id(0), tiles, ",
             "tl.program_id(0), tiles - 1, ", "pointwise_squares, several tiles both ways", tile=LARGE),
    Mutation("the tiles of one sample only", pointwise_residual_kernel, "tiles = samples * ", "tiles = ",
             RESIDUALS, tile=LARGE),
    Mutation("described rows of another tile", multiply_described, "x.load([top, first])", "x.load([0, first])",
             "pointwise gelu, several tiles both ways", tile=LARGE),
    Mutation("described weights of another tile", multiply_described, "weight.load([left, first])",
             "weight.load([0, first])", "pointwise gelu, several tiles both ways", tile=LARGE),
    Mutation("one step of a described product", multiply_described, "range(0, K, BK)", "range(0, BK, BK)",
             RESIDUALS, tile=LARGE),
    Mutation("a described operand not scaled", multiply_described, "* s[None, :]", "", RESIDUALS, tile=LARGE),
    Mutation("described rows of the first sample", pointwise_residual_tile, "number * pixels + top", "top",
             RESIDUALS, tile=LARGE),
    Mutation("described rows by segments", pointwise_squares_tile, "top = start * SEGMENT", "top = start",
             "pointwise_squares, several tiles both ways", tile=LARGE),
    Mutation("halves of alternate columns", halves, "tl.permute(tl.reshape(total, (BM, 2, BN // 2)), (0, 2, 1))",
             "tl.reshape(total, (BM, BN // 2, 2))", RESIDUALS, tile=LARGE),
    Mutation("the left half twice", pointwise_residual_tile, "finish(second, ", "finish(first, ",
             RESIDUALS, tile=LARGE),
    Mutation("the right half over the left", pointwise_squares_tile, "left + BN // 2", "left",
             "pointwise_squares, several tiles both ways", tile=LARGE),
    Mutation("mean over tiles", mean_kernel, "total / pixels", "total / TILES", "channel_gates"),
    Mutation("first tiles only", mean_kernel, "range(0, TILES, ROWS)", "range(0, ROWS, ROWS)",
             "channel_gates"),
    Mutation("no sigmoid", pointwise_tile, "total = tl.sigmoid(total)", "total = total", "channel_gates"),
    Mutation("squares, not norms", response_factors_kernel, "tl.sqrt(total)", "total", "response_factors"),
    Mutation("no identity", response_factors_kernel, "1.0 + g", "g", "response_factors"),
    Mutation("mean over the block", response_factors_kernel, "axis=0) / C", "axis=0) / BLOCK",
             "response_factors"),
    Mutation("first segments only", response_factors_kernel, "range(0, SEGMENTS, ROWS)",
             "range(0, ROWS, ROWS)", "response_factors"),
    Mutation("corners by floor", deformable_sampling_kernel, "x.to(tl.int32), y.to(tl.int32)",
             "tl.floor(x).to(tl.int32), tl.floor(y).to(tl.int32)", SAMPLED),
    Mutation("x for y", deformable_sampling_kernel, "places_ptr + 2 * at + 1", "places_ptr + 2 * at", SAMPLED),
    Mutation("no left border", deformable_sampling_kernel, "(q >= 0) & ", "", SAMPLED),
    Mutation("no lower border", deformable_sampling_kernel, "(r < height) & ", "", SAMPLED),
    Mutation("another group", deformable_sampling_kernel, "* groups + group)", "* groups)", SAMPLED),
    Mutation("a sample short", deformable_sampling_kernel, "range(SAMPLES)", "range(SAMPLES - 1)", SAMPLED),
    Mutation("shares exchanged", deformable_sampling_kernel, "(1 - x) if right == 0", "(1 - x) if right == 1",
             SAMPLED),
    Mutation("the first image's values", deformable_sampling_kernel, "(first + (r * width", "((r * width", SAMPLED),
    Mutation("no limit of a place", deformable_sampling_kernel, "tl.maximum(x, -3.0)", "tl.maximum(x, -1.5)", SAMPLED),
)  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.function.fn.__name__}: {m.what}")
def test_a_mistake_is_seen(mutation: Mutation, tmp_path: Any) -> None:
    with (
        product_tiles.using(TILES[mutation.tile]) if mutation.tile else nullcontext(),
        mutated(mutation.function, mutation.old, mutation.new, tmp_path / "mutated.py", MODULES),
        pytest.raises(AssertionError, match="off by"),
    ):
        check(mutation.case, mutation.precision)


@language.jit
def _gelu_at(x, y, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, SIZE)
    tl.store(y + at, language.gelu(tl.load(x + at)))


def test_gelu_is_exact_to_float32() -> None:
    """Against the error function in float64; no worse than torch's own in float32, and NaN stays NaN."""
    x = torch.cat([torch.linspace(-14, 14, 8188), torch.tensor([-1e4, -100.0, 100.0, 1e4])])
    y = torch.empty_like(x)
    _gelu_at[(1,)](x, y, SIZE=x.numel())
    exact = torch.nn.functional.gelu(x.double())
    unit = exact.abs().clamp(min=1.0)
    assert ((y - exact).abs() / unit).max() < 2.5e-7
    assert ((y - exact) / unit).square().mean() < ((torch.nn.functional.gelu(x) - exact) / unit).square().mean()

    _gelu_at[(1,)](torch.full((16,), math.nan), y, SIZE=16)
    assert y[:16].isnan().all() and not y[16:].isnan().any()


def test_the_launches_of_a_batch_note_what_they_executed() -> None:
    """3 x 4 tiles of 4 x 4 points where the direct form of 5 x 7 pixels has 9 products each."""
    before = replace(winograd_conv.executed)
    run(DENSE, torch.float32)
    assert winograd_conv.executed.counted - before.counted == 2 * 24 * 40 * 9 * 5 * 7
    assert winograd_conv.executed.executed - before.executed == 2 * 24 * 40 * 16 * 3 * 4


@pytest.mark.parametrize("case", ["pointwise_squares, samples share a tile", "depthwise_gelu 3x3, smaller than a tile"])
def test_sums_do_not_depend_on_the_batch(case: str) -> None:
    """The same bits for a sample alone, and again for the same launch."""
    module, arguments = CASES[case]
    x, *parameters = arguments(draw(torch.float16))
    y, sums = module.launch(x, *parameters)
    alone = module.launch(x[-1:], *parameters)
    assert torch.equal(alone[0], y[-1:]) and torch.equal(alone[1], sums[-1:])
    assert all(torch.equal(*pair) for pair in zip(module.launch(x, *parameters), (y, sums), strict=True))
