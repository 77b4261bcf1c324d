"""FCDM's global response norm as one factor a sample and channel, from the sums of ``pointwise_squares``.

    response[n, c] = sqrt(sum of squares);  factor = 1 + gamma response / (mean over c of response + eps)

so that norm(x) = factor x + beta (ConvNeXt V2, eq. 1-3). ``pointwise_residual`` applies the factor while it loads its
operand; ``fold_beta`` makes beta part of that product's bias, once.
"""

from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ..language import jit, on_device_of, tl
from ..layout import cdiv, power_of_two, require_shape
from ..register import register
from ..schema import FCDM_XL, Compilation, Kernel, Shape, normal, products, u_shape
from .pointwise_squares import segment_pixels

SHIPPED = {2048: 8, 4096: 4, 8192: 2}  # channels, rounded up -> segments added at once, by 16 warps
WARPS = 16


def reference(squares: Tensor, gamma: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute the factors in PyTorch.

    squares: (N, segments, C) in float32; gamma: (C,). Returns (N, C) in the type of squares.
    """
    response = squares.sum(dim=1).sqrt()
    return 1 + gamma.to(response.dtype) * response / (response.mean(dim=1, keepdim=True) + eps)


def eager(squares: Tensor, gamma: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute the same as the unfused block does on the vectors of the response. Shapes as in ``reference``."""
    response = squares.sum(dim=1).sqrt()
    return 1 + gamma * (response / (response.mean(dim=1, keepdim=True) + eps))


def fold_beta(weight: Tensor, beta: Tensor, bias: Tensor) -> Tensor:
    """Return the bias of a product whose operand omits ``beta``: b + W beta, in float64, rounded to the type of b.

    weight: (C, K) or (C, K, 1, 1); beta: K values in any shape; bias: (C,). -> (C,)
    """
    return (bias.double() + weight.flatten(1).double() @ beta.flatten().double()).to(bias.dtype)


def check(squares: Tensor, gamma: Tensor, *_: object) -> None:
    """Raise UsageError for a shape, type or layout that the operation does not take. Shapes as in ``reference``."""
    if squares.dim() != 3 or squares.dtype not in (torch.float32, torch.float64):
        raise UsageError(f"squares must be (N, segments, C) in float32, got {tuple(squares.shape)} in {squares.dtype}")
    require_shape(tuple(squares.shape), squares=squares)
    require_shape((squares.shape[2],), gamma=gamma)


@jit
def response_factors_kernel(  # type: ignore[no-untyped-def]
    squares,  # (N, SEGMENTS, C) contiguous, strides (SEGMENTS C, C, 1), float32
    gamma,  # (C,) contiguous
    factors,  # (N, C) contiguous, strides (C, 1), float32
    C, eps, SEGMENTS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: one sample, all channels, its segments in order."""
    sample = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    has_c = c < C
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, SEGMENTS, ROWS):
        segment = first + tl.arange(0, ROWS)
        at = sample * SEGMENTS * C + (segment * C)[:, None] + c[None, :]
        total += tl.sum(tl.load(squares + at, mask=(segment < SEGMENTS)[:, None] & has_c[None, :], other=0.0), axis=0)
    response = tl.sqrt(total)
    mean = tl.sum(response, axis=0) / C
    g = tl.load(gamma + c, mask=has_c, other=0.0).to(tl.float32)
    tl.store(factors + sample * C + c, 1.0 + g * response / (mean + eps), mask=has_c)


def launch(squares: Tensor, gamma: Tensor, eps: float = 1e-6) -> Tensor:
    """Run the kernel on checked arguments. Shapes as in ``reference``."""
    n, segments, c = squares.shape
    block = power_of_two(c)
    factors = squares.new_empty((n, c))
    with on_device_of(squares):
        response_factors_kernel[(n,)](
            squares, gamma, factors, c, eps,
            SEGMENTS=segments, ROWS=SHIPPED.get(block, 8 if block < 2048 else 1), BLOCK=block,
            num_warps=WARPS, enable_fp_fusion=True,
        )  # fmt: skip
    return factors


def _empty(squares: Tensor, *_: object) -> Tensor:
    return squares.new_empty((squares.shape[0], squares.shape[2]))


response_factors = register("response_factors", reference, check, launch, _empty)


def _inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int) -> tuple[Any, ...]:
    c = shape.channels
    squares = normal(batch, _segments(shape), c, dtype=torch.float32, device=device, seed=seed).square() * 50
    return squares, normal(c, dtype=dtype, device=device, seed=seed + 1, scale=0.1)


def _segments(shape: Shape) -> int:
    return cdiv(shape.pixels, segment_pixels(shape.pixels))


def _min_bytes(shape: Shape, batch: int, itemsize: int) -> int:
    """The sums and the factors in float32, and gamma."""
    return shape.channels * (4 * batch * (_segments(shape) + 1) + itemsize)


def _compilations(dtype: str) -> tuple[Compilation, ...]:
    return tuple(
        Compilation(
            label=f"response_factors, {segments} segments, up to {block} channels",
            function=response_factors_kernel,
            pointers={"squares": "*fp32", "gamma": f"*{dtype}", "factors": "*fp32"},
            scalars={"C": "i32", "eps": "fp32"},
            constants={"SEGMENTS": segments, "ROWS": rows, "BLOCK": block},
            aligned=("squares", "gamma", "factors", "C"),
            num_warps=WARPS,
            num_stages=1,
        )
        for (block, rows), segments in zip(SHIPPED.items(), (8, 2, 1), strict=True)  # at 256 pixels
    )


KERNELS = (
    Kernel(
        name="response_factors",
        summary="sums of squares to the factors of the response norm",
        replaces="the vectors inside FCDMBlock.grn",
        op=response_factors,
        reference=reference,
        eager=eager,
        shapes=products(u_shape("fcdm_xl", FCDM_XL), 3, 0),
        inputs=_inputs,
        min_bytes=_min_bytes,
        flops=lambda shape, batch: 0,
        compilations=_compilations,
        shipped=SHIPPED,
    ),
)
