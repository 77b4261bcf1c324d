"""Triton kernels: one fused operation a file, with its PyTorch reference and the module it replaces."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .fused.fusion import fuse as fuse
    from .fused.fusion import unfuse as unfuse
    from .schema import Kernel

# Modules with a tuple KERNELS, in the order in which `convbench kernels` lists them.
MODULES = (
    "depthwise_gelu",
    "channel_attention",
    "depthwise",
    "layer_norm",
    "pointwise",
    "pointwise_squares",
    "response_norm",
    "pointwise_residual",
    "group_norm",
    "gate_residual",
)


def all_kernels() -> tuple["Kernel", ...]:
    """Every fused kernel. Imports torch, and Triton where it is installed; needs no GPU."""
    from importlib import import_module

    return tuple(kernel for name in MODULES for kernel in import_module(f".ops.{name}", __name__).KERNELS)


def __getattr__(name: str) -> Any:
    """``fuse`` and ``unfuse``, loaded when they are asked for: they import torch."""
    if name in ("fuse", "unfuse"):
        from .fused import fusion

        return getattr(fusion, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
