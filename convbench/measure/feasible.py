"""Feasibility of a case on this machine, checked before any work."""

from dataclasses import replace

import torch

from .. import backends, precision
from ..environment import free_bytes
from ..schema import Case
from . import training
from .estimate import estimate, guides, quick_rates

GIB = 2**30


def unsupported(case: Case) -> str | None:
    """Reason why the case cannot run here, or None: no device, precision, backend, or not enough memory."""
    if case.device == "cuda" and not torch.cuda.is_available():
        return "torch found no NVIDIA GPU" + ("" if torch.version.cuda else ": this is a CPU build of torch")
    network = replace(case, batch=2 * case.batch) if guides(case) else case
    reason = (
        precision.unsupported(case.precision, case.device)
        or backends.find(case.backend).unsupported(network)
        or training.unsupported(case)
    )
    if reason:
        return reason
    needed = estimate(case, quick_rates(case.device, case.precision)).needed_bytes
    free = free_bytes(case.device)
    return None if needed <= free else f"needs about {needed / GIB:.1f} GiB, but only {free / GIB:.1f} GiB are free"
