"""What fused blocks and fused networks have in common: they borrow submodules and keep tensors made from weights.

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
    """Keeps tensors that follow from the weights, as buffers that no state dict holds.

    They are made again when the module is moved or cast and when a state dict is loaded into it. Whoever writes into
    a weight by hand calls ``rebuild`` afterwards.
    """

    products: str

    def derive(self) -> dict[str, Tensor]:
        """The tensors by name, from the weights as they are now."""
        raise NotImplementedError

    def rebuild(self) -> None:
        """Make the derived tensors again, and choose again who computes the products."""
        for name, tensor in self.derive().items():
            self.register_buffer(name, tensor.detach(), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.rebuild()
        return self

    def train(self, mode: bool = True) -> Any:
        if mode:
            raise UsageError("a fused model computes no gradients: unfuse it before training")
        return super().train(mode)


def rebuild_after_loading(module: nn.Module, incompatible: object) -> None:
    """A hook of ``load_state_dict``."""
    assert isinstance(module, Fused)
    module.rebuild()


class FusedBlock(Fused):
    """A block that computes with fused ops and owns the submodules of the block it stands for, under their names.

    Called with x in channels_last and the vectors of its modulation, in the order of the block's own chunks.
    """

    def __init__(self, block: nn.Module, products: str) -> None:
        super().__init__()
        self.training = False
        self.products = products
        self.stands_for = (block,)  # inside a tuple no walk over submodules finds it
        for name, child in block.named_children():
            self.add_module(name, child)
        self.register_load_state_dict_post_hook(rebuild_after_loading)  # type: ignore[no-untyped-call]
        self.rebuild()

    @staticmethod
    def refuses(block: Any) -> str | None:
        """Why these options of the block have no kernel, or None."""
        raise NotImplementedError

    def derive(self) -> dict[str, Tensor]:
        return {}


class FusedNetwork(Fused):
    """A network whose blocks are fused: one product gives the modulations of all blocks that share a condition."""

    relaid: tuple[str, ...]  # convolutions whose weights were not in channels_last before
    loading: RemovableHandle  # of the hook

    def sharing(self) -> Sequence[Sequence[nn.Module]]:
        """For each condition the modules that it modulates, in the order of their calls."""
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
        """For each condition, (B, C), the vectors of its modules in turn. The activation and the product run once."""
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
    """The projection from the condition to a module's modulation."""
    linear = (module.affine if hasattr(module, "affine") else module.adaLN_modulation)[1]
    assert isinstance(linear, nn.Linear)
    return linear


def embed_times(embedders: Any, t: Tensor) -> list[Tensor]:
    """The embeddings of t at every width, from one code. (B,) -> a (B, C) for each embedder"""
    code = embedders[0].code(t)
    return [embedder.mlp(code.to(embedder.mlp[0].weight.dtype)) for embedder in embedders]


def stem(convolution: nn.Module, x: Tensor) -> Tensor:
    """The first layer, in channels_last. A map of one channel, as of grey pixels, has no layout for it to follow."""
    y = convolution(x.contiguous(memory_format=torch.channels_last))
    return y.contiguous(memory_format=torch.channels_last)


def run(blocks: Any, x: Tensor, modulations: Iterator[Vectors]) -> Tensor:
    """Each block with the next vectors. (B, C, H, W) -> (B, C, H, W)"""
    for block in blocks:
        x = block(x, next(modulations))
    return x


def dense_convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """The convolutions that stay with the library: windows over all channels, by their path."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size != (1, 1):
            yield name, module


def unlike(conv: Any, *sides: int, depthwise: bool = False) -> str | None:
    """What keeps a convolution from being one of stride 1 that keeps the size of the map and has a bias, or None."""
    if not isinstance(conv, nn.Conv2d):
        return f"is a {type(conv).__name__}, not a convolution"
    if len(set(conv.kernel_size)) > 1 or conv.kernel_size[0] not in sides:
        known = " and ".join(f"{side}x{side}" for side in sides)
        return f"has a window of {'x'.join(map(str, conv.kernel_size))}: there are kernels for {known}"
    half = conv.kernel_size[0] // 2
    expected = (1, 1), (half, half), (1, 1), conv.in_channels if depthwise else 1, "zeros"
    if (conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode) != expected:
        return "has another stride, padding, dilation or number of groups than the published block"
    return "has no bias" if conv.bias is None else None
