"""OpenVINO: its own file format, made from the ONNX file, run on this machine's processor in float32."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convbench import packages
from convbench.schema import Step

from . import channel_norm
from .manifest import ENTRIES

ENTRY = ENTRIES["openvino"]


def write(source: Path, folder: Path) -> None:
    """Convert an ONNX file. Its weights stay as they are: OpenVINO would halve them unless told not to."""
    ov, ir = packages.require("openvino"), packages.require("onnx_ir")
    graph = ir.load(source)
    if channel_norm.rewrite(graph):
        beside = source.with_name(f"{source.name}.data").exists()  # the weights of a large network
        source = source.with_name(f"norms-{source.name}")
        ir.save(graph, source, external_data=f"{source.name}.data" if beside else None)
    ov.save_model(ov.convert_model(str(source)), str(folder / ENTRY), compress_to_fp16=False)


def session(
    file: Path,
    threads: int | None = None,
    fixed: Mapping[str, tuple[int, ...]] | None = None,
    taps: tuple[str, ...] = (),
) -> Any:
    """A compiled model.

    Args:
        fixed: shapes of inputs to compile for; without, those of the file.
        taps: names of values to return behind the output.
    """
    ov = packages.require("openvino")
    core = ov.Core()
    model = core.read_model(str(file), str(file.with_suffix(".bin")))  # whatever else the file may name
    if taps:
        model.add_outputs(list(taps))
    if fixed:
        model.reshape({name: list(shape) for name, shape in fixed.items()})
    # The processor's default may be bf16; fixed threads, or it takes every core it sees.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if fixed:  # 2026.4.1 crashes on the group norms of a DiC of fixed size, in its code generator for small graphs
        settings["SNIPPETS_MODE"] = "DISABLE"
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    with _without_isa_limit():
        return core.compile_model(model, "CPU", settings)


@contextmanager
def _without_isa_limit() -> Iterator[None]:
    """Hide ONEDNN_MAX_CPU_ISA, which OpenVINO's oneDNN obeys and its own code generators do not.

    The two then disagree about the layout of tensors, and inference ends the process with a segmentation fault
    (openvinotoolkit/openvino pull request 36980). Its oneDNN reads the variable once, when it first compiles.
    """
    limit = os.environ.pop("ONEDNN_MAX_CPU_ISA", None)
    try:
        yield
    finally:
        if limit is not None:
            os.environ["ONEDNN_MAX_CPU_ISA"] = limit


def values(file: Path) -> set[str]:
    """The names of all values in the file."""
    model = packages.require("openvino").Core().read_model(str(file))
    return {name for node in model.get_ordered_ops() for output in node.outputs() for name in output.get_names()}


def step(compiled: Any) -> Step:
    """The compiled model as a step. Its output lies in memory of the runtime, which the next call overwrites."""
    request = compiled.create_infer_request()

    def run(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        request.infer({"x": x.numpy(), "t": t.numpy(), "y": y.numpy()}, share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data)

    return run
