"""The backend ``ncnn`` with Winograd switched off: what its own gain is measured against."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..schema import Backend, Case, Step
from . import ncnn


@contextmanager
def _open(model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor]) -> Iterator[Step]:
    with ncnn.opened(model, case, winograd=False) as step:
        yield step


backend = Backend(
    name="ncnn_direct", summary="ncnn, float32, Winograd switched off", open=_open, unsupported=ncnn.unsupported
)
