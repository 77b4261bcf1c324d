"""AOTInductor: compiled ahead of time for the shape of the case; on a processor with packed weights."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..export import aoti, cache
from ..schema import Backend, Case, Step


@contextmanager
def _open(model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor]) -> Iterator[Step]:
    made = cache.prepared(model, case, "aoti", one_batch=True)
    aoti.require_runnable(made.manifest.target)
    yield cache.Built(aoti.step(made.path / made.manifest.entry), made.manifest.build_s, made.waited_s)


def _unsupported(case: Case) -> str | None:
    if not (shutil.which("g++") or shutil.which("clang++")):
        return "AOTInductor needs a C++ compiler: install g++"
    return cache.unsupported(case, "aoti", ("fp32",))


backend = Backend(name="aoti", summary="AOTInductor, frozen weights", open=_open, unsupported=_unsupported)
