"""Counts of the models of the zoo: parameters, MACs, FLOPs and bytes of one image and one forward pass."""

import warnings
from typing import Any

import torch
from torch import Tensor

from ..catalogue import Signature, Variant, find
from ..counting import Count, count
from ..errors import UsageError
from . import on_meta


def meta_inputs(res: int, batch: int = 1, takes: Signature | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """x, t and y of a network with that signature, by default class-conditional latents, without storage."""
    takes = takes or Signature()
    side = res // takes.factor
    with torch.device("meta"):
        y = torch.empty(batch, *takes.caption) if takes.caption else torch.empty(batch, dtype=torch.long)
        return torch.empty(batch, takes.channels, side, side), torch.empty(batch), y


def count_variant(variant: Variant, res: int, element_size: int = 4) -> Count:
    """Count a model of the zoo for images of ``res`` pixels."""
    return count(on_meta(variant, res), meta_inputs(res, takes=variant.signature), element_size)


def torchprofile_macs(variant: Variant, res: int) -> int:
    """What torchprofile itself counts in our network. It opens DiG's recurrence, so there it finds more than ``macs``.

    Raises UsageError where torchprofile is not installed.
    """
    try:
        from torchprofile import profile_macs
    except ImportError:
        raise UsageError("--profiler torchprofile needs that package: pip install torchprofile==0.1.0") from None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every operator it counts as nothing, and jit of its own age
        # A trace needs storage; the values don't matter, and without drawing them DiC-H is there at once.
        model = on_meta(variant, res).to_empty(device="cpu")
        total: Any = profile_macs(
            model, tuple(torch.zeros_like(v, device="cpu") for v in meta_inputs(res, takes=variant.signature))
        )
    return int(total)


def flops(model: str, res: int = 256) -> dict[str, Any]:
    """Parameters, MACs, FLOPs and bytes of one image and one forward pass in fp32, as ``convbench flops`` shows them.

    Args:
        model: an id of ``convbench models``.
        res: side of the decoded image in pixels.

    ``flops`` is 2 * ``macs``; ``arithmetic_intensity`` is flops / (weight_bytes + activation_bytes), weights once
    and unfused operators' inputs and outputs. ``macs_as_printed`` leaves out what the papers' profilers left out.

    Raises:
        UsageError: an unknown id or a size that the model cannot take.
    """
    variant = find(model)
    return row(variant, res, count_variant(variant, res))


def row(variant: Variant, res: int, counted: Count) -> dict[str, Any]:
    """The keys of ``convbench flops`` for one count."""
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
        "macs_full": counted.macs_full,
        "dcn_samples": counted.dcn_samples,
        "macs_as_printed": counted.without(left_out),
        "weight_bytes": counted.weight_bytes,
        "activation_bytes": counted.activation_bytes,
        "peak_activation_bytes": counted.peak_activation_bytes,
        "arithmetic_intensity": 2 * macs / (counted.weight_bytes + counted.activation_bytes),
    }
