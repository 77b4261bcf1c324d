"""Fused blocks in channels_last, one launch per operation: Triton kernels on a GPU, PyTorch references on a CPU."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from .. import catalogue
from ..schema import Backend, Case, Step

OLDEST_GPU = (8, 0)  # Ampere


@contextmanager
def _open(
    model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor], products: str = "table"
) -> Iterator[Step]:
    from ..kernels.fused.fuse import fused_copy

    yield fused_copy(model, products)  # another backend may time the model between our blocks: only weights are shared


def unsupported(case: Case) -> str | None:
    """Say why the fused kernels cannot run a case here, or return None if they can. A CPU runs their references."""
    from ..kernels.fused.families import FAMILIES

    variant = catalogue.find(case.model)
    family, classes = variant.family, {network.__name__ for network in FAMILIES}
    if variant.factory is None and family.facts["class"] not in classes:  # fusing checks the result of a factory
        return f"there are no fused kernels for {family.name}, only for {', '.join(sorted(classes))}"
    if case.device != "cuda":
        return None
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed: pip install 'convbench[cuda]'"
    if torch.cuda.get_device_capability() < OLDEST_GPU:
        return "the fused kernels need an NVIDIA GPU of compute capability 8.0 (Ampere) or newer"
    return None


def unranked(case: Case) -> str | None:
    """Say why a row must not be ranked: on a CPU it times the PyTorch references, not the kernels."""
    return "reference path of the fused kernels, plain PyTorch" if case.device == "cpu" else None


backend = Backend(
    name="triton",
    summary="fused Triton kernels, channels_last; on a CPU their PyTorch references, never ranked",
    open=_open,
    unsupported=unsupported,
    launched_singly=True,
    unranked=unranked,
)
# What computes the 1x1 products: our kernels or PyTorch's, in place of what product_dispatch.toml names.
ours = replace(backend, name="triton:ours", open=partial(_open, products="ours"))
library = replace(backend, name="triton:library", open=partial(_open, products="library"))
