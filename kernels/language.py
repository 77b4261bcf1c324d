"""Triton, or a stand-in where it is not installed; and device code and launch settings that several kernels share.

Importing this never needs Triton or a GPU. Without Triton a kernel is an object whose launch says what to install.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError

OLDEST_TRITON = (3, 6)

tl: Any

try:
    import triton
    import triton.language

    tl = triton.language
    # With TRITON_INTERPRET=1 set before this import, kernels run on CPU tensors, one program after another.
    INTERPRETED: bool = triton.knobs.runtime.interpret
except ImportError:
    triton = None
    tl = SimpleNamespace(constexpr=int)
    INTERPRETED = False

HAS_TRITON = triton is not None


class _Absent:
    """Stand-in for a kernel that cannot be compiled here."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.fn = function

    def __getitem__(self, grid: object) -> Any:
        raise UsageError(missing_triton())


def jit(function: Callable[..., Any]) -> Any:
    """Apply ``triton.jit``, or make a stand-in where Triton is missing."""
    return triton.jit(function) if HAS_TRITON else _Absent(function)


def require_triton() -> None:
    """Raise UsageError where Triton is not installed."""
    if not HAS_TRITON:
        raise UsageError(missing_triton())


def missing_triton() -> str:
    """Error message for a launch without Triton."""
    return "the fused kernels run on a GPU through Triton, which is not installed: pip install 'convbench[cuda]'"


def upcast_products(dtype: torch.dtype) -> bool:
    """Return whether a product must widen its operands first: the interpreter multiplies the bit patterns of bf16."""
    return INTERPRETED and dtype == torch.bfloat16


def input_precision() -> str:
    """Precision of float32 operands in a product, as in torch's own products. Triton's default would be TF32."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def bound(n: int) -> Any:
    """Return the bound of a loop in the form that a launch needs.

    Triton 3.6 cannot interpret a loop over a tensor with numpy 2.4 and newer (triton-lang/triton 9171), and a number
    becomes one on the way into the kernel; a constant does not.
    """
    return tl.constexpr(n) if INTERPRETED else n


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Make the GPU of ``x``, a tensor (N, ...), the current one for launches."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@jit
def gelu(x):  # type: ignore[no-untyped-def]
    """Exact GELU, x Phi(x), as the models use it, in float32: max(x, 0) - |x| erfc(|x| / sqrt 2) / 2.

    The last factor is 2^p(|x|): one exponential and a polynomial, 12 instructions. The error function of CUDA's library
    takes 33, and a pass over memory in half precision would wait for it. p is a minimax fit in float64 of
    log2(erfc(a / sqrt 2) / 2) over 0 <= a <= 6, weighted by what it adds to the result's error, at most 7e-9; beyond
    6 it falls on. In float32 the result is off by 3.7e-8 rms for |x| < 4; x (1 + erf(x / sqrt 2)) / 2 is off by 5.4e-8.
    """
    a = tl.abs(x)
    p = -1.6904029962461209e-06 * a + 2.508332909201272e-05
    p = p * a - 0.00011446280404925346
    p = p * a - 0.0003233417228329927
    p = p * a + 0.007333383429795504
    p = p * a - 0.05271419882774353
    p = p * a - 0.4591154456138611
    p = p * a - 1.151123285293579
    p = p * a - 0.9999988675117493
    return tl.maximum(x, 0.0) - a * tl.exp2(p)


@jit
def widen(x):  # type: ignore[no-untyped-def]
    """Convert to float32. From bf16 by its bits, one shift or mask: the conversion itself takes two instructions."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        return x.to(tl.float32)
