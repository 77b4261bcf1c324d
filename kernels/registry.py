"""The fused kernels: every module of ``ops`` that defines a tuple KERNELS."""

import pkgutil
from importlib import import_module

from . import ops
from .schema import Kernel


def all_kernels() -> tuple[Kernel, ...]:
    """Return every fused kernel. Needs no GPU, and no Triton to run the references on a CPU."""
    modules = (import_module(f"{ops.__name__}.{found.name}") for found in pkgutil.iter_modules(ops.__path__))
    return tuple(kernel for module in modules for kernel in getattr(module, "KERNELS", ()))
