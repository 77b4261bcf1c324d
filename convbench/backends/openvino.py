"""OpenVINO on this machine's processor, in float32, compiled for the shape of the case."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from ..export import cache, openvino
from ..schema import Backend, Case, Step


@contextmanager
def _open(model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor]) -> Iterator[Step]:
    made = cache.prepared(model, case, "openvino", one_batch=False)
    fixed = {name: tuple(value.shape) for name, value in zip(("x", "t", "y"), inputs, strict=True)}
    compiled = openvino.session(made.path / made.manifest.entry, case.threads, fixed)
    yield cache.Built(openvino.step(compiled), made.manifest.build_s, made.waited_s)


def _unsupported(case: Case) -> str | None:
    if case.device != "cpu":
        return "this backend runs OpenVINO on a processor"
    return cache.unsupported(case, "openvino", ("fp32",))


backend = Backend(name="openvino", summary="OpenVINO, float32", open=_open, unsupported=_unsupported)
