"""Group norm, adaptive affine and GELU of DiC as one operation, and what follows its convolutions as another.

The convolutions stay with cuDNN, without their bias: the bias is added by whichever operation reads their output
next. Shape letters: N samples, C channels, G groups, H W height and width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 128  # pixels of one partial mean


def group_norm_gelu_reference(
    x: Tensor,
    weight: Tensor,
    beta: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """gelu(group_norm(x + bias) (1 + scale) + shift), as ``ModulatedConvs`` computes it.

    x (N, C, H, W); weight, beta, bias (C,); scale, shift (N, C), both or neither. -> (N, C, H, W), channels_last
    """
    y = F.group_norm(x if bias is None else x + bias[:, None, None], groups, weight, beta, eps)
    if scale is not None and shift is not None:
        y = torch.addcmul(shift[:, :, None, None], y, 1 + scale[:, :, None, None])
    return F.gelu(y).contiguous(memory_format=torch.channels_last)


def bias_gate_residual_reference(
    x: Tensor, bias: Tensor, gate: Tensor, residual: Tensor, residual_bias: Tensor | None = None
) -> Tensor:
    """residual + residual_bias + gate (x + bias).

    x, residual (N, C, H, W); bias, residual_bias (C,); gate (N, C). -> (N, C, H, W), channels_last
    """
    if residual_bias is not None:
        residual = residual + residual_bias[:, None, None]
    y = residual + gate[:, :, None, None] * (x + bias[:, None, None])
    return y.contiguous(memory_format=torch.channels_last)
