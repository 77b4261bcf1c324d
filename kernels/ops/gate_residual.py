"""Bias, gate and residual after a convolution or product that a library computes, in one kernel.

    y = residual + residual_bias + gate (x + bias)

Three passes over memory where eager takes seven (bias 2, gate 2, sum 3), and two more where the residual is the output
of a convolution (the decoder blocks of DiC that take a skip).
"""

from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ..language import jit, on_device_of, tl
from ..layout import cdiv, empty_nhwc, nhwc, require_nhwc, require_shape, require_vectors, wide
from ..register import register
from ..schema import DTYPES, Compilation, Kernel, MapTile, Shape, feature_map, normal, u_shape


def reference(x: Tensor, bias: Tensor, gate: Tensor, residual: Tensor, residual_bias: Tensor | None = None) -> Tensor:
    """Compute the result in PyTorch, in float32 or wider up to the rounding of y.

    x, residual: (N, C, H, W) in channels_last; bias, residual_bias: (C,); gate: (N, C), slices of a wider matrix
    allowed. Returns y like x.
    """
    inner = wide(x.dtype)
    base = residual.to(inner)
    if residual_bias is not None:
        base = base + residual_bias.to(inner)[:, None, None]
    return nhwc(base + gate.to(inner)[:, :, None, None] * (x.to(inner) + bias.to(inner)[:, None, None]), x.dtype)


def eager(x: Tensor, bias: Tensor, gate: Tensor, residual: Tensor, residual_bias: Tensor | None = None) -> Tensor:
    """Compute the same as the unfused block does, in the type of x. Shapes as in ``reference``.

    PyTorch adds a convolution's bias in a separate pass.
    """
    if residual_bias is not None:
        residual = residual + residual_bias[:, None, None]
    return residual + gate[:, :, None, None] * (x + bias[:, None, None])


def check(x: Tensor, bias: Tensor, gate: Tensor, residual: Tensor, residual_bias: Tensor | None = None) -> None:
    """Raise UsageError for a shape, type or layout that the operation does not take. Shapes as in ``reference``."""
    require_nhwc(x=x, residual=residual)
    n, c = x.shape[:2]
    require_shape((c,), bias=bias)
    if residual_bias is not None:
        require_shape((c,), residual_bias=residual_bias)
    require_vectors(n, c, gate=gate)
    if residual.shape != x.shape or residual.dtype != x.dtype:
        raise UsageError(
            f"residual must be {x.dtype} {tuple(x.shape)} like x, got {residual.dtype} {tuple(residual.shape)}"
        )


SHIPPED = {torch.float32: MapTile(16, 128, 4), torch.float16: MapTile(32, 128, 4), torch.bfloat16: MapTile(32, 128, 4)}


@jit
def gate_residual_kernel(  # type: ignore[no-untyped-def]
    x_ptr,  # (N, pixels, channels) contiguous, strides (pixels channels, channels, 1)
    bias_ptr,  # (channels,) contiguous
    gate_ptr,  # (N, channels), adjacent channels, strides (gate_stride, 1)
    residual_ptr,  # (N, pixels, channels) contiguous, strides (pixels channels, channels, 1)
    residual_bias_ptr,  # (channels,) contiguous; not read unless HAS_RESIDUAL_BIAS
    y_ptr,  # (N, pixels, channels) contiguous, strides (pixels channels, channels, 1)
    channels,
    pixels,
    gate_stride,
    HAS_RESIDUAL_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program: ROWS pixels of one sample, COLUMNS channels."""
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    n = tl.program_id(2).to(tl.int64)  # a batch may hold more than 2^31 elements
    known = c < channels
    inside = (row < pixels)[:, None] & known[None, :]
    at = n * pixels * channels + row[:, None] * channels + c[None, :]

    bias = tl.load(bias_ptr + c, mask=known, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + n * gate_stride + c, mask=known, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    residual = tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL_BIAS:
        residual += tl.load(residual_bias_ptr + c, mask=known, other=0.0).to(tl.float32)[None, :]
    y = residual + gate[None, :] * (x + bias[None, :])
    tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


def launch(x: Tensor, bias: Tensor, gate: Tensor, residual: Tensor, residual_bias: Tensor | None = None) -> Tensor:
    """Run the kernel on checked arguments. Shapes as in ``reference``."""
    n, c, h, w = x.shape
    tile = SHIPPED[x.dtype]
    y = empty_nhwc(x)
    with on_device_of(x):
        gate_residual_kernel[cdiv(c, tile.columns), cdiv(h * w, tile.rows), n](
            x,
            bias,
            gate,
            residual,
            bias if residual_bias is None else residual_bias,
            y,
            c,
            h * w,
            gate.stride(0),
            HAS_RESIDUAL_BIAS=residual_bias is not None,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            num_warps=tile.num_warps,
            enable_fp_fusion=True,
        )
    return y


gate_residual = register("gate_residual", reference, check, launch, empty=lambda x, *_: empty_nhwc(x))


def inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int) -> tuple[Any, ...]:
    """Random arguments as a block of DiC has them; the gate is a slice of the adaptive projection."""
    c = shape.channels
    x = feature_map(batch, c, shape, dtype, device, seed)
    bias = normal(c, dtype=dtype, device=device, seed=seed + 1)
    gate = normal(batch, 3 * c, dtype=dtype, device=device, seed=seed + 2)[:, :c]
    return x, bias, gate, feature_map(batch, c, shape, dtype, device, seed + 3)


def min_bytes(shape: Shape, batch: int, element: int) -> int:
    """Bytes of x and the residual in, and y out."""
    return (3 * batch * shape.pixels + batch + 1) * shape.channels * element


def compilations(precision: str) -> tuple[Compilation, ...]:
    """The ahead-of-time compilation of the kernel as DiC launches it: without a bias of the residual."""
    tile, kind = SHIPPED[DTYPES[precision]], f"*{precision}"
    pointers = ("x_ptr", "bias_ptr", "gate_ptr", "residual_ptr", "residual_bias_ptr", "y_ptr")
    return (
        Compilation(
            label=f"gate_residual {tile.rows}x{tile.columns}",
            function=gate_residual_kernel,
            pointers=dict.fromkeys(pointers, kind),
            scalars={"channels": "i32", "pixels": "i32", "gate_stride": "i32"},
            constants={"HAS_RESIDUAL_BIAS": False, "ROWS": tile.rows, "COLUMNS": tile.columns},
            aligned=(*pointers, "channels", "pixels", "gate_stride"),
            num_warps=tile.num_warps,
            num_stages=1,
        ),
    )


KERNELS = (
    Kernel(
        name="gate_residual",
        summary="bias, gate and residual after a library's convolution",
        replaces="gate and sum of ModulatedConvs, and the biases of conv1 and skip",
        op=gate_residual,
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
