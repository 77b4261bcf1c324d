"""FCDM's global response norm as one factor a sample and channel, from the sums of ``pointwise_squares``.

    response[n, c] = sqrt(sum of squares);  factor = 1 + gamma response / (mean over c of response + eps)

so that norm(x) = factor x + beta (ConvNeXt V2, eq. 1-3). The factor is applied by ``pointwise_residual`` while it
loads its operand; beta becomes part of that product's bias, once, by ``fold_beta``.
"""

import torch
from torch import Tensor

from ..errors import UsageError
from .layout import require_shape


def reference(squares: Tensor, gamma: Tensor, eps: float = 1e-6) -> Tensor:
    """The same in PyTorch."""
    response = squares.sum(dim=1).sqrt()
    return 1 + gamma.to(response.dtype) * response / (response.mean(dim=1, keepdim=True) + eps)


def fold_beta(weight: Tensor, beta: Tensor, bias: Tensor) -> Tensor:
    """The bias of a product whose operand has lost ``beta``: b + W beta, in float64, rounded to the type of b.

    weight: (C, K) or (C, K, 1, 1); beta: K values in any shape; bias: (C,). -> (C,)
    """
    return (bias.double() + weight.flatten(1).double() @ beta.flatten().double()).to(bias.dtype)


def check(squares: Tensor, gamma: Tensor) -> None:
    if squares.dim() != 3 or squares.dtype not in (torch.float32, torch.float64):
        raise UsageError(f"squares must be (N, segments, C) in float32, got {tuple(squares.shape)} in {squares.dtype}")
    require_shape(tuple(squares.shape), squares=squares)
    require_shape((squares.shape[2],), gamma=gamma)


@torch.library.custom_op("convbench::response_factors", mutates_args=(), device_types="cpu")
def response_factors(squares: Tensor, gamma: Tensor, eps: float = 1e-6) -> Tensor:
    """squares: (N, segments, C) in float32; gamma: (C,). Returns the factors, (N, C) in the type of squares."""
    check(squares, gamma)
    return reference(squares, gamma, eps)


@response_factors.register_kernel("cuda")
def _on_gpu(squares: Tensor, gamma: Tensor, eps: float = 1e-6) -> Tensor:
    check(squares, gamma)
    return launch(squares, gamma, eps)


@response_factors.register_fake
def _fake(squares: Tensor, gamma: Tensor, eps: float = 1e-6) -> Tensor:
    return squares.new_empty((squares.shape[0], squares.shape[2]))
