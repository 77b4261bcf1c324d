"""ncnn on this machine's processor, in float32, with its Winograd convolutions."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..export import cache, ncnn
from ..schema import Backend, Case, Step

WINOGRAD_SHARE = 64 / 324  # of direct convolution's products, by F(6x6,3x3): the fewest that it may execute


@contextmanager
def opened(model: nn.Module, case: Case, winograd: bool = True) -> Iterator[Step]:
    """A step, with or without Winograd."""
    made = cache.prepared(model, case, "ncnn", one_batch=True)
    step = ncnn.step(made.path / made.manifest.entry, case.threads, winograd)
    yield cache.Built(step, made.manifest.build_s, made.waited_s, WINOGRAD_SHARE if winograd else 1.0)


@contextmanager
def _open(model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor]) -> Iterator[Step]:
    with opened(model, case) as step:
        yield step


def unsupported(case: Case) -> str | None:
    """Say why ncnn cannot run a case here, or return None if it can."""
    if case.device != "cpu":
        return "this backend runs ncnn on a processor"
    return cache.unsupported(case, "ncnn", ("fp32",))


backend = Backend(name="ncnn", summary="ncnn, float32, its Winograd convolutions", open=_open, unsupported=unsupported)
