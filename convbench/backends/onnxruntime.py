"""ONNX Runtime: on a processor, and on a GPU with inputs and output bound to device memory."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..export import cache, onnxruntime
from ..schema import Backend, Case, Step


@contextmanager
def _open(model: nn.Module, case: Case, inputs: tuple[Tensor, Tensor, Tensor]) -> Iterator[Step]:
    made = cache.prepared(model, case, "onnx", one_batch=False)
    session = onnxruntime.session(
        made.path / made.manifest.entry,
        case.device,
        case.threads,
        fixed={"batch": case.batch},
        tf32=case.precision == "tf32",
    )
    if case.device == "cpu":
        step = onnxruntime.step(session)
    else:
        with torch.inference_mode():
            step = onnxruntime.bound_step(session, torch.empty_like(model(*inputs), dtype=torch.float32))
    yield cache.Built(step, made.manifest.build_s, made.waited_s)


def _unsupported(case: Case) -> str | None:
    # On a processor, half precision would be conversion to float32 and back.
    precisions = ("fp32",) if case.device == "cpu" else ("fp32", "tf32", "fp16", "bf16")
    return cache.unsupported(case, "onnx", precisions) or onnxruntime.missing_provider(case.device)


backend = Backend(name="onnxruntime", summary="ONNX Runtime, an ONNX file", open=_open, unsupported=_unsupported)
