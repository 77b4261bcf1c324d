"""The end of a branch: 1x1 convolution of a map scaled per sample and channel, bias, gate and residual.

    out = residual + gate (W (factor x) + b)

``factor`` is DiCo's channel attention or FCDM's response norm, applied while the operand is loaded. Without it,
the end of DiCo's perceptron.
"""

import torch
from torch import Tensor

from .layout import empty_nhwc, nhwc, require_nhwc, require_shape, require_vectors, wide
from .pointwise import check as check_product
from .pointwise import product


def reference(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
    """The same in PyTorch, in float32 or wider; the scaled operand is rounded, as the product reads it."""
    inner = wide(x.dtype)
    if factor is not None:
        x = (x.to(inner) * factor.to(inner)[:, :, None, None]).to(x.dtype)
    y = gate.to(inner)[:, :, None, None] * product(x, weight, bias)
    return nhwc(residual.to(inner) + y, x.dtype)


def check(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> None:
    check_product(x, weight, bias)
    n, k, h, w = x.shape
    require_nhwc(residual=residual)
    require_shape((n, h, w, weight.shape[0]), x.dtype, residual=residual.permute(0, 2, 3, 1))
    require_vectors(n, weight.shape[0], gate=gate)
    if factor is not None:
        require_vectors(n, k, factor=factor)


@torch.library.custom_op("convbench::pointwise_residual", mutates_args=(), device_types="cpu")
def pointwise_residual(
    x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor
) -> Tensor:
    """x: (N, K, H, W), residual: (N, C, H, W), both in channels_last; factor: (N, K) or none; weight: (C, K);
    bias: (C,); gate: (N, C). Rows of factor and gate may be slices of a wider matrix. Returns out like residual.
    """
    check(x, factor, weight, bias, gate, residual)
    return reference(x, factor, weight, bias, gate, residual)


@pointwise_residual.register_kernel("cuda")
def _on_gpu(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
    check(x, factor, weight, bias, gate, residual)
    return launch(x, factor, weight, bias, gate, residual)


@pointwise_residual.register_fake
def _fake(x: Tensor, factor: Tensor | None, weight: Tensor, bias: Tensor, gate: Tensor, residual: Tensor) -> Tensor:
    return empty_nhwc(x, weight.shape[0])
