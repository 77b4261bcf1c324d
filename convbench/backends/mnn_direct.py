"""The backend ``mnn`` with Winograd switched off: what its own gain is measured against."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..schema import Backend, Case, Step
from . import mnn


@contextmanager
def _open(model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor]) -> Iterator[Step]:
    with mnn.opened(model, case, winograd=False) as step:
        yield step


backend = Backend(
    name="mnn_direct", summary="MNN, float32, Winograd switched off", open=_open, unsupported=mnn.unsupported
)
