"""The list of fused kernels: one name for each module of ``ops``."""

from importlib import import_module

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
    "winograd_conv",
    "deformable_sampling",
)


def all_kernels() -> tuple[Kernel, ...]:
    """Return every fused kernel. Needs no GPU, and no Triton to run the references on a CPU."""
    return tuple(kernel for name in MODULES for kernel in import_module(f"{__package__}.ops.{name}").KERNELS)
