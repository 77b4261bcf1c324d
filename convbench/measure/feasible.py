"""Whether a case can run on this machine, before anything is made for it."""

from dataclasses import replace

import torch

from .. import backends, precision
from ..environment import free_bytes
from ..schema import Case
from . import training
from .estimate import estimate, guides, quick_rates

GIB = 2**30


def unsupported(case: Case) -> str | None:
    """Why the case cannot run here, or None: no device, precision, backend, or not enough memory."""
    if case.device == "cuda" and not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU here" + ("" if torch.version.cuda else ": this is a CPU build of torch")
    network = replace(case, batch=2 * case.batch) if guides(case) else case
    reason = (
        precision.unsupported(case.precision, case.device)
        or backends.find(case.backend).unsupported(network)
        or training.unsupported(case)
    )
    if reason:
        return reason
    needed = estimate(case, quick_rates(case.device)).needed_bytes
    free = free_bytes(case.device)
    return None if needed <= free else f"needs about {needed / GIB:.1f} GiB, {free / GIB:.1f} GiB are free"
