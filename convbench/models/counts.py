"""Counts of the models of the zoo: parameters, MACs, FLOPs and bytes per image and forward pass."""

import warnings
from typing import Any

import torch
from torch import Tensor

from ..catalogue import Signature, Variant, find
from ..counting import Count, count
from ..errors import UsageError
from . import on_meta


def meta_inputs(res: int, batch: int = 1, takes: Signature | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Make x (B, C, S, S), t (B,) and y (B,) or (B, tokens, width) of a signature on the meta device.

    Args:
        takes: signature of the network; None for class-conditional latents.
    """
    takes = takes or Signature()
    side = res // takes.factor
    with torch.device("meta"):
        y = torch.empty(batch, *takes.caption) if takes.caption else torch.empty(batch, dtype=torch.long)
        return torch.empty(batch, takes.channels, side, side), torch.empty(batch), y


def count_variant(variant: Variant, res: int, element_size: int = 4) -> Count:
    """Count one forward pass of a model of the zoo for images of ``res`` pixels."""
    return count(on_meta(variant, res), meta_inputs(res, takes=variant.signature), element_size)


def torchprofile_macs(variant: Variant, res: int) -> int:
    """Count the MACs of our network with torchprofile. It opens the recurrence of DiG, so it counts more than ``macs``.

    Raises UsageError if torchprofile is not installed.
    """
    try:
        from torchprofile import profile_macs
    except ImportError:
        raise UsageError("--profiler torchprofile needs that package: pip install torchprofile==0.1.0") from None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about every operator that it counts as zero, and about the deprecation of jit
        # A trace needs storage, but not initialised values, which would take long for DiC-H.
        model = on_meta(variant, res).to_empty(device="cpu")
        total: Any = profile_macs(
            model, tuple(torch.zeros_like(v, device="cpu") for v in meta_inputs(res, takes=variant.signature))
        )
    return int(total)


def flops(model: str, res: int = 256) -> dict[str, Any]:
    """Count parameters, MACs, FLOPs and bytes per image and forward pass in fp32, as ``convbench flops`` shows them.

    Args:
        model: an id of ``convbench models``.
        res: side of the decoded image in pixels.

    ``flops`` is 2 * ``macs``; ``arithmetic_intensity`` is flops / (weight_bytes + activation_bytes), with weights once
    and inputs and outputs of unfused operators. ``macs_as_printed`` omits the parts that the papers' profilers omitted.

    Raises:
        UsageError: an unknown id or an invalid size.
    """
    variant = find(model)
    return count_row(variant, res, count_variant(variant, res))


def count_row(variant: Variant, res: int, counted: Count) -> dict[str, Any]:
    """Build the row of ``convbench flops`` for one count."""
    left_out = variant.family.facts.get("counting", {}).get("papers_leave_out", [])
    macs = counted.macs
    return {
        "model": variant.id,
        "res": res,
        "params": counted.params,
        "macs": macs,
        "flops": 2 * macs,
        "winograd_macs": counted.winograd_macs,
        "winograd_macs_all": counted.winograd_macs_all,
        "winograd4_macs_all": counted.winograd4_macs_all,
        "macs_full": counted.macs_full,
        "dcn_samples": counted.dcn_samples,
        "macs_as_printed": counted.without(left_out),
        "weight_bytes": counted.weight_bytes,
        "activation_bytes": counted.activation_bytes,
        "peak_activation_bytes": counted.peak_activation_bytes,
        "arithmetic_intensity": 2 * macs / (counted.weight_bytes + counted.activation_bytes),
    }
