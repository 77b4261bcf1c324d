"""Counts, measures and deploys fully convolutional diffusion backbones beside the transformers they compete with."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["create", "flops", "load", "throughput"]

if TYPE_CHECKING:
    from .models import create
    from .models.counts import flops
    from .run.throughput import throughput
    from .store import load

# Loaded when first used, so that `import convbench` and `convbench --help` don't wait for torch.
_HOMES = {"create": "models", "flops": "models.counts", "throughput": "run.throughput", "load": "store"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'convbench' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
