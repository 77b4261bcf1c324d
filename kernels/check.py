"""Is an op right? Each against its reference in float64, beside the error of what the unfused network runs."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import precision
from ..checks.output import relative_error
from .schema import DTYPES, Kernel, Shape

Arguments = tuple[Any, ...]

# An op may err as much as eager does in the same precision, or as its outputs' rounding to their type does, so many
# times. Half precision: that rounding and little else. FP32: sums over thousands of channels, whose order decides.
ROUNDINGS = {torch.float32: 8.0, torch.float16: 1.2, torch.bfloat16: 1.2}
BESIDE_EAGER = {"fp32": 1.5, "fp16": 1.0, "bf16": 1.0}
BATCH = 2  # samples do not meet in any op, so two tell as much as sixty-four


def widened(arguments: Iterable[Any]) -> Arguments:
    """Floating tensors in float64, everything else as it is."""
    return tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments)


def outputs(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def errors(kernel: Kernel, arguments: Arguments) -> tuple[float, float, float]:
    """Relative L2 errors against float64, the largest over the outputs: of the op, of its eager form; and the largest
    that the rounding of an output to its own type explains."""
    exact = outputs(kernel.reference(*widened(arguments)))
    found = outputs(kernel.op(*arguments))
    exact_eager = outputs(kernel.eager(*widened(arguments)))
    eager = outputs(kernel.eager(*arguments))
    explained = max(ROUNDINGS[a.dtype] * relative_error(b.to(a.dtype), b) for a, b in zip(found, exact, strict=True))
    return _largest(found, exact), _largest(eager, exact_eager), explained


def _largest(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    return max(relative_error(a, b) for a, b in zip(found, exact, strict=True))


def check(kernel: Kernel, shape: Shape, label: str, device: str) -> dict[str, Any]:
    """One row. The op must err no more than eager does in the same precision, or than rounding does; no TF32."""
    with torch.inference_mode(), precision.applied(label):
        error, error_eager, explained = errors(kernel, kernel.inputs(shape, BATCH, DTYPES[label], device, 0))
    limit = max(BESIDE_EAGER[label] * error_eager, explained)
    return {
        "kernel": kernel.name,
        "where": shape.label,
        "precision": label,
        "device": device,
        "path": "Triton" if device == "cuda" else "PyTorch reference",
        "error": error,
        "error_eager": error_eager,
        "error_limit": limit,
        "status": "ok" if error <= limit else "wrong",
    }
