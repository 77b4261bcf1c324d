"""Fused blocks in channels_last, one launch an op: Triton kernels on a GPU, their PyTorch references on a CPU."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .. import catalogue
from ..schema import Backend, Case, Step

OLDEST_GPU = (8, 0)  # Ampere


@contextmanager
def _open(model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor]) -> Iterator[Step]:
    from ..kernels.fused.fusion import fused_copy

    yield fused_copy(model)  # the model may be timed by another backend, interleaved: only its weights are shared


def unsupported(case: Case) -> str | None:
    """Reason why the fused kernels cannot run a case here, or None. A CPU can always run their references."""
    from ..kernels.fused.fusion import FAMILIES

    variant = catalogue.find(case.model)
    family, classes = variant.family, {network.__name__ for network in FAMILIES}
    if variant.factory is None and family.facts["class"] not in classes:  # what a factory makes shows when it is fused
        return f"no block of {family.name} has a fused kernel: there are kernels for {', '.join(sorted(classes))}"
    if case.device != "cuda":
        return None
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install 'convbench[cuda]'"
    if torch.cuda.get_device_capability() < OLDEST_GPU:
        return "the fused kernels need an NVIDIA GPU of compute capability 8.0 (Ampere) or newer"
    return None


def unranked(case: Case) -> str | None:
    """A CPU runs no Triton: its row says what the references cost there, which is nobody's result."""
    return "reference path of the fused kernels, plain PyTorch" if case.device == "cpu" else None


backend = Backend(
    name="triton",
    summary="fused Triton kernels, channels_last; on a CPU their PyTorch references, never ranked",
    open=_open,
    unsupported=unsupported,
    unranked=unranked,
)
