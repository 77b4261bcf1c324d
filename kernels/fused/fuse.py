"""``fuse`` replaces the blocks of a network by fused ones that share its weights; ``unfuse`` puts them back."""

import copy
from typing import Any

from torch import nn

from ...errors import UsageError
from .dic import FusedModulatedConvs
from .families import FAMILIES
from .modules import Fused, FusedBlock, FusedNetwork, dense_convolutions, rebuild_after_loading
from .product_dispatch import PRODUCTS

CONVOLUTIONS = ("library", "winograd")
"""The choices of ``fuse`` for the 3x3 convolutions of DiC's blocks."""


def fuse(model: nn.Module, products: str = "table", convolutions: str = "library") -> nn.Module:
    """Replace every block of a DiC, DiCo, DiG, FCDM or FlowDCN by a fused one, in place; returns the model.

    The fused model takes the same inputs and gives the same outputs, in channels_last. Its state dict has the same
    keys, and either kind loads the other's. Weights are shared with the blocks that ``unfuse`` puts back. The
    projections of all modulations are held a second time, as one matrix for each condition.

    Args:
        products: What computes the 1x1 products: "ours", our kernels; "library", PyTorch's; or "table", whichever
            product_dispatch.toml names. The table is read, with the device, type and TF32 switch of the moment, when
            the model is fused, moved or cast.
        convolutions: What computes the 3x3 convolutions of DiC's blocks: "library", PyTorch's; or "winograd", in
            float32 with or without TF32, which takes 4/9 of the multiplications and 16/9 more memory for weights.
            Cast to half precision, such a model uses the library.

    Raises:
        UsageError: with the reason, for a model that cannot be fused. The model is left as it was.
    """
    if products not in PRODUCTS:
        raise UsageError(f"unknown products '{products}'; choose from {', '.join(PRODUCTS)}")
    if convolutions not in CONVOLUTIONS:
        raise UsageError(f"unknown convolutions '{convolutions}'; choose from {', '.join(CONVOLUTIONS)}")
    if reason := unfusable(model):
        raise UsageError(f"cannot fuse this {type(model).__name__}: {reason}")
    family = FAMILIES[type(model)]
    if convolutions != "library" and FusedModulatedConvs not in family.blocks.values():
        raise UsageError(
            f"cannot fuse this {type(model).__name__} with Winograd convolutions: only DiC's blocks have some"
        )
    blocks = {name: module for name, module in model.named_modules() if type(module) in family.blocks}
    fused = {name: family.blocks[type(block)](block, products, convolutions) for name, block in blocks.items()}
    for name, block in fused.items():
        model.set_submodule(name, block)
    relaid = [name for name, conv in dense_convolutions(model) if conv.weight.is_contiguous()]
    model.__class__ = family.network
    assert isinstance(model, FusedNetwork)
    model.products, model.relaid = products, tuple(relaid)
    model.loading = model.register_load_state_dict_post_hook(rebuild_after_loading)  # type: ignore[no-untyped-call]
    model.rebuild()
    return model


def unfuse(model: nn.Module) -> nn.Module:
    """Put the original blocks back, in place, with the weights as they are now; returns the model.

    Raises UsageError for a model that is not fused.
    """
    if not isinstance(model, FusedNetwork):
        raise UsageError(f"cannot unfuse this {type(model).__name__}: it is not fused")
    for name, module in list(model.named_modules()):
        if isinstance(module, FusedBlock):
            model.set_submodule(name, module.replaced[0])
    for name in model.derive():
        delattr(model, name)
    for name in model.relaid:
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        conv.weight.data = conv.weight.data.contiguous()
    model.loading.remove()
    for name in ("products", "relaid", "loading"):
        delattr(model, name)
    original: nn.Module = model
    original.__class__ = next(network for network, family in FAMILIES.items() if family.network is type(model))
    return original


def fused_copy(model: nn.Module, products: str = "table", convolutions: str = "library") -> nn.Module:
    """Fuse a copy that shares the weights. The model itself stays as it is, and so does the layout of its weights."""
    shared: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    return fuse(copy.deepcopy(model, shared), products, convolutions)


def unfusable(model: nn.Module) -> str | None:
    """Say in one line why a model cannot be fused, or return None if it can."""
    if isinstance(model, Fused):
        return "it is already fused"
    if type(model) not in FAMILIES:
        known = sorted(network.__name__ for network in FAMILIES)
        return f"only {', '.join(known[:-1])} and {known[-1]} have fused blocks"
    family = FAMILIES[type(model)]
    for name, module in model.named_modules():
        place = name or "the model"
        if module.training:
            return f"{place} is in training mode, but fused kernels do not compute gradients; call .eval() first"
        if name and type(module) not in family.parts and type(module) not in family.blocks:
            return f"{place} is of type {type(module).__name__}, which has no fused counterpart"
        if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
            return f"{place} has a forward hook or a replaced forward, which fused blocks would not call"
    for name, module in model.named_modules():
        if type(module) in family.blocks and (reason := family.blocks[type(module)].refuses(module)):
            return f"{name}: {reason}"
    return None
