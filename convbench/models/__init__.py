"""The model zoo. One family is one .py (what it computes) and one .toml (what is known about it)."""

from importlib import import_module

import torch
from torch import nn

from ..catalogue import Variant, find
from ..weights import load_weights
from .random_weights import fill


def build(variant: Variant, res: int) -> nn.Module:
    """The network of a variant, in evaluation mode, with the weights its constructor gives, on the default device."""
    variant.require_res(res)
    family = variant.family
    network = getattr(import_module(f".{family.module}", __package__), family.facts["class"])
    model: nn.Module = network(**variant.constructor_arguments(res))
    return model.eval()


def on_meta(variant: Variant, res: int) -> nn.Module:
    """The network without storage: for counting, and for reading names and shapes."""
    with torch.device("meta"):
        return build(variant, res)


def create(model: str, weights: str | None = None, device: str = "cpu", res: int = 256, seed: int = 0) -> nn.Module:
    """A backbone of the zoo in float32, in evaluation mode, without gradients.

    Args:
        model: an id of ``convbench models``, such as "dic_xl".
        weights: a .pt or .safetensors file with the official keys; None draws random weights that leave no
            layer at zero, so that every part of the network shows in its output.
        device: where the weights lie, such as "cpu", "cuda" or "meta".
        res: side of the decoded image in pixels. DiT and DiG work at this size only; the convolutional
            families take any latent whose height and width are divisible by 4.
        seed: of the random weights.

    The model is called with x (B, 4, H, W), t (B,) and y (B,), y = 1000 meaning no class, and returns
    (B, 8, H, W): the noise, then the raw variance.

    Raises:
        UsageError: an unknown id or a size that the model cannot take.
        WeightsError: a file that is missing, unsafe, broken or of another model.
    """
    variant = find(model)
    network = on_meta(variant, res).requires_grad_(False)
    if device == "meta":
        return network
    network.to_empty(device=device)  # no time spent on initial values that are overwritten at once
    for module in network.modules():
        if fill_tables := getattr(module, "fill_tables", None):  # fixed values, computed and never learned
            fill_tables()
    if weights is None:
        fill(network, seed)
    else:
        load_weights(network, weights, variant)
    return network
