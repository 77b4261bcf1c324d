"""Counts, measures and deploys fully convolutional diffusion backbones beside the transformers they compete with."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["compare", "create", "export", "flops", "load", "report", "sample", "throughput", "verify"]

if TYPE_CHECKING:
    from .export import artefact as export
    from .export.verification import verify
    from .models import create
    from .models.counts import flops
    from .reports.compare import compare
    from .reports.report import report
    from .run.sample import sample
    from .run.throughput import throughput
    from .store import load

# Loaded when first used, so that `import convbench` and `convbench --help` don't wait for torch. The package export is
# itself the function of that name.
_HOMES = {
    "compare": "reports.compare",
    "create": "models",
    "flops": "models.counts",
    "load": "store",
    "report": "reports.report",
    "sample": "run.sample",
    "throughput": "run.throughput",
    "verify": "export.verification",
}


def __getattr__(name: str) -> Any:
    if name == "export":
        return import_module(".export", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'convbench' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
