"""Packages that only some exports need: imported here and nowhere else, so that a missing one is one line."""

import importlib
import importlib.metadata
import importlib.util
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from .errors import UsageError


@cache
def table() -> dict[str, dict[str, str]]:
    """Every optional package by the name it is imported under: ``version``, ``install`` and what it is ``for``."""
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))


def require(name: str) -> Any:
    """The module ``name`` (dotted names too), imported. Raises UsageError with the command that installs it."""
    if reason := missing(name.partition(".")[0]):
        raise UsageError(reason)
    return importlib.import_module(name)


def missing(name: str) -> str | None:
    """Reason why the package cannot be used, with the command that installs it, or None. Imports nothing."""
    if importlib.util.find_spec(name) is not None:
        return None
    facts = table()[name]
    return f"{facts['for']}: {name} is not installed: {facts['install']}"


def versions(*names: str) -> dict[str, str]:
    """The installed versions of those of the distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
