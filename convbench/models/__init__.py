"""The model zoo. One family is one .py (what it computes) and one .toml (what is known about it)."""

from functools import cache
from importlib import import_module

import torch
from torch import Tensor, nn

from ..catalogue import Variant, find, variants
from ..catalogue.external import WrappedNetwork
from ..errors import UsageError
from ..weights import locate
from ..weights.read import load_into, shapes_of
from .random_weights import fill, fill_zeros


def build(variant: Variant, res: int) -> nn.Module:
    """The network of a variant, in evaluation mode, with the weights its constructor gives, on the default device."""
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
    """The network without storage: for counting, and for reading names and shapes."""
    if variant.factory:  # may read files of its own, which needs storage
        return build(variant, res).to("meta")
    with torch.device("meta"):
        return build(variant, res)


def create(model: str, weights: str | None = None, device: str = "cpu", res: int = 256, seed: int = 0) -> nn.Module:
    """A backbone of the zoo in float32, in evaluation mode, without gradients.

    Args:
        model: an id of ``convbench models``, such as "dic_xl", or a model from outside as outside.py lists them.
        weights: a .pt or .safetensors file with the official keys, "hf:owner/repo/file[@revision]", "official" for
            the authors' file, "shipped" for the one that is part of convbench; None draws random weights that leave
            no layer at zero, so that every part of the network shows in its output.
        device: where the weights lie, such as "cpu", "cuda" or "meta".
        res: side of the decoded image in pixels. Networks with a table of positions, such as DiT and DiG, work at
            this size only; the convolutional families take any latent whose height and width are divisible by 4.
        seed: of the random weights.

    Most models are called with x (B, 4, H, W), t (B,) and y (B,), y = 1000 meaning no class, and return
    (B, 8, H, W): the noise, then the raw variance. What others take and return says their ``catalogue.Signature``.

    Raises:
        UsageError: an unknown id or a size that the model cannot take.
        WeightsError: a file that is missing, unsafe, broken or of another model.
    """
    variant = find(model)
    if device == "meta":
        return on_meta(variant, res).requires_grad_(False)
    if variant.factory:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = build(variant, res).to(device).requires_grad_(False)
    else:
        # No time is spent on initial values that are overwritten at once.
        network = on_meta(variant, res).requires_grad_(False).to_empty(device=device)
        for module in network.modules():
            if fill_tables := getattr(module, "fill_tables", None):  # fixed values, computed and never learned
                fill_tables()
    if weights is None:
        (fill_zeros if variant.factory else fill)(network, seed)  # a factory may have read trained weights
    else:
        load_weights(network, str(locate.locate(weights, variant, res).path), variant)
    return network


def load_weights(model: nn.Module, path: str, variant: Variant) -> None:
    """Load a checkpoint into the model, in place; ``weights.read.load_into`` says which files and what is refused."""
    load_into(model, path, variant, shapes_by_variant)


@cache  # building every network takes seconds
def shapes_by_variant() -> dict[str, dict[str, tuple[int, ...]]]:
    """The shape of every key of every variant's state dict."""
    return {id: shapes_of(on_meta(variant, variant.res).state_dict()) for id, variant in variants().items()}
