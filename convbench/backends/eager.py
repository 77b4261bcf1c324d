"""PyTorch as it is: one kernel an operator. What the papers' own timing code runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..schema import Backend, Case, Step


@contextmanager
def _open(model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor]) -> Iterator[Step]:
    yield model


backend = Backend(name="eager", summary="PyTorch eager, NCHW", open=_open, eager=True)
