"""Base classes of fused blocks and networks: they share a model's weights and hold tensors derived from them.

Shape letters: B batch, C channels, H W latent height and width.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from ...errors import UsageError

Vectors = Sequence[Tensor]
"""The modulation of one block: shifts, scales and gates, each (B, C), slices of one product."""


class Fused(nn.Module):
    """A module that holds tensors derived from its weights, as buffers outside the state dict.

    They are computed again when the module is moved or cast and when a state dict is loaded into it. After writing to
    a weight directly, call ``rebuild``.
    """

    products: str

    def derive(self) -> dict[str, Tensor]:
        """Compute the derived tensors, by name, from the weights as they are now."""
        raise NotImplementedError

    def rebuild(self) -> None:
        """Compute the derived tensors again, and choose again what computes the products."""
        for name, tensor in self.derive().items():
            self.register_buffer(name, tensor.detach(), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.rebuild()
        return self

    def train(self, mode: bool = True) -> Any:
        if mode:
            raise UsageError("a fused model does not compute gradients; unfuse it before training")
        return super().train(mode)


def rebuild_after_loading(module: nn.Module, incompatible: object) -> None:
    """Rebuild after ``load_state_dict``, as its hook."""
    assert isinstance(module, Fused)
    module.rebuild()


class FusedBlock(Fused):
    """A block that computes with fused operations and owns the submodules of the block it replaces, by the same names.

    Called with x in channels_last and the vectors of its modulation, in the order of the block's own chunks.
    """

    def __init__(self, block: nn.Module, products: str, convolutions: str) -> None:
        super().__init__()
        self.training = False
        self.products, self.convolutions = products, convolutions
        self.replaced = (block,)  # inside a tuple, so that no walk over submodules finds it
        for name, child in block.named_children():
            self.add_module(name, child)
        self.register_load_state_dict_post_hook(rebuild_after_loading)  # type: ignore[no-untyped-call]
        self.rebuild()

    @staticmethod
    def refuses(block: Any) -> str | None:
        """Say why a block with these options cannot be replaced, or return None if it can."""
        raise NotImplementedError

    def derive(self) -> dict[str, Tensor]:
        return {}


class FusedNetwork(Fused):
    """A network of fused blocks: one product gives the modulations of all blocks that share a condition."""

    relaid: tuple[str, ...]  # convolutions whose weights were not in channels_last before
    loading: RemovableHandle  # of the hook on load_state_dict

    def sharing(self) -> Sequence[Sequence[nn.Module]]:
        """List, for each condition, the modules that it modulates, in the order of their calls."""
        raise NotImplementedError

    def derive(self) -> dict[str, Tensor]:
        tensors = {}
        for level, modules in enumerate(self.sharing(), start=1):
            linears = [modulation_of(module) for module in modules]
            tensors[f"modulation_weight_{level}"] = torch.cat([linear.weight for linear in linears])
            tensors[f"modulation_bias_{level}"] = torch.cat([linear.bias for linear in linears])
        return tensors

    def rebuild(self) -> None:
        super().rebuild()
        for _, conv in dense_convolutions(self):  # in the layout that the library wants, once and not at every call
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)

    def modulations(self, *conditions: Tensor) -> list[Iterator[Vectors]]:
        """Compute the vectors of every module: an iterator in the order of calls for each condition, (B, C).

        The activation and the product run once for each condition.
        """
        result = []
        for level, (condition, modules) in enumerate(zip(conditions, self.sharing(), strict=True), start=1):
            weight, bias = (getattr(self, f"modulation_{part}_{level}") for part in ("weight", "bias"))
            width = condition.shape[1]
            vectors = F.linear(F.silu(condition), weight, bias).unflatten(1, (-1, width)).unbind(1)
            shares, start = [], 0
            for module in modules:
                chunks = modulation_of(module).out_features // width
                shares.append(vectors[start : start + chunks])
                start += chunks
            result.append(iter(shares))
        return result


def modulation_of(module: Any) -> nn.Linear:
    """Return the projection from the condition to a module's modulation."""
    linear = (module.affine if hasattr(module, "affine") else module.adaLN_modulation)[1]
    assert isinstance(linear, nn.Linear)
    return linear


def dense_convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """Yield the convolutions that the library computes, with their paths: windows over all channels."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size != (1, 1):
            yield name, module
