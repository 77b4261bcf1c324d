"""A 3x3 convolution, stride 1, zero padding 1, with what surrounds it, as the operator ``convbench::conv3x3``.

Shape letters: B batch, I input channels, O output channels, H W height and width.
"""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ..executed import Products
from . import compiled

F4, F2, DIRECT = 4, 2, 1
KINDS = {"F(4x4,3x3)": F4, "F(2x2,3x3)": F2, "direct": DIRECT}
"""What computes a convolution, by name. F(MxM,3x3) is Winograd's algorithm for tiles of MxM outputs."""

TILE = {F4: 4, F2: 2, DIRECT: 1}
"""Outputs along a side of a tile."""

POINTERS = ("x", "packed", "bias", "gamma", "beta", "scale", "shift", "gate", "residual", "y")
NUMBERS = (
    *("batch", "height", "width", "inputs", "outputs", "stride_scale", "stride_shift", "stride_gate"),
    *("groups", "gelu", "kind", "threads", "cache"),
)
CACHE = compiled.second_level_cache() // 2  # bytes of transformed input that a thread works on


class Call(ctypes.Structure):
    """``struct Call`` of winograd.cpp."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in POINTERS]
        + [(name, ctypes.c_int64) for name in NUMBERS]
        + [("eps", ctypes.c_double)]
    )


@functools.cache
def functions() -> tuple[Any, Any, Any]:
    """packed_size, pack and convolve of the library."""
    found = compiled.library()
    size, pack, convolve = found.packed_size, found.pack, found.convolve
    size.argtypes, size.restype = [ctypes.c_int64] * 3, ctypes.c_int64
    pack.argtypes, pack.restype = [ctypes.c_int64, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2], None
    convolve.argtypes, convolve.restype = [ctypes.c_void_p], ctypes.c_int
    return size, pack, convolve


def packed(weight: Tensor, kind: int, out: Tensor | None = None) -> Tensor:
    """Weights as ``conv3x3`` reads them, one-dimensional: transformed in float64, then rounded.

    Args:
        weight: (O, I, 3, 3), float32, on the processor.
        kind: F4, F2 or DIRECT.
        out: where to write them; None for a new tensor.
    """
    size, pack, _ = functions()
    o, i = weight.shape[:2]
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or weight.shape[2:] != (3, 3):
        raise UsageError(f"the C++ kernels take float32 weights (O, I, 3, 3) on a processor, not {_told(weight)}")
    out = torch.empty(size(kind, o, i)) if out is None else out
    source = weight.detach().contiguous()
    pack(kind, source.data_ptr(), out.data_ptr(), o, i)
    return out


@torch.library.custom_op("convbench::conv3x3", mutates_args=(), device_types="cpu")
def conv3x3(
    x: Tensor,
    packed: Tensor,
    kind: int,
    outputs: int,
    bias: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    groups: int = 1,
    eps: float = 0.0,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    gelu: bool = False,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Compute (conv(act(group_norm(x) (1 + scale) + shift)) + bias) gate + residual. (B, I, H, W) -> (B, O, H, W)

    The result is in channels_last, and so should x be. Each part but the convolution is left out if its tensor is None.

    Args:
        packed: weights of ``packed``, for the same ``kind``.
        outputs: O.
        bias: (O,).
        gamma, beta, groups, eps: of the group norm, (I,).
        scale, shift: (B, I), only with a norm.
        gelu: whether the activation is the exact GELU; there is none otherwise.
        gate: (B, O).
        residual: (B, O, H, W).
    """
    size, _, convolve = functions()
    b, i, h, w = x.shape
    x = _rows(x)
    y = torch.empty((b, h, w, outputs))
    if kind not in TILE:
        raise ValueError(
            f"no kind {kind}: there are {', '.join(f'{number} ({name})' for name, number in KINDS.items())}"
        )
    if packed.numel() != size(kind, outputs, i):
        raise ValueError(f"weights of {packed.numel()} numbers do not belong to {i} and {outputs} channels")
    vectors = [_vectors(each, (b, n)) for each, n in ((scale, i), (shift, i), (gate, outputs))]
    residual = None if residual is None else _rows(residual)
    if residual is not None and residual.shape != y.shape:
        raise ValueError(f"a residual of shape {tuple(residual.shape)} for an output of {tuple(y.shape)}, both BHWC")
    if bias is not None and bias.shape != (outputs,):
        raise ValueError(f"a bias of shape {tuple(bias.shape)} for {outputs} channels")
    if gamma is not None and (i % groups or beta is None or not gamma.shape == beta.shape == (i,)):
        raise ValueError(f"{groups} groups of {i} channels")
    if gamma is None and (scale is not None or shift is not None):
        raise ValueError("a modulation without a norm")
    tensors = (x, packed, bias, gamma, beta, *vectors, residual, y)
    if any(each is not None and each.dtype != torch.float32 for each in tensors):
        raise ValueError("the C++ kernels compute in float32")
    strides = [0 if each is None else each.stride(0) for each in vectors]
    numbers = (b, h, w, i, outputs, *strides, groups, int(gelu), kind, torch.get_num_threads(), CACHE)
    call = Call(*(None if each is None else each.data_ptr() for each in tensors), *numbers, eps)
    if y.numel() and convolve(ctypes.byref(call)):
        raise MemoryError("no memory for the buffers of a convolution")
    products.counted += 9 * y.numel() * i
    products.executed += executed(kind, (b, i, h, w), outputs)
    return y.permute(0, 3, 1, 2)


def executed(kind: int, shape: tuple[int, ...], outputs: int) -> int:
    """Multiply-accumulates that an algorithm executes for an input of ``shape`` (B, I, H, W): those of whole tiles."""
    b, i, h, w = shape
    side = TILE[kind]
    points = 9 if kind == DIRECT else (side + 2) ** 2
    return points * b * -(-h // side) * -(-w // side) * i * outputs


products = Products()


@conv3x3.register_fake
def _(
    x: Tensor,
    packed: Tensor,
    kind: int,
    outputs: int,
    bias: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    groups: int = 1,
    eps: float = 0.0,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    gelu: bool = False,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    b, _, h, w = x.shape
    return x.new_empty((b, h, w, outputs)).permute(0, 3, 1, 2)


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) as contiguous (B, H, W, C), copied only if it is not in channels_last."""
    x = x.permute(0, 2, 3, 1)
    return x if x.is_contiguous() else x.contiguous()


def _vectors(x: Tensor | None, shape: tuple[int, int]) -> Tensor | None:
    """A vector for each image, of which only the images may lie apart."""
    if x is None:
        return None
    if x.shape != shape:
        raise ValueError(f"a modulation of shape {tuple(x.shape)}, not {shape}")
    return x if x.stride(1) == 1 else x.contiguous()


def _told(x: Tensor) -> str:
    return f"{x.dtype} {tuple(x.shape)} on {x.device.type}"
