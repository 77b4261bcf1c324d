"""Group norm, adaptive affine and exact GELU of DiC, with the bias of the convolution before it.

    y = gelu(group_norm(x + bias) (1 + scale) + shift)

Three kernels: ``group_norm_moments`` (one pass over memory), ``group_norm_merge`` (vectors only), ``group_norm_apply``
(two passes). Eager takes nine: bias 2, norm 3, affine 2, GELU 2. The 3x3 convolutions stay with cuDNN, without a bias.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UsageError
from ..layout import empty_nhwc, nhwc, require_nhwc, require_shape, require_vectors, wide
from ..register import register
from ..schema import Compilation, Kernel, Shape, feature_map, normal, u_shape
from .group_norm_apply import SHIPPED, apply, apply_compilation
from .group_norm_merge import merge, merge_compilation
from .group_norm_moments import moments, moments_compilation


def reference(
    x: Tensor,
    weight: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Compute the result in PyTorch, in float32 or wider up to the rounding of y.

    x: (N, C, H, W) in channels_last; weight, beta, bias: (C,); scale, shift: (N, C), both or neither, slices of a
    wider matrix allowed. Returns y like x.
    """
    inner = wide(x.dtype)
    y = x.to(inner) if bias is None else x.to(inner) + bias.to(inner)[:, None, None]
    y = F.group_norm(y, groups, weight.to(inner), beta.to(inner), eps)
    if scale is not None and shift is not None:
        y = y * (1 + scale.to(inner)[:, :, None, None]) + shift.to(inner)[:, :, None, None]
    return nhwc(F.gelu(y), x.dtype)


def eager(
    x: Tensor,
    weight: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Compute the same as ``ModulatedConvs`` does, in the type of x. Shapes as in ``reference``.

    PyTorch adds a convolution's bias in a separate pass.
    """
    y = F.group_norm(x if bias is None else x + bias[:, None, None], groups, weight, beta, eps)
    if scale is not None and shift is not None:
        y = torch.addcmul(shift[:, :, None, None], y, 1 + scale[:, :, None, None])
    return F.gelu(y)


def check(
    x: Tensor,
    weight: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> None:
    """Raise UsageError for a shape, type or layout that the operation does not take. Shapes as in ``reference``."""
    require_nhwc(x=x)
    n, c = x.shape[:2]
    if groups < 1 or c % groups:
        raise UsageError(f"{c} channels cannot be divided into {groups} groups")
    require_shape((c,), weight=weight, beta=beta)
    if bias is not None:
        require_shape((c,), bias=bias)
    if (scale is None) != (shift is None):
        raise UsageError("scale and shift must be specified together")
    if scale is not None and shift is not None:
        require_vectors(n, c, scale=scale, shift=shift)


def launch(
    x: Tensor,
    weight: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """Run the three kernels on checked arguments. Shapes as in ``reference``."""
    mean, square = moments(x)
    pixels = x.shape[2] * x.shape[3]
    factor, offset = merge(mean, square, pixels, weight, beta, groups, eps, bias, scale, shift)
    return apply(x, factor, offset)


group_norm_gelu = register("group_norm_gelu", reference, check, launch, empty=lambda x, *_: empty_nhwc(x))


def inputs(shape: Shape, batch: int, dtype: torch.dtype, device: str, seed: int) -> tuple[Any, ...]:
    """Random arguments as the second norm of a block has them; scale and shift are slices of one projection."""
    c = shape.channels
    x = feature_map(batch, c, shape, dtype, device, seed)
    weight = normal(c, dtype=dtype, device=device, seed=seed + 1, shift=1.0, scale=0.1)
    beta = normal(c, dtype=dtype, device=device, seed=seed + 2, scale=0.1)
    bias = normal(c, dtype=dtype, device=device, seed=seed + 3, scale=0.3)
    _, scale, shift = normal(batch, 3 * c, dtype=dtype, device=device, seed=seed + 4, scale=0.3).chunk(3, dim=1)
    return x, weight, beta, min(32, c // 4), 1e-5, bias, scale, shift


def min_bytes(shape: Shape, batch: int, element: int) -> int:
    """Bytes of x in twice, as no output can be computed before the last input is read, and of y out."""
    return (3 * batch * shape.pixels + 2 * batch + 3) * shape.channels * element


def compilations(precision: str) -> tuple[Compilation, ...]:
    """The ahead-of-time compilations of the three kernels."""
    return moments_compilation(precision), merge_compilation(precision), apply_compilation(precision)


KERNELS = (
    Kernel(
        name="group_norm_gelu",
        summary="group norm, adaptive affine and GELU, with the convolution's bias",
        replaces="norm0 and norm1 of ModulatedConvs, its affine and F.gelu, and the bias of conv0",
        op=group_norm_gelu,
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
