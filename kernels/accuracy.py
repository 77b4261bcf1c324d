"""Accuracy of each fused operation against its reference in float64, and of its eager form."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import precision
from ..checks.output import relative_error
from .schema import DTYPES, Kernel, Shape

Arguments = tuple[Any, ...]

# An operation's error may be so many times that of eager in the same precision, or so many times that of rounding its
# outputs to their type. Half precision: little more than that rounding. FP32: sums over thousands of channels, whose
# error depends on their order.
ROUNDINGS = {torch.float32: 8.0, torch.float16: 1.2, torch.bfloat16: 1.2}
TIMES_EAGER = {"fp32": 1.5, "fp16": 1.0, "bf16": 1.0}
BATCH = 2  # no operation mixes samples, so two show as much as sixty-four


def widened(arguments: Iterable[Any]) -> Arguments:
    """Convert floating-point tensors to float64, and leave everything else as it is."""
    return tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments)


def outputs(result: Any) -> tuple[Tensor, ...]:
    """Return one result (N, ...) or several as a tuple."""
    return result if isinstance(result, tuple) else (result,)


def errors(kernel: Kernel, arguments: Arguments) -> tuple[float, float, float]:
    """Relative L2 errors against float64, the largest over the outputs.

    Returns the error of the operation, that of its eager form, and the largest that the rounding of an output to its
    type explains.
    """
    exact = outputs(kernel.reference(*widened(arguments)))
    found = outputs(kernel.op(*arguments))
    exact_eager = outputs(kernel.eager(*widened(arguments)))
    eager = outputs(kernel.eager(*arguments))
    explained = max(ROUNDINGS[a.dtype] * relative_error(b.to(a.dtype), b) for a, b in zip(found, exact, strict=True))
    return _largest(found, exact), _largest(eager, exact_eager), explained


def _largest(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    return max(relative_error(a, b) for a, b in zip(found, exact, strict=True))


def check_accuracy(kernel: Kernel, shape: Shape, label: str, device: str) -> dict[str, Any]:
    """Run an operation once and return a row, with status "ok" or "wrong".

    Its error may be as large as that of eager in the same precision, or as that of rounding; without TF32.
    """
    with torch.inference_mode(), precision.applied(label):
        error, error_eager, explained = errors(kernel, kernel.inputs(shape, BATCH, DTYPES[label], device, 0))
    limit = kernel.amplification * max(TIMES_EAGER[label] * error_eager, explained)
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
