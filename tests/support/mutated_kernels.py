"""One mistake at a time in a Triton kernel, for the suites that must see it."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


@contextmanager
def mutated(function: Any, old: str, new: str, file: Path, modules: Sequence[ModuleType]) -> Iterator[None]:
    """Replace a kernel by one whose text has ``new`` for ``old``, in every module of ``modules`` that holds it."""
    source = inspect.getsource(function.fn)
    assert old in source, f"'{old}' is no longer in the source of {function.fn.__name__}"
    file.write_text(source.replace(old, new), "utf-8")
    scope = dict(function.fn.__globals__)
    exec(compile(file.read_text("utf-8"), str(file), "exec"), scope)  # a file: the interpreter reads the source again
    places = [(module, name) for module in modules for name, value in vars(module).items() if value is function]
    assert places
    for module, name in places:
        setattr(module, name, scope[function.fn.__name__])
    try:
        yield
    finally:
        for module, name in places:
            setattr(module, name, function)
