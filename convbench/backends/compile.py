"""torch.compile of the whole network as one graph, its default mode, fixed shapes."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..schema import Backend, Case, Step


@contextmanager
def _open(model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor]) -> Iterator[Step]:
    torch._dynamo.reset()
    # A graph break or a second compilation would hide in the average, so either is an error.
    with torch._dynamo.config.patch(error_on_recompile=True):
        yield torch.compile(model, fullgraph=True, dynamic=False)
    torch._dynamo.reset()


def _unsupported(case: Case) -> str | None:
    if case.device == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "torch.compile on a CPU needs a C++ compiler: install g++"
    return None


backend = Backend(
    name="compile",
    summary="torch.compile, one graph, default mode",
    open=_open,
    unsupported=_unsupported,
)
