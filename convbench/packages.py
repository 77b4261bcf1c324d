"""Optional packages and code named on the command line: imported here, so that what is missing or fails is one line."""

import importlib
import importlib.metadata
import importlib.util
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from .errors import UsageError, first_line


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


def named(id: str, what: str) -> Any:
    """Import what "package.module:name" names, also from the working directory; installed packages take precedence.

    Only for names from the command line. Raises UsageError with one line for any error of the imported code.

    Args:
        what: "model" or "backend", for the message.
    """
    module, _, name = id.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise UsageError(f"no {what} at '{id[:200]}': it is not of the form package.module:name")
    return loaded(id, what, lambda: getattr(importlib.import_module(module), name))


def loaded(id: str, what: str, load: Callable[[], Any]) -> Any:
    """Call ``load``, which imports external code. Raises UsageError with one line for any error of that code."""
    try:
        with working_folder():
            return load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"no {what} at '{id}': {first_line(error)}") from None
    except Exception as error:
        raise UsageError(f"no {what} at '{id}': {type(error).__name__}: {first_line(error)}") from None


@contextmanager
def working_folder() -> Iterator[None]:
    """Make modules of the working directory importable; installed ones take precedence."""
    here = os.getcwd()
    known = here in sys.path or "" in sys.path  # e.g. with `python -m`
    sys.path += [] if known else [here]
    try:
        yield
    finally:
        if not known:
            sys.path.remove(here)
