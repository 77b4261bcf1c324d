"""Requirements on the arguments of the fused operations. Other layouts are refused: a silent copy costs a pass."""

import torch
from torch import Tensor

from ..errors import UsageError

FLOATS = (torch.float16, torch.bfloat16, torch.float32)  # types that the kernels take


def cdiv(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least ``n``."""
    return 1 << max(n - 1, 0).bit_length()


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type of accumulated sums: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def empty_nhwc(like: Tensor, channels: int | None = None) -> Tensor:
    """Allocate (N, channels, H, W) in channels_last, with the type and sizes of ``like``, whatever its strides are."""
    n, c, h, w = like.shape
    shape = (n, c if channels is None else channels, h, w)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def nhwc(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round ``x``, (N, C, H, W), to ``dtype``, in channels_last."""
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def require_type(name: str, x: Tensor) -> None:
    """Raise UsageError if no kernel takes the type of x, a tensor (N, ...). References on a CPU take every type."""
    if x.is_cuda and x.dtype not in FLOATS:
        raise UsageError(f"{name} must be float32, float16 or bfloat16 on a GPU, got {x.dtype}: float64 runs on a CPU")


def require_nhwc(**tensors: Tensor) -> None:
    """Raise UsageError unless each is (N, C, H, W), stored as N, H, W, C without gaps."""
    for name, x in tensors.items():
        require_type(name, x)
        if x.dim() != 4:
            raise UsageError(f"{name} must be (N, C, H, W), got {x.dim()} dimensions")
        if not x.is_contiguous(memory_format=torch.channels_last):
            raise UsageError(
                f"{name} must be in channels_last, got strides {tuple(x.stride())} for {tuple(x.shape)}: "
                "call .contiguous(memory_format=torch.channels_last) once, outside the step"
            )


def require_shape(shape: tuple[int, ...], dtype: torch.dtype | None = None, **tensors: Tensor) -> None:
    """Raise UsageError unless each has this shape, no gaps and, if given, this type."""
    for name, x in tensors.items():
        require_type(name, x)
        if tuple(x.shape) != shape:
            raise UsageError(f"{name} must have shape {shape}, got {tuple(x.shape)}")
        if not x.is_contiguous():
            raise UsageError(f"{name} must be contiguous, got strides {tuple(x.stride())} for {shape}")
        if dtype is not None and x.dtype != dtype:
            raise UsageError(f"{name} must be {dtype}, got {x.dtype}")


def require_vectors(samples: int, channels: int, **tensors: Tensor) -> None:
    """Raise UsageError unless each is (N, C) with adjacent channels; rows may have any stride, as slices do."""
    for name, x in tensors.items():
        if tuple(x.shape) != (samples, channels):
            raise UsageError(f"{name} must have shape {(samples, channels)}, got {tuple(x.shape)}")
        if channels > 1 and x.stride(1) != 1:
            raise UsageError(f"{name} must have adjacent channels, got strides {tuple(x.stride())}")
