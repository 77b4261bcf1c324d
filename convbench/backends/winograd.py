"""3x3 convolutions by Winograd's algorithm, in C++ of our own; AOTInductor around them, with frozen weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..export import aoti, cache
from ..kernels.cpu import compiled, convolution
from ..kernels.executed import CountedStep
from ..schema import Backend, Case, Step


@contextmanager
def _open(model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor]) -> Iterator[Step]:
    made = cache.prepared(model, case, "aoti", one_batch=True, conv="winograd")
    aoti.require_runnable(made.manifest.target)
    step = CountedStep(aoti.step(made.path / made.manifest.entry), convolution.products)
    step.build_s, step.waited_s = made.manifest.build_s, made.waited_s
    yield step


def _unsupported(case: Case) -> str | None:
    if case.device != "cpu" or case.precision != "fp32" or case.mode != "forward":
        return "the winograd backend computes forward passes in fp32 on a processor"
    return compiled.missing()


backend = Backend(
    name="winograd",
    summary="own C++ kernels for 3x3 convolutions (Winograd), AOTInductor around them",
    open=_open,
    unsupported=_unsupported,
)
