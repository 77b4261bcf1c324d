"""Fused blocks in channels_last, one launch per operation: Triton kernels on a GPU, PyTorch references on a CPU."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from .. import catalogue, precision
from ..schema import Backend, Case, Step

OLDEST_GPU = (8, 0)  # Ampere


@contextmanager
def _open(
    model: nn.Module,
    case: Case,
    inputs: tuple[Tensor, Tensor, Tensor],
    products: str = "table",
    convolutions: str = "library",
) -> Iterator[Step]:
    from ..kernels.executed import CountedStep
    from ..kernels.fused.fuse import fused_copy
    from ..kernels.ops import winograd_conv

    # A copy, as another backend may time the model between our blocks: only weights are shared.
    yield CountedStep(fused_copy(model, products, convolutions), winograd_conv.executed)


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


def without_winograd(case: Case) -> str | None:
    """Say why fused Winograd convolutions cannot run a case here, or return None if they can."""
    from ..kernels.fused.families import winograd_classes

    variant = catalogue.find(case.model)
    if variant.factory is None and variant.family.facts["class"] not in winograd_classes():
        return f"there are fused Winograd convolutions for {', '.join(winograd_classes())} only"
    if precision.dtype_of(case.precision) != torch.float32:
        return "the fused Winograd convolutions compute in float32: choose fp32 or tf32"
    return unsupported(case)


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
# Winograd's algorithm for DiC's 3x3 convolutions, in place of PyTorch's.
winograd = replace(
    backend, name="triton:winograd", open=partial(_open, convolutions="winograd"), unsupported=without_winograd
)
