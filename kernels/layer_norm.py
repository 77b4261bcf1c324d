"""Layer norm over the channels of each pixel, then modulation by the sample's condition (DiCo, FCDM, every head)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .layout import empty_nhwc, nhwc, require_nhwc, require_vectors, wide


def reference(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """The same in PyTorch, in float32 or wider up to the rounding of the result."""
    inner = wide(x.dtype)
    normal = F.layer_norm(x.to(inner).permute(0, 2, 3, 1), (x.shape[1],), eps=eps).permute(0, 3, 1, 2)
    return nhwc(normal * (1 + scale.to(inner))[:, :, None, None] + shift.to(inner)[:, :, None, None], x.dtype)


def check(x: Tensor, shift: Tensor, scale: Tensor) -> None:
    require_nhwc(x=x)
    require_vectors(x.shape[0], x.shape[1], shift=shift, scale=scale)


@torch.library.custom_op("convbench::layer_norm_modulate", mutates_args=(), device_types="cpu")
def layer_norm_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """x: (N, C, H, W) in channels_last; shift, scale: (N, C), slices of a wider matrix allowed. Returns y like x."""
    check(x, shift, scale)
    return reference(x, shift, scale, eps)


@layer_norm_modulate.register_kernel("cuda")
def _on_gpu(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    check(x, shift, scale)
    return launch(x, shift, scale, eps)


@layer_norm_modulate.register_fake
def _fake(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    return empty_nhwc(x)
