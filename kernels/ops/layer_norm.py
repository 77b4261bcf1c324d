"""Layer norm over the channels of each pixel, then modulation by the sample's condition (DiCo, FCDM, every head).

y = (x - mean) / sqrt(variance + eps) (1 + scale) + shift
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..language import jit, on_device_of, tl
from ..layout import cdiv, empty_nhwc, nhwc, power_of_two, require_nhwc, require_vectors, wide
from ..register import register
from ..schema import DICO_XL, FCDM_XL, Compilation, Kernel, Shape, feature_map, normal, u_shape

SHIPPED = {512: (8, 4), 1024: (4, 4), 2048: (4, 8), 4096: (2, 8)}  # channels, rounded up -> pixels, warps of a program


def reference(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute the result in PyTorch, in float32 or wider up to the rounding of y.

    x: (N, C, H, W) in channels_last; shift, scale: (N, C), slices of a wider matrix allowed. Returns y like x.
    """
    inner = wide(x.dtype)
    normal = F.layer_norm(x.to(inner).permute(0, 2, 3, 1), (x.shape[1],), eps=eps).permute(0, 3, 1, 2)
    return nhwc(normal * (1 + scale.to(inner))[:, :, None, None] + shift.to(inner)[:, :, None, None], x.dtype)


def eager(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Compute the same as the unfused block does, in the type of x. Shapes as in ``reference``."""
    normal = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), eps=eps).permute(0, 3, 1, 2)
    return normal * (1 + scale[:, :, None, None]) + shift[:, :, None, None]


def check(x: Tensor, shift: Tensor, scale: Tensor, *_: object) -> None:
    """Raise UsageError for a shape, type or layout that the operation does not take. Shapes as in ``reference``."""
    require_nhwc(x=x)
    require_vectors(x.shape[0], x.shape[1], shift=shift, scale=scale)


@jit
def layer_norm_modulate_kernel(  # type: ignore[no-untyped-def]
    x,  # (N, pixels, C) contiguous, strides (pixels C, C, 1)
    shift,  # (N, C), adjacent channels, strides (shift_stride, 1)
    scale,  # (N, C), adjacent channels, strides (scale_stride, 1)
    y,  # (N, pixels, C) contiguous, strides (pixels C, C, 1)
    pixels, C, shift_stride, scale_stride, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: ROWS pixels of one sample, all channels. The mean first, then the centred squares."""
    pid = tl.program_id(0)
    tiles = tl.cdiv(pixels, ROWS)
    sample = (pid // tiles).to(tl.int64)
    row = pid % tiles * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    has_c = c < C
    here = (row < pixels)[:, None] & has_c[None, :]
    at = sample * pixels * C + (row * C)[:, None] + c[None, :]

    v = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
    mean = tl.sum(v, axis=1) / C
    v = tl.where(has_c[None, :], v - mean[:, None], 0.0)
    spread = tl.rsqrt(tl.sum(v * v, axis=1) / C + eps)
    plus = tl.load(shift + sample * shift_stride + c, mask=has_c, other=0.0).to(tl.float32)
    times = 1.0 + tl.load(scale + sample * scale_stride + c, mask=has_c, other=0.0).to(tl.float32)
    normal = v * spread[:, None] * times[None, :] + plus[None, :]
    tl.store(y + at, normal.to(y.dtype.element_ty), mask=here)


def launch(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """Run the kernel on checked arguments. Shapes as in ``reference``."""
    n, c, h, w = x.shape
    block = power_of_two(c)
    rows, warps = SHIPPED.get(block, (16, 4) if block < 512 else (1, 16))
    y = empty_nhwc(x)
    with on_device_of(x):
        layer_norm_modulate_kernel[(n * cdiv(h * w, rows),)](
            x, shift, scale, y, h * w, c, shift.stride(0), scale.stride(0), eps,
            ROWS=rows, BLOCK=block, num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip
    return y


layer_norm_modulate = register("layer_norm_modulate", reference, check, launch, empty=lambda x, *_: empty_nhwc(x))


def _inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int) -> tuple[Any, ...]:
    c = shape.channels
    x = feature_map(batch, c, shape, dtype, device, seed)
    vectors = normal(batch, 2 * c, dtype=dtype, device=device, seed=seed + 1)  # as one product makes them
    return x, vectors[:, :c], vectors[:, c:]


def _min_bytes(shape: Shape, batch: int, itemsize: int) -> int:
    """Two passes over the map and the two vectors."""
    return 2 * batch * shape.channels * itemsize * (shape.pixels + 1)


def _compilations(dtype: str) -> tuple[Compilation, ...]:
    pointers = {name: f"*{dtype}" for name in ("x", "shift", "scale", "y")}
    scalars = dict.fromkeys(("pixels", "C", "shift_stride", "scale_stride"), "i32")
    return tuple(
        Compilation(
            label=f"layer_norm_modulate, {rows} pixels, up to {block} channels",
            function=layer_norm_modulate_kernel,
            pointers=pointers,
            scalars={**scalars, "eps": "fp32"},
            constants={"ROWS": rows, "BLOCK": block},
            aligned=(*pointers, *scalars),
            num_warps=warps,
            num_stages=1,
        )
        for block, (rows, warps) in SHIPPED.items()
    )


KERNELS = (
    Kernel(
        name="layer_norm_modulate",
        summary="layer norm over channels, then shift and scale by the condition",
        replaces="LayerNorm2d and modulate (or addcmul) of a DiCoBlock, an FCDMBlock and every Head",
        op=layer_norm_modulate,
        reference=reference,
        eager=eager,
        shapes=u_shape("dico_xl", DICO_XL) + u_shape("fcdm_xl", FCDM_XL),
        inputs=_inputs,
        min_bytes=_min_bytes,
        flops=lambda shape, batch: 0,
        compilations=_compilations,
        shipped=SHIPPED,
    ),
)
