"""The model zoo. Each family has one .py file, its implementation, and one .toml file with facts about it."""

from functools import cache
from importlib import import_module

import torch
from torch import Tensor, nn

from ..catalogue import Variant, find, variants
from ..catalogue.external import WrappedNetwork
from ..counting.meta import OnMeta
from ..errors import UsageError
from ..weights import locate
from ..weights.read import load_into, shapes_of
from .random_weights import fill, replace_zeros


def build(variant: Variant, res: int) -> nn.Module:
    """Build the network of a variant in evaluation mode, with its initial weights, on the default device."""
    variant.require_res(res)
    if variant.factory:
        own = variant.factory(res)
        if isinstance(own, WrappedNetwork):
            own = ExternalNetwork(own)
        if not isinstance(own, nn.Module):
            raise UsageError(f"'{variant.id}' returns a {type(own).__name__}, not a torch.nn.Module")
        return own.eval()
    facts, module = variant.family.facts, variant.family.module
    if variant.ablated:
        facts, module = facts["ablations"], f"{module}_ablations"
    network = getattr(import_module(f".{module}", __package__), variant.network or facts["class"])
    model: nn.Module = network(**variant.constructor_arguments(res))
    return model.eval()


class ExternalNetwork(nn.Module):
    """An external network with the arguments that every model here takes.

    x (B, C, H, W), t (B,), y (B,) or (B, tokens, width) -> the output of the network.
    """

    def __init__(self, wrapped: WrappedNetwork) -> None:
        super().__init__()
        self.network = wrapped.network
        self.step = wrapped.step

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.step(x, t, y)


def on_meta(variant: Variant, res: int) -> nn.Module:
    """Build the network without storage, for counting and for names and shapes."""
    if variant.factory:  # may read its own files, which needs storage
        return build(variant, res).to("meta")
    with torch.device("meta"), OnMeta():
        return build(variant, res)


def create(model: str, weights: str | None = None, device: str = "cpu", res: int = 256, seed: int = 0) -> nn.Module:
    """Create a backbone of the zoo in float32, in evaluation mode, without gradients.

    Args:
        model: an id of ``convbench models``, such as "dic_xl", or an external model as listed in catalogue/external.py.
        weights: a .pt or .safetensors file with the official keys, "hf:owner/repo/file[@revision]", "official" for
            the authors' file, "shipped" for the one that is part of convbench; None draws random weights without zero
            layers, so that every part of the network affects the output.
        device: of the weights, such as "cpu", "cuda" or "meta".
        res: side of the decoded image in pixels. Networks with a table of positions, such as DiT and DiG, only
            work at this size; the convolutional families take any latent whose height and width are divisible by 4.
        seed: seed of the random weights.

    Most models take x (B, 4, H, W), t (B,) and y (B,), with y = 1000 for no class, and return (B, 8, H, W): the noise,
    then the raw variance. ``catalogue.Signature`` describes the inputs and outputs of the others.

    Raises:
        UsageError: an unknown id or an invalid size.
        WeightsError: a file that is missing, unsafe, damaged or of a different model.
    """
    variant = find(model)
    if device == "meta":
        return on_meta(variant, res).requires_grad_(False)
    if variant.factory:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = build(variant, res).to(device).requires_grad_(False)
    else:
        # Skips initial values, which would be overwritten at once.
        network = on_meta(variant, res).requires_grad_(False).to_empty(device=device)
        for module in network.modules():
            if fill_tables := getattr(module, "fill_tables", None):  # fixed values, which are computed, not learned
                fill_tables()
    if weights is None:
        (replace_zeros if variant.factory else fill)(network, seed)  # a factory may have loaded trained weights
    else:
        load_weights(network, str(locate.locate(weights, variant, res).path), variant)
    return network


def load_weights(model: nn.Module, path: str, variant: Variant) -> None:
    """Load a checkpoint into the model in place, as ``weights.read.load_into`` does."""
    load_into(model, path, variant, shapes_by_variant)


@cache  # building every network takes seconds
def shapes_by_variant() -> dict[str, dict[str, tuple[int, ...]]]:
    """Collect the shape of every key in every variant's state dict."""
    return {id: shapes_of(on_meta(variant, variant.res).state_dict()) for id, variant in variants().items()}
