"""TensorRT or TensorRT-RTX, whichever is installed: an engine for the shape of the case, replayed as a CUDA graph."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..export import cache, tensorrt
from ..schema import Backend, Case, Step


@contextmanager
def _open(model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor]) -> Iterator[Step]:
    made = cache.prepared(model, case, "tensorrt", one_batch=True)
    tensorrt.require_runnable(made.manifest.target)
    with tensorrt.opened(made.path / made.manifest.entry) as step:
        yield cache.Built(step, made.manifest.build_s, made.waited_s)


def _unsupported(case: Case) -> str | None:
    if case.device != "cuda":
        return "TensorRT runs on NVIDIA GPUs only: --device cuda"
    return cache.unsupported(case, "tensorrt", ("fp32", "tf32", "fp16", "bf16"))


backend = Backend(name="tensorrt", summary="TensorRT, strongly typed", open=_open, unsupported=_unsupported)
