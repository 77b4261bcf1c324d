"""Layers that compute 3x3 convolutions by ``convbench::conv3x3``, and networks made of them.

Shape letters: B batch, C channels, H W height and width.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...models.dic import ModulatedConvs
from . import choice
from .choice import ConvShape
from .convolution import KINDS, conv3x3, packed


class PackedConv(nn.Module):
    """A 3x3 convolution with stride 1 and padding 1, whose weights are packed for one of ``convolution.KINDS``.

    (B, C, H, W) -> (B, O, H, W), in channels_last. It shares weight and bias with the layer that it replaces, under the
    same names, and packs them again when a state dict is loaded. After writing to a weight directly, call ``repack``.
    """

    packed: Tensor

    def __init__(self, conv: nn.Conv2d, kind: str) -> None:
        super().__init__()
        self.training = False
        self.kind, self.outputs = kind, conv.out_channels
        self.weight, self.bias = conv.weight, conv.bias
        self.register_buffer("packed", packed(conv.weight, KINDS[kind]), persistent=False)
        self.register_load_state_dict_post_hook(_repack)  # type: ignore[no-untyped-call]

    def repack(self) -> None:
        """Pack the weights as they are now into the same memory, which compiled code may hold."""
        packed(self.weight, KINDS[self.kind], self.packed)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.weight.dtype != torch.float32 or self.weight.device.type != "cpu":
            raise UsageError("the C++ kernels compute in float32 on a processor: convert the network before")
        return self

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.outputs}, {self.kind}"

    def forward(
        self,
        x: Tensor,
        norm: nn.GroupNorm | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        gelu: bool = False,
        gate: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        gamma, beta, groups, eps = (norm.weight, norm.bias, norm.num_groups, norm.eps) if norm else (None, None, 1, 0.0)
        return conv3x3(
            *(x, self.packed, KINDS[self.kind], self.outputs, self.bias, gamma, beta, groups, eps),
            *(scale, shift, gelu, gate, residual),
        )


class PackedModulatedConvs(nn.Module):
    """``ModulatedConvs`` as two operators: norm, modulation and GELU before, gate and residual behind a convolution.

    (B, in_width, H, W), (B, width) -> (B, width, H, W)
    """

    def __init__(self, block: nn.Module, kinds: tuple[str, str]) -> None:
        super().__init__()
        self.training = False
        for name, child in block.named_children():
            self.add_module(name, child)
        self.conv0, self.conv1 = (PackedConv(getattr(block, f"conv{i}"), kind) for i, kind in enumerate(kinds))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        gate, scale, shift = self.get_submodule("affine")(c).chunk(3, dim=1)
        residual = self.get_submodule("skip")(x)
        norm0, norm1 = (self.get_submodule(name) for name in ("norm0", "norm1"))
        y = self.conv0(x, norm0, gelu=True)
        return self.conv1(y, norm1, scale, shift, gelu=True, gate=gate, residual=residual)


@dataclass(frozen=True)
class Layer:
    """A convolution that can be replaced."""

    name: str
    shape: ConvShape


def suits(module: nn.Module) -> bool:
    """True for a convolution that the operator computes."""
    return type(module) is nn.Conv2d and (
        (module.kernel_size, module.stride, module.padding, module.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and (module.groups, module.padding_mode) == (1, "zeros")
    )


def fusible(module: nn.Module) -> bool:
    """True for a block that becomes two operators."""
    return (
        type(module) is ModulatedConvs
        and module.residual_scale == 1
        and all(type(norm) is nn.GroupNorm and norm.affine for norm in (module.norm0, module.norm1))
        and isinstance(module.skip, (nn.Identity, nn.Conv2d))
    )


def layers(model: nn.Module, inputs: tuple[Tensor, ...], threads: int) -> list[Layer]:
    """Find the convolutions that suit and their shapes for x (B, C, H, W), t (B,), y (B,). Runs the model once."""
    found: list[Layer] = []

    def hook(name: str) -> Any:
        def seen(module: nn.Conv2d, given: tuple[Tensor, ...], out: Tensor) -> None:
            b, i, h, w = given[0].shape
            found.append(Layer(name, ConvShape(i, module.out_channels, h, w, b, threads)))

        return seen

    hooks = [module.register_forward_hook(hook(name)) for name, module in model.named_modules() if suits(module)]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for each in hooks:
            each.remove()
    return found


def chosen(model: nn.Module, inputs: tuple[Tensor, ...], threads: int) -> dict[str, str]:
    """Choose the fastest of KINDS for each convolution that suits, by its name. x (B, C, H, W), t (B,), y (B,)."""
    seen = layers(model, inputs, threads)
    known = choice.fastest([layer.shape for layer in seen])
    return {layer.name: known[layer.shape] for layer in seen}


def packed_copy(model: nn.Module, kinds: Mapping[str, str], fuse: bool = True) -> nn.Module:
    """A copy that shares the weights, with the named convolutions packed; the model itself stays as it is.

    Args:
        kinds: one of ``convolution.KINDS`` for the name of each convolution to replace.
        fuse: whether blocks become two operators each, where they are known.

    Raises UsageError for a model in training mode or in another type than float32.
    """
    if model.training or any(value.dtype != torch.float32 for value in model.parameters()):
        raise UsageError("the C++ kernels compute the forward pass in float32: call .eval().float() first")
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    made = copy.deepcopy(model, shared)
    for name, module in list(made.named_modules()):
        inside = (f"{name}.conv0", f"{name}.conv1")
        if fuse and fusible(module) and kinds.keys() >= set(inside):
            made.set_submodule(name, PackedModulatedConvs(module, (kinds[inside[0]], kinds[inside[1]])))
    for name, kind in kinds.items():
        module = made.get_submodule(name)
        if isinstance(module, nn.Conv2d):
            made.set_submodule(name, PackedConv(module, kind))
    return made


def _repack(module: nn.Module, incompatible: object) -> None:
    assert isinstance(module, PackedConv)
    module.repack()
