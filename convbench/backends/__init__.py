"""The runtimes. One .py with one module-level ``backend``; from other packages by entry point or "module:attribute"."""

import difflib
import pkgutil
from importlib import import_module
from importlib.metadata import entry_points

from .. import packages
from ..errors import UsageError
from ..schema import Backend

GROUP = "convbench.backends"


def names() -> list[str]:
    """Every backend that can be asked for by name. Imports none of them."""
    own = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted({*own, *(point.name for point in entry_points(group=GROUP))})


def require(name: str) -> None:
    """Raise UsageError, offering the nearest names, unless there is such a backend. Imports nothing."""
    if name not in names() and ":" not in name:
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
        raise UsageError(f"unknown backend '{name}': {hint}")


def find(name: str) -> Backend:
    """The backend of that name, or the one that "package.module:attribute" points to."""
    require(name)
    if ":" in name:
        found = packages.named(name, "backend")
    else:
        others = {point.name: point for point in entry_points(group=GROUP)}
        if name in others:
            found = packages.loaded(name, "backend", others[name].load)
        else:
            found = import_module(f".{name}", __package__).backend
    if not isinstance(found, Backend):
        raise UsageError(f"'{name}' is a {type(found).__name__}, not a convbench Backend")
    return found
