"""3x3 convolutions by Winograd's algorithm, in C++ of our own; the rest by torch.compile, with frozen weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..kernels.cpu import compiled, convolution, modules
from ..schema import Backend, Case, Step


class CountedStep:
    """A step that knows how many multiply-accumulates its last call saved: its convolutions note what they execute."""

    def __init__(self, step: Step) -> None:
        self.step, self.saved_macs = step, 0

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        before = convolution.products.saved
        out = self.step(x, t, y)
        self.saved_macs = convolution.products.saved - before
        return out


@contextmanager
def _open(model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor]) -> Iterator[Step]:
    import torch._inductor.config as inductor

    threads = case.threads or torch.get_num_threads()
    packed = modules.packed_copy(model, modules.chosen(model, inputs, threads))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True), inductor.patch(freezing=True):
        yield CountedStep(torch.compile(packed, fullgraph=True, dynamic=False))
    torch._dynamo.reset()


def _unsupported(case: Case) -> str | None:
    if case.device != "cpu" or case.precision != "fp32" or case.mode != "forward":
        return "the winograd backend computes forward passes in fp32 on a processor"
    return compiled.missing()


backend = Backend(
    name="winograd",
    summary="own C++ kernels for 3x3 convolutions (Winograd), torch.compile around them",
    open=_open,
    unsupported=_unsupported,
)
