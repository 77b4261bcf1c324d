"""The backend ``triton`` with a whole step as one CUDA graph: Python only copies the inputs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ..schema import Backend, Case, Step
from . import triton

WARM_UP = 3  # steps before the capture, which compile kernels and tune convolutions: a graph cannot record that


@contextmanager
def _open(
    model: nn.Module,
    case: Case,
    inputs: tuple[Tensor, Tensor, Tensor],
    products: str = "table",
    convolutions: str = "library",
) -> Iterator[Step]:
    from ..kernels.executed import CountedStep, ReplayedStep
    from ..kernels.fused.fuse import fused_copy
    from ..kernels.ops import winograd_conv

    fused = CountedStep(fused_copy(model, products, convolutions), winograd_conv.executed)
    held = tuple(value.clone() for value in inputs)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            fused(*held)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = fused(*held)

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Replay the graph. The result is in the graph's memory, and the next step overwrites it."""
        for place, value in zip(held, (x, t, y), strict=True):
            place.copy_(value)
        graph.replay()
        return result

    yield ReplayedStep(step, fused.saved_macs)
    graph.reset()


def _unsupported(case: Case, fused: Callable[[Case], str | None] = triton.unsupported) -> str | None:
    return "CUDA graphs need an NVIDIA GPU" if case.device != "cuda" else fused(case)


backend = Backend(
    name="triton_graphs",
    summary="fused Triton kernels, channels_last, one CUDA graph a step",
    open=_open,
    unsupported=_unsupported,
)
# What computes the 1x1 products: our kernels or PyTorch's, in place of what product_dispatch.toml names.
ours = replace(backend, name="triton_graphs:ours", open=partial(_open, products="ours"))
library = replace(backend, name="triton_graphs:library", open=partial(_open, products="library"))
# Winograd's algorithm for DiC's 3x3 convolutions, in place of PyTorch's.
winograd = replace(
    backend,
    name="triton_graphs:winograd",
    open=partial(_open, convolutions="winograd"),
    unsupported=partial(_unsupported, fused=triton.without_winograd),
)
