"""The runtimes. One .py with one module-level ``backend``; from other packages by entry point or "module:attribute".

A further value in a module is the backend with an option, named "triton_graphs:library" and the like.
"""

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
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names())}"
        raise UsageError(f"unknown backend '{name}': {hint}")


def find(name: str) -> Backend:
    """The backend of that name, or the one that "package.module:attribute" points to."""
    require(name)
    module, colon, option = name.partition(":")
    others = {point.name: point for point in entry_points(group=GROUP)}
    if module in [each.name for each in pkgutil.iter_modules(__path__)]:
        own = import_module(f".{module}", __package__)
        found = next((each for each in vars(own).values() if isinstance(each, Backend) and each.name == name), None)
        if found is None:
            raise UsageError(f"no backend at '{name}': {module} has no option '{option}'")
    elif colon:
        found = packages.named(name, "backend")
    else:
        found = packages.loaded(name, "backend", others[name].load)
    if not isinstance(found, Backend):
        raise UsageError(f"'{name}' is a {type(found).__name__}, not a convbench Backend")
    return found
