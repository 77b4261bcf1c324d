"""Status, verdict and reason of a case that raised."""

import traceback
from typing import Any

import torch

from ..checks import output
from ..checks.output import Finding
from ..timing.clock import StoppedClock

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def failure(error: BaseException) -> dict[str, Any]:
    """The keys ``status``, ``verdict`` and ``reason`` of a row; what nobody expects leaves its traceback on stderr."""
    text = (str(error).strip().splitlines() or [""])[0][:300]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in text for word in OUT_OF_MEMORY):
        return {"status": "out_of_memory", "reason": text or "out of memory"}
    if isinstance(error, StoppedClock):
        return wrong([Finding("CLK", text)])
    if type(error).__name__ == "RecompileError":
        return wrong([Finding("COMP", f"the step was recompiled during timing: {text}")])
    traceback.print_exception(error)  # to stderr, which a worker's parent keeps to itself
    return {"status": "failed", "reason": f"{type(error).__name__}: {text}"}


def wrong(findings: list[Finding]) -> dict[str, Any]:
    """The same keys for a case that is not correct."""
    verdict, reason = output.verdict_of(findings)
    return {"status": "wrong", "verdict": verdict, "reason": reason}
