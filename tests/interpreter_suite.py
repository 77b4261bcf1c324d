"""Every kernel of DiCo, FCDM and DiG in Triton's interpreter against its reference in float64.

Not collected by itself: ``test_kernels_interpreter.py`` runs it in a process with TRITON_INTERPRET=1. Inputs lie between
NaN, so that a wrong mask is seen, and outputs are full of NaN before a launch. About 65 ms a program, so shapes are tiny:
9 x 13 pixels and ragged channels, which no tile divides, and maps smaller than a tile.

What needs a GPU and is reasoned here only: offsets past 2^31. Every kernel takes the offset of the sample (of the
tile, in flat products) in 64 bits, and what remains inside one sample is H W C < 2^31.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from convbench.kernels import (
    channel_attention,
    depthwise,
    depthwise_gelu,
    language,
    layer_norm,
    pointwise,
    pointwise_residual,
    pointwise_squares,
    response_norm,
)

MODULES = (
    channel_attention,
    depthwise,
    depthwise_gelu,
    language,
    layer_norm,
    pointwise,
    pointwise_residual,
    pointwise_squares,
    response_norm,
)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Close:
    """|found - exact| <= relative |exact| + absolute rms(exact)."""

    relative: float
    absolute: float


# One unit in the last place: fp16 is rounded, bf16 is cut off, as the interpreter does it.
CLOSE = {"fp32": Close(2e-6, 2e-6), "fp16": Close(2**-10, 2**-10), "bf16": Close(2**-7, 2**-7)}

assert language.INTERPRETED, "run through test_kernels_interpreter.py: the kernels were not made for the interpreter"
torch.use_deterministic_algorithms(True)  # fills new tensors with NaN


def between_nan(x: Tensor) -> Tensor:
    """The same values and strides inside a larger piece of memory full of NaN."""
    room = max(256, x.numel())
    memory = torch.full((x.untyped_storage().nbytes() // x.element_size() + 2 * room,), float("nan"), dtype=x.dtype)
    return memory.as_strided(x.shape, x.stride(), room).copy_(x)


def draw(dtype: torch.dtype) -> Callable[..., Tensor]:
    """Random normal values, the next of one seed, between NaN."""
    generator = torch.Generator().manual_seed(0)

    def next_of(*shape: int, scale: float = 1.0, shift: float = 0.0, dtype: torch.dtype = dtype) -> Tensor:
        return between_nan((scale * torch.randn(shape, generator=generator) + shift).to(dtype))

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


CASES: dict[str, Case] = {
    "depthwise_gelu 3x3, ragged": window(depthwise_gelu, 3, 1, 40, 9, 13),
    "depthwise_gelu 3x3, smaller than a tile": window(depthwise_gelu, 3, 2, 16, 3, 5),
    "depthwise_gelu 5x5": window(depthwise_gelu, 5, 1, 32, 5, 9),
    "depthwise 7x7, ragged": window(depthwise, 7, 1, 24, 9, 13),
    "depthwise 7x7, smaller than a window": window(depthwise, 7, 2, 16, 2, 3),
    "depthwise 3x3, two blocks of channels": window(depthwise, 3, 1, 72, 5, 9),
    "depthwise 5x5": window(depthwise, 5, 1, 16, 4, 8),
    "layer_norm, ragged": norm(2, 40, 9, 13),
    "layer_norm, small values, where eps counts": norm(1, 40, 3, 5, scale=1e-3),
    "layer_norm, one channel block of 512": norm(1, 416, 3, 3),
    "pointwise, ragged": product(pointwise, 2, 40, 72, 9, 13),
    "pointwise gelu, fewer rows than a tile": product(pointwise, 1, 24, 40, 3, 3, True),
    "pointwise_squares, a ragged segment": product(pointwise_squares, 2, 40, 24, 9, 13),
    "pointwise_squares, two segments a sample": product(pointwise_squares, 1, 24, 24, 15, 17),
    "pointwise_squares, samples share a tile": product(pointwise_squares, 3, 24, 40, 4, 4),
    "pointwise_residual scaled, ragged": residual(2, 40, 72, 9, 13, scaled=True),
    "pointwise_residual scaled, 8x8": residual(2, 64, 24, 8, 8, scaled=True),
    "pointwise_residual": residual(1, 72, 24, 9, 13, scaled=False),
    "channel_gates": gates(2, 18, 72),
    "response_factors": factors(2, 9, 40),
}


def run(case: str, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """What the kernel gives and what its reference gives in float64, for each result."""
    module, arguments = CASES[case]
    values = arguments(draw(dtype))
    found = module.launch(*values)
    return list(zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected(module, values, found))), strict=True))


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
        # Results beside the first are float32 in every precision, and sums of rounded values are exact sums.
        limit = CLOSE[precision if index == 0 and found.dtype != torch.float32 else "fp32"]
        if case.startswith(("channel_gates",)):
            limit = CLOSE[precision]  # a float32 result of a rounded mean
        off = (found.double() - exact).abs()
        allowed = limit.relative * exact.abs() + limit.absolute * exact.square().mean().sqrt()
        assert (off <= allowed).all(), f"{case}, {precision}, result {index}: off by {(off / allowed).max():.3g} x the allowed"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", DTYPES)
def test_against_the_reference(case: str, precision: str) -> None:
    check(case, precision)
